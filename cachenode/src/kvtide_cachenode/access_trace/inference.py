"""Requests put together from accesses of clients that report none (the trace's *node* grade).

An engine asks for a chain of blocks, loads the hits and stores the misses. Its ranks do the same with their
parts of each block, of which the first tells all; a pool spreads it over connections, and other requests come
in between. Two facts sort that out. A block's name is a hash over its whole prefix, so the block before it is
always the same one. And within one request everything is done once: what is done again to the same part is
another request. Pure logic; the time is an argument. Decision 0012 says what was weighed.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final

from kvtide_cachenode.access_trace.access import LOAD, LOOK_UP, STORE, Access
from kvtide_cachenode.access_trace.attribution import RANKS_S, Attribution
from kvtide_cachenode.access_trace.block_names import BlockNames
from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.open_requests import OpenRequests
from kvtide_cachenode.access_trace.request_under_way import LOOSE, ROOT, Parents, RequestUnderWay
from kvtide_cachenode.access_trace.ring import Inferred
from kvtide_cachenode.access_trace.scattering import Scattering
from kvtide_cachenode.contract.trace_line import MAX_BLOCKS

__all__ = ["Access", "Inference"]

SWEEP_S: Final = 0.5
MAX_REPEATED: Final = 1_024  # keys of a command that is remembered, because it is often asked for again

Emit = Callable[[Inferred], None]
Noted = tuple[Client, Access, Sequence[bytes], Sequence[bool], float]


class Inference:
    """All requests under way at a node, whichever connections carry them.

    ``noted`` are commands that are still to be sorted in, in order; `Client.access` puts them there.
    """

    def __init__(self, emit: Emit) -> None:
        self.clients = 0
        self.noted: list[Noted] = []
        self._names = BlockNames()
        self._parents = Parents()
        self._open = OpenRequests(emit)
        self._attribution = Attribution(self._open, self._parents)
        self._scattering = Scattering()
        self._swept_s = 0.0
        # The last command of several keys that are known: these, their blocks, what was known then.
        self._repeated: tuple[Sequence[bytes], list[int], int] = ((), [], -1)

    def settle(self) -> None:
        """Sort in what was noted."""
        noted, self.noted[:] = self.noted[:], ()
        ids, parts = self._names.ids, self._names.parts
        for client, access, keys, hits, now_s in noted:
            if not 0.0 <= now_s - self._swept_s < SWEEP_S:
                self._sweep(now_s)
            if len(keys) > 1 and access is not STORE and self._are_one(client, access, keys, hits, now_s):
                continue
            for key, hit in zip(keys, hits, strict=True):
                block = ids.get(key)
                if block is None:
                    block, part = self._names.of(key)
                else:
                    part = parts[key]
                if part >= 0:  # else it repeats the first
                    self._one(client, access, part + access, block, hit, now_s)

    def end_idle(self, now_s: float) -> None:
        """Complete requests that nothing was added to for a while; the clock may have been set back."""
        self.settle()
        if not 0.0 <= now_s - self._swept_s < SWEEP_S:
            self._sweep(now_s)

    def end(self) -> None:
        """Complete all."""
        self.settle()
        for request in self._open:
            self._open.end(request)

    def _sweep(self, now_s: float) -> None:
        self._swept_s = now_s
        for request in self._open:
            if now_s - request.last_s > request.gap_s():
                self._open.end(request)

    def _are_one(
        self, client: Client, access: Access, keys: Sequence[bytes], hits: Sequence[bool], now_s: float
    ) -> bool:
        """Take several keys at once; False where they are to be taken one by one."""
        first_miss = len(hits) if all(hits) else hits.index(False)
        missed = first_miss < len(hits)
        if access is LOOK_UP and (missed or self._scattering.watches) and self._names.tells(keys[0]):
            self._scattering.look_up(client, now_s, missed=missed)
        before, blocks, version = self._repeated
        if version != self._parents.version or keys != before:
            known = self._known(keys)
            if known is None:
                return False
            blocks = known
        part = self._names.parts.get(keys[0], -1)
        return part >= 0 and self._whole(client, access, part + access, blocks, first_miss, now_s)

    def _known(self, keys: Sequence[bytes]) -> list[int] | None:
        """The blocks of keys that are a chain known from its root on, or of which each is known to be loose.

        What costs one call a key elsewhere costs a few operations in C here.
        """
        try:
            chain: tuple[int, ...] = itemgetter(*keys)(self._names.ids)
        except KeyError:
            return None
        if len(chain) > MAX_BLOCKS or not self._parents.are_whole(chain):
            return None
        blocks = list(chain)
        if len(keys) <= MAX_REPEATED:
            self._repeated = keys, blocks, self._parents.version
        return blocks

    def _whole(
        self, client: Client, access: Access, code: int, blocks: list[int], first_miss: int, now_s: float
    ) -> bool:
        """Take all blocks of a request; False where they are to be taken one by one."""
        first = blocks[0]
        holding: Sequence[RequestUnderWay] = self._open.holders.get(first, ())
        request = self._open.cursors.get((client.host, code))
        if request is not None and request.blocks is blocks and holding[-1] is request:
            request = None  # the same once more
        elif request is not None and request.blocks == blocks[:1]:
            return False  # it may begin again, and go on
        elif holding:
            at = -1 if request is None else request.place_in_books(first)
            if request is None or at < 0 or not request.lacks(access, code, at, now_s):
                request = self._attribution.lacking(client, holding, access, code, first, now_s)
        else:
            request = None
        if request is None:
            is_ambiguous = self._attribution.is_ambiguous(client, holding, access, code, first, now_s)
            request = self._open.begin_whole(client, blocks, code, now_s)
            request.is_ambiguous = is_ambiguous
            request.hit_blocks = first_miss
            if first_miss < len(blocks):
                request.missed = True
                self._open.missed[request] = None
                if first_miss < len(blocks) - 1:
                    self._attribution.asks_on.add(code)
        elif request.stored_ms is None and request.mark_first(code, blocks):
            request.loaded_behind_tip |= access is LOAD
            if first_miss < len(blocks):
                request.miss(first_miss)
                self._open.missed[request] = None
        else:
            return False
        self._note(request, client, access, code, now_s)
        return True

    def _one(self, client: Client, access: Access, code: int, block: int, hit: bool, now_s: float) -> None:
        request = self._open.cursors.get((client.host, code))
        at = -1
        if request is not None:
            at = request.place(block) if request.at is None else request.at.get(block, -1)
            if at < 0:
                # What is stored may have been looked up by another request.
                if access is STORE or not request.continues(access, code, self._parents.of(block), now_s):
                    request = None
            elif not request.lacks(access, code, at, now_s):
                if request.repeats(access, hit) and self._again(request, client, access, code, now_s):
                    return
                request = None
        if request is None:
            request = self._attribution.of(client, access, code, block, now_s)
            at = request.place(block)
        self._take(request, client, access, code, block, at, hit, now_s)

    def _take(
        self,
        request: RequestUnderWay,
        client: Client,
        access: Access,
        code: int,
        block: int,
        at: int,
        hit: bool,
        now_s: float,
    ) -> None:
        """Add what was done to a block to a request; ``at`` is its place there, -1 to append it."""
        if at < 0:
            if (
                request.missed
                and client.request is request
                and client.last_s == now_s
                and access is not STORE
            ):
                self._attribution.asks_on.add(code)
            at = self._open.append(request, block)
            if access is not STORE:
                request.found(at, hit=hit)
        elif access is not STORE:
            request.loaded_behind_tip |= access is LOAD and at < len(request.blocks) - 1
            if not hit:
                request.miss(at)
        if not hit and access is not STORE:
            self._open.missed[request] = None
        done = request.done.get(code)
        if done is not None and at == len(done):  # walked along, as most are
            done.append(1)
        else:
            request.mark(code, at)
        self._note(request, client, access, code, now_s)

    def _again(
        self, request: RequestUnderWay, client: Client, access: Access, code: int, now_s: float
    ) -> bool:
        """Let the same request begin again, if nothing else can be meant."""
        block = request.blocks[0]
        if self._open.holding(block)[-1] is not request:
            return False
        parent = self._parents.of(block)
        if parent != ROOT and parent != LOOSE and (parent is not None or access is not STORE):
            return False
        if access is STORE and self._open.missed:
            return False
        self._open.again(request, client, now_s)
        if code - access == BlockNames.FOREIGN and access is not STORE:
            request.is_ambiguous = now_s - request.other_client_s <= RANKS_S
        self._note(request, client, access, code, now_s)
        return True

    def _note(
        self, request: RequestUnderWay, client: Client, access: Access, code: int, now_s: float
    ) -> None:
        """Remember where the next access is looked for first."""
        request.last_s = client.last_s = now_s
        self._open.touch(request)
        if client.request is not request:
            client.request = request
            request.hosts.add(client.host)
        if self._scattering.hosts and self._scattering.is_of(client.host, now_s):
            request.is_scattered = True
        self._open.cursors[client.host, code] = request
        if access is STORE:
            if request.stored_ms is None:
                request.stored_ms = int(now_s * 1000)
        elif access is LOAD:
            request.is_loading = True
            if not request.looked_up:
                request.asked_s = now_s
        else:
            request.looked_up = True
            request.asked_s = now_s
        if request.size_bytes != request.charged_bytes:
            self._open.charge(request)

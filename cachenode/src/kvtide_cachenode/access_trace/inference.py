"""Requests put together from accesses of clients that report none (the trace's *node* grade).

An engine asks for a chain of blocks, loads the hits and stores the misses. Its ranks do the same with their
parts of each block, of which the first tells all; a pool spreads it over connections, and other requests come
in between. Two facts sort that out. A block's name is a hash over its whole prefix, so the block before it is
always the same one. And within one request everything is done once: what is done again to the same part is
another request. Pure logic; the time is an argument. Decision 0012 says what was weighed.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from operator import attrgetter, itemgetter
from typing import Final

from kvtide_cachenode.access_trace.block_names import BlockNames
from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.open_requests import OpenRequests
from kvtide_cachenode.access_trace.request_under_way import BEHIND, ROOT, Parents, RequestUnderWay
from kvtide_cachenode.access_trace.ring import Inferred
from kvtide_cachenode.access_trace.scattering import Scattering
from kvtide_cachenode.contract.trace_line import MAX_BLOCKS

WALK_GAP_S: Final = 0.1  # between two look-ups of one chain, where a block was never seen before
BLOCK_GAP_S: Final = 2.0  # likewise where it was; loads may come in between
TILES_S: Final = 0.05  # within so long a chain's beginning may follow its middle, through another connection
BATCH_S: Final = 0.005  # within so long the parts of one look-up arrive that a client sends at once
RANKS_S: Final = 1.0  # within so long, equal requests of clients without known ranks may be one
BURST_S: Final = 1.0  # between two stores of one step of an engine
SWEEP_S: Final = 0.5
# Of the newest requests so many are looked at for what is read, which comes together, and for what is stored,
# which comes later: an access costs as much whatever else is under way.
MAX_WALKING: Final = 12
MAX_STORING: Final = 24

Emit = Callable[[Inferred], None]


class Access(IntEnum):
    """What a client does to a block, in the order in which it does it within one request."""

    LOOK_UP = 1
    LOAD = 2
    STORE = 3


# An attribute of an enumeration takes as long as a call.
LOOK_UP, LOAD, STORE = Access


class Inference:
    """All requests under way at a node, whichever connections carry them."""

    def __init__(self, emit: Emit) -> None:
        self.clients = 0
        self._names = BlockNames()
        self._parents = Parents()
        self._open = OpenRequests(emit)
        self._asks_on: set[int] = set()  # parts and accesses of clients that look up more behind a miss
        self._scattering = Scattering()
        self._swept_s = 0.0

    def access(
        self, client: Client, access: Access, keys: Sequence[bytes], hits: Sequence[bool], now_s: float
    ) -> None:
        """Take one command of a client."""
        if not 0.0 <= now_s - self._swept_s < SWEEP_S:
            self.end_idle(now_s)
        if len(keys) > 1 and access is not STORE:
            if access is LOOK_UP and self._names.tells(keys[0]):
                self._scattering.look_up(client, now_s, missed=False in hits)
            if self._whole(client, access, keys, hits, now_s):
                return
        ids, parts = self._names.ids, self._names.parts
        for key, hit in zip(keys, hits, strict=True):
            block = ids.get(key)
            if block is None:
                block, part = self._names.of(key)
            else:
                part = parts[key]
            if part < 0:  # repeats the first
                continue
            self._one(client, access, part + access, block, hit, now_s)

    def end_idle(self, now_s: float) -> None:
        """Complete requests that nothing was added to for a while; the clock may have been set back."""
        if 0.0 <= now_s - self._swept_s < SWEEP_S:
            return
        self._swept_s = now_s
        for request in [one for one in self._open if now_s - one.last_s > one.gap_s()]:
            self._open.end(request)

    def end(self) -> None:
        """Complete all."""
        for request in list(self._open):
            self._open.end(request)

    def _whole(
        self, client: Client, access: Access, keys: Sequence[bytes], hits: Sequence[bool], now_s: float
    ) -> bool:
        """Take a chain that is known from its root on; False where that is not what the keys are.

        What costs one call a key elsewhere costs a few operations in C here.
        """
        try:
            chain: tuple[int, ...] = itemgetter(*keys)(self._names.ids)
        except KeyError:
            return False
        if len(chain) > MAX_BLOCKS or not self._parents.are_a_chain(chain):
            return False
        code = self._names.parts[keys[0]] + access
        if code < 0:
            return False
        blocks = list(chain)
        first_miss = hits.index(False) if False in hits else len(hits)
        holding = self._open.holders.get(chain[0], ())
        request = self._open.cursors.get((client.host, code))
        if request is None or not (
            request in holding and self._lacks(request, access, code, request.place(chain[0]), now_s)
        ):
            request = self._lacking(client, holding, access, code, chain[0], now_s)
        if request is None:
            is_ambiguous = self._is_ambiguous(client, holding, access, code, chain[0], now_s)
            request = self._open.begin_chain(client, blocks, now_s)
            request.is_ambiguous = is_ambiguous
            request.mark_first(code, blocks)
            request.hit_blocks = first_miss
            request.missed = first_miss < len(hits)
            if first_miss < len(hits) - 1:
                self._asks_on.add(code)
        elif request.stored_ms is None and request.mark_first(code, blocks):
            request.loaded_behind_tip |= access is LOAD
            if first_miss < len(hits):
                request.miss(first_miss)
        else:
            return False
        self._note(request, client, access, code, now_s)
        return True

    def _one(self, client: Client, access: Access, code: int, block: int, hit: bool, now_s: float) -> None:
        request = self._open.cursors.get((client.host, code))
        at = -1
        if request is not None:
            at = request.place(block) if request.at is None else request.at.get(block, -1)
            if not self._fits(request, access, code, block, at, now_s):
                request = None
        if request is None:
            request = self._of(client, access, code, block, now_s)
            at = request.place(block)
        if at < 0:
            if (
                request.missed
                and client.request is request
                and client.last_s == now_s
                and access is not STORE
            ):
                self._asks_on.add(code)
            at = self._open.append(request, block)
            if access is not STORE:
                request.found(at, hit=hit)
        elif access is not STORE:
            request.loaded_behind_tip |= access is LOAD and at < len(request.blocks) - 1
            if not hit:
                request.miss(at)
        done = request.done.get(code)
        if done is not None and at == len(done):  # walked along, as most are
            done.append(1)
        else:
            request.mark(code, at)
        self._note(request, client, access, code, now_s)

    def _fits(
        self, request: RequestUnderWay, access: Access, code: int, block: int, at: int, now_s: float
    ) -> bool:
        """Whether an access goes on with the request in which its kind was done at last."""
        if at >= 0:
            return self._lacks(request, access, code, at, now_s)
        # What is stored may have been looked up by another request.
        return access is not STORE and self._continues(request, access, code, self._parents.of(block), now_s)

    def _note(
        self, request: RequestUnderWay, client: Client, access: Access, code: int, now_s: float
    ) -> None:
        """Remember where the next access is looked for first."""
        request.last_s = client.last_s = now_s
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
        else:
            request.looked_up = True
        if request.size_bytes != request.charged_bytes:
            self._open.charge(request)

    def _of(self, client: Client, access: Access, code: int, block: int, now_s: float) -> RequestUnderWay:
        """The request that an access belongs to which does not follow from the last one of its kind."""
        parent = self._parents.of(block)
        if access is not STORE and client.last_s == now_s:
            request = client.request
            if request is not None and self._goes_on(request, access, code, block, parent):
                return self._follows(request, block, parent, is_sure=True)
        request = self._known(client, access, code, block, parent, now_s)
        if request is not None:
            return request
        if access is STORE:
            request = self._awaiting(client, code, block, now_s)
            if request is not None:
                if parent is None:
                    self._parents.learn(block, BEHIND)
                return request
        else:
            walking = self._walking(client, access, code, block, parent, now_s)
            if walking:
                latest, *others = walking
                is_sure = not others or latest.last_s - others[0].last_s > WALK_GAP_S
                if client.request in others and latest.last_s - client.last_s <= BATCH_S:
                    latest = client.request
                return self._follows(latest, block, parent, is_sure=is_sure)
            if parent is None:
                self._parents.learn(block, ROOT)
        before = self._parents.before(block)
        if before and access is not STORE:  # an engine's own cache had these, or it was an error
            self._parents.learn(block, BEHIND)
        is_ambiguous = self._is_ambiguous(client, self._open.holding(block), access, code, block, now_s)
        request = self._open.begin(client, before, now_s)
        request.is_ambiguous = is_ambiguous
        return request

    def _known(
        self, client: Client, access: Access, code: int, block: int, parent: int | None, now_s: float
    ) -> RequestUnderWay | None:
        """The request that has the block already, or the one before it at its end."""
        if parent is None:
            return None
        holding = self._open.holding(block)
        request = self._lacking(client, holding, access, code, block, now_s)
        if request is not None or parent < 0:
            return request
        continued = (
            one
            for one in self._open.holding(parent)[-MAX_STORING:]
            if one not in holding and self._continues(one, access, code, parent, now_s)
        )
        return max(continued, key=attrgetter("serial"), default=None)

    def _lacks(self, request: RequestUnderWay, access: Access, code: int, at: int, now_s: float) -> bool:
        """Whether the access to the block at a place may be one of the request's."""
        if request.has_done(code, at) or (at < request.presumed and now_s - request.last_s > TILES_S):
            return False
        # Another rank, or another request's block that could not be told from this one's, may have stored.
        is_late = request.stored_ms is not None and access is not STORE
        return not is_late or (access is LOAD and at < request.hit_blocks)

    def _lacking(
        self,
        client: Client,
        holding: Sequence[RequestUnderWay],
        access: Access,
        code: int,
        block: int,
        now_s: float,
    ) -> RequestUnderWay | None:
        """Of requests that have a block, the oldest that lacks this access, if possible of this host."""
        recent = holding[-(MAX_STORING if access is STORE else MAX_WALKING) :]
        lacking = []
        for one in recent:
            at = 0 if one.blocks[0] == block else one.place(block)
            done = one.done.get(code)
            if done is not None and at < len(done) and done[at]:
                continue  # most, where the same is asked for again and again: as few calls as can be
            if self._lacks(one, access, code, at, now_s):
                lacking.append(one)
        if len(lacking) < 2:
            return lacking[0] if lacking else None
        return min(lacking, key=lambda one: (client.host not in one.hosts, one.serial))

    def _continues(
        self, request: RequestUnderWay, access: Access, code: int, parent: int | None, now_s: float
    ) -> bool:
        """Whether a block that the request does not have, known to follow ``parent``, is its next one."""
        if parent is None or parent < 0 or len(request.blocks) >= MAX_BLOCKS:
            return False
        if access is STORE:
            return (request.missed or request.stored_ms is not None) and request.place(parent) >= 0
        return (
            request.blocks[-1] == parent
            and request.stored_ms is None
            and request.has_done(code, len(request.blocks) - 1)
            and now_s - request.last_s <= BLOCK_GAP_S
        )

    def _goes_on(
        self, request: RequestUnderWay, access: Access, code: int, block: int, parent: int | None
    ) -> bool:
        """Whether a block is the request's next one that arrived together with the one before it."""
        if not request.is_open or not request.accepts(block) or request.stored_ms is not None:
            return False
        if parent is None or parent == BEHIND:
            return request.has_done(code, len(request.blocks) - 1)
        return self._continues(request, access, code, parent, request.last_s)

    def _walking(
        self, client: Client, access: Access, code: int, block: int, parent: int | None, now_s: float
    ) -> list[RequestUnderWay]:
        """Requests that are being looked up and that the block may belong to, the latest first."""
        if parent is not None and parent != BEHIND:
            return []
        walking = []
        for request in self._open.newest(MAX_WALKING):
            if now_s - request.last_s > WALK_GAP_S or request.stored_ms is not None:
                continue
            if not request.accepts(block):
                continue
            if parent is None and access is LOOK_UP and request.loaded_behind_tip:
                continue
            goes_on = not request.missed and request.has_done(code, len(request.blocks) - 1)
            if goes_on or (
                code in self._asks_on and now_s - request.last_s <= BATCH_S and client.request is not request
            ):
                walking.append(request)
        walking.sort(key=lambda request: -request.last_s)
        return [request for request in walking if client.host in request.hosts] or walking

    def _awaiting(self, client: Client, code: int, block: int, now_s: float) -> RequestUnderWay | None:
        """The request that a block which nobody looked up is stored for, as far as can be told.

        That is the one being stored, on the connection or by the rank; else the first that missed and has
        stored nothing; else the one that stored last.
        """
        own, cursor = client.request, self._open.cursors.get((client.host, code))
        for request, gap_s in ((own, WALK_GAP_S), (cursor, BURST_S)):
            if request is not None and request.is_open and code in request.done and request.accepts(block):
                last_s = client.last_s if request is own else request.last_s
                if now_s - last_s <= gap_s:
                    return request
        recent = list(self._open.newest(MAX_STORING))[::-1]
        waiting = [
            one
            for one in recent
            if one.missed and not one.has_loads_to_come() and code not in one.done and one.accepts(block)
        ]
        for request in waiting:
            if client.host in request.hosts:
                return request
        if waiting:
            return waiting[0]
        storing = [one for one in recent if one.stored_ms is not None and one.accepts(block)]
        return max(storing, key=lambda one: (client.host in one.hosts, one.last_s), default=None)

    def _is_ambiguous(
        self,
        client: Client,
        holding: Sequence[RequestUnderWay],
        access: Access,
        code: int,
        block: int,
        now_s: float,
    ) -> bool:
        """Whether another connection has just begun a request alike, where keys do not name ranks."""
        return (
            code - access == BlockNames.FOREIGN
            and access is not STORE
            and any(
                now_s - other.last_s <= RANKS_S
                and other.client is not client
                and other.has_done(code, other.place(block))
                for other in holding[-MAX_WALKING:]
            )
        )

    def _follows(
        self, request: RequestUnderWay, block: int, parent: int | None, *, is_sure: bool
    ) -> RequestUnderWay:
        """Learn what precedes a block that is looked up for the first time and will be appended."""
        if parent is None or parent == BEHIND:
            self._parents.learn(block, request.blocks[-1] if is_sure else BEHIND)
        return request

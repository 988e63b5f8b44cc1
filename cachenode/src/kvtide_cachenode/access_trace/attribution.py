"""Which request an access belongs to that does not go on with the last one of its kind. Pure."""

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.access_trace.access import LOOK_UP, STORE, Access
from kvtide_cachenode.access_trace.block_names import BlockNames
from kvtide_cachenode.access_trace.request_under_way import BEHIND, LOAD_GAP_S, LOOSE, ROOT, WALK_GAP_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvtide_cachenode.access_trace.client import Client
    from kvtide_cachenode.access_trace.open_requests import OpenRequests
    from kvtide_cachenode.access_trace.request_under_way import Parents, RequestUnderWay

BATCH_S: Final = 0.005  # within so long the parts of one look-up arrive that a client sends at once
RANKS_S: Final = 1.0  # within so long, equal requests of clients without known ranks may be one
BURST_S: Final = 1.0  # between two stores of one step of an engine
# Of the latest requests so many are looked at for what is read, which comes together, and for what is stored,
# which comes later: an access costs as much whatever else is under way.
MAX_WALKING: Final = 12
MAX_STORING: Final = 24


class Attribution:
    """Looks for it among the open requests, by what is known of which block precedes which.

    ``asks_on`` are parts and accesses of clients that look up more behind a miss.
    """

    def __init__(self, requests: "OpenRequests", parents: "Parents") -> None:
        self.asks_on: set[int] = set()
        self._open = requests
        self._parents = parents

    def of(self, client: "Client", access: Access, code: int, block: int, now_s: float) -> "RequestUnderWay":
        """The request that an access belongs to which does not follow from the last one of its kind."""
        parent = self._parents.of(block)
        if access is not STORE and client.last_s == now_s:
            request = client.request
            if request is not None and request.goes_on(access, code, block, parent):
                return self._follows(request, block, parent, is_sure=True)
        request = self._known(client, access, code, block, parent, now_s)
        if request is not None:
            return request
        if parent is not None and self._is_loose(client, access, code, block, parent, now_s):
            self._parents.learn(block, LOOSE)
            assert client.request is not None
            return client.request
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
                is_sure = not others or latest.last_s - others[0].last_s > LOAD_GAP_S
                if client.request in others and latest.last_s - client.last_s <= BATCH_S:
                    latest = client.request
                return self._follows(latest, block, parent, is_sure=is_sure)
            if parent is None:
                self._parents.learn(block, ROOT)
        before = [] if parent is None or parent < 0 else self._parents.before(block)
        if before and access is not STORE:  # an engine's own cache had these, or it was an error
            self._parents.learn(block, BEHIND)
        is_ambiguous = self.is_ambiguous(client, self._open.holding(block), access, code, block, now_s)
        request = self._open.begin(client, before, now_s)
        request.is_ambiguous = is_ambiguous
        return request

    def _known(
        self, client: "Client", access: Access, code: int, block: int, parent: int | None, now_s: float
    ) -> "RequestUnderWay | None":
        """The request that has the block already, or the one before it at its end."""
        if parent is None:
            return None
        holding = self._open.holding(block)
        request = self.lacking(client, holding, access, code, block, now_s)
        if request is not None or parent < 0:
            return request
        continued = (
            one
            for one in self._open.holding(parent)[-MAX_STORING:]
            if one not in holding
            and (access is not LOOK_UP or client.host in one.hosts)
            and one.continues(access, code, parent, now_s)
        )
        return max(continued, key=attrgetter("serial"), default=None)

    def lacking(
        self,
        client: "Client",
        holding: "Sequence[RequestUnderWay]",
        access: Access,
        code: int,
        block: int,
        now_s: float,
    ) -> "RequestUnderWay | None":
        """Of requests that have a block, the oldest that lacks this access, if possible of this host.

        One host looks a request up, though another may load and store what is behind it.
        Those before one of this host that has done it have done it, too, or will not.
        """
        own = others = None
        for one in islice(reversed(holding), MAX_STORING if access is STORE else MAX_WALKING):
            at = 0 if one.blocks[0] == block else one.place(block)
            done = one.done.get(code)
            is_own = client.host in one.hosts
            if done is not None and at < len(done) and done[at]:
                if is_own:
                    break
            elif (is_own or access is not LOOK_UP) and one.lacks(access, code, at, now_s):
                if is_own:
                    own = one
                else:
                    others = one
        return own or others

    def _is_loose(
        self, client: "Client", access: Access, code: int, block: int, parent: int, now_s: float
    ) -> bool:
        """Whether a block arrived together with another before it than it is known to follow.

        That is no chain's: a client asks for keys in whatever order.
        """
        request = client.request
        if access is STORE or client.last_s != now_s or request is None:
            return False
        is_other = parent >= 0 or (parent == ROOT and self._parents.of(request.blocks[-1]) == LOOSE)
        return is_other and request.goes_on(access, code, block, None)

    def _walking(
        self, client: "Client", access: Access, code: int, block: int, parent: int | None, now_s: float
    ) -> "list[RequestUnderWay]":
        """Requests that are being looked up and that the block may belong to, the latest first."""
        if parent is not None and parent != BEHIND:
            return []
        own, others = [], []
        asks_on = code in self.asks_on
        gap_s = WALK_GAP_S if access is LOOK_UP else LOAD_GAP_S
        for request in self._open.latest(MAX_WALKING):
            since_s = now_s - request.last_s
            if since_s > gap_s:
                break
            if request.stored_ms is not None or (access is LOOK_UP and request.loaded_behind_tip):
                continue
            goes_on = not request.missed and request.has_done(code, len(request.blocks) - 1)
            if not goes_on and not (asks_on and since_s <= BATCH_S and client.request is not request):
                continue
            if not request.accepts(block):
                continue
            if client.host not in request.hosts:
                if access is not LOOK_UP:
                    others.append(request)
                continue
            own.append(request)
            if len(own) > 1 and (client.request in own or own[0].last_s - client.last_s > BATCH_S):
                break  # what comes behind decides nothing
        return own or others

    def _awaiting(self, client: "Client", code: int, block: int, now_s: float) -> "RequestUnderWay | None":
        """The request that a block which nobody looked up is stored for, as far as can be told.

        That is the one being stored, on the connection or by the rank; else the first that missed and has
        stored nothing; else the one that stored last.
        """
        own, cursor = client.request, self._open.cursors.get((client.host, code))
        for request, gap_s in ((own, LOAD_GAP_S), (cursor, BURST_S)):
            if request is not None and request.is_open and code in request.done and request.accepts(block):
                last_s = client.last_s if request is own else request.last_s
                if now_s - last_s <= gap_s:
                    return request
        waiting = [
            one
            for one in islice(reversed(self._open.missed), MAX_STORING)
            if code not in one.done and not one.has_loads_to_come() and one.accepts(block)
        ]
        return next((one for one in reversed(waiting) if client.host in one.hosts), None)

    def is_ambiguous(
        self,
        client: "Client",
        holding: "Sequence[RequestUnderWay]",
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
        self, request: "RequestUnderWay", block: int, parent: int | None, *, is_sure: bool
    ) -> "RequestUnderWay":
        """Learn what precedes a block that is looked up for the first time and will be appended."""
        if parent is None or parent == BEHIND:
            self._parents.learn(block, request.blocks[-1] if is_sure else BEHIND)
        return request

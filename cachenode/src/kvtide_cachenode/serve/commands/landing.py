"""Where a command's large arguments go. The only place that refuses them; no handler sees one of those.

Which arguments of a command may be large is in its row of the table: values land in the arena, texts in
memory of their own, at most `MAX_TEXT_BYTES`. What is refused is read away to its end, and the reply is the
sentence that says why, so that the replies stay in their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from kvtide_cachenode.access.users import KNOWN
from kvtide_cachenode.serve.commands.table import TABLE, Command
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.store import EVICTED_AT_ONCE, CapacityError, Reservation, Store
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.events import Announced, Landed, Place, Room
from kvtide_cachenode.wire.resp import LANDED_BYTES

_NOBODYS: Final = KNOWN  # of an unknown command: whoever has said who they are may be told so
MAX_TEXT_BYTES: Final = 2 * 1024 * 1024  # the longest trace line, or a topology of very many nodes


@dataclass(slots=True)
class Value:
    """A value on its way into the arena; once there is no room for more of it, what the client is told."""

    store: Store
    reservation: Reservation | None
    refusal: bytes | None = None
    held_bytes: int = 0

    @property
    def memory(self) -> memoryview | None:
        """Where it arrives."""
        return None if self.reservation is None else self.reservation.memory

    def grow(self, to_bytes: int) -> Room:
        """Make room for its first bytes."""
        assert self.reservation is not None, "what is refused does not grow"
        try:
            has_room = self.store.grow(self.reservation, to_bytes, EVICTED_AT_ONCE)
        except CapacityError as error:
            self.refusal = replies.error(str(error), "OOM")
            self.give_up()
            return Room.NEVER
        return Room.HERE if has_room else Room.LATER

    def give_up(self) -> None:
        """Let go of what has arrived."""
        if self.reservation is not None:
            self.store.abort(self.reservation)
            self.reservation = None


@dataclass(frozen=True, slots=True)
class Text:
    """A large argument that becomes a word of its command."""

    memory: memoryview
    refusal: None = None

    @property
    def held_bytes(self) -> int:
        """All of it."""
        return len(self.memory)

    def grow(self, to_bytes: int) -> Room:  # noqa: ARG002 - the protocol's signature
        """All the room is there."""
        return Room.HERE


@dataclass(frozen=True, slots=True)
class Refused:
    """A large argument that is read away, and what the client is told instead."""

    refusal: bytes
    memory: None = None
    held_bytes: int = 0

    def grow(self, to_bytes: int) -> Room:  # noqa: ARG002 - the protocol's signature
        """There is none."""
        return Room.NEVER


Landing = Value | Text | Refused
"""What places are here."""


def place_for(session: Session, announced: Announced) -> Place:
    """Where a large argument shall arrive."""
    words, index, length = announced.words, announced.index, announced.length
    described = (TABLE.get(words[0]) or TABLE.get(words[0].upper())) if words else None
    for place in _landings(announced.places).values():
        if place.refusal is not None:
            return Refused(place.refusal)
    needs = _NOBODYS if described is None else described.needs
    if needs & ~session.rights:
        return Refused(replies.error(*session.missing_right(needs)))
    if described is not None:
        if index in described.values:
            return _reserved(session, words[-1], length)
        if index in described.texts and length <= MAX_TEXT_BYTES:
            return Text(memoryview(bytearray(length)))
    return Refused(replies.error(_too_large(described, announced)))


def request_of(session: Session, landed: Landed) -> Request | None:
    """The request that has arrived; None when it is refused and the sentence queued."""
    values: dict[int, Reservation] = {}
    refusal: bytes | None = None
    for index, place in _landings(landed.places).items():
        refusal = refusal or place.refusal
        if isinstance(place, Text):
            landed.words.insert(index, bytes(place.memory))
        elif isinstance(place, Value) and place.reservation is not None:
            values[index] = place.reservation
    request = Request(landed.words, values)
    if refusal is None:
        return request
    request.release(session.node.store)
    session.reply(refusal)
    session.refuse()
    return None


def give_up(places: Mapping[int, Place]) -> None:
    """Let go of what arrived of a command that will never be complete."""
    for place in _landings(places).values():
        if isinstance(place, Value):
            place.give_up()


def _landings(places: Mapping[int, Place]) -> Mapping[int, Landing]:
    return cast("Mapping[int, Landing]", places)  # all are from `place_for`


def _reserved(session: Session, key: bytes, length: int) -> Place:
    store = session.node.store
    try:
        return Value(store, store.reserve(key, length))
    except CapacityError as error:
        return Refused(replies.error(str(error), "OOM"))


def _too_large(described: Command | None, announced: Announced) -> str:
    text = described is not None and announced.index in described.texts
    bound = f"at most {MAX_TEXT_BYTES}" if text else f"fewer than {LANDED_BYTES}"
    name = "this command" if described is None else f"'{described.name}'"
    return f"argument {announced.index} of {name} has {announced.length} bytes: it may have {bound}"

"""What parsers of requests say, and where the large arguments go that they announce."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

Command = list[bytes]


class Room(Enum):
    """Whether more of a value that is being received has room."""

    HERE = 1
    LATER = 2  # ask again, in another turn
    NEVER = 3  # the rest is dropped


class Place(Protocol):
    """Where a large argument arrives: memory of its length, or None to have its bytes dropped.

    Before more goes there than the parser's buffer held, `grow` is asked with how many bytes do.
    ``held_bytes`` is what the place takes beside the arena.
    """

    @property
    def memory(self) -> memoryview | None: ...  # noqa: D102 - said above
    @property
    def held_bytes(self) -> int: ...  # noqa: D102
    def grow(self, to_bytes: int) -> "Room": ...  # noqa: D102


@dataclass(slots=True)
class Announced:
    """A large argument is about to arrive: number ``index`` of its command, of ``length`` bytes.

    ``words`` and ``places`` are the command's arguments before it, as in `Landed`.
    """

    words: list[bytes]
    places: dict[int, Place]
    length: int

    @property
    def index(self) -> int:
        """The number of the argument; the command's name is number 0."""
        return len(self.words) + len(self.places)


@dataclass(slots=True)
class Landed:
    """A complete command with large arguments.

    ``words`` are the small ones in their order, ``places`` the large ones by their number in the command.
    """

    words: list[bytes]
    places: dict[int, Place]


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream is not RESP; ``reason`` is redis' wording. No event follows."""

    reason: str


Event = Command | Announced | Landed | Broken
Grow = Callable[[int], Room]
"""Whether the first so many bytes of a value that is being received have room."""


def grown(_to_bytes: int) -> Room:
    """All the room is there."""
    return Room.HERE


class Parser(Protocol):
    """What a connection knows of its protocol's parser; see `resp.RequestParser`."""

    @property
    def in_request(self) -> bool: ...  # noqa: D102 - said there
    def buffers(self, at_most_bytes: int) -> list[memoryview]: ...  # noqa: D102
    def received(self, count: int) -> None: ...  # noqa: D102
    def put_aside(self) -> None: ...  # noqa: D102
    @property
    def held_bytes(self) -> int: ...  # noqa: D102

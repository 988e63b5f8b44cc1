"""What a reply may be, and the three ways in which it can be wrong."""

from collections.abc import Callable
from dataclasses import dataclass

from benches.resp_stream import Reply, RespError
from benches.truth_model import Values

Piece = bytes | memoryview


class Desync(Exception):  # noqa: N818 - what has happened, not who is to blame
    """The reply is of another type or of another command: an answer was skipped or swapped."""


class WrongValue(Exception):  # noqa: N818 - as above
    """The value is not one that the key can have."""


class Refusal(Exception):  # noqa: N818 - as above
    """An error where none is due."""


@dataclass(slots=True)
class Expected:
    """A command under way. ``check`` raises if the reply cannot be; ``lost`` says that none will come."""

    said: bytes  # for the report
    check: Callable[[Reply, int], None]
    lost: Callable[[], None]
    large: bool = False


def nothing() -> None:
    """What is lost with a command that changes nothing."""


def must_be(text: bytes) -> Callable[[Reply, int], None]:
    def check(reply: Reply, now: int) -> None:  # noqa: ARG001 - every check's signature
        if reply != text:
            raise unexpected(f"a mark {text[:40]!r}", reply)

    return check


def value_of(reply: Reply) -> bytes | None:
    if reply is None or type(reply) is bytes:
        return reply
    raise unexpected("a read", reply)


def number_of(reply: Reply, most: int) -> int:
    if isinstance(reply, int) and 0 <= reply <= most:
        return reply
    raise unexpected("a count", reply)


def unexpected(what: str, reply: Reply) -> Exception:
    """An error is told apart from a reply of another command."""
    if isinstance(reply, RespError):
        return Refusal(f"{what}: -{reply.decode(errors='replace')[:200]}")
    return Desync(f"{what} is answered with {shown(reply)}")


def shown(reply: Reply) -> str:
    if isinstance(reply, list):
        return f"{len(reply)} replies"
    return Values.shown(reply) if type(reply) is bytes else repr(reply)[:100]

"""What a command is, and the table that the command modules fill."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvtide_cachenode.access.users import ADMIN, KNOWN, READ, WRITE
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session

Handler = Callable[[Session, Request], None]
"""Takes the session and one command, and queues exactly one reply, now or later."""

MAX_WORDS: Final = 1024  # of a command that has no list of keys
MAX_DIGITS: Final = 19  # of a number in 63 bits
_NONE: Final = range(0)


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the protocol, described as COMMAND INFO does.

    ``arity`` counts the name; negative means at least that many. Keys are the arguments from ``first_key``
    to ``last_key`` (-1: to the end) by ``key_step``; 0 where there are none. ``needs`` are the rights that
    a user must have, as bits. ``values`` and ``texts`` are the numbers of the arguments that may have 16 KiB
    and more (see `landing`).
    """

    name: str
    handler: Handler
    arity: int
    flags: tuple[str, ...]
    first_key: int
    last_key: int
    key_step: int
    needs: int
    values: range
    texts: range
    fewest: int  # arguments; right for every command

    def accepts(self, count: int) -> bool:
        """Whether ``count`` arguments, the name included, are right."""
        if count != self.arity and (self.arity >= 0 or count < -self.arity):
            return False
        if count > MAX_WORDS and self.last_key >= 0:
            return False
        return self.key_step < 2 or (count - self.first_key) % self.key_step == 0


_RIGHT_OF_FLAG = {"admin": ADMIN, "write": WRITE, "readonly": READ}

TABLE: dict[bytes, Command] = {}


def command(
    name: str,
    arity: int,
    flags: str = "fast",
    keys: tuple[int, int, int] = (0, 0, 0),
    *,
    values: range = _NONE,
    texts: range = _NONE,
) -> Callable[[Handler], Handler]:
    """Register a handler under ``name``; flags are space-separated."""

    def register(handler: Handler) -> Handler:
        words = tuple(flags.split())
        # The role admin is enough for what it alone may do: FLUSHALL writes, and does not ask for write, too.
        right = next((bit for flag, bit in _RIGHT_OF_FLAG.items() if flag in words), KNOWN)
        needs = 0 if "no_auth" in words else KNOWN | right
        described = Command(name, handler, arity, words, *keys, needs, values, texts, abs(arity))
        # Clients write a command in one of these two ways; anything else goes through upper().
        TABLE[name.upper().encode()] = TABLE[name.encode()] = described
        return handler

    return register


def fail_unknown(session: Session, word: bytes, known: str) -> None:
    """Answer an option or sub-command nobody knows, naming the known ones."""
    shown = word[:64].decode("utf-8", "backslashreplace")
    session.fail(f"syntax error: '{shown}' is not supported here; known: {known}")


def natural(text: bytes, most: int) -> int | None:
    """A number from 0 to ``most``, which has at most 19 digits; None for anything else."""
    if not text.isdigit() or len(text) > MAX_DIGITS or int(text) > most:
        return None
    return int(text)

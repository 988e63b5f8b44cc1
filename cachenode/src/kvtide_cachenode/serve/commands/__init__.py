"""The commands a client may send: one table, filled by the modules beside this one."""

from itertools import islice

from kvtide_cachenode.serve.commands import (
    about,
    cluster,
    connection,
    keys,
    many,
    routing,
    strings,
    transaction,
)
from kvtide_cachenode.serve.commands.refused import REFUSED
from kvtide_cachenode.serve.commands.table import TABLE
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session

SHOWN_BYTES = 128  # of an unknown command's words in the error


def execute(session: Session, request: Request) -> None:
    """Take one complete command: queue its reply, or say with `Session.later` that it takes its time."""
    words = request.words
    word, count = words[0], len(words) + len(request.values)
    command = TABLE.get(word) or TABLE.get(word.upper())
    if command is None:
        _unknown(session, request)
    elif command.needs & ~session.rights and not session.stays(command.name, command.needs):
        session.fail(*session.missing_right(command.needs))
    elif count != command.fewest and not command.accepts(count):
        session.fail(f"wrong number of arguments for '{command.name}' command")
    elif session.transaction is not None and command.name not in transaction.AT_ONCE:
        transaction.queue(session, session.transaction, command, request)
        return
    else:
        session.last_command = word
        if count > many.PART_ARGUMENTS:
            many.run(session, command, request)
        elif command.first_key:
            routing.run(session, command, request)
        else:
            command.handler(session, request)
        return
    session.refuse()


def _unknown(session: Session, request: Request) -> None:
    word = request.words[0]
    if word.upper() in (b"POST", b"HOST:"):
        # A browser was talked into posting here; nothing of its request may be taken for commands.
        session.fail("this is not an HTTP port")
        session.closing = True
        return
    name = word[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    why = REFUSED.get(name.lower())
    if why is not None:
        session.fail(f"'{name}' is not served here: {why}")
        return
    shown = ""
    for argument in islice(request.words, 1, None):
        if len(shown) >= SHOWN_BYTES:
            break
        shown += f"'{argument[: SHOWN_BYTES - len(shown)].decode('utf-8', 'backslashreplace')}' "
    session.fail(f"unknown command '{name}', with args beginning with: {shown}")


__all__ = ["TABLE", "about", "cluster", "connection", "execute", "keys", "routing", "strings"]

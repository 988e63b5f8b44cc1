"""The commands a client may send: one table, filled by the modules beside this one."""

from kvtide_cachenode.commands import about, cluster, connection, keys, routing, strings
from kvtide_cachenode.commands.table import TABLE
from kvtide_cachenode.session import Session

SHOWN_BYTES = 128  # of an unknown command's words in the error


def execute(session: Session, arguments: list[bytes]) -> None:
    """Run one complete command and queue its reply. Never raises for what a client may send."""
    session.node.commands_total += 1
    word = arguments[0]
    command = TABLE.get(word) or TABLE.get(word.upper())
    if session.refusal is not None:
        session.reply(session.refusal)
        session.refusal = None
    elif command is None:
        _unknown(session, arguments)
    elif command.needs & ~session.rights and not session.stays(command.name, command.needs):
        session.fail(*session.missing_right(command.needs))
    elif not command.accepts(len(arguments)):
        session.fail(f"wrong number of arguments for '{command.name}' command")
    else:
        session.last_command = word
        if command.first_key:
            routing.run(session, command, arguments)
        else:
            command.handler(session, arguments)
    if session.landed:
        session.drop_landed()


def _unknown(session: Session, arguments: list[bytes]) -> None:
    word = arguments[0]
    if word.upper() in (b"POST", b"HOST:"):
        # A browser was talked into posting here; nothing of its request may be taken for commands.
        session.fail("this is not an HTTP port")
        session.closing = True
        return
    name = word[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    shown = ""
    for argument in arguments[1:]:
        if len(shown) >= SHOWN_BYTES:
            break
        shown += f"'{argument[: SHOWN_BYTES - len(shown)].decode('utf-8', 'backslashreplace')}' "
    session.fail(f"unknown command '{name}', with args beginning with: {shown}")


__all__ = ["TABLE", "about", "cluster", "connection", "execute", "keys", "routing", "strings"]

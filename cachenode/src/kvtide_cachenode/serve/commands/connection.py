"""The connection itself: who the client is, which protocol it speaks."""

from kvtide_cachenode.access.users import ADMIN, DEFAULT, User
from kvtide_cachenode.node import VERSION
from kvtide_cachenode.serve.commands.table import command, fail_unknown
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.wire import replies

MAX_NAME_BYTES = 256
MAX_LISTED_CLIENTS = 1000
LISTED_PER_TURN = 100


@command("ping", -1, texts=range(1, 2))
def ping(session: Session, request: Request) -> None:
    """PING [text]."""
    words = request.words
    if len(words) > 2:
        session.fail("wrong number of arguments for 'ping' command")
    elif len(words) == 2:
        echo(session, request)
    else:
        session.reply(b"+PONG\r\n")


@command("echo", 2, texts=range(1, 2))
def echo(session: Session, request: Request) -> None:
    """ECHO text."""
    text = request.words[1]
    session.reply(b"$%d\r\n" % len(text))
    session.reply(text)
    session.reply(replies.CRLF)


@command("select", 2)
def select(session: Session, request: Request) -> None:
    """SELECT 0."""
    if request.words[1] == b"0":
        session.reply(replies.OK)
    else:
        session.fail("DB index is out of range: there is database 0")


@command("quit", -1, "fast no_auth")
def quit_(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """QUIT."""
    session.reply(replies.OK)
    session.closing = True


@command("reset", 1, "fast no_auth")
def reset(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """RESET."""
    session.reset()
    session.reply(replies.simple("RESET"))


@command("auth", -2, "fast no_auth")
def auth(session: Session, request: Request) -> None:
    """AUTH [user] password."""
    words = request.words
    if len(words) > 3:
        session.fail("wrong number of arguments for 'auth' command")
    elif len(words) == 2 and session.node.users.initial is not None:
        # In redis' words: clients that have a password for all nodes go on when they read them.
        session.fail(
            "AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    elif _admit(session, words[1:]):
        session.reply(replies.OK)


@command("hello", -1, "fast no_auth")
def hello(session: Session, request: Request) -> None:
    """HELLO [2 | 3 [AUTH user password] [SETNAME name]]."""
    words = request.words
    if len(words) > 1 and words[1] not in (b"2", b"3"):
        session.fail("unsupported protocol version: this node speaks 2 and 3", "NOPROTO")
        return
    at, name = 2, session.name
    while at < len(words):
        option = words[at].upper()
        if option == b"AUTH" and at + 2 < len(words):
            if not _admit(session, words[at + 1 : at + 3]):
                return
            at += 3
        elif option == b"SETNAME" and at + 1 < len(words):
            name = words[at + 1]
            at += 2
        else:
            fail_unknown(session, words[at], "AUTH user password, SETNAME name")
            return
    if session.user is None:
        session.fail("HELLO must be called with AUTH while this node has users", "NOAUTH")
        return
    if not _set_name(session, name):
        return
    if len(words) > 1:
        session.resp3 = words[1] == b"3"
        session.nil = replies.NIL3 if session.resp3 else replies.NIL2
    session.reply_with(
        {
            "server": "kvtide",
            "version": VERSION,
            "proto": 3 if session.resp3 else 2,
            "id": session.id,
            "mode": "standalone",
            "role": "master",
            "modules": [],
        }
    )


@command("client", -2)
def client(session: Session, request: Request) -> None:
    """CLIENT SETNAME name | GETNAME | SETINFO attribute value | ID | INFO | LIST | NO-EVICT | NO-TOUCH."""
    words = request.words
    rest = words[2:]
    match words[1].upper(), len(rest):
        case b"SETNAME", 1:
            if _set_name(session, rest[0]):
                session.reply(replies.OK)
        case b"GETNAME", 0:
            session.reply_with(session.name or None)
        case b"SETINFO", 2:
            _set_library(session, rest[0], rest[1])
        case b"ID", 0:
            session.reply_with(session.id)
        case b"INFO", 0:
            session.reply_with(_described(session))
        case b"LIST", 0:
            session.answer_later(_list_clients(session))
        case ((b"NO-EVICT" | b"NO-TOUCH"), 1):
            session.reply(replies.OK)
        case _:
            fail_unknown(session, words[1], "SETNAME, GETNAME, SETINFO, ID, INFO, LIST, NO-EVICT, NO-TOUCH")


async def _list_clients(session: Session) -> None:
    """CLIENT LIST, some lines in each turn."""
    listed = list(session.node.sessions.values())[:MAX_LISTED_CLIENTS]
    text = b""
    for first in range(0, len(listed), LISTED_PER_TURN):
        text += "".join(map(_described, listed[first : first + LISTED_PER_TURN])).encode()
        await session.node.turns.share()
    session.reply_with(text)


@command("acl", -2)
def acl(session: Session, request: Request) -> None:
    """ACL WHOAMI | LIST | USERS. LIST and USERS take the role admin."""
    words = request.words
    assert session.user is not None, "only known users come here"
    word = words[1].upper()
    if len(words) > 2 or word not in (b"WHOAMI", b"LIST", b"USERS"):
        fail_unknown(session, words[1], "WHOAMI, LIST, USERS; users are in the file of --users")
    elif word == b"WHOAMI":
        session.reply_with(session.user.name)
    elif not session.rights & ADMIN:
        session.fail(*session.missing_right(ADMIN))
    elif word == b"USERS":
        session.reply_with([user.name for user in session.node.users.all()])
    else:
        session.reply_with([_acl_line(user) for user in session.node.users.all()])


@command("kvtide.trace", 2, "write fast", texts=range(1, 2))
def trace(session: Session, request: Request) -> None:
    """KVTIDE.TRACE json: one request as the engine saw it, or OFF. From now on nothing is inferred here."""
    # Who says OFF repeats what another worker of its engine does.
    if request.words[1].upper() == b"OFF":
        session.leave_trace()
        session.reply(replies.OK)
        return
    try:
        session.node.trace.append_engine(request.words[1])
    except ValueError as error:
        session.fail(str(error))
        return
    session.leave_trace()
    session.reply(replies.OK)


def _admit(session: Session, credentials: list[bytes]) -> bool:
    """Check ``[user,] password``; on failure the error is queued."""
    name = credentials[0] if len(credentials) == 2 else DEFAULT.encode()
    user = session.node.users.check(name, credentials[-1])
    if user is not None:
        session.become(user)
        return True
    session.node.auth_failures += 1
    session.fail("invalid username-password pair or user is disabled.", "WRONGPASS")
    return False


def _acl_line(user: User) -> str:
    """A user as redis' ACL LIST shows it, without the hash."""
    password = "nopass" if user.password_sha256 is None else "#..."
    return " ".join(["user", user.name, "on", password, "~*", "-@all", *(f"+@{role}" for role in user.roles)])


def _set_name(session: Session, name: bytes) -> bool:
    if len(name) > MAX_NAME_BYTES or not all(33 <= byte <= 126 for byte in name):
        session.fail(f"a client name has at most {MAX_NAME_BYTES} printable characters and no spaces")
        return False
    session.name = name
    return True


def _set_library(session: Session, attribute: bytes, value: bytes) -> None:
    known = {b"LIB-NAME": "lib-name", b"LIB-VER": "lib-ver"}.get(attribute.upper())
    if known is None or len(value) > MAX_NAME_BYTES or not all(33 <= byte <= 126 for byte in value):
        fail_unknown(session, attribute, "LIB-NAME, LIB-VER, each without spaces")
        return
    session.library[known] = value
    session.reply(replies.OK)


def _described(session: Session) -> str:
    """One line of CLIENT LIST."""
    age_s = session.node.uptime_s() - session.connected_s
    fields: dict[str, object] = {
        "id": session.id,
        "addr": session.address,
        "name": session.name.decode(),
        "age": int(age_s),
        "db": 0,
        "omem": session.queued_bytes,
        "cmd": session.last_command.decode("utf-8", "backslashreplace").lower() or "NULL",
        "user": session.user.name if session.user else "(none)",
        "lib-name": session.library.get("lib-name", b"").decode(),
        "lib-ver": session.library.get("lib-ver", b"").decode(),
        "resp": 3 if session.resp3 else 2,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()) + "\n"

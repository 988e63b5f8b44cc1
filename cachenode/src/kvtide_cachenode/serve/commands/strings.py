"""Reading and writing values."""

from kvtide_cachenode.access_trace.inference import Access
from kvtide_cachenode.serve.commands.below import (
    acknowledge,
    acknowledge_held,
    in_dram,
    reply_value,
    reply_values,
)
from kvtide_cachenode.serve.commands.table import command, fail_unknown
from kvtide_cachenode.serve.request import Argument, Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.store import CapacityError, Reservation
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.resp import MAX_ARGUMENTS

EXPIRING = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})


@command("get", 2, "readonly fast", (1, 1, 1))
def get(session: Session, request: Request) -> None:
    """GET key."""
    key = request.words[1]
    entry = session.node.store.get(key)
    if entry is None and session.node.store.below(key):
        session.answer_later(reply_value(session, key, Access.LOAD))
        return
    session.reply_entry(entry)
    session.observe(Access.LOAD, (key,), (entry is not None,))


@command("mget", -2, "readonly fast", (1, -1, 1))
def mget(session: Session, request: Request) -> None:
    """MGET key [key …]."""
    _reply_all(session, request.words[1:], (b"*%d" % (len(request.words) - 1),))


def mget_part(session: Session, request: Request) -> None:
    """Some of the values of a longer MGET."""
    _reply_all(session, request.words[1:], ())


def _reply_all(session: Session, keys: list[bytes], head: tuple[bytes, ...]) -> None:
    if not session.node.store.all_here(keys):
        session.answer_later(reply_values(session, keys, head))
        return
    entries = session.node.store.get_all(keys)
    session.reply_entries(entries, head)
    session.observe(Access.LOAD, keys, [entry is not None for entry in entries])


@command("getdel", 2, "write fast", (1, 1, 1))
def getdel(session: Session, request: Request) -> None:
    """GETDEL key."""
    key, store = request.words[1], session.node.store

    def reply_and_delete() -> None:
        session.hold(store.get(key))
        store.delete(key)
        acknowledge_held(session)

    in_dram(session, request, reply_and_delete)


@command("strlen", 2, "readonly fast", (1, 1, 1))
def strlen(session: Session, request: Request) -> None:
    """STRLEN key."""
    session.reply(replies.integer(session.node.store.length_of(request.words[1]) or 0))


@command("set", -3, "write denyoom", (1, 1, 1), values=range(2, 3))
def set_(session: Session, request: Request) -> None:
    """SET key value [NX | XX] [GET] [KEEPTTL]: EX, PX, EXAT and PXAT are refused."""
    words = request.words
    options = words[2:] if request.values else words[3:]
    if not options:
        if _store(session, request):
            acknowledge(session, replies.OK)
            session.observe(Access.STORE, words[1:2], (False,))
        return
    wanted = set(map(bytes.upper, options))
    if wanted & EXPIRING:
        session.fail("entries live until they are evicted: set them without EX, PX, EXAT and PXAT")
        return
    unknown = wanted - {b"NX", b"XX", b"GET", b"KEEPTTL"}
    if unknown or {b"NX", b"XX"} <= wanted:
        fail_unknown(session, b" ".join(sorted(unknown or wanted)), "NX or XX, GET, KEEPTTL")
        return
    if b"GET" in wanted:
        in_dram(session, request, lambda: _set_if(session, request, wanted))
    else:
        _set_if(session, request, wanted)


def _set_if(session: Session, request: Request, options: set[bytes]) -> None:
    """SET with options; the old value is in DRAM if it is asked for."""
    store, key = session.node.store, request.words[1]
    exists = store.exists(key)
    old = store.peek(key) if b"GET" in options else None
    if (b"NX" in options and exists) or (b"XX" in options and not exists):
        session.reply_entry(old)
        return
    session.hold(old)
    if not _store(session, request):
        session.let_go()
        return
    if b"GET" in options:
        acknowledge_held(session)
    else:
        session.let_go()
        acknowledge(session, replies.OK)
    session.observe(Access.STORE, (key,), (False,))


@command("getset", 3, "write denyoom fast", (1, 1, 1), values=range(2, 3))
def getset(session: Session, request: Request) -> None:
    """GETSET key value: as SET key value GET."""
    in_dram(session, request, lambda: _set_if(session, request, {b"GET"}))


@command("setnx", 3, "write denyoom fast", (1, 1, 1), values=range(2, 3))
def setnx(session: Session, request: Request) -> None:
    """SETNX key value."""
    key = request.words[1]
    if session.node.store.exists(key):
        session.reply(replies.integer(0))
    elif _store(session, request):
        acknowledge(session, replies.integer(1))
        session.observe(Access.STORE, (key,), (False,))


@command("mset", -3, "write denyoom", (1, -1, 2), values=range(2, MAX_ARGUMENTS, 2))
def mset(session: Session, request: Request) -> None:
    """MSET key value [key value …]: if one value does not fit, those before it are stored."""
    if _store_all(session, request):
        acknowledge(session, replies.OK)


def mset_part(session: Session, request: Request) -> None:
    """Some of the values of a longer MSET."""
    if _store_all(session, request):
        session.reply(replies.OK)


def _store_all(session: Session, request: Request) -> bool:
    arguments, keys = request.arguments(), request.keys(1, -1, 2)
    for index, key in zip(range(2, len(arguments), 2), keys, strict=True):
        if not _keep(session, request, key, index, arguments[index]):
            return False
    session.observe(Access.STORE, keys, [False] * len(keys))
    return True


def _store(session: Session, request: Request) -> bool:
    """Store a command's only value; False when it does not fit and the error is queued."""
    words = request.words
    return _keep(session, request, words[1], 2, words[2] if not request.values else request.values[2])


def _keep(session: Session, request: Request, key: bytes, index: int, value: Argument) -> bool:
    """Store argument number ``index``; False when it does not fit and the error is queued."""
    store = session.node.store
    if isinstance(value, Reservation):
        request.take(index)
        store.commit(key, value)
        return True
    try:
        store.put(key, value)
    except CapacityError as error:
        session.fail(str(error), "OOM")
        return False
    return True

"""Reading and writing values."""

from kvtide_cachenode.commands.below import acknowledge, in_dram, reply_value, reply_values
from kvtide_cachenode.commands.table import command, fail_unknown
from kvtide_cachenode.inference import Access
from kvtide_cachenode.session import Session
from kvtide_cachenode.store import CapacityError, Reservation
from kvtide_cachenode.wire import replies

EXPIRING = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})


@command("get", 2, "readonly fast", (1, 1, 1))
def get(session: Session, arguments: list[bytes]) -> None:
    """GET key."""
    key = arguments[1]
    entry = session.node.store.get(key)
    if entry is None and session.node.store.below(key):
        session.answer_later(reply_value(session, key, Access.LOAD))
        return
    session.reply_entry(entry)
    session.observe(Access.LOAD, (key,), (entry is not None,))


@command("mget", -2, "readonly fast", (1, -1, 1))
def mget(session: Session, arguments: list[bytes]) -> None:
    """MGET key [key …]."""
    keys = arguments[1:]
    if session.node.store.tiered and any(map(session.node.store.below, keys)):
        session.answer_later(reply_values(session, keys))
        return
    entries = session.node.store.get_all(keys)
    session.reply_entries(entries)
    session.observe(Access.LOAD, keys, [entry is not None for entry in entries])


@command("getdel", 2, "write fast", (1, 1, 1))
def getdel(session: Session, arguments: list[bytes]) -> None:
    """GETDEL key."""
    key, store = arguments[1], session.node.store

    def reply_and_delete() -> None:
        session.reply_entry(store.get(key))
        store.delete(key)
        acknowledge(session, b"")

    in_dram(session, arguments, reply_and_delete)


@command("strlen", 2, "readonly fast", (1, 1, 1))
def strlen(session: Session, arguments: list[bytes]) -> None:
    """STRLEN key."""
    session.reply(replies.integer(session.node.store.length_of(arguments[1]) or 0))


@command("set", -3, "write denyoom", (1, 1, 1))
def set_(session: Session, arguments: list[bytes]) -> None:
    """SET key value [NX | XX] [GET] [KEEPTTL]."""
    if len(arguments) == 3:
        if _store(session, arguments[1], 2, arguments[2]):
            acknowledge(session, replies.OK)
            session.observe(Access.STORE, arguments[1:2], (False,))
        return
    options = set(map(bytes.upper, arguments[3:]))
    if options & EXPIRING:
        session.fail("entries live until they are evicted: set them without EX, PX, EXAT and PXAT")
        return
    unknown = options - {b"NX", b"XX", b"GET", b"KEEPTTL"}
    if unknown or {b"NX", b"XX"} <= options:
        fail_unknown(session, b" ".join(sorted(unknown or options)), "NX or XX, GET, KEEPTTL")
        return
    if b"GET" in options:
        in_dram(session, arguments, lambda: _set_if(session, arguments, options))
    else:
        _set_if(session, arguments, options)


def _set_if(session: Session, arguments: list[bytes], options: set[bytes]) -> None:
    """SET with options; the old value is in DRAM if it is asked for."""
    store, key = session.node.store, arguments[1]
    exists = store.exists(key)
    answer = replies.OK
    if b"GET" in options:
        old = store.peek(key)
        answer = session.nil if old is None else replies.bulk(store.value(old))
    if (b"NX" in options and exists) or (b"XX" in options and not exists):
        session.reply(answer if b"GET" in options else session.nil)
    elif _store(session, key, 2, arguments[2]):
        acknowledge(session, answer)
        session.observe(Access.STORE, (key,), (False,))


@command("setnx", 3, "write denyoom fast", (1, 1, 1))
def setnx(session: Session, arguments: list[bytes]) -> None:
    """SETNX key value."""
    key = arguments[1]
    if session.node.store.exists(key):
        session.reply(replies.integer(0))
    elif _store(session, key, 2, arguments[2]):
        acknowledge(session, replies.integer(1))
        session.observe(Access.STORE, (key,), (False,))


@command("mset", -3, "write denyoom", (1, -1, 2))
def mset(session: Session, arguments: list[bytes]) -> None:
    """MSET key value [key value …]. If one value does not fit, those before it are stored."""
    if len(arguments) % 2 == 0:
        session.fail("wrong number of arguments for 'mset' command")
        return
    for index in range(2, len(arguments), 2):
        if not _store(session, arguments[index - 1], index, arguments[index]):
            return
    acknowledge(session, replies.OK)
    keys = arguments[1::2]
    session.observe(Access.STORE, keys, [False] * len(keys))


def _store(session: Session, key: bytes, index: int, value: bytes) -> bool:
    """Store argument number ``index``; False when it does not fit and the error is queued."""
    landed = session.landed.pop(index, None)
    if isinstance(landed, Reservation):
        session.node.store.commit(key, landed)
        return True
    try:
        session.node.store.put(key, value)
    except CapacityError as error:
        session.fail(str(error), "OOM")
        return False
    return True

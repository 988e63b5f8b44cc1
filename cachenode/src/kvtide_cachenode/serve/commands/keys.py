"""Questions about keys, and taking them away."""

import fnmatch
import re

from kvtide_cachenode.access_trace.inference import Access
from kvtide_cachenode.serve.commands.below import acknowledge
from kvtide_cachenode.serve.commands.table import command, fail_unknown, natural
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.store import Store
from kvtide_cachenode.wire import replies

SCAN_COUNT = 10  # redis' default
MAX_SCAN_COUNT = 1_000_000_000
# COUNT is a hint: no reply has more keys than this, nor many more bytes.
MAX_PAGE_KEYS = 1_000
MAX_PAGE_BYTES = 256 * 1024
KEYS_PER_LOOK = 50
MAX_PATTERN_BYTES = 256


@command("exists", -2, "readonly fast", (1, -1, 1))
def exists(session: Session, request: Request) -> None:
    """EXISTS key [key …]: does not count as use of an entry, as in redis."""
    keys, store = request.words[1:], session.node.store
    hits = [store.exists(keys[0])] if len(keys) == 1 else list(map(store.exists, keys))
    found = sum(hits)
    counters = store.counters
    counters.exists_hits += found
    counters.exists_misses += len(hits) - found
    session.reply(replies.integer(found))
    session.observe(Access.LOOK_UP, keys, hits)


@command("touch", -2, "readonly fast", (1, -1, 1))
def touch(session: Session, request: Request) -> None:
    """TOUCH key [key …]: they count as used now."""
    session.reply(replies.integer(sum(map(session.node.store.touch, request.words[1:]))))


@command("del", -2, "write", (1, -1, 1))
def del_(session: Session, request: Request) -> None:
    """DEL key [key …]."""
    acknowledge(session, replies.integer(_deleted(session, request)))


def del_part(session: Session, request: Request) -> None:
    """Some of the keys of a longer DEL."""
    session.reply(replies.integer(_deleted(session, request)))


def _deleted(session: Session, request: Request) -> int:
    return sum(map(session.node.store.delete, request.words[1:]))


command("unlink", -2, "write fast", (1, -1, 1))(del_)


@command("type", 2, "readonly fast", (1, 1, 1))
def type_(session: Session, request: Request) -> None:
    """TYPE key: every value is a string."""
    session.reply(replies.simple("string" if session.node.store.exists(request.words[1]) else "none"))


@command("ttl", 2, "readonly fast", (1, 1, 1))
def ttl(session: Session, request: Request) -> None:
    """TTL key: -1, entries live until they are evicted; -2 when there is none."""
    session.reply(replies.integer(-1 if session.node.store.exists(request.words[1]) else -2))


command("pttl", 2, "readonly fast", (1, 1, 1))(ttl)


@command("persist", 2, "write fast", (1, 1, 1))
def persist(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """PERSIST key: 0, there is no time-out to remove."""
    session.reply(replies.integer(0))


@command("memory", 3, "readonly", (2, 2, 1))
def memory(session: Session, request: Request) -> None:
    """MEMORY USAGE key: bytes of DRAM that an entry takes, 0 where it is on the SSD."""
    if request.words[1].upper() != b"USAGE":
        fail_unknown(session, request.words[1], "USAGE key")
        return
    session.reply_with(session.node.store.charge_of(request.words[2]))


@command("dbsize", 1, "readonly fast")
def dbsize(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """DBSIZE."""
    session.reply(replies.integer(session.node.store.key_count()))


@command("flushall", -1, "write admin")
def flushall(session: Session, request: Request) -> None:
    """FLUSHALL [ASYNC | SYNC]."""
    words = request.words
    if len(words) > 2 or {*map(bytes.upper, words[1:])} - {b"ASYNC", b"SYNC"}:
        fail_unknown(session, words[-1], "ASYNC, SYNC")
        return
    session.node.store.clear()
    session.answer_later(_flushed(session))


async def _flushed(session: Session) -> None:
    """Answer FLUSHALL when nothing brings the keys back and what they took is free."""
    store = session.node.store
    if store.unsettled:
        await store.settle()
    while store.free_flushed():
        await session.node.turns.share()
    session.reply(replies.OK)


command("flushdb", -1, "write admin")(flushall)


@command("scan", -2, "readonly")
def scan(session: Session, request: Request) -> None:
    """SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]."""
    words = request.words
    session.evidence = None  # whoever knows this node's keys need not know the map
    matches: re.Pattern[str] | None = None
    count, kind = SCAN_COUNT, b"string"
    try:
        cursor = _bounded(words[1], 2**63)
        for option, value in zip(words[2::2], words[3::2], strict=True):
            match option.upper():
                case b"MATCH":
                    matches = _pattern(value)
                case b"COUNT":
                    count = max(_bounded(value, MAX_SCAN_COUNT), 1)
                case b"TYPE":
                    kind = value.lower()
                case _:
                    fail_unknown(session, option, "MATCH, COUNT, TYPE")
                    return
        cursor, page = _page(session.node.store, cursor, count)
    except ValueError as error:
        session.fail(f"SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]: {error}")
        return
    if matches is not None:
        page = [key for key in page if matches.match(key.decode("latin-1"))]
    session.reply_with([str(cursor), page if kind == b"string" else []])


def _bounded(text: bytes, most: int) -> int:
    number = natural(text, most)
    if number is None:
        raise ValueError(f"expected a number from 0 to {most}")
    return number


def _page(store: Store, cursor: int, count: int) -> tuple[int, list[bytes]]:
    """The next keys of an iteration: about ``count``, fewer where that is a reply too long at once."""
    page: list[bytes] = []
    left, size_bytes = min(count, MAX_PAGE_KEYS), 0
    while True:
        cursor, found = store.scan(cursor, min(left, KEYS_PER_LOOK))
        page += found
        left -= KEYS_PER_LOOK
        size_bytes += sum(map(len, found))
        if not cursor or left <= 0 or size_bytes >= MAX_PAGE_BYTES:
            return cursor, page


def _pattern(glob: bytes) -> re.Pattern[str]:
    """A redis glob as a regular expression over latin-1, in time linear per star."""
    if len(glob) > MAX_PATTERN_BYTES:
        raise ValueError(f"a pattern has at most {MAX_PATTERN_BYTES} bytes")
    # fnmatch knows the same globs but for "[^…]" and "\x".
    text = re.sub(r"\\(.)", r"[\1]", glob.decode("latin-1"), flags=re.DOTALL).replace("[^", "[!")
    return re.compile(fnmatch.translate(text), re.DOTALL)

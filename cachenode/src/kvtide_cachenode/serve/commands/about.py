"""What the node says of itself: INFO, COMMAND, CONFIG."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice

from kvtide_cachenode.client_memory import PIECES_UNSENT_BYTES
from kvtide_cachenode.node import VERSION
from kvtide_cachenode.process.heap import resident_bytes
from kvtide_cachenode.serve.commands.table import TABLE, Command, command, fail_unknown
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.replies import Reply

# The redis whose commands and replies these are; clients compare it with what they need.
REDIS_VERSION = "7.0.15"
DESCRIBED_PER_TURN = 64
# What tools ask for (redis-benchmark prints save and appendonly); nothing here can be set.
CONFIG = {"save": "", "appendonly": "no", "databases": "1", "maxmemory-policy": "allkeys-lru"}


@command("info", -1, "")
def info(session: Session, request: Request) -> None:
    """INFO [section …]."""
    wanted = {argument.decode("latin-1").lower() for argument in request.words[1:]}
    everything = not wanted or bool(wanted & {"all", "everything", "default"})
    lines = []
    for section, fields in _sections(session).items():
        if everything or section.lower() in wanted:
            lines += [f"# {section}", *(f"{name}:{value}" for name, value in fields.items()), ""]
    session.reply_with("\r\n".join(lines))


def _sections(session: Session) -> dict[str, dict[str, object]]:
    node, store = session.node, session.node.store
    counters = store.counters
    uptime_s = int(node.uptime_s())
    keyspace = {"db0": f"keys={len(store)},expires=0,avg_ttl=0"} if len(store) else {}
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "kvtide_version": VERSION,
            "redis_mode": "standalone",
            "run_id": node.boot_id,
            "uptime_in_seconds": uptime_s,
            "uptime_in_days": uptime_s // 86400,
        },
        "Clients": {"connected_clients": len(node.sessions)},
        "Memory": {
            "used_memory": store.used_bytes,
            "used_memory_rss": resident_bytes(),
            "maxmemory": store.capacity_bytes,
            "maxmemory_policy": "allkeys-lru",
        },
        "Persistence": {"loading": 0},
        "Stats": {
            "total_connections_received": node.connections_total,
            "total_commands_processed": node.commands_total,
            "rejected_connections": node.connections_refused,
            "evicted_keys": counters.evictions,
            "keyspace_hits": counters.get_hits + counters.exists_hits,
            "keyspace_misses": counters.get_misses + counters.exists_misses,
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Cluster": {"cluster_enabled": 0},
        "Keyspace": dict(keyspace),
    }


@command("command", -1, "")
def command_(session: Session, request: Request) -> None:
    """COMMAND [COUNT | LIST | INFO [name …] | DOCS [name …] | GETKEYS command …]."""
    words = request.words
    known = {described.name: described for described in TABLE.values()}
    names = [word.decode("latin-1").lower() for word in words[2:]] or list(known)
    match words[1].upper() if len(words) > 1 else b"INFO":
        case b"COUNT":
            session.reply_with(len(known))
        case b"LIST":
            session.reply_with(list(known))
        case b"INFO":
            rows = (_row(known.get(name), session.resp3) for name in names)
            session.answer_later(_reply_rows(session, b"*%d\r\n" % len(names), rows))
        case b"DOCS":
            found = [known[name] for name in dict.fromkeys(names) if name in known]
            head = b"%%%d\r\n" % len(found) if session.resp3 else b"*%d\r\n" % (2 * len(found))
            session.answer_later(_reply_rows(session, head, (_docs(one, session.resp3) for one in found)))
        case b"GETKEYS" if len(words) > 2:
            _reply_keys(session, known.get(names[0]), words[2:])
        case _:
            fail_unknown(session, words[1], "COUNT, LIST, INFO, DOCS, GETKEYS command")


async def _reply_rows(session: Session, head: bytes, rows: Iterator[bytes]) -> None:
    """As many rows as the client asked for, some in each turn."""
    session.reply(head)
    while part := b"".join(islice(rows, DESCRIBED_PER_TURN)):
        session.reply(part)
        await session.room(PIECES_UNSENT_BYTES)
        await session.node.turns.share()


def _row(described: Command | None, resp3: bool) -> bytes:
    return replies.encode(None if described is None else _described(described), resp3)


def _docs(described: Command, resp3: bool) -> bytes:
    docs: Reply = {"summary": (described.handler.__doc__ or "").strip(), "group": "generic"}
    return replies.bulk(described.name.encode()) + replies.encode(docs, resp3)


def _reply_keys(session: Session, described: Command | None, words: list[bytes]) -> None:
    if described is None or not described.accepts(len(words)):
        session.fail("Invalid command specified, or its arguments are too few or too many")
    elif not described.first_key:
        session.fail("The command has no key arguments")
    else:
        keys = Request(words).keys(described.first_key, described.last_key, described.key_step)
        session.reply_with(keys)


def _described(described: Command) -> Reply:
    return [
        described.name,
        described.arity,
        list(described.flags),
        described.first_key,
        described.last_key,
        described.key_step,
        *([], [], [], []),  # ACL categories, tips, key specifications and sub-commands, as redis 7 has them
    ]


@command("config", -2, "admin")
def config(session: Session, request: Request) -> None:
    """CONFIG GET pattern [pattern …]."""
    words = request.words
    if words[1].upper() != b"GET" or len(words) < 3:
        fail_unknown(session, words[1], "GET pattern; the size is set with PUT /v1/capacity")
        return
    patterns = [argument.decode("latin-1").lower() for argument in words[2:]]
    found: dict[str, Reply] = {
        name: value
        for name, value in CONFIG.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if any(fnmatchcase("maxmemory", pattern) for pattern in patterns):
        found["maxmemory"] = str(session.node.store.capacity_bytes)
    session.reply_with(found)

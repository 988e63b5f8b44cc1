"""docs/redis-commands.md lists what the node serves and what it refuses; clients are told the same."""

from pathlib import Path
from typing import Any

import pytest
from tests.cachenode.raw_client import encoded, said

from kvtide_cachenode.access.users import ADMIN, READ, WRITE
from kvtide_cachenode.serve.commands import TABLE
from kvtide_cachenode.serve.commands.refused import NOT_SERVED, REFUSED
from kvtide_cachenode.serve.commands.table import Command
from kvtide_cachenode.store.room import ENTRY_OVERHEAD_BYTES

AUTH_UNASKED = (
    b"-ERR AUTH <password> called without any password configured for the default user. "
    b"Are you sure your configuration is correct?\r\n"
)
PAGE = Path(__file__).parents[2] / "docs/redis-commands.md"


def row(command: Command) -> str:
    """The line of the page for one command."""
    roles = [
        name for name, bit in (("read", READ), ("write", WRITE), ("admin", ADMIN)) if command.needs & bit
    ]
    role = roles[0] if roles else "anybody" if not command.needs else "any user"
    large = "value" if command.values else "text" if command.texts else "–"
    usage, _, said_of_it = (command.handler.__doc__ or "").partition(":")
    first, _, more = usage.partition(". ")
    _, _, arguments = first.strip().rstrip(".").partition(" ")  # a second name has the first one's words
    shown = f"{command.name.upper()} {arguments}".strip().replace("|", "\\|")
    notes = (more or said_of_it).strip().rstrip(".") or "–"
    return f"| `{shown}` | {role} | {large} | {notes} |"


def test_the_page_lists_every_command() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    served = [row(command) for command in dict.fromkeys(TABLE.values())]
    refused = [
        "| " + ", ".join(f"`{name}`" for name in names.split()) + f" | {why} |"
        for why, names in NOT_SERVED.items()
    ]
    assert lines == served + refused


async def test_a_command_that_is_known_and_not_served_says_so(served: Any) -> None:
    for name, why in REFUSED.items():
        assert name.encode() not in TABLE, name
        reply = await said(served.port, encoded([name.upper().encode(), b"a", b"1", b"b"]))
        assert reply == f"-ERR '{name.upper()}' is not served here: {why}\r\n".encode()


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        # ioredis Cluster sends its password to every node and goes on when it reads these words.
        (
            b"AUTH secret",
            AUTH_UNASKED,
        ),
        (b"AUTH default anything", b"+OK\r\n"),
        (b"AUTH someone anything", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        (b"COMMAND GETKEYS MSET a 1 b 2", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        (b"COMMAND GETKEYS MEMORY USAGE k", b"*1\r\n$1\r\nk\r\n"),
        (b"COMMAND GETKEYS PING", b"-ERR The command has no key arguments\r\n"),
        (b"PERSIST k", b":0\r\n"),
        (b"TOUCH k absent", b":1\r\n"),
        (b"GETSET k w", b"$1\r\nv\r\n"),
        (b"MEMORY USAGE absent", b"$-1\r\n"),
        (b"MEMORY USAGE k", b":%d\r\n" % (ENTRY_OVERHEAD_BYTES + 2)),
    ],
)
async def test_manners(served: Any, command: bytes, reply: bytes) -> None:
    served.node.store.put(b"k", b"v")
    assert await said(served.port, command + b"\r\n") == reply


def test_flushall_needs_the_role_that_the_page_says() -> None:
    assert TABLE[b"FLUSHALL"].needs & (READ | WRITE | ADMIN) == ADMIN

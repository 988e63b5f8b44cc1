"""MULTI and EXEC: commands that are run in a row.

What is queued is checked as it comes; one wrong command and EXEC runs none. EXEC runs them in their order
and lets nobody in between two that have keys, unless the first has to wait: for the SSD, another node, room
for its reply. So that others wait for it no longer than for anything else, a transaction has few keys. Each
command is routed as it would be alone. There is no WATCH: its keys could be anywhere.
"""

from typing import Final

from kvtide_cachenode.client_memory import PIECES_UNSENT_BYTES
from kvtide_cachenode.serve.commands.many import run
from kvtide_cachenode.serve.commands.table import TABLE, Command, command
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session, Transaction
from kvtide_cachenode.wire import replies

# Keys of all commands together, each of which counts as one at least: 20 ms.
MAX_KEYS: Final = 4096
MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024  # of words; values that landed lie in the arena
WORD_BYTES: Final = 64  # what a word costs beside its bytes
# Run at once, not queued.
AT_ONCE: Final = frozenset({"multi", "exec", "discard", "quit", "reset"})


@command("multi", 1)
def multi(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """MULTI: queue the commands that follow, up to EXEC."""
    if session.transaction is not None:
        session.fail("MULTI calls can not be nested")
        return
    session.transaction = Transaction()
    session.reply(replies.OK)


@command("discard", 1)
def discard(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """DISCARD: forget the queued commands."""
    if session.transaction is None:
        session.fail("DISCARD without MULTI")
        return
    session.end_transaction()
    session.reply(replies.OK)


@command("exec", 1)
def exec_(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """EXEC: run the queued commands."""
    transaction = session.transaction
    if transaction is None:
        session.fail("EXEC without MULTI")
    elif transaction.wrong:
        session.end_transaction()
        session.fail("Transaction discarded because of previous errors.", "EXECABORT")
    else:
        session.answer_later(_run(session, transaction))


def queue(session: Session, transaction: Transaction, described: Command, request: Request) -> None:
    """Keep a command of a transaction for EXEC, or say why not."""
    words = request.words
    size_bytes = sum(map(len, words)) + WORD_BYTES * len(words)
    keys = 1
    if described.last_key < 0:
        keys = len(request.keys(described.first_key, described.last_key, described.key_step))
    if transaction.keys + keys > MAX_KEYS or session.transaction_bytes + size_bytes > MAX_QUEUED_BYTES:
        transaction.wrong = True
        session.fail(
            f"a transaction has at most {MAX_KEYS} commands and keys with {MAX_QUEUED_BYTES} bytes: "
            "use a pipeline without MULTI"
        )
        return
    transaction.keys += keys
    transaction.queued.append((described.name.encode(), request.moved()))
    session.transaction_bytes += size_bytes
    session.reply(b"+QUEUED\r\n")


async def _run(session: Session, transaction: Transaction) -> None:
    turns = session.node.turns
    session.transaction = None
    try:
        await turns.share()  # many may come at once
        session.in_exec = True
        session.reply(b"*%d\r\n" % len(transaction.queued))
        for name, request in transaction.queued:
            described = TABLE[name]
            run(session, described, request)
            await session.finish()
            request.release(session.node.store)
            if session.queued_bytes > PIECES_UNSENT_BYTES:
                await session.room(PIECES_UNSENT_BYTES)
            if not described.first_key:  # INFO and the like: nobody's data, and they may take long
                await turns.share()
    finally:
        session.in_exec = False
        transaction.release(session.node.store)
        session.transaction_bytes = 0
    while session.report_one():
        await turns.share()

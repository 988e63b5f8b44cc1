"""Commands of many keys: a part after the other, so that nobody waits for more than one part.

A reply has one place in the order, but others are served between two parts: what they change meanwhile is
seen by the parts that follow. Each part is routed by itself. Whoever follows redirects is told of one before
the first part; what moves away later is forwarded.
"""

from dataclasses import replace
from typing import Final

from kvtide_cachenode.client_memory import PIECES_UNSENT_BYTES
from kvtide_cachenode.cluster.redirect import UNAWARE, CrossSlot, Forward, Kind, Scatter, Serve, View, decide
from kvtide_cachenode.cluster.replies import refusal
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.serve.commands import keys, routing, strings
from kvtide_cachenode.serve.commands.below import acknowledge
from kvtide_cachenode.serve.commands.splits import SPLITS, Merge
from kvtide_cachenode.serve.commands.table import TABLE, Command, Handler
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.wire import replies

# Arguments of one part, keys and values: about a millisecond, and half a megabyte of values in the index.
PART_ARGUMENTS: Final = 256
SLOTS_PER_TURN: Final = 4096


def _part(name: str, handler: Handler) -> Command:
    return replace(TABLE[name.encode()], handler=handler, name=f"{name} part")


# What runs a part of each command that has many keys; its reply is not acknowledged, an array's has no head.
PARTS: Final = {
    "mget": _part("mget", strings.mget_part),
    "exists": _part("exists", keys.exists),
    "touch": _part("touch", keys.touch),
    "del": _part("del", keys.del_part),
    "unlink": _part("unlink", keys.del_part),
    "mset": _part("mset", strings.mset_part),
}


def run(session: Session, command: Command, request: Request) -> None:
    """Run a command that was found right, in parts where it has many keys; a peer's has one."""
    many = len(request.words) + len(request.values) > PART_ARGUMENTS
    if many and command.name in PARTS and session.caller.kind is not Kind.PEER:
        session.answer_later(_run_in_parts(session, command, request))
    elif command.first_key:
        routing.run(session, command, request)
    else:
        command.handler(session, request)


async def _run_in_parts(session: Session, command: Command, request: Request) -> None:
    """Run a command of many keys, and queue its one reply."""
    await session.share()  # many may come at once
    view = session.node.cluster.view
    if view is not None and session.caller.kind is Kind.AWARE:
        redirect = await _redirect(session, command, request, view)
        if redirect is not None:
            session.node.cluster.counters.redirected += 1
            session.reply(redirect)
            return
    known = session.caller, session.evidence
    session.caller, session.evidence = UNAWARE, None
    try:
        await _run_all(session, command, request)
    finally:
        caller, session.evidence = known
        session.caller = replace(caller, asking=False)


async def _run_all(session: Session, command: Command, request: Request) -> None:
    merge, part_of = SPLITS[command.name].merge, PARTS[command.name]
    arguments, values, store = request.arguments(), request.values, session.node.store
    count, step = len(arguments), command.key_step
    await session.room(0)
    if merge is Merge.ARRAY:
        session.reply(b"*%d\r\n" % (count - 1))
    total = 0
    for first in range(1, count, PART_ARGUMENTS):
        last = min(first + PART_ARGUMENTS, count)
        part = Request.of([request.words[0], *arguments[first:last]])
        for index in range(first, last, step) if values else ():
            values.pop(index + step - 1, None)  # it is the part's now
        try:
            routing.run(session, part_of, part)
            await session.finish()
        finally:
            part.release(store)
        if merge is Merge.ARRAY:
            await session.room(PIECES_UNSENT_BYTES)
        else:
            line = session.take_back()
            if line[:1] == b"-":
                session.reply(line)
                return
            total += int(line[1:]) if merge is Merge.SUM else 0
        session.report()
        await session.share()
    if merge is Merge.ARRAY:
        return
    reply = replies.OK if merge is Merge.OK else replies.integer(total)
    if "write" in command.flags:
        acknowledge(session, reply)
    else:
        session.reply(reply)


async def _redirect(session: Session, command: Command, request: Request, view: View) -> bytes | None:
    """The error for a client that follows redirects; None where its keys are served."""
    wanted = request.keys(command.first_key, command.last_key, command.key_step)
    slots: set[int] = set()
    for first in range(0, len(wanted), SLOTS_PER_TURN):
        slots.update(map(key_slot, wanted[first : first + SLOTS_PER_TURN]))
        if len(slots) > 1:
            return refusal(CrossSlot())
        await session.share()
    decision = decide(view, session.caller, wanted[:PART_ARGUMENTS], session.node.store.exists)
    return None if isinstance(decision, Serve | Forward | Scatter) else refusal(decision)

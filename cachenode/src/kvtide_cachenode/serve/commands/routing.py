"""Where a command with keys runs: here, or on the node that has them (`cluster.redirect` decides)."""

from dataclasses import replace

from kvtide_cachenode.cluster.redirect import Caller, Forward, Kind, Scatter, Serve, View, decide
from kvtide_cachenode.cluster.replies import refusal
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.serve.commands.forward import forward, scatter
from kvtide_cachenode.serve.commands.table import Command
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session


def run(session: Session, command: Command, request: Request) -> None:
    """Run a command with keys, or see to it that another node does."""
    view = session.node.cluster.view
    if view is None:
        command.handler(session, request)
        return
    words = request.words
    if len(words) == 2 or command.last_key == 1:
        slot = key_slot(words[1])
        if view.settled[slot]:
            if session.evidence is not None:
                session.evidence.owned(slot, view.slot_bits)
            if session.caller.asking:
                session.caller = replace(session.caller, asking=False)
            command.handler(session, request)
            return
    _route(session, command, request, view)


def _route(session: Session, command: Command, request: Request, view: View) -> None:
    node = session.node
    keys = request.keys(command.first_key, command.last_key, command.key_step)
    if "write" in command.flags and node.cluster.flying(keys):
        session.answer_later(_landed(session, command, request, keys))
        return
    decision = decide(view, _caller(session, keys, view), keys, node.store.exists)
    epoch = view.topology.epoch
    match decision:
        case Serve():
            command.handler(session, request)
        case Forward(owner):
            session.answer_later(forward(session, command.name, request, owner, epoch))
        case Scatter(each):
            session.answer_later(scatter(session, command.name, request, each, epoch))
        case _:
            node.cluster.counters.redirected += 1
            session.reply(refusal(decision))


async def _landed(session: Session, command: Command, request: Request, keys: list[bytes]) -> None:
    """Run a command that changes keys which are on their way to another node, once they are there."""
    await session.node.cluster.landed(keys)
    run(session, command, request)


def _caller(session: Session, keys: list[bytes], view: View) -> Caller:
    """Who asks; ASKING holds for this command alone."""
    caller = session.caller
    if caller.asking:
        session.caller = replace(caller, asking=False)
    evidence = session.evidence
    if caller.kind is Kind.UNAWARE and evidence is not None:
        for slot in map(key_slot, keys):
            if not view.owns(slot):
                if evidence.enough:
                    session.evidence = None
                    session.caller = Caller(Kind.AWARE)
                    return replace(session.caller, asking=caller.asking)
                evidence.foreign()
            elif view.settled[slot]:
                evidence.owned(slot, view.slot_bits)
    return caller

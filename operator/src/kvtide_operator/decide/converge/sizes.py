"""One node's memory, in the order in which nothing is lost and nobody is killed; and its CPU, with it.

    grow     pod's limit up → confirmed → node's capacity up
    shrink   node's capacity down → it holds no more, its pages are given back → pod's limit down → confirmed

A shrink that was given up is a grow: the pod is asked for its old limit again, and only when the kubelet has
confirmed that may the node use it, since until then the kubelet goes on trying the smaller one.
"""

from dataclasses import dataclass

from kvtide_operator.api.quantity import format_cpu, format_quantity, parse_cpu
from kvtide_operator.decide.converge.view import Seat, View
from kvtide_operator.decide.steps import ResizePod
from kvtide_operator.world.nodes import NodeState


@dataclass(frozen=True, slots=True)
class SizeStep:
    """What a node's capacity shall be now, the pod's resize if there is one, and what is waited for."""

    dram_bytes: int
    resize: ResizePod | None = None
    waiting: str = ""


def next_size(view: View, seat: Seat, *, may_shrink: bool) -> SizeStep:
    """The next step of one node that answers. One that leaves keeps its size."""
    assert seat.running is not None, "there is a next step only for a node that answers"
    pod, node = seat.running
    has = node.capacity_bytes
    if seat.ordinal >= view.wanted:
        return SizeStep(has)
    limit, dram = view.memory_bytes(seat), view.dram_bytes(seat)
    assert pod.memory_bytes is not None, "a node that answers runs"
    if dram < has:
        if not may_shrink:
            return SizeStep(has, waiting=f"{seat.name} shrinks when slots are where they shall be")
        return SizeStep(dram, waiting=f"{seat.name} shrinks to {format_quantity(dram)}")
    cpu = view.cpu(seat)
    if (pod.wanted_memory_bytes, pod.wanted_cpu) != (limit, cpu):
        if limit < pod.memory_bytes and not _given_back(node):
            return SizeStep(has, waiting=f"{seat.name} gives memory back: {_over(node)} to go")
        asked = f"{seat.name} is asked for {format_quantity(limit)} of memory"
        if cpu is not None and pod.wanted_cpu != cpu:
            asked += f" and {format_cpu(cpu)} of CPU"
        return SizeStep(has, ResizePod(pod.name, pod.resource_version, limit, cpu), asked)
    if pod.resize is not None or pod.memory_bytes != limit:
        said = f": {pod.resize.reason} {pod.resize.message}".rstrip() if pod.resize else ""
        return SizeStep(has, waiting=f"{seat.name} waits for {format_quantity(limit)} of memory{said}")
    if has < dram:
        if node.max_bytes < dram:
            return SizeStep(has, waiting=f"the node in {seat.name} does not see its new limit yet")
        return SizeStep(dram, waiting=f"{seat.name} grows to {format_quantity(dram)}")
    return SizeStep(has)


def another_try(view: View, seat: Seat) -> ResizePod | None:
    """Ask once more for a share that the API refused; the node goes on as it is while that is refused.

    Only to grow: a node whose share is smaller would have to give memory back first.
    """
    held = view.held.get(seat.name)
    if seat.running is None or held is None or not held.refused or seat.ordinal >= view.wanted:
        return None
    pod, share = seat.running[0], view.share_memory_bytes
    cpu = None if pod.wanted_cpu is None else parse_cpu(view.spec.nodes.template.cpu)
    is_more = share > held.memory_bytes or (share == held.memory_bytes and held.cpu not in (None, cpu))
    if pod.resize is not None or not is_more:
        return None
    return ResizePod(pod.name, pod.resource_version, share, cpu)


def _given_back(node: NodeState) -> bool:
    """Whether a node holds no more than its capacity, in its books and in physical memory."""
    return max(node.used_bytes, node.resident_bytes) <= node.capacity_bytes


def _over(node: NodeState) -> str:
    return format_quantity(max(node.used_bytes, node.resident_bytes) - node.capacity_bytes)

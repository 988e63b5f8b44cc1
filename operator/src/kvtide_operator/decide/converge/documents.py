"""The document for each node, where it differs from what the node reports."""

from kvtide_cachenode.cluster.topology import Topology
from kvtide_cachenode.messages import CapacityRequest, Desired, IdleTimeouts
from kvtide_operator.decide.steps import TellNode
from kvtide_operator.world.nodes import NodeState


def document_for(
    pod: str,
    node: NodeState,
    *,
    dram_bytes: int,
    ssd_bytes: int | None,
    ttl_s: float | None,
    topology: Topology | None,
    term: int,
) -> TellNode | None:
    """The whole document that makes a node so; None when it is so already and has heard of this term.

    A node keeps the newest document as a whole over a restart, so each one says everything.
    """
    ttl = None if node.ssd is None else IdleTimeouts(other=ttl_s)
    topology = topology or node.topology
    ssd_has = None if node.ssd is None else node.ssd.capacity_bytes
    known = node.desired
    is_so = (dram_bytes, ssd_bytes, ttl, topology) == (
        node.capacity_bytes, ssd_has, node.ttl_s, node.topology,
    )  # fmt: skip
    if is_so and known is not None and known.term >= term:
        return None
    generation = known.generation + 1 if known is not None and known.term == term else 1
    return TellNode(pod, Desired(term, generation, CapacityRequest(dram_bytes, ssd_bytes), ttl, topology))


def is_deposed(node: NodeState, term: int) -> bool:
    """Whether a node follows a later leader than this one."""
    return node.desired is not None and node.desired.term > term

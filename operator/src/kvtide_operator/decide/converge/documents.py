"""The document for each node, where it differs from what the node reports."""

from kvtide_cachenode.cluster.topology import Topology
from kvtide_cachenode.contract.messages import CapacityRequest, Desired, IdleTimeouts
from kvtide_operator.decide.steps import TellNode
from kvtide_operator.world.nodes import NodeState


def document_for(
    pod: str,
    node: NodeState,
    *,
    dram_bytes: int,
    ssd_bytes: int | None,
    ttl: IdleTimeouts,
    topology: Topology | None,
    term: int,
) -> TellNode | None:
    """The whole document that makes a node so; None when it is so already and has heard of this term.

    A node keeps the newest document as a whole over a restart, so each one says everything.
    """
    time_outs = None if node.ssd is None else ttl
    topology = topology or node.topology
    ssd_has = None if node.ssd is None else node.ssd.capacity_bytes
    known = node.desired
    is_so = (dram_bytes, ssd_bytes, time_outs, topology) == (
        node.capacity_bytes, ssd_has, node.ttl_s, node.topology,
    )  # fmt: skip
    if is_so and known is not None and known.term >= term:
        return None
    generation = known.generation + 1 if known is not None and known.term == term else 1
    return TellNode(
        pod, Desired(term, generation, CapacityRequest(dram_bytes, ssd_bytes), time_outs, topology)
    )


def deposed_by(node: NodeState, term: int) -> int | None:
    """The term of the later leader that a node follows; None where this one's is the latest."""
    return node.desired.term if node.desired is not None and node.desired.term > term else None

"""What CLUSTER commands and redirects say, as data for `wire.replies.encode` (or, errors, as bytes)."""

from kvtide_cachenode.cluster.redirect import Ask, CrossSlot, Moved, TryAgain, View
from kvtide_cachenode.cluster.slots import SLOTS
from kvtide_cachenode.cluster.topology import NOBODY, Node, SlotRange
from kvtide_cachenode.wire.replies import Reply, error


def slots(view: View) -> Reply:
    """CLUSTER SLOTS: of each range its first and last slot and its owner."""
    return [
        [part.first, part.last, [owner.host, owner.port, owner.id, {}]]
        for part in view.topology.slots
        for owner in (view.topology.nodes[view.topology.index[part.node]],)
    ]


def shards(view: View) -> Reply:
    """CLUSTER SHARDS: of each node its slots and where it is. There are no replicas."""
    return [
        {
            "slots": [slot for first_last in view.topology.ranges_of(node.id) for slot in first_last],
            "nodes": [
                {
                    "id": node.id,
                    "port": node.port,
                    "ip": node.host,
                    "endpoint": node.host,
                    "role": "master",
                    "replication-offset": 0,
                    "health": "online",
                }
            ],
        }
        for node in view.topology.nodes
    ]


def nodes(view: View) -> str:
    """CLUSTER NODES: a line for each node, redis' own format. There is no cluster bus: its port is 0."""
    return "".join(_node_line(view, node) for node in view.topology.nodes)


def info(view: View) -> str:
    """CLUSTER INFO."""
    owners = {part.node for part in view.topology.slots}
    fields = {
        "cluster_enabled": 1,
        "cluster_state": "ok",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": SLOTS,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": 0,
        "cluster_known_nodes": len(view.topology.nodes),
        "cluster_size": len(owners),
        "cluster_current_epoch": max(view.topology.epoch, *view.heard.values(), 0),
        "cluster_my_epoch": view.topology.epoch,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items())


def refusal(decision: Moved | Ask | TryAgain | CrossSlot) -> bytes:
    """The error that sends a client elsewhere, in redis' words: clients read them."""
    match decision:
        case Moved(slot, node):
            return error(f"{slot} {node.host}:{node.port}", "MOVED")
        case Ask(slot, node):
            return error(f"{slot} {node.host}:{node.port}", "ASK")
        case TryAgain():
            return error("Multiple keys request during rehashing of slot", "TRYAGAIN")
        case CrossSlot():
            return error("Keys in request don't hash to the same slot", "CROSSSLOT")


def _node_line(view: View, node: Node) -> str:
    topology = view.topology
    parts = [
        str(first) if first == last else f"{first}-{last}" for first, last in topology.ranges_of(node.id)
    ]
    flags = "master"
    if node.id == view.me:
        flags = "myself,master"
        for move in topology.moves:
            parts += _moving(view, move)
    epoch = topology.epoch if node.id == view.me else view.heard.get(node.id, 0)
    fields = [node.id, f"{node.host}:{node.port}@0", flags, "-", "0", "0", str(epoch), "connected", *parts]
    return " ".join(fields) + "\n"


def _moving(view: View, move: SlotRange) -> list[str]:
    """This node's slots of ``move`` as `[slot->-target]` (migrating) and `[slot-<-source]` (importing)."""
    owners, place = view.topology.owners, view.place
    if place == NOBODY:
        return []
    span = range(move.first, move.last + 1)
    if move.node == view.me:
        return [f"[{slot}-<-{view.topology.owner(slot).id}]" for slot in span]
    return [f"[{slot}->-{move.node}]" for slot in span if owners[slot] == place]

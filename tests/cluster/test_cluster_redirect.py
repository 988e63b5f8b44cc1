"""Who answers a command: any mixture of topologies, every step of a slot move, redis' own rules."""

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kvtide_cachenode.cluster.handover import MoveEntries, Send, plan_handover
from kvtide_cachenode.cluster.redirect import (
    LAST_HOP,
    SERVE,
    Ask,
    Caller,
    CrossSlot,
    Forward,
    Kind,
    Moved,
    Scatter,
    Serve,
    TryAgain,
    View,
    decide,
)
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.slots import SLOTS, key_slot
from kvtide_cachenode.cluster.topology import Node, SlotRange, Topology

NODES = tuple(Node(f"{at:040x}", f"10.0.0.{at}", 7000, 1 << 30) for at in range(4))
KEYS = [b"key:%d" % number for number in range(40)]
UNAWARE, AWARE = Caller(Kind.UNAWARE), Caller(Kind.AWARE)


class Cluster:
    """Nodes with a topology and keys each; commands follow the decisions as clients and nodes do."""

    def __init__(self, topologies, stores, heard):
        self.topologies, self.stores, self.heard = topologies, stores, heard
        self.views = {}

    def decide(self, node_id, caller, key):
        what = (self.topologies[node_id].epoch, tuple(self.heard[node_id].items()))
        if self.views.get(node_id, (None,))[0] != what:
            self.views[node_id] = what, View(self.topologies[node_id], node_id, self.heard[node_id])
        view = self.views[node_id][1]
        return decide(view, caller, [key], self.stores[node_id].__contains__)

    def forward(self, node_id, target, key):
        """The node that serves a forwarded command: asked as a peer once, then told for the last time."""
        epoch = self.topologies[node_id].epoch
        decision = self.decide(target.id, Caller(Kind.PEER, epoch=epoch), key)
        if isinstance(decision, Serve):
            return target.id
        assert isinstance(decision, Moved | Ask)
        if decision.node.id != node_id:
            last = self.decide(decision.node.id, Caller(Kind.PEER, epoch=LAST_HOP), key)
            assert last is SERVE
        return decision.node.id

    def route(self, node_id, kind, key, limit):
        """The node that serves ``key`` for a client that starts at ``node_id``, and its redirects."""
        caller, redirects = Caller(kind), 0
        while True:
            decision = self.decide(node_id, caller, key)
            if isinstance(decision, Serve):
                return node_id, redirects
            if isinstance(decision, Forward):
                return self.forward(node_id, decision.node, key), redirects
            assert kind is Kind.AWARE
            node_id, redirects = decision.node.id, redirects + 1
            caller = Caller(kind, asking=isinstance(decision, Ask))
            assert redirects <= limit, "redirected in a loop"


@st.composite
def histories(draw):
    """Topologies at epochs 1, 2, …, each unlike the one before, with or without moves under way."""
    epochs = []
    for epoch in range(1, draw(st.integers(2, 5)) + 1):
        cuts = sorted(draw(st.lists(st.integers(1, SLOTS - 1), min_size=3, max_size=3, unique=True)))
        order = draw(st.permutations(NODES))
        bounds = zip([0, *cuts], [*cuts, SLOTS], order, strict=True)
        slots = tuple(SlotRange(low, high - 1, node.id) for low, high, node in bounds)
        moves = ()
        if draw(st.booleans()):
            part = draw(st.sampled_from(slots))
            moves = (replace(part, node=draw(st.sampled_from([n.id for n in NODES if n.id != part.node]))),)
        epochs.append(Topology(epoch, NODES, slots, moves))
    return epochs


@given(histories(), st.data())
@settings(max_examples=150, deadline=None)
def test_no_mixture_of_topologies_makes_a_loop(history, data):
    topologies = {node.id: data.draw(st.sampled_from(history)) for node in NODES}
    heard = {}
    for node in NODES:
        others = [other.id for other in NODES if other is not node and data.draw(st.booleans())]
        heard[node.id] = {other: data.draw(st.integers(1, topologies[other].epoch)) for other in others}
    stores = {node.id: set(data.draw(st.lists(st.sampled_from(KEYS), max_size=20))) for node in NODES}
    cluster = Cluster(topologies, stores, heard)
    # Each MOVED goes to a node at the same epoch or a newer one, where at most one ASK follows.
    limit = 2 * len({topology.epoch for topology in topologies.values()})
    for key in KEYS:
        for node in NODES:
            cluster.route(node.id, Kind.AWARE, key, limit)
            assert cluster.route(node.id, Kind.UNAWARE, key, 0)[1] == 0


@given(histories(), st.data())
@settings(max_examples=60, deadline=None)
def test_with_true_knowledge_of_epochs_one_moved_and_one_ask_are_enough(history, data):
    topologies = {node.id: data.draw(st.sampled_from(history)) for node in NODES}
    known = {node_id: topology.epoch for node_id, topology in topologies.items()}
    cluster = Cluster(topologies, {node.id: set() for node in NODES}, {node.id: known for node in NODES})
    for key in KEYS:
        for node in NODES:
            moving = any(topology.moves for topology in topologies.values())
            cluster.route(node.id, Kind.AWARE, key, 2 if moving else 1)


@given(st.data())
# Shrinking replays hundreds of steps a time, longer than a test may take.
@settings(max_examples=60, deadline=None, phases=set(Phase) - {Phase.shrink})
def test_every_key_is_found_at_every_step_of_a_handover(data):
    """Keys are read and written through any node while documents and entries move, one at a time."""
    before = first_topology(NODES)
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
    nodes = [replace(node, dram_bytes=size) for node, size in zip(NODES, sizes, strict=True)]
    fewest_moves = data.draw(st.booleans())
    after = rebalanced(before, nodes) if fewest_moves else first_topology(data.draw(st.permutations(nodes)))
    handover = plan_handover(before, after)
    topologies = {node.id: before for node in NODES}
    stores = {node.id: {key for key in KEYS if before.owner(key_slot(key)) == node} for node in NODES}
    heard = {node.id: {} for node in NODES}
    cluster, written = Cluster(topologies, stores, heard), set(KEYS)

    def leftovers(node_id):
        topology = topologies[node_id]
        moving = [key for key in stores[node_id] if topology.target(key_slot(key))]
        return sorted(key for key in moving if topology.owner(key_slot(key)).id == node_id)

    for step in range(400):
        kind = data.draw(st.sampled_from([Kind.AWARE, Kind.UNAWARE]))
        start = data.draw(st.sampled_from(NODES)).id
        for key in written:
            assert key in stores[cluster.route(start, kind, key, 6)[0]], "a key was not found"
        new = b"new:%d" % step
        stores[cluster.route(start, kind, new, 6)[0]].add(new)
        written.add(new)
        if data.draw(st.booleans()):
            one, other = data.draw(st.sampled_from(NODES)).id, data.draw(st.sampled_from(NODES)).id
            heard[one] = {**heard[one], other: topologies[other].epoch}
        emptied = {node.id for node in NODES if topologies[node.id].moves and not leftovers(node.id)}
        actions = handover.next_actions({node_id: t.epoch for node_id, t in topologies.items()}, emptied)
        if not actions:
            break
        match data.draw(st.sampled_from(actions)):
            case Send(node, topology):
                topologies[node.id] = topology
                view = View(topology, node.id)
                stores[node.id] -= {key for key in stores[node.id] if not view.holds(key_slot(key))}
            case MoveEntries(source):
                for key in leftovers(source.id)[:10]:
                    stores[topologies[source.id].target(key_slot(key)).id].add(key)
                    stores[source.id].remove(key)
    assert not actions
    assert {topology.epoch for topology in topologies.values()} == {3}
    for node in NODES:
        assert all(handover.moved.owner(key_slot(key)).id == node.id for key in stores[node.id])


SLOT = key_slot(b"{t}")
OWNER, TARGET, THIRD = NODES[:3]
MOVING = Topology(7, NODES, (SlotRange(0, SLOTS - 1, OWNER.id),), (SlotRange(SLOT, SLOT, TARGET.id),))
ALL_AT_7 = {node.id: 7 for node in NODES}
HERE, GONE = b"{t}here", b"{t}gone"


def verdict(me, caller, *keys, heard=ALL_AT_7):
    return decide(View(MOVING, me.id, heard), caller, keys, lambda key: key == HERE)


@pytest.mark.parametrize(
    ("me", "caller", "keys", "decision"),
    [
        (OWNER, AWARE, [HERE], SERVE),
        (OWNER, AWARE, [GONE], Ask(SLOT, TARGET)),
        (OWNER, UNAWARE, [GONE], Forward(TARGET)),
        (OWNER, AWARE, [HERE, GONE], TryAgain()),
        (OWNER, UNAWARE, [HERE, GONE], Scatter((SERVE, Forward(TARGET)))),
        (OWNER, AWARE, [HERE, b"elsewhere"], CrossSlot()),
        (OWNER, AWARE, [b"one", b"two"], CrossSlot()),
        (OWNER, UNAWARE, [b"one", b"two"], SERVE),
        (OWNER, UNAWARE, [], SERVE),
        (TARGET, AWARE, [GONE], Moved(SLOT, OWNER)),
        (TARGET, UNAWARE, [GONE], Forward(OWNER)),
        (TARGET, AWARE, [HERE], Moved(SLOT, OWNER)),
        (TARGET, UNAWARE, [HERE], Forward(OWNER)),
        (TARGET, Caller(Kind.AWARE, asking=True), [GONE], SERVE),
        (TARGET, Caller(Kind.AWARE, asking=True), [HERE, GONE], TryAgain()),
        (TARGET, Caller(Kind.AWARE, asking=True), [GONE, GONE], TryAgain()),
        (TARGET, Caller(Kind.AWARE, asking=True), [HERE, HERE], SERVE),
        (TARGET, Caller(Kind.PEER, epoch=7), [GONE], SERVE),
        (THIRD, AWARE, [GONE], Moved(SLOT, OWNER)),
        (THIRD, AWARE, [HERE, GONE], Moved(SLOT, OWNER)),
        (THIRD, UNAWARE, [HERE, GONE], Scatter((Forward(OWNER), Forward(OWNER)))),
        (THIRD, Caller(Kind.AWARE, asking=True), [GONE], Moved(SLOT, OWNER)),
        (THIRD, Caller(Kind.PEER, epoch=6), [GONE], Moved(SLOT, OWNER)),
        (THIRD, Caller(Kind.PEER, epoch=6), [GONE, HERE], CrossSlot()),
        (THIRD, Caller(Kind.PEER, epoch=LAST_HOP), [GONE], SERVE),
    ],
)
def test_decisions_while_a_slot_moves(me, caller, keys, decision):
    assert verdict(me, caller, *keys) == decision


@pytest.mark.parametrize("heard", [{}, {OWNER.id: 6}, {OWNER.id: 8}, {OWNER.id: 7, TARGET.id: 8}])
def test_a_client_is_redirected_only_to_a_node_that_is_known_to_agree(heard):
    assert verdict(THIRD, AWARE, GONE, heard=heard) == Forward(OWNER)
    assert verdict(THIRD, AWARE, HERE, GONE, heard=heard) == Scatter((Forward(OWNER), Forward(OWNER)))
    assert verdict(THIRD, UNAWARE, GONE, heard=ALL_AT_7) == Forward(OWNER)


def test_a_node_that_is_no_member_holds_nothing_and_forwards():
    view = View(MOVING, "f" * 40)
    assert not any(view.holds(slot) for slot in range(SLOTS))
    assert decide(view, UNAWARE, [GONE], lambda _: True) == Forward(OWNER)


def test_presence_is_not_asked_for_a_slot_that_stays():
    def present(key):
        raise AssertionError(key)

    assert decide(View(MOVING, OWNER.id), UNAWARE, [b"stays"], present) is SERVE
    assert decide(View(MOVING, THIRD.id), UNAWARE, [b"stays"], present) == Forward(OWNER)

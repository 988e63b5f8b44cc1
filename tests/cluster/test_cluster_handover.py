"""The order of a handover, from any state that nodes may report."""

import itertools

import pytest

from kvtide_cachenode.cluster.handover import MoveEntries, Send, plan_handover
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.topology import NOBODY, Node

A, B, C, NEW = (Node(f"{at:040x}", "10.0.0.1", 7000 + at, 1 << 30) for at in range(4))


def sized(node, size):
    return Node(node.id, node.host, node.port, size << 30)


def handover_of(after_nodes):
    before = first_topology([A, B, C])
    return plan_handover(before, rebalanced(before, after_nodes))


def run(handover):
    """All actions in order, each done as soon as it is asked for, as (node, epoch) or (node, "entries")."""
    epochs, emptied, log = {node.id: 1 for node in handover.moving.nodes}, set(), []
    while actions := handover.next_actions(epochs, emptied):
        for action in actions:
            if isinstance(action, Send):
                epochs[action.node.id] = action.topology.epoch
                log.append((action.node, action.topology.epoch))
            else:
                emptied.add(action.source.id)
                log.append((action.source, "entries"))
    return log


def test_target_then_source_then_entries_then_target_then_source_then_others():
    handover = handover_of([sized(A, 2), B, sized(C, 0)])
    a, b, c = handover.moving.nodes
    assert [node.id for node in (a, b, c)] == [A.id, B.id, C.id]
    assert handover.roles == {"targets": (a,), "sources": (c,), "others": (b,)}
    assert run(handover) == [(a, 2), (c, 2), (b, 2), (c, "entries"), (a, 3), (c, 3), (b, 3)]


def test_a_node_that_gives_and_gets_counts_as_a_target():
    before = first_topology([A, B, C])
    handover = plan_handover(before, first_topology([B, A, C]))
    by_id = {node.id: node for node in handover.moving.nodes}
    a, b, c = (by_id[node.id] for node in (A, B, C))
    assert handover.roles == {"targets": (b, a), "sources": (), "others": (c,)}
    entries = [(b, "entries"), (a, "entries")]
    assert run(handover) == [(b, 2), (a, 2), (c, 2), *entries, (b, 3), (a, 3), (c, 3)]


def test_a_new_node_gets_slots_and_one_that_leaves_stays_a_member_until_it_let_go():
    handover = handover_of([A, B, NEW])
    assert [node.id for node in handover.moved.nodes] == [A.id, B.id, NEW.id, C.id]
    assert handover.moved.ranges_of(C.id) == []
    assert handover.moved.ranges_of(NEW.id) == first_topology([A, B, C]).ranges_of(C.id)
    then = plan_handover(handover.moved, rebalanced(handover.moved, [A, B, NEW]))
    assert then.givers == ()
    assert set(then.moving.targets) == {NOBODY}


def test_no_change_moves_nothing():
    handover = handover_of([A, B, C])
    assert not any(isinstance(step, str) for _, step in run(handover))
    assert handover.moved.slots == handover.moving.slots


def test_a_silent_node_is_waited_for():
    handover = handover_of([sized(A, 2), B, sized(C, 0)])
    (send,) = handover.next_actions({B.id: 2, C.id: 1}, set())
    assert (send.node.id, send.topology) == (A.id, handover.moving)


@pytest.mark.parametrize("emptied", [set(), {C.id}])
def test_nobody_owns_before_the_entries_have_moved_nor_lets_go_before_the_owner_owns(emptied):
    handover = handover_of([sized(A, 2), B, sized(C, 0)])
    for epochs in itertools.product((1, 2, 3), repeat=3):
        reported = dict(zip([A.id, B.id, C.id], epochs, strict=True))
        actions = handover.next_actions(reported, emptied)
        assert bool(actions) == (epochs != (3, 3, 3))
        for action in actions:
            check(handover, action, reported, emptied)


def check(handover, action, reported, emptied):
    if isinstance(action, MoveEntries):
        assert min(reported.values()) >= 2
        assert action.source.id not in emptied
    elif action.topology is handover.moved:
        assert C.id in emptied or reported[C.id] == 3
        assert action.node.id == A.id or reported[A.id] == 3
        assert action.node.id != B.id or reported[C.id] == 3


def test_a_lost_target_ends_in_the_owners_of_before_at_a_newer_epoch():
    handover = handover_of([A, B, NEW])
    back = handover.given_up()
    assert back.epoch == 4
    assert back.moves == ()
    assert [back.owner(slot).id for slot in (0, 16383)] == [A.id, C.id]


def test_a_handover_does_not_start_in_the_middle_of_another():
    moving = handover_of([sized(A, 2), B, C]).moving
    with pytest.raises(ValueError, match="finish or give up that handover first"):
        plan_handover(moving, rebalanced(moving, [A, B, C]))

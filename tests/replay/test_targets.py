import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from kvtide_operator.replay.targets import SLOTS, Target, owner_of, parse_targets, slot_of


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("redis://127.0.0.1:6379", [Target("127.0.0.1", 6379)]),
        ("redis://a:1,b:2", [Target("a", 1), Target("b", 2)]),
        ("redis://a:1, redis://b:2/", [Target("a", 1), Target("b", 2)]),
        ("redis://:se%40cret@a:1,b:2", [Target("a", 1, None, "se@cret"), Target("b", 2, None, "se@cret")]),
        ("redis://me:x@a:1,redis://:y@b:2", [Target("a", 1, "me", "x"), Target("b", 2, None, "y")]),
        ("redis://[::1]:6379", [Target("::1", 6379)]),
    ],
)
def test_addresses(text: str, targets: list[Target]) -> None:
    assert parse_targets(text) == targets


@pytest.mark.parametrize(
    "text",
    ["", "a", "redis://a", "redis://a:0", "redis://a:70000", "redis://a:1,", "http://a:1", "redis://a:1/3"],
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a target; write for example"):
        parse_targets(text)


def test_one_server_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="names a target twice"):
        parse_targets("redis://a:1,a:1")


@pytest.mark.parametrize("text", ["redis://:secret@a", "redis://:secret@a:1,a:1"])
def test_no_message_and_no_name_shows_a_password(text: str) -> None:
    with pytest.raises(ValueError, match="a") as error:
        parse_targets(text)
    assert "secret" not in str(error.value)
    [target] = parse_targets("redis://:secret@a:1")
    assert "secret" not in f"{target} {target!r}"


def test_the_slot_of_the_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3  # Redis Cluster specification, appendix A


@given(st.integers(0, 2**63))
def test_slots_are_those_of_another_client(block_id: int) -> None:
    key = b"kvt:replay:%d" % block_id
    assert slot_of(key) == key_slot(key)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_every_target_owns_one_equal_range(count: int) -> None:
    keys = {slot_of(b"%d" % number): b"%d" % number for number in range(200_000)}
    assert len(keys) == SLOTS
    owners = [owner_of(keys[slot], range(count)) for slot in sorted(keys)]
    assert owners == sorted(owners)
    sizes = [owners.count(owner) for owner in range(count)]
    assert max(sizes) - min(sizes) <= 1

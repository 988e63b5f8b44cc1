from hypothesis import assume, given
from hypothesis import strategies as st

from kvtide_operator.replay.blocks import BlockValues

IDS = st.integers(-(2**63), 2**63 - 1)
VALUES = BlockValues(1000, seed=3)


def value_of(block_id: int, values: BlockValues = VALUES) -> bytearray:
    header, body = values.value(block_id)
    return bytearray(header + bytes(body))


@given(IDS, st.integers(0, 1000), st.integers(0, 1000))
def test_every_piece_of_a_value_matches(block_id: int, start: int, end: int) -> None:
    value = value_of(block_id)
    assert len(value) == 1000
    assert VALUES.matches(block_id, start, memoryview(value)[start:end])


@given(IDS, st.integers(0, 999), st.integers(1, 255))
def test_one_changed_byte_does_not_match(block_id: int, position: int, change: int) -> None:
    value = value_of(block_id)
    value[position] ^= change
    assert not VALUES.matches(block_id, 0, memoryview(value))


@given(IDS, IDS)
def test_the_value_of_another_block_does_not_match(block_id: int, other: int) -> None:
    assume(block_id != other)
    assert not VALUES.matches(block_id, 0, memoryview(value_of(other)))


@given(IDS)
def test_the_seed_decides_the_bytes(block_id: int) -> None:
    assert value_of(block_id, BlockValues(1000, seed=3)) == value_of(block_id)
    assert value_of(block_id, BlockValues(1000, seed=4)) != value_of(block_id)

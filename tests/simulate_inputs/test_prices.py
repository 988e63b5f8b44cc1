"""Prices: graduated rates worked by hand, and monotone."""

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.simulate.prices import (
    GIB,
    Ladder,
    Price,
    PriceError,
    Rung,
    VolumeSizes,
    one_currency,
)

CAPACITY = Ladder.up_to("price.capacity", [(1024.0, Decimal("0.00021")), (None, Decimal("0.00019"))])


def test_a_ladder_charges_each_rung_its_own_rate() -> None:
    assert CAPACITY.per_hour(1024) == pytest.approx(0.21504)
    assert CAPACITY.per_hour(2048) == pytest.approx(1024 * 0.00021 + 1024 * 0.00019)
    assert CAPACITY.per_hour(0) == 0


def test_what_lies_below_the_first_rung_is_free_and_a_cliff_is_charged_once() -> None:
    # gp3: IOPS are free up to 3,000; a dearer disk type above 32,000 with a flat 10 an hour besides.
    iops = Ladder("price.iops", (Rung(3000, Decimal("0.01")), Rung(32_000, Decimal("0.13"), Decimal(10))))
    assert iops.per_hour(3000) == 0
    assert iops.per_hour(32_000) == pytest.approx(290)
    assert iops.per_hour(32_001) == pytest.approx(290 + 10 + 0.13)


def test_throughput_and_iops_are_charged_for_each_volume() -> None:
    price = Price(
        "USD",
        CAPACITY,
        throughput=Ladder("price.throughput", (Rung(125, Decimal("0.00006")),)),
        iops=Ladder("price.iops", (Rung(3000, Decimal("0.0001")),)),
    )
    assert price.per_hour(100 * GIB) == pytest.approx(0.021)
    cost = price.per_hour(100 * GIB, volumes=4, throughput_mb_s=225, iops=4000)
    assert cost == pytest.approx(0.021 + 4 * 100 * 0.00006 + 4 * 1000 * 0.0001)


money = st.decimals(0, 5, places=4)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=6, unique=True).map(sorted),
    st.data(),
)
def test_more_never_costs_less(bounds: list[float], data: st.DataObject) -> None:
    ladder = Ladder("x", tuple(Rung(bound, data.draw(money), data.draw(money)) for bound in bounds))
    amounts = sorted([*data.draw(st.lists(st.floats(0, 2e6), min_size=2)), *bounds])
    costs = [ladder.per_hour(amount) for amount in amounts]
    assert all(after >= before * (1 - 1e-12) for before, after in pairwise(costs))


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ((), "price.capacity is empty"),
        ((Rung(0, Decimal(-1)),), "price of -1 above 0; more must never cost less"),
        ((Rung(0, Decimal(1), Decimal("NaN")),), "price of NaN"),
        ((Rung(5, Decimal(1)), Rung(5, Decimal(2))), "goes from 5 to 5; put the rates in rising order"),
        ((Rung(-1, Decimal(1)),), "begins at -1"),
    ],
)
def test_a_ladder_that_could_fall_is_refused(rungs: tuple[Rung, ...], message: str) -> None:
    with pytest.raises(PriceError, match=message):
        Ladder("price.capacity", rungs)


@pytest.mark.parametrize("ends", [[None, None], [1.0, 2.0], [None, 2.0]])
def test_every_amount_must_have_a_price(ends: list[float | None]) -> None:
    with pytest.raises(PriceError, match="needs an upTo on every rate but the last"):
        Ladder.up_to("price.capacity", [(end, Decimal(1)) for end in ends])


def test_volumes_are_paid_for_in_the_sizes_they_are_sold_in() -> None:
    sizes = VolumeSizes(min_bytes=20 * GIB, max_bytes=100 * GIB, step_bytes=8 * GIB)
    assert sizes.paid_bytes(0) == 0
    assert sizes.paid_bytes(1, volumes=3) == 60 * GIB
    assert sizes.paid_bytes(50 * GIB) == 56 * GIB
    assert sizes.paid_bytes(50 * GIB + 1, volumes=2) == 2 * 32 * GIB
    with pytest.raises(PriceError, match=r"300 GiB on 2 volumes is 152 GiB a volume.*up to 100 GiB"):
        sizes.paid_bytes(300 * GIB, volumes=2)


@pytest.mark.parametrize("sizes", [{"step_bytes": 0}, {"min_bytes": 2, "max_bytes": 1}])
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(PriceError):
        VolumeSizes(**sizes)


def test_prices_in_two_currencies_are_not_added() -> None:
    assert one_currency(["USD", "USD"]) == "USD"
    with pytest.raises(PriceError, match="CNY, USD"):
        one_currency(["USD", "CNY"])

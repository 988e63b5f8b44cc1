"""Speed of a medium by what is provisioned, and the sample classes."""

from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.api.quantity import parse_quantity
from kvtide_operator.simulate.media import Bandwidth, MediumError, MediumSpeed
from kvtide_operator.simulate.prices import GIB, Ladder, VolumeSizes

PL1 = Bandwidth(base=120e6, per_gib=0.5e6, floor=125e6, ceiling=350e6)
SAMPLES = Path(__file__).parents[2] / "examples" / "tierclasses.yaml"


@pytest.mark.parametrize(("gib", "mb_s"), [(0, 0), (1, 125), (10, 125), (20, 130), (460, 350), (4000, 350)])
def test_essd_pl1_follows_its_formula(gib: float, mb_s: float) -> None:
    assert PL1.of_volume(gib * GIB) == pytest.approx(mb_s * 1e6)


def test_many_small_volumes_are_faster_than_a_large_one() -> None:
    speed = MediumSpeed(PL1, PL1, shared_channel=True, latency_s=2e-4)
    assert speed.read_bytes_s(3680 * GIB, 1) == pytest.approx(350e6)
    assert speed.read_bytes_s(3680 * GIB, 8) == pytest.approx(2800e6)
    assert speed.write_bytes_s(40 * GIB, 2) == pytest.approx(260e6)


@given(st.floats(0, 1e13), st.floats(0, 1e13))
def test_a_larger_volume_is_never_slower(left: float, right: float) -> None:
    small, large = sorted((left, right))
    assert PL1.of_volume(small) <= PL1.of_volume(large)


@given(st.floats(1e6, 350e6))
def test_the_smallest_capacity_for_a_bandwidth_reaches_it(wanted: float) -> None:
    capacity = PL1.capacity_for(wanted)
    assert capacity is not None
    assert PL1.of_volume(max(capacity, 1.0)) >= wanted * (1 - 1e-12)
    if capacity > 20 * GIB:
        assert PL1.of_volume(capacity * 0.99) < wanted


def test_a_bandwidth_out_of_reach_has_no_capacity() -> None:
    assert PL1.capacity_for(351e6) is None
    assert Bandwidth(base=100e6).capacity_for(101e6) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": -1.0}, "speed.base is -1.0"),
        ({"base": float("nan")}, "speed.base is nan"),
        ({"base": 1.0, "floor": 3.0, "ceiling": 2.0}, "speed.floor 3 is above speed.ceiling 2"),
        ({"base": 0.0}, "speed is zero for every size"),
    ],
)
def test_a_speed_that_makes_no_sense_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(MediumError, match=message):
        Bandwidth(**fields)


def test_a_medium_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(MediumError, match="latency"):
        MediumSpeed(PL1, PL1, latency_s=-1.0)
    with pytest.raises(MediumError, match="writesPerDay"):
        MediumSpeed(PL1, PL1, endurance_bytes_per_day=0.0)


def samples() -> dict[str, Any]:
    return {doc["metadata"]["name"]: doc["spec"] for doc in yaml.safe_load_all(SAMPLES.read_text("utf-8"))}


def bandwidth(spec: dict[str, str]) -> Bandwidth:
    names = {"base": "base", "perGiB": "per_gib", "floor": "floor", "ceiling": "ceiling"}
    return Bandwidth(**{names[key]: float(parse_quantity(value)) for key, value in spec.items()})


def test_the_samples_become_prices_and_speeds() -> None:
    specs = samples()
    assert list(specs) == ["dram-standard", "essd-pl1", "essd-pl2", "essd-pl3", "local-nvme"]
    per_tib_hour = {}
    for name, spec in specs.items():
        rates = [(step.get("upTo"), Decimal(step["perGiBHour"])) for step in spec["price"]["capacity"]]
        per_tib_hour[name] = Ladder.up_to(name, rates).per_hour(1024)
        if spec["medium"] == "SSD":
            speed = MediumSpeed(bandwidth(spec["speed"]["read"]), bandwidth(spec["speed"]["write"]))
            volume = {key: parse_quantity(spec["volume"][key]) for key in ("min", "max", "step")}
            paid = VolumeSizes(volume["min"], volume["max"], volume["step"]).paid_bytes(2000 * GIB)
            assert speed.read_bytes_s(paid, 1) >= speed.write_bytes_s(paid, 1) > 0
    assert bandwidth(specs["essd-pl1"]["speed"]["read"]) == PL1
    order = ["local-nvme", "essd-pl1", "essd-pl2", "essd-pl3", "dram-standard"]
    assert all(per_tib_hour[a] < per_tib_hour[b] for a, b in pairwise(order))


def test_every_number_of_the_samples_has_a_date_beside_it() -> None:
    documents = SAMPLES.read_text("utf-8").split("\n---\n")
    for document in documents:
        comments = [line for line in document.splitlines() if "#" in line]
        assert sum("2026-11-21" in line for line in comments) >= 1 + ("speed:" in document)

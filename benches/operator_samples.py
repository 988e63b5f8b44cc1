"""What a running operator says of itself at ``/metrics``, and what the kernel says of its processes."""

import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from e2e.operator_process import Operator
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Sample:
    """The operator's metrics at one moment: values by name and labels."""

    at_s: float
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def of(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        return {labels: value for (known, labels), value in self.values.items() if known == name}

    def ages_s(self) -> list[float]:
        return [self.at_s - at_s for at_s in self.of("kvtide_operator_last_plan_timestamp_seconds").values()]


async def sample(running: Operator) -> Sample:
    async with aiohttp.ClientSession() as http, http.get(f"{running.metrics}/metrics") as answer:
        text = await answer.text()
    values = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    return Sample(time.time(), values)


def calls(before: Sample | None, after: Sample) -> Counter[tuple[str, str]]:
    """Calls by verb and resource between two samples."""
    found: Counter[tuple[str, str]] = Counter()
    for moment, sign in ((after, 1), (before, -1)):
        for labels, value in (moment.of("kvtide_operator_api_calls_total") if moment else {}).items():
            named = dict(labels)
            found[named["verb"], named["resource"]] += sign * int(value)
    return +found


def writes(before: Sample | None, after: Sample) -> dict[str, int]:
    """Writes but those of the Lease."""
    return {
        f"{verb} {resource}": count
        for (verb, resource), count in calls(before, after).items()
        if verb != "GET" and resource != "leases"
    }


def quantile(name: str, q: float, before: Sample | None, after: Sample) -> float:
    """Of a histogram, between two samples, linear within its buckets."""
    counts: defaultdict[float, float] = defaultdict(float)
    for moment, sign in ((after, 1), (before, -1)):
        for labels, value in (moment.of(f"{name}_bucket") if moment else {}).items():
            counts[float(dict(labels)["le"])] += sign * value
    wanted = q * max(counts.values())
    low = below = 0.0
    for limit, count in sorted(counts.items()):
        if count >= wanted:
            width = 0.0 if limit == float("inf") else limit - low
            return low + width * (wanted - below) / max(count - below, 1)
        low, below = limit, count
    return low


def total(name: str, before: Sample, after: Sample, **labels: str) -> float:
    def sum_of(moment: Sample) -> float:
        found = moment.of(name).items()
        return sum(value for known, value in found if labels.items() <= dict(known).items())

    return sum_of(after) - sum_of(before)


def memory_mib(process: int) -> tuple[float, float]:
    """Resident now, and at most so far."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line
    )
    return int(lines["VmRSS"].split()[0]) / 1024, int(lines["VmHWM"].split()[0]) / 1024


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def planner_of(process: int) -> int:
    """The largest child of the operator."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return max(map(int, children), key=lambda child: memory_mib(child)[0])

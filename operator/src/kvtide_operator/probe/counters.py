"""What an engine's ``/metrics`` says, in the Prometheus text format."""

import re
from dataclasses import dataclass

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Counters:
    """An engine's metrics at a moment: sums over all labels by name, and the labels of information."""

    sums: dict[str, float]
    labels: dict[str, dict[str, str]]

    def since(self, before: "Counters", name: str) -> float:
        """How much a counter rose; 0 for one that the engine does not have."""
        return self.sums.get(name, 0.0) - before.sums.get(name, 0.0)


@dataclass(frozen=True, slots=True)
class KvRoom:
    """An engine's own KV cache: its blocks, tokens of a block, and whether it keeps prefixes."""

    blocks: int
    block_tokens: int
    keeps_prefixes: bool

    @property
    def tokens(self) -> int:
        """Tokens that it has room for."""
        return self.blocks * self.block_tokens


def read_counters(text: str) -> Counters:
    """The counters in a page; lines of another kind are passed over."""
    sums: dict[str, float] = {}
    labels: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if (found := _SAMPLE.fullmatch(line)) is None or found[1].endswith("_bucket"):
            continue
        try:
            sums[found[1]] = sums.get(found[1], 0.0) + float(found[3])
        except ValueError:
            continue
        if found[1].endswith("_info"):
            labels[found[1]] = dict(_LABEL.findall(found[2] or ""))
    return Counters(sums, labels)

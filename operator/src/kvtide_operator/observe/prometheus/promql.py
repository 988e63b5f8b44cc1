"""The few shapes of PromQL that all engines' metrics are read with.

All but `Series.pick` yield one series without labels, so that `or` between two of them is a fall-back.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class SelectorError(ValueError):
    """A label that Prometheus cannot have; the message names it and the cure."""


def quoted(value: str) -> str:
    """A string literal: backslashes, quotes and line ends cannot end it."""
    return f'"{value.translate(_ESCAPES)}"'


@dataclass(frozen=True, slots=True)
class Series:
    """Picks the series of one cache's engines, over one window.

    Attributes:
        matchers: the inside of the braces.
        window_s: whole seconds of every rate.
    """

    matchers: str
    window_s: int

    @classmethod
    def of(cls, selector: Mapping[str, str], window_s: float) -> "Series":
        """The series with exactly these labels.

        Raises:
            SelectorError: not a label's name.
        """
        for name in selector:
            if _LABEL.fullmatch(name) is None:
                raise SelectorError(
                    f"metrics.selector has {name!r}, which no label is called; use letters, digits and _"
                )
        matchers = ",".join(f"{name}={quoted(value)}" for name, value in sorted(selector.items()))
        return cls(matchers, max(round(window_s), 1))

    def pick(self, metric: str, *more: str) -> str:
        """The series of a metric, with further matchers."""
        return f"{metric}{{{','.join(filter(None, (self.matchers, *more)))}}}"

    def total(self, metric: str, *more: str) -> str:
        """The sum of a gauge over all engines."""
        return f"sum({self.pick(metric, *more)})"

    def rate(self, metric: str, *more: str) -> str:
        """How much a counter rose per second, over all engines."""
        return f"sum(rate({self.pick(metric, *more)}[{self.window_s}s]))"

    def ratio(self, part: str, whole: str, *more: str) -> str:
        """The rise of one counter by that of another."""
        return f"{self.rate(part, *more)} / {self.rate(whole, *more)}"

    def mean(self, histogram: str, *more: str) -> str:
        """The mean of what a histogram observed within the window."""
        return self.ratio(f"{histogram}_sum", f"{histogram}_count", *more)

    def quantile(self, share: float, histogram: str, *more: str) -> str:
        """A quantile of what it observed, interpolated within a bucket."""
        rate = f"rate({self.pick(f'{histogram}_bucket', *more)}[{self.window_s}s])"
        return f"histogram_quantile({share:g}, sum by (le) ({rate}))"

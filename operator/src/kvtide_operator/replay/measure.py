"""Latencies and throughput of one kind of command."""

import math

_GROWTH = 1.01
_FLOOR_S = 1e-6
_BUCKETS = math.ceil(math.log(100.0 / _FLOOR_S, _GROWTH))


class LatencyHistogram:
    """Latencies in buckets that grow by 1 % from 1 µs to 100 s: a quantile is right within 1 %."""

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self.count = 0

    def add(self, latency_s: float) -> None:
        """Count one latency; one beyond either end goes into the bucket at that end."""
        bucket = math.ceil(math.log(max(latency_s, _FLOOR_S) / _FLOOR_S, _GROWTH))
        self._counts[min(bucket, _BUCKETS)] += 1
        self.count += 1

    def quantile_ms(self, quantile: float) -> float | None:
        """Milliseconds that a share ``quantile`` of all latencies does not exceed; None without any."""
        rank = math.ceil(quantile * self.count)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return _FLOOR_S * math.exp((bucket - 0.5) * math.log(_GROWTH)) * 1e3
        return None


class Operation:
    """All commands of one kind: their bytes, latencies, and for how long at least one was under way."""

    def __init__(self) -> None:
        self.latency = LatencyHistogram()
        self.bytes = 0
        self._busy_s = 0.0
        self._under_way = 0
        self._busy_since_s = 0.0

    def begin(self, now_s: float) -> None:
        """A command is being sent."""
        if not self._under_way:
            self._busy_since_s = now_s
        self._under_way += 1

    def end(self, now_s: float) -> None:
        """A command has been answered, or has failed."""
        self._under_way -= 1
        if not self._under_way:
            self._busy_s += now_s - self._busy_since_s

    @property
    def gb_s(self) -> float | None:
        """10^9 bytes of values a second of time in which at least one was under way; None without any."""
        return self.bytes / self._busy_s / 1e9 if self.bytes else None

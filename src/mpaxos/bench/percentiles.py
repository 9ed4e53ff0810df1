"""Latencies as HdrHistogram sees them."""

from __future__ import annotations

from typing import Any

import msgspec

from mpaxos.bench.load import RawHistogram
from mpaxos.errors import ConfigError

LARGEST = (1 << 40) - 1
"""Nanoseconds, 18 minutes: the load generator counts anything longer as this."""

DIGITS = 3
"""Significant decimal digits, as in the load generator."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds; `count` requests."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    maximum: float
    mean: float
    histogram: str
    """The whole of it, nanoseconds, in HdrHistogram's own format (V2, compressed, base64): other
    tools can read it, and add several up."""


def library() -> Any:
    """The class HdrHistogram. Raises ConfigError when the package is not installed."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise ConfigError(
            "percentiles need the package hdrhistogram: pip install 'mpaxos[bench]'"
        ) from None
    return HdrHistogram


def summarise(*parts: RawHistogram) -> Latency | None:
    """The latency of all requests in `parts` together; None when there are none."""
    total = sum(part.total for part in parts)
    if total == 0:
        return None
    histogram = library()(1, LARGEST, DIGITS)
    for part in parts:
        for value, count in part.buckets:
            histogram.record_value(max(1, value), count)
    largest = max(part.largest for part in parts)
    # A bucket's end lies up to 0.1 % above the values in it, and never above the largest of all.
    p50, p90, p99, p999 = (
        min(histogram.get_value_at_percentile(p), largest) / 1000 for p in PERCENTILES
    )
    return Latency(
        count=total,
        p50=p50,
        p90=p90,
        p99=p99,
        p999=p999,
        maximum=largest / 1000,
        mean=sum(part.sum for part in parts) / total / 1000,
        histogram=histogram.encode().decode(),
    )


def distribution(latency: Latency) -> list[tuple[float, float]]:
    """(percentile, microseconds) as for the usual plot: steps halve the distance to 100."""
    histogram = library().decode(latency.histogram)
    points = []
    remaining = 100.0
    while True:
        percentile = 100.0 - remaining
        value = min(histogram.get_value_at_percentile(percentile) / 1000, latency.maximum)
        points.append((percentile, value))
        if latency.count * remaining < 100.0:  # less than one request is left
            return points
        remaining /= 2**0.25

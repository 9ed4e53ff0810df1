"""How a cluster grows: one measurement per size of something, as a table and a plot.

    mpaxos bench --sweep connections --duration 5 --plot connections.svg

Each sweep varies one thing and leaves the rest of the workload as given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mpaxos.bench import cluster as clusters
from mpaxos.bench.load import Workload, drive
from mpaxos.bench.measure import Measurement, Show, measure
from mpaxos.bench.plots import Line, Plot
from mpaxos.bench.show import microseconds, rate_text
from mpaxos.config import format_size
from mpaxos.config.values import KIB, MIB
from mpaxos.errors import ConfigError
from mpaxos.local import KV, LocalCluster


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of a sweep."""

    x: float
    label: str
    workload: Workload
    line: str = "mpaxos"
    """The curve of the plot it belongs to."""
    of_maximum: float = 0.0
    """Open loop at this share of the throughput of the sweep's first point; 0: as `workload`."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements on one cluster."""

    points: list[Point]
    replicas: int = 3
    settings: dict[str, str] = {}
    fill: bool = False
    """Put all keys once before the first measurement."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What is varied, and how it is shown."""

    title: str
    x: str
    stages: Callable[[Workload], list[Stage]]
    latency: bool = False
    """Plot the percentiles of latency rather than the throughput."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A point and its outcome; `skipped` says why there is none."""

    point: Point
    outcome: Measurement | None = None
    skipped: str = ""


def _with(workload: Workload, **changes: object) -> Workload:
    return msgspec.structs.replace(workload, **changes)


def _connections(base: Workload) -> list[Stage]:
    counts = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    return [
        Stage(
            points=[Point(x=n, label=f"{n:,}", workload=_with(base, connections=n)) for n in counts]
        )
    ]


def _size(base: Workload) -> list[Stage]:
    sizes = (16, 64, 128, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB)
    # 100 values of 1 MiB under way would be a test of the queues, 100 keys of state are enough.
    connections = min(base.connections, 32)
    return [
        Stage(
            points=[
                Point(
                    x=size,
                    label=format_size(size),
                    workload=_with(
                        base, size=size, connections=connections, keys=min(base.keys, 100)
                    ),
                )
                for size in sizes
            ]
        )
    ]


def _shapes(base: Workload) -> list[tuple[str, Workload]]:
    """The usual shapes of load where batches matter: many clients, and few that pipeline."""
    return [
        (f"{base.connections} x {base.depth}", base),
        ("10 x 50", _with(base, connections=10, depth=50)),
    ]


def _setting(base: Workload, key: str, values: list[tuple[int, str]]) -> list[Stage]:
    return [
        Stage(
            settings={key: str(value)} | ({"pool.log_size": str(128 * MIB)}),
            points=[
                Point(x=value, label=f"{label}, {line}", line=line, workload=workload)
                for line, workload in _shapes(base)
            ],
        )
        for value, label in values
    ]


def _window(base: Workload) -> list[Stage]:
    return _setting(base, "protocol.window", [(n, str(n)) for n in (1, 2, 4, 8, 16, 32)])


def _batch(base: Workload) -> list[Stage]:
    sizes = (KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB)
    return _setting(base, "limits.max_batch", [(n, format_size(n)) for n in sizes])


def _replicas(base: Workload) -> list[Stage]:
    return [
        Stage(
            replicas=n,
            points=[
                Point(x=n, label=f"{n}, {line}", line=line, workload=workload)
                for line, workload in _shapes(base)
            ],
        )
        for n in (3, 5, 7)
    ]


def _state(base: Workload) -> list[Stage]:
    counts = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
    return [
        Stage(
            fill=True,
            points=[
                Point(
                    x=keys,
                    label=f"{keys:,}, {line}",
                    line=line,
                    workload=_with(base, keys=keys, reads=reads),
                )
                for line, reads in (("puts", 0.0), ("gets", 1.0))
            ],
        )
        for keys in counts
    ]


def _latency(base: Workload) -> list[Stage]:
    shares = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    # Room for what a pause leaves behind: the loop is open only while requests can be sent.
    deep = _with(base, depth=max(base.depth, 16))
    maximum = Point(x=100, label="maximum, closed loop", line="", workload=base)
    return [
        Stage(
            points=[
                maximum,
                *(
                    Point(
                        x=round(100 * share),
                        label=f"{100 * share:.0f} %",
                        workload=deep,
                        of_maximum=share,
                    )
                    for share in shares
                ),
            ]
        )
    ]


SWEEPS = {
    "connections": Sweep(
        title="Throughput against connections", x="connections", stages=_connections
    ),
    "size": Sweep(title="Throughput against the size of values", x="bytes", stages=_size),
    "window": Sweep(
        title="Throughput against the leader's window", x="slots in flight", stages=_window
    ),
    "batch": Sweep(title="Throughput against the batch limit", x="bytes", stages=_batch),
    "replicas": Sweep(title="Throughput against replicas", x="replicas", stages=_replicas),
    "state": Sweep(title="Throughput against the size of the state", x="keys", stages=_state),
    "latency": Sweep(
        title="Latency of an open loop",
        x="% of the closed loop's throughput",
        stages=_latency,
        latency=True,
    ),
}


def find_sweep(name: str) -> Sweep:
    """A sweep by its name. Raises ConfigError."""
    if name not in SWEEPS:
        raise ConfigError(f"--sweep {name}: one of {', '.join(SWEEPS)}")
    return SWEEPS[name]


def run_sweep(
    sweep: Sweep,
    base: Workload,
    *,
    target: str = "leader",
    parent: Path | None = None,
    service: str = KV,
    settings: dict[str, str] | None = None,
    show: Show | None = None,
) -> list[Row]:
    """Run all measurements of a sweep on clusters of its own. What does not fit on this machine is
    skipped and says so. Raises LoadFailed, ClusterFailed, ConfigError."""
    show = show or Show()
    rows: list[Row] = []
    for stage in sweep.stages(base):
        try:
            with _cluster(stage, parent, service, settings or {}) as cluster:
                if stage.fill:
                    fill(cluster, stage.points[0].workload, show)
                for point in stage.points:
                    workload = _workload(point, rows)
                    where = clusters.find_in(cluster, workload, target)
                    where = msgspec.structs.replace(where, text=f"{sweep.x}: {point.label}")
                    outcome = measure(where, workload, show=show)
                    rows.append(Row(point=point, outcome=outcome))
        except clusters.NoRoom as error:
            rows += [Row(point=point, skipped=str(error)) for point in stage.points]
    return rows


def _workload(point: Point, rows: list[Row]) -> Workload:
    """What to run for a point, given what ran before."""
    if not point.of_maximum:
        return point.workload
    first = rows[0].outcome
    if first is None:
        raise ConfigError("the maximum was not measured: there is no share of it")
    return _with(point.workload, rate=point.of_maximum * first.throughput)


@contextlib.contextmanager
def _cluster(
    stage: Stage, parent: Path | None, service: str, settings: dict[str, str]
) -> Iterator[LocalCluster]:
    """A cluster with room for every workload of the stage."""
    workloads = [point.workload for point in stage.points]
    # Largest of each: the state is that of one workload at a time, but grows to the largest.
    largest = _with(
        workloads[0],
        size=max(w.size for w in workloads),
        keys=max(w.keys for w in workloads),
        connections=max(w.connections for w in workloads),
        depth=max(w.depth for w in workloads),
    )
    with clusters.started(
        largest,
        replicas=stage.replicas,
        service=service,
        settings=settings | stage.settings,
        parent=parent,
    ) as cluster:
        yield cluster


def fill(cluster: LocalCluster, workload: Workload, show: Show) -> None:
    """Put every key once, pipelined."""
    filling = _with(
        workload,
        distribution="sequential",
        count=workload.keys,
        connections=16,
        depth=64,
        reads=0.0,
        rate=0.0,
        warm_up=0.0,
    )
    show.begin(f"filling {workload.keys:,} keys", workload.keys / 200_000)
    try:
        drive(filling, clusters.find_in(cluster, filling).addresses)
    finally:
        show.end()


HEAD = (
    "requests/s",
    "MB/s",
    "p50",
    "p99",
    "p99.9",
    "max",
    "longest stall",
    "us/req leader",
    "us/req followers",
    "us/req client",
)


def table_rows(rows: list[Row]) -> list[list[str]]:
    """The rows of the table below HEAD, each with the point's label in front."""
    found = []
    for row in rows:
        outcome = row.outcome
        if outcome is None:
            found.append([row.point.label, f"skipped: {row.skipped}", *[""] * (len(HEAD) - 1)])
            continue
        latency = outcome.latency
        times = [latency.p50, latency.p99, latency.p999, latency.maximum] if latency else [None] * 4
        stall = max((length for _, length in outcome.stalls), default=0.0)
        costs = (outcome.of_role("leader"), outcome.of_role("follower"), outcome.client_per_request)
        found.append(
            [
                row.point.label,
                rate_text(outcome.throughput),
                f"{outcome.throughput * outcome.workload.size / 1e6:,.1f}",
                *(microseconds(value) for value in times),
                f"{stall:.0f} ms" if stall else "-",
                *("-" if cost is None else f"{cost:.2f}" for cost in costs),
            ]
        )
    return found


def plot_of(sweep: Sweep, rows: list[Row]) -> Plot:
    """What a sweep's plot shows."""
    if sweep.latency:
        return _latency_plot(sweep, rows)
    names = list(dict.fromkeys(row.point.line for row in rows))
    lines = [
        Line(
            name,
            [
                (row.point.x, row.outcome.throughput)
                for row in rows
                if row.outcome is not None and row.point.line == name
            ],
        )
        for name in names
    ]
    logarithmic = sweep.x != "replicas"
    return Plot(
        title=sweep.title, x=sweep.x, y="requests/s", lines=lines, logarithmic_x=logarithmic
    )


def _latency_plot(sweep: Sweep, rows: list[Row]) -> Plot:
    found = [
        (row.point.x, row.outcome.latency)
        for row in rows
        if row.point.of_maximum and row.outcome is not None and row.outcome.latency is not None
    ]
    lines = [
        Line("p50", [(x, latency.p50) for x, latency in found]),
        Line("p99", [(x, latency.p99) for x, latency in found]),
        Line("p99.9", [(x, latency.p999) for x, latency in found]),
        Line("maximum", [(x, latency.maximum) for x, latency in found]),
    ]
    return Plot(
        title=sweep.title,
        x=sweep.x,
        y="latency, us",
        lines=lines,
        logarithmic_x=False,
        logarithmic_y=True,
    )

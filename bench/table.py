"""Runs the comparison: every system in every column, in turns, several rounds, medians."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from functools import partial

import msgspec

from bench.systems import GETS, GROUPS, JPAXOS, LIMIT, PUTS, Group, Row
from mpaxos.bench import cluster as clusters
from mpaxos.bench import hotspots
from mpaxos.bench.load import Workload
from mpaxos.bench.measure import Measurement, Show, measure
from mpaxos.errors import MpaxosError
from mpaxos.local import LocalCluster


class Column(msgspec.Struct, frozen=True):
    """A shape of load."""

    key: str
    title: str
    workload: Workload


def _column(key: str, title: str, **changes: object) -> Column:
    return Column(key, title, msgspec.structs.replace(Workload(), **changes))


COLUMNS = (
    _column("c100", "128 B, 100 conn"),
    _column("c500", "128 B, 500 conn", connections=500),
    _column("k1", "1 KiB, 100 conn", size=1024),
    _column("one", "128 B, 1 conn", connections=1),
    _column("deep", "128 B, 10 conn x 50", connections=10, depth=50),
)

PROFILED = ("c100", "c500", "deep")
"""Columns for which it is said where the leader's time goes."""

FORWARD = "forward"
PAIRED = ("mpaxos", "python", "disk")
"""Groups before each of whose columns the limit is measured: these ratios are what matters."""

LARGEST = Workload(connections=500, size=1024)
"""What the systems must have room for."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All measurements of a row in a column."""

    median: Measurement
    """The one in the middle, by throughput; its histogram left out."""
    throughputs: list[float]
    limits: list[float] = []
    """What the limit reached just before each of them; empty where it was not measured there."""


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """Where the leader's time went in a column."""

    title: str
    per_request: float
    """Microseconds of the leader's processor time."""
    found: hotspots.Hotspots


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run of the table found."""

    rounds: int
    duration: float
    columns: list[tuple[str, str]]
    """(key, title)"""
    cells: dict[str, dict[str, Cell]]
    """By row and column."""
    missing: dict[str, str]
    """Rows that were not measured, and why."""
    breakdowns: list[Breakdown] = []
    no_breakdown: str = ""
    """Why there are none."""


def compare(
    names: list[str], *, rounds: int, duration: float, warm_up: float, show: Show
) -> Comparison:
    """Measure these groups of systems. One that fails is noted and left out; the others go on."""
    found = _Found(duration, warm_up, show)
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        found.keep_limit(names, stack)
        for number in range(rounds):
            # A B C, then C B A: what drifts in the course of a run meets all alike.
            for name in names if number % 2 == 0 else reversed(names):
                group = GROUPS[name]
                reason = group.why_not() or found.round(name, group)
                if reason is not None:
                    missing |= {row: reason for row in group.rows if row not in found.raw}
    breakdowns, no_breakdown = _breakdowns(names, duration, show)
    return Comparison(
        rounds=rounds,
        duration=duration,
        columns=[(column.key, column.title) for column in COLUMNS],
        cells=found.cells(),
        missing=missing,
        breakdowns=breakdowns,
        no_breakdown=no_breakdown,
    )


class _Found:
    """Measures, and keeps what was measured."""

    def __init__(self, duration: float, warm_up: float, show: Show) -> None:
        self.raw: dict[str, dict[str, list[Measurement]]] = {}
        self._limits: dict[str, dict[str, list[float]]] = {}
        self._limit: list[Row] = []
        self._duration = duration
        self._warm_up = warm_up
        self._show = show

    def keep_limit(self, names: list[str], stack: contextlib.ExitStack) -> None:
        """Keep the limit program running, which costs nothing while nobody asks it: so it can be
        measured right beside what is compared with it. Where that fails, its row says why."""
        group = GROUPS[FORWARD]
        if FORWARD in names and group.why_not() is None:
            with contextlib.suppress(MpaxosError):
                self._limit = stack.enter_context(group.started(LARGEST, self._show))

    def round(self, name: str, group: Group) -> str | None:
        """Measure a group once in every column; why that failed, or None."""
        running = (
            contextlib.nullcontext(self._limit)
            if name == FORWARD and self._limit
            else group.started(LARGEST, self._show)
        )
        try:
            with running as rows:
                for column in COLUMNS:
                    self._column(column, rows, paired=name in PAIRED)
        except MpaxosError as error:
            return f"failed: {str(error).splitlines()[0]}"
        return None

    def _column(self, column: Column, rows: list[Row], *, paired: bool) -> None:
        workload = msgspec.structs.replace(
            column.workload, duration=self._duration, warm_up=self._warm_up
        )
        limit = [self._run(row, column, workload) for row in self._limit] if paired else []
        for row in rows:
            if row.name == JPAXOS and workload.depth > 1:
                continue
            self._run(row, column, workload)
            if limit:
                limits = self._limits.setdefault(row.name, {})
                limits.setdefault(column.key, []).append(limit[0].throughput)

    def _run(self, row: Row, column: Column, workload: Workload) -> Measurement:
        found = row.run(workload)
        self.raw.setdefault(row.name, {}).setdefault(column.key, []).append(found)
        return found

    def cells(self) -> dict[str, dict[str, Cell]]:
        """All of it, the rows in the order of GROUPS."""
        rows = [row for group in GROUPS.values() for row in group.rows if row in self.raw]
        return {
            row: {
                key: cell_of(found, self._limits.get(row, {}).get(key, []))
                for key, found in self.raw[row].items()
            }
            for row in rows
        }


def cell_of(found: list[Measurement], limits: list[float]) -> Cell:
    """The cell of several measurements of the same; `limits` as in Cell."""
    middle = statistics.median_low([one.throughput for one in found])
    median = next(one for one in found if one.throughput == middle)
    return Cell(
        median=without_histogram(median),
        throughputs=[one.throughput for one in found],
        limits=limits if len(limits) == len(found) else [],
    )


def of_limit(cells: dict[str, dict[str, Cell]], row: str, column: str) -> float | None:
    """The throughput of a row by that of the limit: the median over rounds of the ratios to what
    the limit reached just before, or in the same round. None when either is missing."""
    cell = cells.get(row, {}).get(column)
    if cell is not None and cell.limits:
        return statistics.median(
            one / limit for one, limit in zip(cell.throughputs, cell.limits, strict=True) if limit
        )
    return ratio(cell, cells.get(LIMIT, {}).get(column))


def ratio(mine: Cell | None, theirs: Cell | None) -> float | None:
    """The throughput of one row by that of another: the median over rounds, each compared with
    its own, as what disturbs a round disturbs both. None when either is missing."""
    if mine is None or theirs is None:
        return None
    pairs = list(zip(mine.throughputs, theirs.throughputs, strict=False))
    if len(mine.throughputs) != len(theirs.throughputs):  # not measured equally often
        pairs = [(mine.median.throughput, theirs.median.throughput)]
    found = [one / other for one, other in pairs if other > 0]
    return statistics.median(found) if found else None


def without_histogram(outcome: Measurement) -> Measurement:
    """The same without the kilobytes that only a plot needs."""

    def bare(name: str) -> object:
        latency = getattr(outcome, name)
        return None if latency is None else msgspec.structs.replace(latency, histogram="")

    return msgspec.structs.replace(
        outcome, **{name: bare(name) for name in ("latency", "reads", "writes")}
    )


def _breakdowns(names: list[str], duration: float, show: Show) -> tuple[list[Breakdown], str]:
    if "mpaxos" not in names:
        return [], "mpaxos was not measured"
    reason = hotspots.why_not()
    if reason is not None:
        return [], reason
    try:
        with clusters.started(LARGEST) as cluster:
            return list(_profiles(cluster_of=cluster, duration=duration, show=show)), ""
    except MpaxosError as error:
        return [], f"failed: {str(error).splitlines()[0]}"


def _profiles(*, cluster_of: LocalCluster, duration: float, show: Show) -> Iterator[Breakdown]:
    columns = [column for column in COLUMNS if column.key in PROFILED]
    # A second is too short for shares of a percent.
    seconds = max(3.0, duration)
    shapes = [(f"{PUTS}, {column.title}", column.workload) for column in columns]
    gets = msgspec.structs.replace(columns[0].workload, reads=1.0)
    shapes.append((f"{GETS}, {columns[0].title}", gets))
    for title, shape in shapes:
        workload = msgspec.structs.replace(shape, duration=seconds, warm_up=1.0)
        target = clusters.find_in(cluster_of, workload)
        target = msgspec.structs.replace(target, text=f"profile of {title}")
        leader = next(server for server in target.servers if server.role == "leader")
        profile = hotspots.Profile(leader.pid)
        try:
            outcome = measure(
                target, workload, show=show, begun=partial(profile.start, seconds - 0.5)
            )
            found = profile.finish()
        finally:
            profile.close()
        if found is not None:
            cost = outcome.of_role("leader") or 0.0
            yield Breakdown(title=title, per_request=cost, found=found)

"""What is done to a cluster under load, and what its clients and replicas saw of it."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mpaxos.bench.cluster import pool_directory, settings_for
from mpaxos.bench.load import LoadReport, Workload, drive
from mpaxos.config.values import parse_size
from mpaxos.errors import MpaxosError
from mpaxos.local import LocalCluster

ITEM = 1024
"""Bytes of a value of the state."""

BEFORE, AWAY, AFTER = 2.0, 2.0, 3.0
"""Seconds of load before a fault, until it is undone, and after that."""

EVERY = 0.02
"""Seconds between two points of a curve."""

SURVIVES_ALL = ("pmem", "disk")
"""Durabilities under which all replicas may die at once."""

Show = Callable[[str], None]


class Setting(msgspec.Struct, frozen=True):
    """One way to run mpaxos, by the two keys of the cluster file."""

    durability: str
    machine: str

    @property
    def name(self) -> str:
        """As it is called in tables."""
        return f"{self.durability} + {self.machine}"


class Case(msgspec.Struct, frozen=True):
    """A fault: whom it meets, by which signal; frozen replicas are thawed, others restarted."""

    name: str
    whom: str
    """follower, leader or all."""
    sign: str
    """KILL or STOP."""


CASES = (
    Case("a follower is killed", "follower", "KILL"),
    Case("the leader is killed", "leader", "KILL"),
    Case("a follower is frozen", "follower", "STOP"),
    Case("the leader is frozen", "leader", "STOP"),
    Case("all are killed", "all", "KILL"),
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case. Times in seconds."""

    case: str
    stall: float
    """Longest interval without a single answer, from the fault on."""
    in_step: float
    """From process start (or thaw) until the slowest of the replicas was in step."""
    before: float
    """Answers per second before the fault."""
    after: float
    """Answers per second in the last second."""
    curve: list[tuple[float, float]]
    """(seconds, answers per second)."""
    events: list[tuple[float, str]]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All cases of one setting with one size of the state."""

    setting: str
    size: int
    outcomes: list[Outcome]


@contextlib.contextmanager
def filled(setting: Setting, size: int, parent: Path | None) -> Iterator[LocalCluster]:
    """A cluster of three whose state has about `size` bytes, in step."""
    keys = max(1, size // ITEM)
    workload = Workload(size=ITEM, keys=keys, connections=100)
    settings = settings_for(workload)
    # A volatile machine has a scratch pool as large, and snapshots of the state, two and a new one.
    copies = 1 if setting.machine == "persistent" else 6
    needed = 3 * copies * parse_size(settings["pool.size"], "pool.size")
    with (
        pool_directory(parent, needed) as directory,
        LocalCluster(
            directory,
            durability=setting.durability,
            machine=setting.machine,
            settings=settings,
            name="recovery",
        ) as cluster,
    ):
        cluster.initialise()
        cluster.start()
        cluster.wait_in_step()
        filling = Workload(
            size=ITEM, keys=keys, connections=20, depth=16, distribution="sequential", count=keys
        )
        drive(filling, cluster.config.client_addresses())
        yield cluster


def run(cluster: LocalCluster, case: Case, connections: int) -> Outcome:
    """Put load on the cluster, and the case on both. Raises MpaxosError."""
    cluster.wait_in_step(timeout=300)
    leader = cluster.leader()
    if case.whom == "all":
        met = cluster.numbers
    else:
        met = [leader if case.whom == "leader" else (leader + 1) % len(cluster.numbers)]
    load = _Load(cluster, connections)
    events: list[tuple[float, str]] = []
    try:
        load.wait_until(BEFORE)
        events.append((load.now(), case.sign))
        cluster.kill(*met, sign=signal.Signals[f"SIG{case.sign}"])
        load.wait_until(BEFORE + AWAY)
        events.append((load.now(), "back"))
        in_step = _bring_back(cluster, met, case)
        events.append((load.now(), "in step"))
    finally:
        report = load.finish()
    fault = events[0][0]
    stalls = [length for at, length in report.stalls if at / 1e9 + length / 1e9 > fault]
    return Outcome(
        case=case.name,
        stall=max(stalls, default=0) / 1e9,
        in_step=in_step,
        before=_mean(load.curve, fault / 4, fault),
        after=_mean(load.curve, load.curve[-1][0] - 1.0, load.curve[-1][0]),
        curve=load.curve,
        events=events,
    )


def _bring_back(cluster: LocalCluster, met: list[int], case: Case) -> float:
    """Restart or thaw; seconds until the last one is in step."""
    began = time.monotonic()
    if case.sign == "STOP":
        # A thawed replica believes what it knew: only the others can say how far it must come.
        others = [number for number in cluster.numbers if number not in met]
        goal = max(_applied(cluster, number) for number in others)
        cluster.kill(*met, sign=signal.SIGCONT)
        cluster.wait(
            lambda: all(_applied(cluster, number) >= goal for number in met) or None,
            "thawed replicas to be in step",
            timeout=300,
        )
        return time.monotonic() - began
    cluster.start(met)
    cluster.wait_in_step(*met, timeout=300)
    told = [
        (cluster.status(number, timeout=10.0) or {}).get("started_to_in_step") for number in met
    ]
    times = [float(value) for value in told if value is not None]
    return max(times) if len(times) == len(met) else time.monotonic() - began


def _applied(cluster: LocalCluster, number: int) -> int:
    status = cluster.status(number, timeout=10.0)
    return -1 if status is None else int(status["applied"])


class _Load:
    """The load generator on a thread of its own, and its answers over time."""

    def __init__(self, cluster: LocalCluster, connections: int) -> None:
        self.curve: list[tuple[float, float]] = []
        self._began: float | None = None
        self._measuring = threading.Event()
        self._last = (0.0, 0)
        self._report: LoadReport | None = None
        self._failure: MpaxosError | None = None
        workload = Workload(
            size=128,
            keys=1000,
            connections=connections,
            warm_up=0.5,
            duration=BEFORE + AWAY + AFTER,
        )
        self._thread = threading.Thread(
            target=self._drive, args=(workload, cluster.config.client_addresses())
        )
        self._thread.start()
        self._measuring.wait(60)

    def _drive(self, workload: Workload, addresses: list[str]) -> None:
        try:
            self._report = drive(
                workload,
                addresses,
                on_measure=self._measure,
                on_progress=self._progress,
                every=EVERY,
            )
        except MpaxosError as error:
            self._failure = error
        finally:
            self._measuring.set()

    def _measure(self) -> None:
        self._began = time.monotonic()
        self._measuring.set()

    def _progress(self, answers: int) -> None:
        if self._began is None:
            self._last = (0.0, answers)
            return
        now = time.monotonic() - self._began
        at, before = self._last
        # Several at once were held up in the pipe: their answers belong to one point.
        if now - at >= EVERY / 2:
            self.curve.append((now, (answers - before) / (now - at)))
            self._last = (now, answers)

    def now(self) -> float:
        """Seconds since the measured time began."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def wait_until(self, at: float) -> None:
        """Let the load go on until then; returns early when it has failed."""
        self._thread.join(max(0.0, at - self.now()))

    def finish(self) -> LoadReport:
        """Raises LoadFailed."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        if self._report is None or not self.curve:
            raise MpaxosError("the load generator reported nothing")
        return self._report


def _mean(curve: list[tuple[float, float]], begin: float, end: float) -> float:
    """Answers per second between two times; the curve's points are unequally far apart."""
    answers = time_covered = 0.0
    for (before, _), (at, rate) in itertools.pairwise([(0.0, 0.0), *curve]):
        if begin <= at <= end:
            answers += rate * (at - before)
            time_covered += at - before
    return answers / time_covered if time_covered else 0.0

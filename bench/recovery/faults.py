"""What is done to a cluster under load, in turn, and what clients and replicas saw of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.recovery.load import FOR_EVER, INTERVAL, BackgroundLoad, Curve
from bench.recovery.settings import Setting, filled, workload
from mpaxos.errors import ClientError
from mpaxos.local import ClusterFailed, LocalCluster

AWAY = 2.0
"""Seconds until a replica is restarted or thawed."""

SETTLE = 2.0
"""Seconds of load before each fault, and after it: the rates before and after are of the half of
it next to the fault's end, or beginning."""

RESTARTS = 7
"""Of a follower that missed nothing. A single one differs from the next by more than what is to be
seen: others dial it, and tell it of their leader, up to tens of milliseconds sooner or later."""

PATIENCE = 120.0
"""Seconds after which a replica counts as not coming into step."""

Say = Callable[[str], None]


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong, and is put right."""

    name: str
    whom: str
    """follower, leader or all."""
    freeze: bool = False
    """SIGSTOP and SIGCONT, rather than SIGKILL and a restart."""
    away: bool = True
    """Put right after AWAY seconds, rather than at once."""


FOLLOWER_KILLED = "follower killed"
LEADER_KILLED = "leader killed"
LEADER_FROZEN = "leader frozen"
IDLE = "follower restarted, no load"

FAULTS = (
    Fault(FOLLOWER_KILLED, "follower"),
    Fault(LEADER_KILLED, "leader"),
    Fault("follower frozen", "follower", freeze=True),
    Fault(LEADER_FROZEN, "leader", freeze=True),
    Fault("all killed", "all", away=False),
)


class Event(msgspec.Struct, frozen=True):
    """Something to mark on a plot; seconds since the curve begins."""

    at: float
    text: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a fault. Times in seconds, rates in answers per second."""

    fault: str
    in_step: float | None
    """From process start (or thaw) until all that the others had decided then was applied by
    the last of the replicas concerned; None: not within PATIENCE."""
    reported: float | None = None
    """The longest `started_to_in_step` that they report themselves; None after a thaw."""
    missed: int = 0
    """Commands answered to clients between fault and restart (or thaw)."""
    stall: float = 0.0
    """Longest interval without a single answer; 0 when all were below 10 ms."""
    before: float = 0.0
    after: float = 0.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All faults of one setting with one size of the state."""

    setting: str
    size: int
    """Bytes of values."""
    connections: int
    outcomes: list[Outcome]
    events: list[Event]
    interval: float
    """Seconds between two points of `series`."""
    series: list[int]
    """Answers in each interval."""


class _Mark(msgspec.Struct):
    """When a fault happened, was put right, was over; seconds of time.monotonic()."""

    fault: Fault
    hit: float
    back: float = 0.0
    end: float = 0.0
    in_step: float | None = None
    reported: float | None = None


def run(setting: Setting, size: int, connections: int, parent: Path | None, say: Say) -> Run:
    """All faults that the setting survives, under one continuous load. Raises MpaxosError."""
    asked = workload(size, connections)
    say("starting and filling")
    with filled(setting, asked, parent) as cluster:
        idle = _idle(cluster)
        say(f"{IDLE}: {milliseconds(idle.in_step)}")
        load = BackgroundLoad(
            msgspec.structs.replace(asked, duration=FOR_EVER), cluster.config.client_addresses()
        )
        marks: list[_Mark] = []
        try:
            for fault in FAULTS:
                if fault.whom == "all" and not setting.survives_all:
                    continue
                load.wait(SETTLE)
                mark = _strike(cluster, fault, load)
                marks.append(mark)
                say(f"{fault.name}: in step {milliseconds(mark.in_step)}")
                if mark.in_step is None:
                    break  # the next fault would find no majority
        finally:
            curve = load.finish()
    return Run(
        setting=setting.name,
        size=size,
        connections=connections,
        outcomes=[idle, *(_outcome(mark, curve) for mark in marks)],
        events=[event for mark in marks for event in _events(mark, curve.began)],
        interval=INTERVAL,
        series=curve.counts,
    )


def milliseconds(value: float | None) -> str:
    """A time for people; None is a replica that did not come into step."""
    return f"not within {PATIENCE:.0f} s" if value is None else f"{1000 * value:,.0f} ms"


def _idle(cluster: LocalCluster) -> Outcome:
    """A restart with nothing missed: what a start costs. The median of RESTARTS, by what was
    measured from outside."""
    follower = _concerned(cluster, "follower")
    times: list[tuple[float, float | None]] = []
    for _ in range(RESTARTS):
        cluster.kill(*follower)
        target = _decided(cluster)
        cluster.start(follower)
        in_step = _until(cluster, follower, target, cluster.started_at[follower[0]])
        if in_step is None:
            return Outcome(fault=IDLE, in_step=None)
        times.append((in_step, _reported(cluster, follower)))
    middle = sorted(times, key=lambda pair: pair[0])[RESTARTS // 2]
    return Outcome(fault=IDLE, in_step=middle[0], reported=middle[1])


def _concerned(cluster: LocalCluster, whom: str) -> list[int]:
    if whom == "all":
        return cluster.numbers
    leader = cluster.leader()
    return [leader if whom == "leader" else (leader + 1) % len(cluster.numbers)]


def _strike(cluster: LocalCluster, fault: Fault, load: BackgroundLoad) -> _Mark:
    concerned = _concerned(cluster, fault.whom)
    before = _decided(cluster)
    mark = _Mark(fault, time.monotonic())
    cluster.kill(*concerned, sign=signal.SIGSTOP if fault.freeze else signal.SIGKILL)
    try:
        if fault.away:
            load.wait(AWAY)
        others = [number for number in cluster.numbers if number not in concerned]
        target = max(before, _decided(cluster, others))
        mark.back = time.monotonic()
    finally:
        if fault.freeze:
            cluster.kill(*concerned, sign=signal.SIGCONT)
    if not fault.freeze:
        cluster.start(concerned)
    mark.in_step = _until(cluster, concerned, target, mark.back)
    if not fault.freeze and mark.in_step is not None:
        mark.reported = _reported(cluster, concerned)
    load.wait(SETTLE)
    mark.end = time.monotonic()
    return mark


def _decided(cluster: LocalCluster, numbers: list[int] | None = None) -> int:
    """The last slot that one of these replicas knows to be decided."""
    running = [n for n in numbers or cluster.numbers if cluster.is_running(n)]
    statuses = [cluster.status(number) for number in running]
    return max((s["decided"] for s in statuses if s is not None), default=0)


def _until(cluster: LocalCluster, numbers: list[int], target: int, began: float) -> float | None:
    """Seconds from `began` until all of these have applied slot `target` and know a leader."""
    waiting = list(numbers)

    def arrived() -> float | None:
        for number in list(waiting):
            if not cluster.is_running(number):
                raise ClusterFailed(f"replica {number} ended:\n{cluster.log(number)}")
            status = cluster.status(number)
            if status and status["applied"] >= target and status["leader"] is not None:
                waiting.remove(number)
        return None if waiting else time.monotonic() - began

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(ClientError):
            found = arrived()
            if found is not None:
                return found
        time.sleep(0.002)
    return None


def _reported(cluster: LocalCluster, numbers: list[int]) -> float | None:
    cluster.wait_in_step(*numbers, timeout=PATIENCE)
    statuses = [cluster.status(number) for number in numbers]
    times = [s["started_to_in_step"] for s in statuses if s is not None]
    return max((t for t in times if t is not None), default=None)


def _outcome(mark: _Mark, curve: Curve) -> Outcome:
    return Outcome(
        fault=mark.fault.name,
        in_step=mark.in_step,
        reported=mark.reported,
        missed=curve.answers(mark.hit, mark.back),
        stall=curve.stall(mark.hit, mark.end),
        before=curve.rate(mark.hit - SETTLE / 2, mark.hit),
        after=curve.rate(mark.end - SETTLE / 2, mark.end),
    )


def _events(mark: _Mark, began: float) -> list[Event]:
    events = [Event(mark.hit - began, mark.fault.name)]
    word = "thawed" if mark.fault.freeze else "restarted"
    events.append(Event(mark.back - began, word))
    if mark.in_step is not None:
        events.append(Event(mark.back + mark.in_step - began, "in step"))
    return events

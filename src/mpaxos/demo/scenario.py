"""What the demo does to the cluster, and what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from mpaxos.demo.load import Load, ReadBack
from mpaxos.demo.records import Records
from mpaxos.local import ClusterFailed, LocalCluster
from mpaxos.services.kv import KeyValueClient

FIRST_KILL, SECOND_KILL = 0.15, 0.45
"""Share of the records that are loaded when the follower and the leader are killed."""

_SETTLE = 0.3
"""Seconds after a recovery that still count for the stall it caused."""

_LOOK = 0.01
"""Seconds between looks at the progress of the load."""


class Crash(msgspec.Struct):
    """One kill -9 with its restart. Times are seconds."""

    who: str
    replicas: list[int]
    loaded: int
    """Records acknowledged when it happened."""
    stall: float = 0.0
    """Longest time in which one client got no answer."""
    in_step: dict[int, float] = {}
    """From the start of the process until the replica had caught up, per replica."""


class Findings(msgspec.Struct):
    """The outcome of a run."""

    source: str
    records: int
    names: int
    bytes: int
    seconds: float = 0.0
    """Of loading, crashes included."""
    commands: int = 0
    """Puts answered in that time."""
    crashes: list[Crash] = []
    read: dict[int, int] = {}
    """Values read back through each replica."""
    mismatches: dict[int, int] = {}
    digests: dict[int, str] = {}
    applied: int = 0
    rewrites: int = 0
    """Puts of values that were there already, to have clients at work during each crash."""

    @property
    def good(self) -> bool:
        """True when nothing was lost or changed and all replicas are equal."""
        complete = all(count == self.names for count in self.read.values())
        return (
            complete
            and len(self.read) == len(self.digests) > 0
            and not any(self.mismatches.values())
            and len(set(self.digests.values())) == 1
        )


class Show:
    """How a run reports its progress; this one says nothing."""

    def say(self, text: str) -> None:
        """A line about what happens now."""

    def begin(self, what: str, total: int) -> None:
        """A bar for `total` steps begins."""

    def progress(self, done: int) -> None:
        """So many steps of the bar are done."""

    def end(self) -> None:
        """The bar is complete."""


def run(cluster: LocalCluster, records: Records, show: Show) -> Findings:
    """Load, crash, compare. Raises LoadFailed, ClusterFailed, StorageError."""
    expected = records.expected()
    found = Findings(records.source, len(records.records), len(expected), records.size)
    cluster.initialise()
    cluster.start()
    cluster.wait_in_step()
    leader = cluster.leader()
    show.say(f"{len(cluster.numbers)} replicas are up, replica {leader} leads")
    load = Load(cluster.addresses, records.records)
    load.start()
    try:
        show.begin("loading", load.total)
        _reach(load, FIRST_KILL, show)
        follower = next(n for n in cluster.numbers if n != cluster.leader())
        _crash(found, cluster, load, show, "follower", [follower])
        _reach(load, SECOND_KILL, show)
        _crash(found, cluster, load, show, "leader", [cluster.leader()])
        load.release()
        _reach(load, 1.0, show)
        show.end()
        found.seconds = load.loaded - load.began
        found.commands = found.records + load.rewritten_loading
        _crash(found, cluster, load, show, "all at once", cluster.numbers)
    finally:
        load.stopping = True
    load.stop()
    found.rewrites = load.rewritten
    _compare(found, cluster, expected, show)
    return found


def _reach(load: Load, share: float, show: Show) -> None:
    """Wait until this share of the records is acknowledged."""
    _watch(lambda: load.acknowledged >= share * load.total, load, show)


def _watch(done: Callable[[], bool], load: Load, show: Show) -> None:
    while not done():
        load.check()
        show.progress(load.acknowledged)
        time.sleep(_LOOK)
    show.progress(load.acknowledged)


def _crash(
    found: Findings,
    cluster: LocalCluster,
    load: Load,
    show: Show,
    who: str,
    numbers: list[int],
) -> None:
    """Kill replicas, start them again, wait until they are in step."""
    crash = Crash(who, numbers, load.acknowledged)
    began = time.monotonic()
    cluster.kill(*numbers)
    listed = ", ".join(map(str, numbers))
    show.say(f"kill -9 of {who} ({listed}) at {load.acknowledged:,} records")
    cluster.start(numbers)
    waiting = set(numbers)
    while waiting:
        load.check()
        show.progress(load.acknowledged)
        for number in sorted(waiting):
            if not cluster.is_running(number):
                raise ClusterFailed(f"replica {number} did not come back:\n{cluster.log(number)}")
            status = cluster.status(number)
            if status is not None and status["in_step"]:
                waiting.discard(number)
                crash.in_step[number] = time.monotonic() - cluster.started_at[number]
    # Until the clients have been answered again, too.
    answers = load.answered
    _watch(lambda: load.answered > answers, load, show)
    settled = time.monotonic() + _SETTLE
    _watch(lambda: time.monotonic() >= settled, load, show)
    crash.stall = load.longest_stall(began, settled)
    found.crashes.append(crash)
    times = ", ".join(f"{1000 * seconds:.0f} ms" for seconds in crash.in_step.values())
    show.say(f"back in step after {times}; longest stall of a client {1000 * crash.stall:.0f} ms")


def _compare(
    found: Findings, cluster: LocalCluster, expected: dict[bytes, bytes], show: Show
) -> None:
    """Read everything through each replica, then compare the digests."""
    for number in cluster.numbers:
        show.begin(f"reading through replica {number}", len(expected))
        reader = ReadBack(cluster.client_address(number), expected)
        reader.start()
        while reader.read < len(expected):
            reader.check()
            show.progress(reader.read)
            time.sleep(_LOOK)
        reader.join()
        show.progress(reader.read)
        show.end()
        found.read[number] = reader.read
        found.mismatches[number] = len(reader.mismatches)
        with KeyValueClient(cluster.client_address(number)) as service:
            # A key too many would not be noticed by reading the expected ones.
            found.mismatches[number] += abs(service.size() - len(expected))
        for key in reader.mismatches[:5]:
            show.say(f"MISMATCH at replica {number}: {key.decode(errors='replace')}")
    found.applied, found.digests = cluster.digests()

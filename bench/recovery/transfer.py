"""Replicas whose data is lost are replaced under load, beside copies of as many bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import msgspec

from bench.recovery.copies import carried_copy, fresh_copy, plain_copy
from bench.recovery.faults import Say
from bench.recovery.load import FOR_EVER, BackgroundLoad
from bench.recovery.settings import SETTINGS, filled, workload
from mpaxos.local import ClusterFailed, LocalCluster

CONNECTIONS = 16

ROUNDS = 3
"""Single ones differ by a fifth where a host gives a machine less than its processors."""

UNDISTURBED = 8.0
"""Seconds of load before the replica is killed, for the throughput to compare with. A host with a
quota gives a machine more in the first three or so: the transfer comes later."""

_PATIENCE = 600.0

_LOOK = 0.03
"""Seconds between questions whether it is in step: more of them would hold it up."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """A replica replaced once. Times in seconds."""

    in_step: float
    """From process start."""
    stall: float
    """Longest interval without a single answer between start and in step."""
    before: float
    """Answers per second with three replicas, undisturbed."""
    during: float

    @property
    def ratio(self) -> float:
        """Throughput while it went on, of the undisturbed."""
        return self.during / self.before if self.before else 0.0


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of all rounds. Times in seconds."""

    size: int
    """Bytes of values."""
    state: int
    """Bytes of the state, what the store needs for it included: as many are copied."""
    connections: int
    rounds: list[Round]
    copy: float
    """Of as many bytes over a loopback socket, on the same machine without load: one buffer of
    1 MiB is sent again and again, into one buffer. The median of as many as there are rounds, as
    of all copies."""
    carried: float
    """The same, from a file in memory into a new file in memory, as a transfer has to."""
    fresh: float
    """To reserve a file as large as the pool where the pools are, and to copy as many bytes into
    it, without load: what no way of installing a state in a new pool can do without."""

    @property
    def in_step(self) -> float:
        """The median."""
        return median(r.in_step for r in self.rounds)

    @property
    def ratio(self) -> float:
        """The median of the throughput while it went on, of the undisturbed."""
        return median(r.ratio for r in self.rounds)

    @property
    def stall(self) -> float:
        """The longest."""
        return max(r.stall for r in self.rounds)


def transfer(size: int, parent: Path | None, say: Say) -> Transfer:
    """Replace followers under load, one after the other. Raises MpaxosError."""
    asked = workload(size, CONNECTIONS)
    say("starting and filling")
    with filled(SETTINGS["pmem+persistent"], asked, parent) as cluster:
        load = BackgroundLoad(
            msgspec.structs.replace(asked, duration=FOR_EVER), cluster.config.client_addresses()
        )
        spans = []
        try:
            for number in range(ROUNDS):
                spans.append(_replace(cluster, load, number, say))
            pool = (cluster.status(cluster.leader()) or {})["pool"]
        finally:
            curve = load.finish()
    state, reserved = int(pool["state_used"]), int(pool["size"])
    # Without the replicas, and without what they hold.
    again = range(ROUNDS)
    return Transfer(
        size=size,
        state=state,
        connections=CONNECTIONS,
        rounds=[
            Round(
                in_step=in_step - began,
                stall=curve.stall(began, in_step),
                before=curve.rate(quiet, hit),
                during=curve.rate(began, in_step),
            )
            for quiet, hit, began, in_step in spans
        ],
        copy=median(plain_copy(state) for _ in again),
        carried=median(carried_copy(state, parent) for _ in again),
        fresh=median(fresh_copy(state, reserved, parent) for _ in again),
    )


def _replace(
    cluster: LocalCluster, load: BackgroundLoad, number: int, say: Say
) -> tuple[float, float, float, float]:
    """Replace a follower. When the undisturbed time began and ended, when the new process was
    started, and when it was in step."""
    quiet = time.monotonic()
    load.wait(UNDISTURBED)
    hit = time.monotonic()
    followers = [n for n in range(len(cluster.numbers)) if n != cluster.leader()]
    victim = followers[number % len(followers)]
    _lose(cluster, victim)
    say(f"replica {victim} lost its data, and is replaced")
    cluster.start([victim])
    began = cluster.started_at[victim]
    cluster.wait_in_step(victim, timeout=_PATIENCE, interval=_LOOK)
    in_step = time.monotonic()
    say(f"in step after {in_step - began:.2f} s")
    return quiet, hit, began, in_step


def _lose(cluster: LocalCluster, victim: int) -> None:
    """Kill a replica, remove its data, make it anew as an operator would."""
    cluster.kill(victim)
    shutil.rmtree(cluster.config.directory(victim))
    words = [sys.executable, "-m", "mpaxos.cli.main", "init", "-c", str(cluster.path)]
    words += ["--replica", str(victim), "--replace"]
    for key, value in cluster.overrides.items():
        words += ["--set", f"{key}={value}"]
    done = subprocess.run(
        words, env=cluster.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise ClusterFailed(f"mpaxos init --replace: {done.stderr or done.stdout}")

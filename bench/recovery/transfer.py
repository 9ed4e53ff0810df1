"""A replica whose data is lost is replaced under load, beside copies of as many bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.recovery.copies import carried_copy, fresh_copy, plain_copy
from bench.recovery.faults import Say
from bench.recovery.load import FOR_EVER, BackgroundLoad
from bench.recovery.settings import SETTINGS, filled, workload
from mpaxos.local import ClusterFailed, LocalCluster

CONNECTIONS = 16

UNDISTURBED = 3.0
"""Seconds of load before the replica is killed, for the throughput to compare with."""

_PATIENCE = 600.0

_LOOK = 0.03
"""Seconds between questions whether it is in step: more of them would hold it up."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Times in seconds."""

    size: int
    """Bytes of values."""
    state: int
    """Bytes of the state, what the store needs for it included: as many are copied."""
    connections: int
    in_step: float
    """From process start."""
    copy: float
    """Of as many bytes over a loopback socket, on the same machine without load: one buffer of
    1 MiB is sent again and again, into one buffer."""
    carried: float = 0.0
    """The same, from a file in memory into a new file in memory, as a transfer has to; 0: not
    measured."""
    fresh: float
    """To reserve a file as large as the pool where the pools are, and to copy as many bytes into
    it, without load: what no way of installing a state in a new pool can do without."""
    stall: float
    """Longest interval without a single answer between start and in step."""
    before: float
    """Answers per second with three replicas, undisturbed."""
    during: float

    @property
    def ratio(self) -> float:
        """Throughput while it went on, of the undisturbed."""
        return self.during / self.before if self.before else 0.0


def transfer(size: int, parent: Path | None, say: Say) -> Transfer:
    """Replace a follower under load. Raises MpaxosError."""
    asked = workload(size, CONNECTIONS)
    say("starting and filling")
    with filled(SETTINGS["pmem+persistent"], asked, parent) as cluster:
        load = BackgroundLoad(
            msgspec.structs.replace(asked, duration=FOR_EVER), cluster.config.client_addresses()
        )
        try:
            quiet = time.monotonic()
            load.wait(UNDISTURBED)
            hit = time.monotonic()
            victim = (cluster.leader() + 1) % len(cluster.numbers)
            pool = (cluster.status(victim) or {})["pool"]
            state = int(pool["state_used"])
            _lose(cluster, victim)
            say(f"replica {victim} lost its data, and is replaced")
            cluster.start([victim])
            began = cluster.started_at[victim]
            cluster.wait_in_step(victim, timeout=_PATIENCE, interval=_LOOK)
            in_step = time.monotonic()
            say(f"in step after {in_step - began:.2f} s")
        finally:
            curve = load.finish()
    # Without the replicas, and without what they hold.
    carried = carried_copy(state, parent)
    fresh = fresh_copy(state, int(pool["size"]), parent)
    return Transfer(
        size=size,
        state=state,
        connections=CONNECTIONS,
        in_step=in_step - began,
        copy=plain_copy(state),
        carried=carried,
        fresh=fresh,
        stall=curve.stall(began, in_step),
        before=curve.rate(quiet, hit),
        during=curve.rate(began, in_step),
    )


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

"""A replica whose data is lost is replaced under load, beside a plain copy of as many bytes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from bench.recovery.faults import Say
from bench.recovery.load import FOR_EVER, BackgroundLoad
from bench.recovery.settings import SETTINGS, filled, workload
from mpaxos.config.values import MIB
from mpaxos.local import ClusterFailed, LocalCluster

CONNECTIONS = 16

UNDISTURBED = 3.0
"""Seconds of load before the replica is killed, for the throughput to compare with."""

_PATIENCE = 600.0


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
    """Of as many bytes over a loopback socket, on the same machine without load."""
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
            state = int((cluster.status(victim) or {})["pool"]["state_used"])
            _lose(cluster, victim)
            say(f"replica {victim} lost its data, and is replaced")
            cluster.start([victim])
            began = cluster.started_at[victim]
            cluster.wait_in_step(victim, timeout=_PATIENCE)
            in_step = time.monotonic()
            say(f"in step after {in_step - began:.2f} s")
        finally:
            curve = load.finish()
    return Transfer(
        size=size,
        state=state,
        connections=CONNECTIONS,
        in_step=in_step - began,
        copy=plain_copy(state),
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


def plain_copy(size: int) -> float:
    """Seconds that `size` bytes take from one buffer to another over a loopback socket."""
    chunk = bytes(MIB)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(), chunk, size))
        sender.start()
        connection, _ = server.accept()
        with connection:
            into = bytearray(MIB)
            began = time.monotonic()
            while connection.recv_into(into):
                pass
            spent = time.monotonic() - began
        sender.join()
    return spent


def _send(address: tuple[str, int], chunk: bytes, size: int) -> None:
    with socket.create_connection(address) as connection:
        view = memoryview(chunk)
        while size > 0:
            part = view[: min(size, len(chunk))]
            connection.sendall(part)
            size -= len(part)

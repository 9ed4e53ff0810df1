"""A replica whose data is lost is replaced under load, beside a plain copy of as many bytes."""

from __future__ import annotations

import mmap
import os
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
            cluster.wait_in_step(victim, timeout=_PATIENCE)
            in_step = time.monotonic()
            say(f"in step after {in_step - began:.2f} s")
        finally:
            curve = load.finish()
        fresh = fresh_copy(state, int(pool["size"]), cluster.directory / "floor")
    return Transfer(
        size=size,
        state=state,
        connections=CONNECTIONS,
        in_step=in_step - began,
        copy=plain_copy(state),
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


def fresh_copy(size: int, reserved: int, path: Path) -> float:
    """Seconds that it takes to make a file of `reserved` bytes and to copy `size` bytes into it
    through a mapping, as a pool is written. Raises OSError."""
    chunk = bytes(range(256)) * (MIB // 256)
    began = time.monotonic()
    with path.open("w+b") as file:
        path.unlink()
        os.posix_fallocate(file.fileno(), 0, reserved)
        with mmap.mmap(file.fileno(), reserved) as memory:
            for at in range(0, size - MIB + 1, MIB):
                memory[at : at + MIB] = chunk
            return time.monotonic() - began


def _send(address: tuple[str, int], chunk: bytes, size: int) -> None:
    with socket.create_connection(address) as connection:
        view = memoryview(chunk)
        while size > 0:
            part = view[: min(size, len(chunk))]
            connection.sendall(part)
            size -= len(part)

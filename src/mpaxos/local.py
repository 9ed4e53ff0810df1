"""A cluster of replica processes on this machine: for `mpaxos dev`, the demo and tests.

    with LocalCluster(Path("/dev/shm/try"), replicas=3) as cluster:
        cluster.start()
        cluster.wait_in_step()
        cluster.kill(cluster.leader())

Each replica is a real process (`mpaxos serve`) in a process group of its own, so that Ctrl-C at a
terminal reaches only the one who started the cluster. A replica that loses its parent is killed by
the kernel: not even kill -9 of the parent leaves one behind.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from mpaxos import config as cluster_config
from mpaxos.client.admin import ask_blocking
from mpaxos.compiled import PURE
from mpaxos.config import ClusterConfig, example
from mpaxos.config.files import process_variables
from mpaxos.errors import ClientError, ConfigError, MpaxosError

T = TypeVar("T")

KV = "mpaxos.services.kv:KeyValue"

POLL = 0.003
"""Seconds between looks at a condition that is waited for."""


class ClusterFailed(MpaxosError):
    """A replica did not do what was waited for; the text has the end of its log."""


class _Ports:
    """Ports for this process: a block that no other process takes as long as this one lives.

    A replica that was killed does not listen on its ports, and will again: that nobody listens
    does not make a port free. So each process claims a block, by a socket of a name that only one
    can bind (an abstract one: it goes with the process, and belongs to the same network namespace
    as the ports), and goes round in it.

    The blocks lie below the range from which the kernel takes ports of outgoing connections: none
    of those can take one between the choice and the start of a replica, or during its restart.
    """

    FIRST, BLOCK, BLOCKS = 15_000, 200, 85
    NAME = "mpaxos-ports"

    def __init__(self) -> None:
        self._owner = 0
        self._claim: socket.socket | None = None
        self._first = self._next = 0

    def take(self, count: int) -> list[int]:
        if self._owner != os.getpid():  # a fork has no block yet
            self._claim_block()
        found: list[int] = []
        for _ in range(self.BLOCK):
            if len(found) == count:
                break
            port = self._first + self._next
            self._next = (self._next + 1) % self.BLOCK
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) < count:
            last = self._first + self.BLOCK - 1
            raise ConfigError(f"no {count} free ports from {self._first} to {last} on 127.0.0.1")
        return found

    def _claim_block(self) -> None:
        for block in random.sample(range(self.BLOCKS), self.BLOCKS):
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0{self.NAME}-{block}")
            except OSError:
                claim.close()
                continue
            self._owner, self._claim = os.getpid(), claim
            self._first, self._next = self.FIRST + block * self.BLOCK, 0
            return
        raise ConfigError(
            f"{self.BLOCKS} processes of this machine run local clusters already, each with "
            f"{self.BLOCK} ports: stop some, or give ports in a cluster file"
        )


_ports = _Ports()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on and no other process is given here.

    Raises ConfigError when there are none.
    """
    return _ports.take(count)


class LocalCluster:
    """Replica processes 0 .. n-1 with one cluster file. Close it, or use it as a context manager.

    Everything lies in `directory`: cluster.toml, one directory of data and one log per replica.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 3,
        service: str = KV,
        name: str = "local",
        durability: str = "pmem",
        machine: str | None = None,
        settings: dict[str, str] | None = None,
        base_ports: tuple[int, int, int] | None = None,
        sink: Callable[[int], IO[bytes]] | None = None,
    ) -> None:
        """Write the cluster file; nothing runs yet.

        `durability` and `machine` are those of docs/durability.md, `machine` by default what suits
        the durability; a scratch pool lies in memory, and is gone with its process.
        `settings` are dotted keys as for `mpaxos serve --set`; `base_ports` are the first (peer,
        client, jpaxos) ports, free ones when None; `sink` opens where the output of a replica goes,
        its log file when None. Raises ConfigError.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path = directory / "cluster.toml"
        self.path.write_text(
            example(
                name, replicas=replicas, service=service, durability=durability, machine=machine
            )
        )
        overrides = dict(settings or {})
        overrides.update(_addresses(replicas, base_ports))
        self.overrides = overrides
        self.config: ClusterConfig = cluster_config.load(self.path, overrides)
        self.started_at: dict[int, float] = {}
        """time.monotonic() of each replica's last start."""
        self._sink = sink or self._log_file
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    # -------------------------------------------------------------- life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def numbers(self) -> list[int]:
        """The ids of all replicas."""
        return [entry.id for entry in self.config.replicas]

    def initialise(self) -> None:
        """Make the data of all replicas, as `mpaxos init --all` does. Raises StorageError."""
        from mpaxos.storage.directory import initialise  # needs the extension

        for number in self.numbers:
            initialise(self.config, number)

    def start(self, numbers: Iterable[int] | None = None) -> None:
        """Start replicas, all by default; a replica that runs is left alone."""
        for number in self.numbers if numbers is None else numbers:
            if self.is_running(number):
                continue
            with self._sink(number) as output:
                self.started_at[number] = time.monotonic()
                self._processes[number] = subprocess.Popen(
                    self.command(number),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment(),
                    start_new_session=True,
                )

    def command(self, number: int) -> list[str]:
        """The command line of a replica."""
        words = [sys.executable, "-m", "mpaxos.cli.main", "serve", "--cluster", str(self.path)]
        words += ["--replica", str(number), "--parent", str(os.getpid())]
        for key, value in self.overrides.items():
            words += ["--set", f"{key}={value}"]
        return words

    def environment(self) -> dict[str, str]:
        """Variables of a replica process; what `serve` would otherwise re-execute itself for is
        already set."""
        mine = {k for k in os.environ if k.startswith("MPAXOS_") and k != PURE}
        environ = {k: v for k, v in os.environ.items() if k not in mine}
        return environ | process_variables(self.config.durability, self.directory)

    def process(self, number: int) -> subprocess.Popen[bytes]:
        """The last process of a replica. Raises KeyError when it was never started."""
        return self._processes[number]

    def is_running(self, number: int) -> bool:
        """True while the process of this replica lives."""
        process = self._processes.get(number)
        return process is not None and process.poll() is None

    def kill(self, *numbers: int, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to these replicas, and for those that end a process wait for the end."""
        running = [n for n in numbers if self.is_running(n)]
        for number in running:
            self._processes[number].send_signal(sign)
        if sign in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            for number in running:
                self._processes[number].wait(timeout=30)

    def close(self) -> None:
        """Kill all replicas. The files stay: whoever made the directory removes it."""
        self.kill(*self._processes)

    # -------------------------------------------------------------- questions

    def client_address(self, number: int) -> str:
        """host:port of a replica's client port."""
        return self.config.replica(number).client

    @property
    def addresses(self) -> str:
        """All client addresses, as a client takes them."""
        return ",".join(self.config.client_addresses())

    def ask(self, number: int, request: dict[str, Any], timeout: float = 5.0) -> dict[str, Any]:
        """Put an administrative question to a replica. Raises ClientError."""
        return ask_blocking(self.client_address(number), request, timeout=timeout)

    def status(self, number: int, timeout: float = 2.0) -> dict[str, Any] | None:
        """A replica's status, None when it does not answer."""
        try:
            return self.ask(number, {"op": "status"}, timeout)
        except ClientError:
            return None

    def leader(self) -> int:
        """The replica that leads now; waits until one does. Raises ClusterFailed."""

        def leading() -> int | None:
            for number in self.numbers:
                status = self.status(number) if self.is_running(number) else None
                if status is not None and status["role"] == "leader":
                    return number
            return None

        return self.wait(leading, "a leader")

    def wait_in_step(self, *numbers: int, timeout: float = 60.0, interval: float = POLL) -> None:
        """Wait until these replicas (all by default) have applied what was decided when they
        came; each is asked every `interval` seconds, and an answer costs it a turn. Raises
        ClusterFailed, also when one of them ends."""
        waiting = list(numbers or self.numbers)

        def arrived() -> bool | None:
            for number in list(waiting):
                if not self.is_running(number):
                    code = self._processes[number].returncode
                    raise ClusterFailed(
                        f"replica {number} ended with status {code}:\n{self.log(number)}"
                    )
                status = self.status(number)
                if status is not None and status["in_step"]:
                    waiting.remove(number)
            return True if not waiting else None

        self.wait(arrived, "being in step", timeout=timeout, interval=interval)

    def digests(self, timeout: float = 60.0) -> tuple[int, dict[int, str]]:
        """(applied position, state digest of each replica), once all have applied equally far.

        Nothing may be written meanwhile. Raises ClusterFailed.
        """

        def equal() -> tuple[int, dict[int, str]] | None:
            try:
                answers = {n: self.ask(n, {"op": "digest"}, timeout=30.0) for n in self.numbers}
            except ClientError:
                return None
            applied = {answer["applied"] for answer in answers.values()}
            if len(applied) != 1:
                return None
            return applied.pop(), {n: a["state_digest"] for n, a in answers.items()}

        return self.wait(equal, "equal applied positions", timeout=timeout)

    def wait(
        self,
        condition: Callable[[], T | None],
        what: str,
        *,
        timeout: float = 60.0,
        interval: float = POLL,
    ) -> T:
        """Wait until `condition` gives something. Raises ClusterFailed after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            found = condition()
            if found is not None:
                return found
            if time.monotonic() > end:
                logs = "\n".join(f"-- replica {n}:\n{self.log(n)}" for n in self.numbers)
                raise ClusterFailed(f"waited {timeout} s in vain for {what}\n{logs}")
            time.sleep(interval)

    # -------------------------------------------------------------- logs

    def log_path(self, number: int) -> Path:
        """Where the output of a replica goes unless a sink was given."""
        return self.directory / f"replica-{number}.log"

    def log(self, number: int, characters: int = 3000) -> str:
        """The end of a replica's log; empty when it has none."""
        try:
            return self.log_path(number).read_text(errors="replace")[-characters:]
        except FileNotFoundError:
            return ""

    def _log_file(self, number: int) -> IO[bytes]:
        return self.log_path(number).open("ab")


def _addresses(replicas: int, base_ports: tuple[int, int, int] | None) -> dict[str, str]:
    """The settings that give each replica its ports."""
    if base_ports is None:
        ports = iter(free_ports(3 * replicas))
    else:
        ports = iter([base + n for n in range(replicas) for base in base_ports])
    return {
        f"replicas.{number}.{port}": f"127.0.0.1:{next(ports)}"
        for number in range(replicas)
        for port in ("peer", "client", "jpaxos")
    }

"""`mpaxos dev`: a whole cluster in the foreground of one terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.console import Console

from mpaxos.cli.errors import FAILED, OK
from mpaxos.config.checks import importable
from mpaxos.config.example import DEFAULT_CLIENT, DEFAULT_JPAXOS, DEFAULT_PEER
from mpaxos.config.values import MIB, parse_size
from mpaxos.errors import ConfigError
from mpaxos.local import KV, LocalCluster

LOG_SIZE = 64 * MIB
"""Of each replica; a quarter of a pool that is small."""

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "white")


def memory_directory() -> Path:
    """A directory for short-lived pools: tmpfs where there is one."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def _default_ports(replicas: int) -> tuple[int, int, int] | None:
    """The well-known ports if all of them are free, so that `mpaxos kv` finds them; else None."""
    bases = (DEFAULT_PEER, DEFAULT_CLIENT, DEFAULT_JPAXOS)
    for port in (base + number for base in bases for number in range(replicas)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return None
    return bases


class _Logs:
    """Prints the replicas' output line by line, each with its replica in its colour."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._threads: list[threading.Thread] = []

    def sink(self, number: int) -> IO[bytes]:
        """A pipe for the output of a replica."""
        reading, writing = os.pipe()
        thread = threading.Thread(target=self._copy, args=(number, reading), daemon=True)
        thread.start()
        self._threads.append(thread)
        return os.fdopen(writing, "wb")

    def _copy(self, number: int, reading: int) -> None:
        colour = COLOURS[number % len(COLOURS)]
        with os.fdopen(reading, "r", errors="replace") as lines:
            for line in lines:
                self._console.print(f"[{colour}]{number} |[/] ", end="")
                self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def join(self) -> None:
        """Wait until everything is printed; the replicas must have ended."""
        for thread in self._threads:
            thread.join(timeout=2)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does: with clean-up."""

    def interrupt(sign: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _sample(cluster: LocalCluster, service: str) -> str:
    if service == KV:
        where = (
            ""
            if cluster.client_address(0).endswith(f":{DEFAULT_CLIENT}")
            else (f" -a {cluster.addresses}")
        )
        return f"mpaxos kv put{where} greeting hello; mpaxos kv get{where} greeting"
    module, _, name = service.partition(":")
    return (
        f'python -c \'import mpaxos, {module}; m = mpaxos.connect_blocking("{cluster.addresses}", '
        f"{module}.{name}); ...'"
    )


def run_dev(
    service: str,
    replicas: int,
    pool_size: str,
    durability: str = "pmem",
    machine: str | None = None,
) -> int:
    """Run a local cluster until Ctrl-C or until all replicas have ended; the exit status."""
    problem = importable(service)
    if problem is not None:
        raise ConfigError(problem)
    size = parse_size(pool_size, "--pool-size")
    log_size = min(LOG_SIZE, size // 4)
    console = Console()
    logs = _Logs(console)
    directory = Path(tempfile.mkdtemp(prefix="mpaxos-dev-", dir=memory_directory()))
    try:
        with (
            _sigterm_as_interrupt(),
            LocalCluster(
                directory,
                replicas=replicas,
                service=service,
                name="dev",
                durability=durability,
                machine=machine,
                settings={"pool.size": str(size), "pool.log_size": str(log_size)},
                base_ports=_default_ports(replicas),
                sink=logs.sink,
            ) as cluster,
        ):
            return _run(cluster, console, service)
    except KeyboardInterrupt:
        console.print("stopped; the data was temporary and is gone")
        return OK
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        logs.join()


def _run(cluster: LocalCluster, console: Console, service: str) -> int:
    cluster.initialise()
    cluster.start()
    cluster.wait_in_step()
    leader = cluster.leader()
    console.rule("[bold]ready")
    for number in cluster.numbers:
        entry = cluster.config.replica(number)
        note = ", leads" if number == leader else ""
        console.print(f"replica {number}: client {entry.client}, jpaxos {entry.jpaxos}{note}")
    console.print(f"status:  mpaxos status -a {cluster.addresses}", soft_wrap=True)
    console.print(f"try:     {_sample(cluster, service)}", soft_wrap=True, markup=False)
    console.print("Ctrl-C ends it", style="dim")
    reported: set[int] = set()
    while len(reported) < len(cluster.numbers):
        for number in cluster.numbers:
            if number not in reported and not cluster.is_running(number):
                reported.add(number)
                code = cluster.process(number).returncode
                console.print(f"[red]replica {number} ended with status {code}")
        time.sleep(0.2)  # only how soon an end is told
    return FAILED

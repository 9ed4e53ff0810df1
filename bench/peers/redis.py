"""redis-server, one, without persistence: no replication at all, for orientation."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator

from bench.processes import processes
from mpaxos.bench.load import Workload
from mpaxos.bench.measure import Server, Target
from mpaxos.local import free_ports

NAME = "redis-server, one, no persistence"
PROTOCOL = "redis"


def why_not() -> str | None:
    """None when it is installed."""
    return None if shutil.which("redis-server") else "not installed (redis-server)"


@contextlib.contextmanager
def started(workload: Workload) -> Iterator[Target]:
    """The server, ready."""
    (port,) = free_ports(1)
    with processes("redis") as running:
        words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        words += ["--appendonly", "no", "--daemonize", "no", "--dir", str(running.directory)]
        pid = running.start([*words, "--maxclients", "20000"])

        def answers() -> bool:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")

        running.wait_for(answers, "redis-server")
        yield Target(
            addresses=[f"127.0.0.1:{port}"], servers=[Server("redis", "leader", pid)], text=NAME
        )

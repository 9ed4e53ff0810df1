"""etcd, three members, data on tmpfs or on a disk; puts over gRPC at the leader."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes import processes
from mpaxos.bench.load import Workload
from mpaxos.bench.measure import Server, Target
from mpaxos.local import free_ports

NAME = "etcd, three, on tmpfs"
PROTOCOL = "etcd"
MEMBERS = 3


def why_not() -> str | None:
    """None when it is installed."""
    return None if shutil.which("etcd") else "not installed (etcd-server)"


def _status(port: int) -> dict[str, Any]:
    """What a member says of itself."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v3/maintenance/status", data=b"{}", method="POST"
    )
    with urllib.request.urlopen(request, timeout=2) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _leads(port: int) -> bool:
    status = _status(port)
    leader = status.get("leader", "0")
    return bool(leader != "0" and leader == status["header"]["member_id"])


@contextlib.contextmanager
def started(workload: Workload, parent: Path | None = None, name: str = NAME) -> Iterator[Target]:
    """The members, with a leader; their data below `parent`, by default on tmpfs."""
    ports = free_ports(2 * MEMBERS)
    clients, peers = ports[:MEMBERS], ports[MEMBERS:]
    cluster = ",".join(f"m{i}=http://127.0.0.1:{peer}" for i, peer in enumerate(peers))
    with processes("etcd", parent) as running:
        pids = []
        for i, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            listen, own = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
            words = ["etcd", "--name", f"m{i}", "--data-dir", str(running.directory / f"m{i}")]
            words += ["--listen-client-urls", listen, "--advertise-client-urls", listen]
            words += ["--listen-peer-urls", own, "--initial-advertise-peer-urls", own]
            words += ["--initial-cluster", cluster, "--initial-cluster-state", "new"]
            words += ["--max-request-bytes", str(4 << 20), "--log-level", "error"]
            pids.append(running.start(words))
        running.wait_for(lambda: any(_leads(port) for port in clients), "a leader of etcd")
        leader = next(i for i, port in enumerate(clients) if _leads(port))
        yield Target(
            addresses=[f"127.0.0.1:{clients[leader]}"],
            servers=[
                Server(f"member {i}", "leader" if i == leader else "follower", pid)
                for i, pid in enumerate(pids)
            ],
            text=name,
        )

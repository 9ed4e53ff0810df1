"""The systems that are compared: the limits of the sockets, mpaxos in its settings, its peers."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import msgspec

from bench.peers import etcd, pysyncobj, redis, zookeeper
from bench.processes import PeerFailed, processes
from mpaxos.bench import cluster as clusters
from mpaxos.bench.load import Workload
from mpaxos.bench.measure import Measurement, Server, Show, Target, measure
from mpaxos.bench.services import PYTHON
from mpaxos.config.files import is_memory
from mpaxos.local import KV, free_ports

LIMIT = "limit: forward, await one"
ECHO = "limit: bare echo"
PUTS = "mpaxos: puts"
SPREAD = "mpaxos: puts, clients spread"
GETS = "mpaxos: gets (read-index)"
JPAXOS = "mpaxos: puts, JPaxos protocol"
COMMANDS = "mpaxos: Python @command"
DISK = "mpaxos: puts, durability disk"
ETCD_DISK = "etcd, three, on the same disk"

BINARIES = Path("build/bench-limit")
ON_DISK = Path("build")
"""Where data goes that is to be on a disk."""
SOURCES = Path(__file__).parent / "limit"

Run = Callable[[Workload], Measurement]


class Row(NamedTuple):
    """One way of using a system that runs."""

    name: str
    run: Run


class Group(NamedTuple):
    """Rows that share the same processes."""

    rows: tuple[str, ...]
    why_not: Callable[[], str | None]
    """Why it cannot be measured here; None when it can."""
    started: Callable[[Workload, Show], contextlib.AbstractContextManager[list[Row]]]
    """Runs it with room for the workload given."""


def _run(target: Target, show: Show, name: str, **changes: object) -> Row:
    def run(workload: Workload) -> Measurement:
        changed = msgspec.structs.replace(workload, **changes)
        where = msgspec.structs.replace(target, text=name)
        return measure(where, changed, show=show)

    return Row(name, run)


# ------------------------------------------------------------------ limits


def _compiler() -> str | None:
    if shutil.which("g++") is None:
        return "not built: no g++"
    return None


def build_limits() -> None:
    """Compile the two programs where they are older than their sources. Raises PeerFailed."""
    BINARIES.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.glob("*.?pp"))
    for name in ("echo", "forward"):
        binary = BINARIES / name
        if binary.exists() and binary.stat().st_mtime > newest:
            continue
        words = ["g++", "-std=c++20", "-O2", "-Wall", "-Wextra", "-o", str(binary)]
        done = subprocess.run(
            [*words, str(SOURCES / f"{name}.cpp")], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise PeerFailed(f"{name}.cpp does not compile\n{done.stderr[-1500:]}")


@contextlib.contextmanager
def _echo(workload: Workload, show: Show) -> Iterator[list[Row]]:
    build_limits()
    (port,) = free_ports(1)
    with processes("limit") as running:
        pid = running.start([str((BINARIES / "echo").absolute()), str(port)])
        running.wait_for(lambda: _said_ready(running.directory, 1), "the echo server")
        target = Target(
            addresses=[f"127.0.0.1:{port}"], servers=[Server("echo", "leader", pid)], text=ECHO
        )
        yield [_run(target, show, ECHO, protocol="echo")]


@contextlib.contextmanager
def _forward(workload: Workload, show: Show) -> Iterator[list[Row]]:
    build_limits()
    binary = str((BINARIES / "forward").absolute())
    port, *others = (str(port) for port in free_ports(3))
    with processes("limit") as running:
        servers = [
            Server("follower", "follower", running.start([binary, "follow", p])) for p in others
        ]
        running.wait_for(lambda: _said_ready(running.directory, 2), "the followers")
        servers.append(Server("leader", "leader", running.start([binary, "lead", port, *others])))
        running.wait_for(lambda: _said_ready(running.directory, 3), "the leader")
        target = Target(addresses=[f"127.0.0.1:{port}"], servers=servers, text=LIMIT)
        yield [_run(target, show, LIMIT, protocol="echo")]


def _said_ready(directory: Path, count: int) -> bool:
    logs = sorted(directory.glob("log-*"))
    return len(logs) == count and all("ready" in log.read_text() for log in logs)


# ------------------------------------------------------------------ mpaxos


@contextlib.contextmanager
def _native(workload: Workload, show: Show) -> Iterator[list[Row]]:
    # JPaxos clients cannot say that they leave: their sessions stay.
    roomy = msgspec.structs.replace(workload, connections=8 * workload.connections)
    with clusters.started(roomy, service=KV) as cluster:

        def row(name: str, target: str = "leader", **changes: object) -> Row:
            where = clusters.find_in(cluster, msgspec.structs.replace(workload, **changes), target)
            return _run(where, show, name, **changes)

        yield [
            row(PUTS),
            row(SPREAD, "spread"),
            row(GETS, reads=1.0),
            row(JPAXOS, protocol="jpaxos", depth=1),
        ]


@contextlib.contextmanager
def _python(workload: Workload, show: Show) -> Iterator[list[Row]]:
    with clusters.started(workload, service=PYTHON) as cluster:
        target = clusters.find_in(cluster, workload)
        yield [_run(target, show, COMMANDS, machine="command")]


@contextlib.contextmanager
def _disk(workload: Workload, show: Show) -> Iterator[list[Row]]:
    ON_DISK.mkdir(exist_ok=True)
    settings = {"durability": "disk", "machine": "volatile"}
    with clusters.started(workload, service=KV, parent=ON_DISK, settings=settings) as cluster:
        yield [_run(clusters.find_in(cluster, workload), show, DISK)]


# ------------------------------------------------------------------ peers


def _disk_problem() -> str | None:
    if is_memory(ON_DISK.absolute().parent):
        return f"{ON_DISK.absolute()} is in memory"
    return None


def _etcd_disk_problem() -> str | None:
    return _disk_problem() or etcd.why_not()


@contextlib.contextmanager
def _etcd_disk(workload: Workload, show: Show) -> Iterator[list[Row]]:
    ON_DISK.mkdir(exist_ok=True)
    with etcd.started(workload, ON_DISK.absolute(), ETCD_DISK) as target:
        yield [_run(target, show, ETCD_DISK, protocol=etcd.PROTOCOL)]


def _peer(peer: ModuleType) -> Group:
    @contextlib.contextmanager
    def started(workload: Workload, show: Show) -> Iterator[list[Row]]:
        with peer.started(workload) as target:
            yield [_run(target, show, peer.NAME, protocol=peer.PROTOCOL)]

    return Group((peer.NAME,), peer.why_not, started)


@contextlib.contextmanager
def _pysyncobj(workload: Workload, show: Show) -> Iterator[list[Row]]:
    with pysyncobj.started() as (nodes, leader):

        def run(asked: Workload) -> Measurement:
            show.begin(pysyncobj.NAME, asked.warm_up + asked.duration)
            try:
                return nodes.measure(leader, asked)
            finally:
                show.end()

        yield [Row(pysyncobj.NAME, run)]


def _always() -> None:
    return None


GROUPS = {
    "echo": Group((ECHO,), _compiler, _echo),
    "forward": Group((LIMIT,), _compiler, _forward),
    "mpaxos": Group((PUTS, SPREAD, GETS, JPAXOS), _always, _native),
    "python": Group((COMMANDS,), _always, _python),
    "disk": Group((DISK,), _disk_problem, _disk),
    "etcd-disk": Group((ETCD_DISK,), _etcd_disk_problem, _etcd_disk),
    "redis": _peer(redis),
    "etcd": _peer(etcd),
    "zookeeper": _peer(zookeeper),
    "pysyncobj": Group((pysyncobj.NAME,), pysyncobj.why_not, _pysyncobj),
}
"""In the order in which they take turns."""

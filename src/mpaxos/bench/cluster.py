"""Which servers a benchmark talks to: a running cluster, or one that it starts itself."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpaxos.bench.load import Workload
from mpaxos.bench.measure import Server, Target
from mpaxos.bench.usage import available_memory, listening_pid
from mpaxos.client.admin import ask_blocking
from mpaxos.config import format_size
from mpaxos.config.files import is_memory
from mpaxos.config.values import KIB, MIB, parse_address, parse_size
from mpaxos.errors import ClientError, ConfigError
from mpaxos.local import KV, LocalCluster

PREFIX = "mpaxos-load-"


class NoRoom(ConfigError):
    """The pools do not fit where they should go."""


LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def parse_target(text: str, replicas: int) -> int | None:
    """--target as the number of a replica, -1 for the leader, None for all of them.

    Raises ConfigError.
    """
    if text == "leader":
        return -1
    if text == "spread":
        return None
    word = text.removeprefix("replica").strip()
    if word.isdigit() and int(word) < replicas:
        return int(word)
    raise ConfigError(
        f"--target {text!r}: leader, spread, or the number of a replica, 0 to {replicas - 1}"
    )


def find(
    addresses: list[str], workload: Workload, target: str, jpaxos: list[str] | None = None
) -> Target:
    """The target in a running cluster with these client ports. `jpaxos` are its ports for JPaxos
    clients, in the same order. Raises ClientError when nobody leads or answers, ConfigError.
    """
    chosen = parse_target(target, len(addresses))
    ports = addresses
    if workload.protocol == "jpaxos":
        if jpaxos is None:
            raise ConfigError(
                "--protocol jpaxos needs the cluster file, which has the ports: give --cluster FILE"
            )
        ports = jpaxos
    statuses = [_status(address) for address in addresses]
    leader = next((i for i, s in enumerate(statuses) if s and s.get("role") == "leader"), None)
    if chosen == -1:
        if leader is None:
            answered = sum(status is not None for status in statuses)
            raise ClientError(
                f"{answered} of {len(addresses)} replicas answered and none leads: "
                "look at mpaxos status"
            )
        chosen = leader
    if chosen is None:
        # The leader first or not makes no difference: connections go round all of them.
        where, text = ports, "clients spread over all replicas"
    else:
        role = "the leader" if chosen == leader else "a follower"
        where, text = [ports[chosen]], f"clients at replica {chosen}, {role}"
    servers = [
        Server(f"replica {i}", "leader" if i == leader else "follower", pid)
        for i, address in enumerate(addresses)
        if (pid := _local_pid(address)) is not None
    ]
    return Target(addresses=where, servers=servers, text=text)


def find_in(cluster: LocalCluster, workload: Workload, target: str = "leader") -> Target:
    """The target in a cluster of this process."""
    jpaxos = [cluster.config.replica(n).jpaxos or "" for n in cluster.numbers]
    found = find(cluster.config.client_addresses(), workload, target, jpaxos)
    leader = cluster.leader()
    servers = [
        Server(f"replica {n}", "leader" if n == leader else "follower", cluster.process(n).pid)
        for n in cluster.numbers
    ]
    return Target(addresses=found.addresses, servers=servers, text=found.text)


def _status(address: str) -> dict[str, Any] | None:
    try:
        return ask_blocking(address, {"op": "status"}, timeout=5.0)
    except ClientError:
        return None


def _local_pid(address: str) -> int | None:
    """The process behind an address, if it is on this machine."""
    host, port = parse_address(address)
    return listening_pid(port) if host in LOCAL_HOSTS else None


# ------------------------------------------------------------------ clusters of our own


def settings_for(workload: Workload, given: dict[str, str] | None = None) -> dict[str, str]:
    """Settings that give the workload room: sizes of pool, log and reply table; `given` ones go
    before, and the pool makes room for them too. Raises ConfigError."""
    given = given or {}
    max_request = max(MIB, workload.size + 4 * KIB)
    log = parse_size(given.get("pool.log_size", max(64 * MIB, 16 * max_request)), "pool.log_size")
    # A cell per request in flight, and as many again for sessions of the run before.
    cells = max(16_384, 2 * workload.connections * workload.depth)
    replies = 64 * cells + 256 * 16_384
    # What an item counts against the limit, and what leaf, branch and the allocator make of it.
    limit = workload.keys * (workload.size + 112) + MIB
    state = workload.keys * (workload.size + 208) * 115 // 100
    settings = {
        "pool.size": str(log + replies + state + 128 * MIB),
        "pool.log_size": str(log),
        "limits.state_limit": str(limit),
        "limits.max_request": str(max_request),
        "limits.max_pending": str(max(8 * MIB, 4 * max_request)),
        "limits.max_reply_slots": str(cells),
        "limits.max_sessions": str(min(16_384, cells)),
    }
    return settings | given


@contextlib.contextmanager
def pool_directory(parent: Path | None, needed: int) -> Iterator[Path]:
    """A fresh directory with room for `needed` bytes, removed in the end, below `parent` (default:
    memory where there is a tmpfs). Raises NoRoom."""
    if parent is None:
        shared = Path("/dev/shm")
        parent = shared if shared.is_dir() else Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    free = shutil.disk_usage(parent).free
    if is_memory(parent):
        # A tmpfs may be larger than what is left of the memory behind it; filling that up ends
        # whatever else runs here. An eighth is for the page tables and the rest of us.
        free = min(free, available_memory() * 7 // 8)
    if free < needed:
        raise NoRoom(
            f"{parent} has {format_size(free)} free, the pools need {format_size(needed)}; give "
            "--pool-dir DIR, or fewer --keys"
        )
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Remove what benchmarks left that were killed themselves: their lock is free."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def started(
    workload: Workload,
    *,
    replicas: int = 3,
    service: str = KV,
    parent: Path | None = None,
    settings: dict[str, str] | None = None,
) -> Iterator[LocalCluster]:
    """A cluster on this machine with room for the workload, in step; gone in the end.

    Raises ConfigError, ClusterFailed.
    """
    merged = settings_for(workload, settings)
    needed = replicas * parse_size(merged["pool.size"], "pool.size")
    with (
        pool_directory(parent, needed) as directory,
        LocalCluster(
            directory, replicas=replicas, service=service, name="bench", settings=merged
        ) as cluster,
    ):
        cluster.initialise()
        cluster.start()
        cluster.wait_in_step()
        yield cluster

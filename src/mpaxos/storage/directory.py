"""A replica's directory: the marker of what it is, the pool, and a lock.

    replica.json   written last when the directory is made: cluster, replica, sizes, format
    pool           the persistent memory
    lock           locked by the process that uses the directory; holds its process id

A first start is explicit. A directory without a marker is never taken for a new replica, and a
marker without its pool never gets an empty one: a replica that forgot its promises and votes
could help to decide a slot twice.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec

from mpaxos._native import Pool
from mpaxos.config import ClusterConfig
from mpaxos.errors import (
    StorageCorrupt,
    StorageForeign,
    StorageFull,
    StorageLocked,
    StorageMissing,
    StorageVersion,
)
from mpaxos.storage.pmem import PmemStore

MARKER, POOL, LOCK = "replica.json", "pool", "lock"
FORMAT = 1


class Marker(msgspec.Struct, frozen=True):
    """Contents of replica.json."""

    format: int
    cluster: str
    """The cluster's id, 32 hexadecimal digits."""
    cluster_name: str
    replica: int
    replicas: int
    machine: str
    pool_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
    log_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]


def initialise(config: ClusterConfig, replica: int) -> None:
    """Make the directory of a replica, its pool and, last, its marker.

    Raises ConfigError when the cluster has no such replica, StorageForeign when there is a replica
    or a pool already, StorageFull when there is no room.
    """
    directory = config.directory(replica)
    pool, limits = config.pool, config.limits
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFull(f"cannot make {directory}: {error.strerror}") from error
    for name in (MARKER, POOL):
        if (directory / name).exists():
            raise StorageForeign(
                f"{directory} has a {name} already: this replica was initialised before. Nothing "
                "was changed. Its data may be removed only if the cluster never ran, or is given up"
            )
    Pool.create(
        str(directory / POOL),
        size=pool.size,
        log_size=pool.log_size,
        cluster=config.cluster_id,
        replica=replica,
        replicas=len(config.replicas),
        machine=config.service,
        state_limit=config.state_limit,
        max_sessions=limits.max_sessions,
        max_reply_slots=limits.max_reply_slots,
    )
    marker = Marker(
        format=FORMAT,
        cluster=config.id,
        cluster_name=config.name,
        replica=replica,
        replicas=len(config.replicas),
        machine=config.service,
        pool_size=pool.size,
        log_size=pool.log_size,
    )
    _write_durably(directory / MARKER, msgspec.json.format(msgspec.json.encode(marker)) + b"\n")


def open_directory(directory: Path, cluster_id: bytes, replica: int) -> ReplicaDirectory:
    """Lock and check a replica's directory.

    Raises StorageMissing, StorageForeign, StorageVersion, StorageCorrupt, StorageLocked.
    """
    marker = _read_marker(directory)
    if marker.cluster != cluster_id.hex():
        raise StorageForeign(
            f"{directory} belongs to cluster {marker.cluster_name!r} ({marker.cluster}), not to "
            f"{cluster_id.hex()}: check the cluster file and the directory"
        )
    if marker.replica != replica:
        raise StorageForeign(
            f"{directory} belongs to replica {marker.replica}, not to replica {replica}"
        )
    return ReplicaDirectory(directory, marker, _lock(directory))


class ReplicaDirectory:
    """A locked directory; a context manager that unlocks it."""

    def __init__(self, path: Path, marker: Marker, lock: int) -> None:
        self.path = path
        self.marker = marker
        self._lock = lock

    def open_store(self) -> PmemStore:
        """Open and verify the pool. Raises StorageMissing, StorageForeign, StorageCorrupt,
        StorageVersion, StorageLocked."""
        pool = self.path / POOL
        if not pool.exists():
            raise StorageMissing(
                f"{pool} is missing, though {self.path / MARKER} says that it was there. An empty "
                "one is not put in its place: a replica that forgot what it promised could make "
                "the cluster lose decided commands. Restore the pool (on tmpfs: it is gone after "
                "a reboot)"
            )
        marker = self.marker
        cluster = bytes.fromhex(marker.cluster)
        return PmemStore(
            Pool(str(pool), cluster=cluster, replica=marker.replica, size=marker.pool_size)
        )

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> ReplicaDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _read_marker(directory: Path) -> Marker:
    path = directory / MARKER
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StorageMissing(
            f"{directory} is not initialised (no {MARKER} in it): run `mpaxos init` for this "
            "replica once, before its first start"
        ) from None
    except OSError as error:
        raise StorageMissing(f"cannot read {path}: {error.strerror}") from error
    try:
        raw = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StorageCorrupt(f"{path} is damaged ({error}): restore it") from error
    if raw.get("format") != FORMAT:
        raise StorageVersion(
            f"{path} has format {raw.get('format')!r}, this version reads {FORMAT}: use the "
            "version that wrote it"
        )
    try:
        return msgspec.json.decode(data, type=Marker)
    except msgspec.DecodeError as error:
        raise StorageCorrupt(f"{path} is damaged ({error}): restore it") from error


def _lock(directory: Path) -> int:
    path = directory / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StorageLocked(
            f"{directory} is in use by process {holder}: two processes must never run the same "
            "replica"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _write_durably(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves all of it or nothing."""
    temporary = path.with_name(path.name + ".new")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror}") from error

"""A replica's directory: the marker of what it is, its durable memory, and a lock.

    replica.json   written last when the directory is made: cluster, replica, sizes, format
    lock           locked by the process that uses the directory; holds its process id
    lives          its lives and those of the others (mpaxos.storage.lives)
    pool           pmem with a persistent machine: promise, log and state
    log            beside a volatile machine: a pool for the log (pmem), a directory with a
                   write-ahead log (disk)
    promise        view: the promise
    snapshot-N     a volatile machine's state at slot N

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
from mpaxos.storage import disk, pmem
from mpaxos.storage.files import Identity, write_durably
from mpaxos.storage.lives import LIVES, Lives, LivesFile
from mpaxos.storage.pmem import PmemStore
from mpaxos.storage.view import PROMISE, ViewStore

MARKER, POOL, LOCK, LOG = "replica.json", "pool", "lock", "log"

FORMATS = (1, 2)
"""1: a pool with log and state, all that there was at first and still the default. 2: any other
durability and machine."""


class Marker(msgspec.Struct, frozen=True):
    """Contents of replica.json."""

    format: int
    cluster: str
    """The cluster's id, 32 hexadecimal digits."""
    cluster_name: str
    replica: int
    replicas: int
    machine: str
    """The service, "module:Class"."""
    pool_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
    """Bytes of the file `pool`, or of the pool `log`; 0 where there is none."""
    log_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
    durability: str = "pmem"
    memory: str = "persistent"
    """The setting `machine`: where the state lives."""
    lives: bool = False
    """There is a file `lives`, as there was not at first."""
    growing_to: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 0
    """Bytes of a larger pool that is to take the place of `pool`, or has just done so; 0: none."""


def initialise(config: ClusterConfig, replica: int, lives: Lives | None = None) -> None:
    """Make the directory of a replica, its durable memory and, last, its marker. `lives`: of one
    that takes the place of another; None: it is the first under its id.

    Raises ConfigError when the cluster has no such replica, StorageForeign when there is a replica
    or its memory already, StorageFull when there is no room.
    """
    directory = config.directory(replica)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFull(f"cannot make {directory}: {error.strerror}") from error
    left = [path.name for path in directory.glob("snapshot-*")]
    for name in (MARKER, POOL, LOG, PROMISE, LIVES, *left):
        if (directory / name).exists():
            raise StorageForeign(
                f"{directory} has a {name} already: this replica was initialised before. Nothing "
                "was changed. Its data may be removed only if the cluster never ran, or is given up"
            )
    write_replica(config, replica, lives or Lives())


def write_replica(config: ClusterConfig, replica: int, lives: Lives) -> None:
    """Fill an empty directory. Raises StorageFull."""
    directory = config.directory(replica)
    lost = lives.recovering  # its first pool lasts until it has received the state
    pool_size = _make_memory(config, replica, directory, brief=lost)
    LivesFile.create(directory, Identity(config.cluster_id, replica), lives)
    plain = config.durability == "pmem" and not config.volatile
    marker = Marker(
        format=1 if plain else 2,
        cluster=config.id,
        cluster_name=config.name,
        replica=replica,
        replicas=len(config.replicas),
        machine=config.service,
        pool_size=pool_size,
        log_size=config.pool.log_size,
        durability=config.durability,
        memory=config.machine,
        lives=True,
    )
    write_marker(directory, marker)


def write_marker(directory: Path, marker: Marker) -> None:
    """Write replica.json, whole or not at all. Raises StorageFull."""
    write_durably(directory / MARKER, msgspec.json.format(msgspec.json.encode(marker)) + b"\n")


def _make_memory(config: ClusterConfig, replica: int, directory: Path, *, brief: bool) -> int:
    """What is durable beside the lives; the size of the pool, 0 where there is none."""
    cluster, log_size = config.cluster_id, config.pool.log_size
    if not config.volatile:
        create_pool(config, replica, directory / POOL, brief=brief)
        return config.pool.size
    if config.durability == "pmem":
        return pmem.create_log(
            directory / LOG,
            cluster=cluster,
            replica=replica,
            replicas=len(config.replicas),
            log_size=log_size,
        )
    if config.durability == "disk":
        disk.create_log(
            directory / LOG,
            cluster=cluster,
            replica=replica,
            size=log_size,
            segment_size=config.segment_size,
        )
    elif config.durability == "view":
        ViewStore.create(directory / PROMISE, Identity(cluster, replica))
    return 0


def create_pool(config: ClusterConfig, replica: int, path: Path, *, brief: bool) -> None:
    """Make the pool of a persistent machine, see Pool.create. Raises StorageForeign,
    StorageFull."""
    limits = config.limits
    Pool.create(
        str(path),
        size=config.pool.size,
        log_size=config.pool.log_size,
        cluster=config.cluster_id,
        replica=replica,
        replicas=len(config.replicas),
        machine=config.service,
        state_limit=config.state_limit,
        max_sessions=limits.max_sessions,
        max_reply_slots=limits.max_reply_slots,
        brief=brief,
    )


def open_directory(
    directory: Path, cluster_id: bytes, replica: int, config: ClusterConfig | None = None
) -> ReplicaDirectory:
    """Lock and check a replica's directory, and that it was made for what `config` says.

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
    if config is not None:
        _check_axes(directory, marker, config)
    return ReplicaDirectory(directory, marker, _lock(directory))


def _check_axes(directory: Path, marker: Marker, config: ClusterConfig) -> None:
    made, wanted = (marker.durability, marker.memory), (config.durability, config.machine)
    if made != wanted:
        raise StorageForeign(
            f'{directory} was made for durability = "{made[0]}", machine = "{made[1]}", and the '
            f'cluster file says "{wanted[0]}" and "{wanted[1]}": what the one keeps, the other '
            "does not look for. Set them back; to change them, begin a new cluster"
        )


class ReplicaDirectory:
    """A locked directory; a context manager that unlocks it."""

    def __init__(self, path: Path, marker: Marker, lock: int) -> None:
        self.path = path
        self.marker = marker
        self._lock = lock

    @property
    def identity(self) -> Identity:
        """Whose directory it is."""
        return Identity(bytes.fromhex(self.marker.cluster), self.marker.replica)

    def open_store(self) -> PmemStore:
        """Open and verify the pool with log and state of a persistent machine. Raises
        StorageMissing, StorageForeign, StorageCorrupt, StorageVersion, StorageLocked."""
        return PmemStore(self.open_pool(POOL))

    def open_pool(self, name: str) -> Pool:
        """Open and verify a pool of this directory. Raises as open_store()."""
        pool, marker = self.path / name, self.marker
        if not pool.exists():
            raise StorageMissing(
                f"{pool} is missing, though {self.path / MARKER} says that it was there. An empty "
                "one is not put in its place: a replica that forgot what it promised could make "
                "the cluster lose decided commands. Restore the pool (on tmpfs: it is gone after "
                "a reboot)"
            )
        cluster, replica = self.identity.cluster, self.identity.replica
        size = marker.pool_size
        if name == POOL and marker.growing_to and pool.stat().st_size == marker.growing_to:
            size = marker.growing_to
        return Pool(str(pool), cluster=cluster, replica=replica, size=size)

    def rewrite_marker(self, **changes: int) -> None:
        """Change fields of the marker, durably. Raises StorageFull."""
        self.marker = msgspec.structs.replace(self.marker, **changes)
        write_marker(self.path, self.marker)

    def open_lives(self) -> LivesFile:
        """Raises StorageMissing, StorageForeign, StorageCorrupt."""
        if not self.marker.lives:
            # Made before there were lives: whoever keeps its log has but one.
            return LivesFile(self.path / LIVES, self.identity, Lives(started=True))
        return LivesFile.open(self.path, self.identity)

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
            f"{directory} is not initialised (no {MARKER} in it). If this replica never ran, run "
            "`mpaxos init` for it, once. If it did and its data is lost, it must not begin as a "
            "first one, which would vote as if it had never voted: `mpaxos init --replace`"
        ) from None
    except OSError as error:
        raise StorageMissing(f"cannot read {path}: {error.strerror}") from error
    try:
        raw = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StorageCorrupt(f"{path} is damaged ({error}): restore it") from error
    if raw.get("format") not in FORMATS:
        raise StorageVersion(
            f"{path} has format {raw.get('format')!r}, this version reads {FORMATS}: use the "
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

"""Making the pool of a replica larger, while the replica does not run.

The state is copied as an image (docs/image.md) into a new pool, verified, and gets the promise and
all records above its slot, as after a state transfer; then it takes the place of the old one. The
marker names both sizes meanwhile, so a crash at any point leaves a replica that starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import msgspec

from mpaxos._native import Engine, ImageSource
from mpaxos.config import ClusterConfig, format_size
from mpaxos.errors import ConfigError, invariant
from mpaxos.runtime.pool_sink import PoolSink
from mpaxos.storage.directory import POOL, ReplicaDirectory, open_directory
from mpaxos.storage.pmem import PmemStore

CHUNK = 1 << 20
"""Bytes of a chunk when nobody has to be served meanwhile."""

SPARE = 64 << 20
"""Bytes by which a pool has to become larger, at least: below it is not worth the copy."""


class Grown(msgspec.Struct):
    """What `mpaxos grow` did."""

    replica: int
    old_size: int
    new_size: int
    state_limit: int
    applied: int
    """Slot; the same on all replicas before a limit is raised."""
    bytes: int
    """Copied."""
    seconds: float


def grow(
    config: ClusterConfig,
    replica: int,
    size: int,
    state_limit: int | None,
    progress: Callable[[int, int], None],
) -> Grown:
    """Make the pool of a stopped replica larger. `size` and `state_limit` in bytes, None: as it
    was. `progress` is told the bytes copied and an estimate of all.

    Raises ConfigError, StorageError; then the pool is as it was.
    """
    path = config.directory(replica)
    with open_directory(path, config.cluster_id, replica) as directory:
        if directory.marker.memory != "persistent":
            raise ConfigError(
                "grow: a volatile machine has no pool that lasts; set a larger pool.size in the "
                "cluster file and restart the replica"
            )
        with closing(directory.open_store()) as store:
            return _grow(directory, store, size, state_limit, progress)


def _grow(
    directory: ReplicaDirectory,
    store: PmemStore,
    size: int,
    state_limit: int | None,
    progress: Callable[[int, int], None],
) -> Grown:
    began = time.monotonic()
    info = dict(store.pool.info())
    old_size, old_limit = int(info["size"]), int(info["state_limit"])
    limit = old_limit if state_limit is None else state_limit
    _check(size, old_size, limit, old_limit, int(info["log_size"]))
    identity = directory.identity
    sink = PoolSink(
        directory.path / POOL,
        cluster=identity.cluster,
        replica=identity.replica,
        info=info | {"size": size, "state_limit": limit},
        larger=limit > old_limit,
    )
    try:
        sink.begin()
        slot, copied = _copy(store, sink, progress)
        # From here on either size of the file is right.
        directory.rewrite_marker(growing_to=size)
        sink.switch(store, slot)
        directory.rewrite_marker(pool_size=size, growing_to=0)
        sink.remove_replaced()
    except BaseException:
        sink.drop()
        raise
    seconds = time.monotonic() - began
    return Grown(identity.replica, old_size, size, limit, slot, copied, seconds)


def _check(size: int, old_size: int, limit: int, old_limit: int, log_size: int) -> None:
    if size < old_size + SPARE:
        raise ConfigError(
            f"grow: the pool has {format_size(old_size)}; the new size must be at least "
            f"{format_size(old_size + SPARE)}"
        )
    if limit < old_limit:
        raise ConfigError(
            f"grow: the limit of the state is {format_size(old_limit)} and cannot be lowered"
        )
    room = (size - log_size) * 9 // 10
    if limit > room:
        raise ConfigError(
            f"grow: a state of {format_size(limit)} needs a larger pool; one of "
            f"{format_size(size)} has room for {format_size(room)}"
        )


def _copy(
    store: PmemStore, sink: PoolSink, progress: Callable[[int, int], None]
) -> tuple[int, int]:
    """All of the state, verified at the end; its slot, and the bytes it took."""
    copied, slot = 0, None
    with closing(ImageSource(Engine(store.pool))) as source:
        while slot is None:
            chunk = source.next_chunk(CHUNK)
            if chunk is None:
                break
            slot = sink.install(chunk)
            copied += len(chunk)
            done = source.progress()
            total = copied * max(done["total"], done["items"]) // max(1, done["items"])
            progress(copied, max(copied, total))
    invariant(slot is not None, "an image without an end")
    return slot or 0, copied

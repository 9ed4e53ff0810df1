"""Where a state from another replica is installed, as durability and machine say."""

from __future__ import annotations

import logging

from mpaxos.config import ClusterConfig
from mpaxos.errors import StorageFull
from mpaxos.runtime.pool_sink import SUFFIX, PoolSink
from mpaxos.runtime.scratch_sink import ScratchSink
from mpaxos.runtime.snapshot_sink import SnapshotSink
from mpaxos.runtime.transfer import StateSink
from mpaxos.storage.directory import POOL, ReplicaDirectory
from mpaxos.storage.memory import Memory

log = logging.getLogger("mpaxos.transfer")


def make_sink(directory: ReplicaDirectory, memory: Memory, config: ClusterConfig) -> StateSink:
    """The one that fits what a restart finds: a pool, a log and snapshots, or nothing."""
    marker = directory.marker
    if marker.memory == "persistent":
        identity = directory.identity
        return PoolSink(
            directory.path / POOL,
            cluster=identity.cluster,
            replica=identity.replica,
            info=memory.pool.info(),
        )
    if memory.kept is not None and memory.snapshots is not None:
        return SnapshotSink(config, marker.replica, memory.snapshots)
    return ScratchSink(config, marker.replica)


def prepare(directory: ReplicaDirectory) -> None:
    """For a replica that starts from nothing: make the place ahead into which it will receive its
    state. Without room for it nothing happens: then room is needed when the state comes."""
    if directory.marker.memory != "persistent":
        return
    store = directory.open_store()
    try:
        info, identity = store.pool.info(), directory.identity
    finally:
        store.close()
    sink = PoolSink(
        directory.path / POOL, cluster=identity.cluster, replica=identity.replica, info=info
    )
    try:
        sink.prepare()
    except StorageFull as error:
        log.warning("no place is made yet for the state that is to be received: %s", error)


def finish_switch(directory: ReplicaDirectory) -> None:
    """At a start: switch to a state that an earlier life had received completely, and did not come
    to put in the place of its own. Raises StorageError."""
    if not (directory.path / (POOL + SUFFIX)).exists():
        return
    store = directory.open_store()
    try:
        identity = directory.identity
        sink = PoolSink(
            directory.path / POOL,
            cluster=identity.cluster,
            replica=identity.replica,
            info=store.pool.info(),
        )
        slot = sink.complete_at()
        if slot is not None and slot > store.pool.applied_upto:
            try:
                sink.switch(store, slot)
            except StorageFull as error:
                # The old pool still counts, and the state can be had again.
                log.warning("a state that had been received is given up: %s", error)
                sink.drop()
                return
            log.info("switched to the state at slot %d that had been received", slot)
    finally:
        store.close()

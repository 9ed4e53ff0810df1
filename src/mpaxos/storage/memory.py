"""Everything a replica remembers, opened: the store of the acceptor, the pool of the machine, the
snapshots, the lives; put together as durability and machine say.

| durability | store                         | machine's pool   | what a restart finds            |
|------------|-------------------------------|------------------|---------------------------------|
| pmem       | PmemStore over `pool`         | the same         | all of it                       |
| pmem       | PmemLog over `log`            | scratch          | promise, log, snapshots         |
| disk       | DiskStore over `log`          | scratch          | promise, log, snapshots         |
| view       | ViewStore: `promise`; scratch | the same scratch | promise, snapshots, lives       |
| epoch      | PmemStore over scratch        | the same scratch | snapshots, lives                |
| none       | PmemStore over scratch        | the same scratch | that it must not come back      |
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from mpaxos._native import Pool
from mpaxos.config import ClusterConfig
from mpaxos.core.types import Mark, Slot
from mpaxos.storage.directory import LOG, ReplicaDirectory
from mpaxos.storage.disk import DiskStore, open_log
from mpaxos.storage.lives import LivesFile, LivesLaterStore, LivesStore
from mpaxos.storage.pmem import PmemLog, PmemStore
from mpaxos.storage.restore import Restored, restore
from mpaxos.storage.scratch import make_scratch
from mpaxos.storage.snapshots import NO_SNAPSHOT, Snapshot, Snapshots
from mpaxos.storage.view import PROMISE, ViewStore


class Memory:
    """What open_memory() put together. Close it after whatever uses the pool has stopped."""

    def __init__(
        self, lives: LivesFile, snapshots: Snapshots | None, restored: Restored | None
    ) -> None:
        self.lives = lives
        self.snapshots = snapshots
        """None: none are taken."""
        self.newest = NO_SNAPSHOT if restored is None else restored.snapshot
        """The newest valid snapshot; moved on as new ones become durable."""
        self.pool: Pool
        """Where the machine's state is."""
        self.store: LivesStore
        self.kept: PmemLog | DiskStore | None = None
        """The log, where it outlives the state: then snapshots bound its truncation."""
        self.later: LivesLaterStore | None = None
        """The store, if it can make writes durable while the loop goes on."""
        self._damaged: list[Slot] = [] if restored is None else restored.damaged
        self._closing = ExitStack()

    def position(self) -> tuple[Mark, int]:
        """Position and time of the machine. Between two slots only."""
        return Mark(self.pool.applied_upto, self.pool.applied_digest), self.pool.applied_time

    def snapshotted(self) -> tuple[Mark, int]:
        """Position and time of the newest snapshot."""
        return self.newest.mark, self.newest.time

    def took(self, snapshot: Snapshot) -> None:
        """A new snapshot is durable."""
        self.newest = snapshot

    def accept(self) -> None:
        """All was found good: take damaged snapshots that were passed over out of the way."""
        for slot in self._damaged:
            if self.snapshots is not None:
                self.snapshots.set_aside(slot)
        self._damaged = []

    def info(self) -> dict[str, Any]:
        """Sizes for people: those of the pool, and of the log wherever it is."""
        info: dict[str, Any] = dict(self.pool.info())
        kept = self.kept
        if kept is not None:
            info["log_size"] = kept.log_size
            info["log_used"] = kept.log_size - kept.log_room
        return info

    def close(self) -> None:
        self._closing.close()

    def open_store(self, directory: ReplicaDirectory) -> None:
        """Open what the acceptor needs, beside `pool`."""
        marker, identity = directory.marker, directory.identity
        inner: PmemStore | ViewStore
        if marker.durability == "disk":
            disk = open_log(
                directory.path / LOG,
                cluster=identity.cluster,
                replica=identity.replica,
                applied=self.position,
                truncatable=self.snapshotted,
            )
            self._closing.callback(disk.close)
            self.kept = disk
            self.store = self.later = LivesLaterStore(disk, self.lives)
            return
        if marker.durability == "pmem" and marker.memory == "volatile":
            log = directory.open_pool(LOG)
            self._closing.callback(log.close)
            inner = self.kept = PmemLog(log, self.position, self.snapshotted)
        elif marker.durability == "view":
            inner = ViewStore(PmemStore(self.pool), directory.path / PROMISE, identity)
        else:
            inner = PmemStore(self.pool)
        self.store = LivesStore(inner, self.lives)

    def hold(self, pool: Pool) -> None:
        """`pool` is where the machine's state is."""
        self.pool = pool
        self._closing.callback(pool.close)


def taken_over(directory: ReplicaDirectory, pool: Pool) -> Memory:
    """What a replica goes on with, without a crash, whose log and state are both in `pool`, a
    scratch pool that was filled from another replica and from its own old one."""
    marker = directory.marker
    snapshots = None
    if marker.durability != "none":
        snapshots = Snapshots(directory.path, directory.identity, marker.machine)
    memory = Memory(directory.open_lives(), snapshots, None)
    memory.hold(pool)
    memory.open_store(directory)
    return memory


def open_memory(directory: ReplicaDirectory, config: ClusterConfig) -> Memory:
    """Open all that the replica of a locked directory remembers, and restore its machine from the
    newest snapshot.

    Raises StorageError, of all kinds; ConfigError (no directory for the scratch pool, changed
    limits).
    """
    marker = directory.marker
    lives = directory.open_lives()
    lives.check(marker.durability)
    if marker.memory == "persistent":
        memory = Memory(lives, None, None)
        memory.hold(directory.open_store().pool)
    elif marker.durability == "none":
        memory = Memory(lives, None, None)
        memory.hold(make_scratch(config, marker.replica, installing=False))
    else:
        snapshots = Snapshots(directory.path, directory.identity, marker.machine)
        restored = restore(config, marker.replica, snapshots)
        memory = Memory(lives, snapshots, restored)
        memory.hold(restored.pool)
    try:
        memory.open_store(directory)
    except BaseException:
        memory.close()
        raise
    return memory

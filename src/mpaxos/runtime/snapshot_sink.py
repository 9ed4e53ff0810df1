"""A snapshot that comes from another replica, for a replica whose machine is volatile.

The chunks are written to a file as they come, and installed in a scratch pool beside the machine's:
that verifies them. The complete file then becomes the newest snapshot, which the next life is
restored from; the log, with promise and votes, is where it was.

    snapshot.transfer    being received; removed at the next start

There must be room for a second scratch pool while a state is being received.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mpaxos._native import Chunk, ImageTarget, Pool
from mpaxos.config import ClusterConfig
from mpaxos.core.types import Mark, Slot
from mpaxos.errors import invariant
from mpaxos.storage.scratch import make_scratch
from mpaxos.storage.snapshots import Snapshots, SnapshotWriter
from mpaxos.storage.store import Store

NAME = "snapshot.transfer"


class _Received(Snapshots):
    """The same snapshots; a new one is written beside those that are taken here."""

    @property
    def _new_path(self) -> Path:
        return self.directory / NAME


class SnapshotSink:
    """mpaxos.runtime.transfer.StateSink for a volatile machine that takes snapshots."""

    def __init__(self, config: ClusterConfig, replica: int, snapshots: Snapshots) -> None:
        self._config = config
        self._replica = replica
        self._snapshots = _Received(snapshots.directory, snapshots.identity, snapshots.machine)
        self._pool: Pool | None = None
        self._target: ImageTarget | None = None
        self._writer: SnapshotWriter | None = None

    @property
    def prepared(self) -> bool:
        """Never: what it needs is gone with the process."""
        return False

    def found(self) -> tuple[int, int] | None:
        """Nothing: it is begun anew, as the scratch pool is gone."""
        self._snapshots.clean()
        return None

    def begin(self) -> None:
        """Begin a file and a scratch pool. Raises StorageFull, ConfigError, OSError."""
        self.drop()
        self._pool = make_scratch(self._config, self._replica, installing=True)
        self._target = ImageTarget(self._pool)
        self._writer = self._snapshots.begin()

    def install(self, data: bytes | Chunk) -> Slot | None:
        """Raises OSError too, when the file cannot be written."""
        pool, target, writer = self._pool, self._target, self._writer
        if pool is None or target is None or writer is None:
            invariant(False, "a chunk without a place for it")
            return None
        complete = target.install(data)
        writer.add(bytes(data))
        if not complete:
            return None
        mark = Mark(pool.applied_upto, pool.applied_digest)
        writer.finish(mark, pool.applied_time)
        self._writer = None
        self._close()
        return mark.slot

    def drop(self) -> None:
        """What was finished stays: it is a snapshot like any other."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        self._close()

    def switch(self, store: Store, slot: Slot) -> None:
        """Nothing: the snapshot is complete, and the log where it was."""

    def _close(self) -> None:
        self._target = None
        if self._pool is not None:
            with contextlib.suppress(OSError):
                self._pool.close()
            self._pool = None

"""A pool beside the one in use, into which a state is installed; in its place once complete.

    pool            the one that counts
    pool.transfer   the other one; a replica is never started from it
    pool.replaced   what was the one that counts, until somebody has time to remove it

The pools have equal sizes, so there must be room for two while a state is being received.
A crash at any point leaves `pool` as it was or replaced by a complete one: the rename is the only
thing that happens to it. What is left of `pool.transfer` is gone on with at the next start, if its
source still has the image, or put in its place if it was complete. `mpaxos init --replace` makes it
ahead, empty.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Any

from mpaxos._native import Chunk, ImageTarget, Pool
from mpaxos.core.output import Write, WritePromise, WriteRecord
from mpaxos.core.transfer import carried_over
from mpaxos.core.types import Ballot, Slot
from mpaxos.errors import MpaxosError, StorageError, invariant
from mpaxos.storage.files import sync_directory
from mpaxos.storage.pmem import PmemStore
from mpaxos.storage.store import Store

log = logging.getLogger("mpaxos.transfer")

SUFFIX = ".transfer"

REPLACED = ".replaced"

REPLACED_KEPT = 5.0
"""Seconds of the next life before the replaced pool is removed: to give back the memory of a large
one takes a third of a second per GiB, which is better spent when the replica is in step."""


class PoolSink:
    """mpaxos.runtime.transfer.StateSink for a replica whose state is in a pool."""

    def __init__(
        self,
        pool: Path,
        *,
        cluster: bytes,
        replica: int,
        info: dict[str, Any],
        larger: bool = False,
    ) -> None:
        """`pool`: path of the present one; `info`: what its Pool.info() said. The new one is made
        alike. `larger`: `info` has a higher limit of the state than the images that come."""
        self._path = pool
        self._new = pool.with_name(pool.name + SUFFIX)
        self._replaced = pool.with_name(pool.name + REPLACED)
        self._cluster = cluster
        self._replica = replica
        self._info = info
        self._larger = larger
        self._pool: Pool | None = None
        self._target: ImageTarget | None = None
        self._prepared = False
        """An empty pool is open, and nothing was installed in it yet."""

    def prepare(self) -> None:
        """Make the empty pool ahead: reserving its memory takes a quarter of a second per GiB and
        more. Raises StorageFull; there is none then."""
        self.begin()
        self._close()

    @property
    def prepared(self) -> bool:
        """An empty pool is ready that nothing was installed in yet."""
        return self._prepared

    def found(self) -> tuple[int, int] | None:
        """Image and next chunk of what is there unfinished; an empty pool is kept for begin(). What
        is damaged is removed, and what was replaced in an earlier life, a little later."""
        if self._replaced.exists():
            timer = threading.Timer(REPLACED_KEPT, self.remove_replaced)
            timer.daemon = True
            timer.start()
        try:
            if not self._new.exists():
                self.drop()
                return None
            self._open()
            if self._pool is not None and self._target is not None:
                progress = self._target.progress()
                if progress["next"] > 0:
                    return progress["image"], progress["next"]
                self._prepared = self._fits(self._pool.info())
                if self._prepared:
                    return None
        except MpaxosError as error:
            log.warning("what is left of a state that was being received is removed: %s", error)
        self.drop()
        return None

    def complete_at(self) -> Slot | None:
        """The slot of a complete state that an earlier life received and did not switch to."""
        if not self._new.exists():
            return None
        try:
            pool = self._reopen()
        except StorageError:
            return None
        slot = pool.applied_upto
        pool.close()
        return slot

    def begin(self) -> None:
        """Make an empty pool, if there is none yet. Raises StorageFull."""
        if self._prepared:
            self._prepared = False
            return
        self.drop()
        info = self._info
        Pool.create(
            str(self._new),
            size=info["size"],
            log_size=info["log_size"],
            cluster=self._cluster,
            replica=self._replica,
            replicas=info["replicas"],
            machine=info["machine"],
            state_limit=info["state_limit"],
            max_sessions=info["max_sessions"],
            max_reply_slots=info["max_reply_slots"],
            installing=True,
        )
        self._open()

    def install(self, data: bytes | Chunk) -> Slot | None:
        """Install a chunk. The final one's transaction compares all that is in the pool with what
        the source counted and summed up, and only then makes it a pool that can be opened."""
        invariant(self._target is not None, "a chunk without a pool for it")
        if self._target is None or not self._target.install(data):
            return None
        slot = self._pool.applied_upto if self._pool is not None else 0
        self._close()
        return slot

    def drop(self) -> None:
        self._prepared = False
        self._close()
        for path in (self._new, self._new.with_name(self._new.name + ".new")):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def switch(self, store: Store, slot: Slot) -> None:
        """Raises StorageIncomplete unless an image was installed completely."""
        recovered = store.recovered()
        invariant(slot >= recovered.applied.slot, f"a switch back to slot {slot}")
        pool = self._reopen()
        try:
            # A switch that was interrupted has written some of it: the promise last of all.
            held = {number for number, _, _ in pool.slots()}
            writes: list[Write] = [
                write
                for write in carried_over(recovered, store, slot)
                if (isinstance(write, WriteRecord) and write.record.slot not in held)
                or (isinstance(write, WritePromise) and write.ballot > Ballot(*pool.promised))
            ]
            PmemStore(pool).write(writes)
        finally:
            pool.close()
        with open(self._new, "rb") as file:
            os.fsync(file.fileno())
        self.remove_replaced()
        # Where there are no such links the memory is given back at once.
        with contextlib.suppress(OSError):
            os.link(self._path, self._replaced)
        os.rename(self._new, self._path)
        sync_directory(self._path.parent)

    def remove_replaced(self) -> None:
        """Remove the pool whose place the new one took."""
        with contextlib.suppress(FileNotFoundError):
            self._replaced.unlink()

    # ----------------------------------------------------------------------------------------

    def _fits(self, found: dict[str, Any]) -> bool:
        names = ("size", "log_size", "machine", "replicas")
        limits = ("state_limit", "max_sessions", "max_reply_slots")
        return all(found[name] == self._info[name] for name in names + limits)

    def _open(self) -> None:
        """Open what is being installed, and go on where it is."""
        self._pool = Pool(
            str(self._new),
            cluster=self._cluster,
            replica=self._replica,
            size=self._info["size"],
            installing=True,
        )
        installing = self._pool.installing
        self._target = ImageTarget(self._pool, larger=self._larger) if installing else None

    def _reopen(self) -> Pool:
        """Open it as the pool of a replica. Raises StorageIncomplete when it is none yet."""
        return Pool(
            str(self._new), cluster=self._cluster, replica=self._replica, size=self._info["size"]
        )

    def _close(self) -> None:
        self._target = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

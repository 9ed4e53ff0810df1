"""The store of `durability = "view"`: the promise alone is durable (JPaxos ViewSS).

A replica syncs its promise to a small file when the ballot changes, which is when the leader does;
accepted batches lie in a scratch pool and are gone after a crash. A restarted replica knows the
highest ballot it may have voted in, but not for what: it has to recover from the others before it
votes again (N. Santos et al., "Recovery in state machine replication", and docs/durability.md). So
a majority must stay up.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mpaxos.core.output import Write, WritePromise
from mpaxos.core.types import ZERO_BALLOT, Ballot, Record, Recovered, Slot
from mpaxos.storage.files import Identity, read_sealed, write_sealed
from mpaxos.storage.pmem import PmemStore

PROMISE = "promise"


class ViewStore:
    """mpaxos.storage.store.Store: the promise in a file, all else in a scratch pool."""

    def __init__(self, inner: PmemStore, path: Path, identity: Identity) -> None:
        """Raises StorageMissing, StorageForeign, StorageCorrupt."""
        self._inner = inner
        self._path = path
        self._identity = identity
        self._promised = read_sealed(path, PROMISE, identity, Ballot)

    @staticmethod
    def create(path: Path, identity: Identity) -> None:
        """Make the file of a replica that has promised nothing. Raises StorageFull."""
        write_sealed(path, PROMISE, identity, ZERO_BALLOT)

    def recovered(self) -> Recovered:
        return msgspec.structs.replace(self._inner.recovered(), promised=self._promised)

    def write(self, writes: list[Write]) -> None:
        """As Store.write, where only a promise outlives the process. The last one of a turn covers
        the earlier ones."""
        promises = [write.ballot for write in writes if isinstance(write, WritePromise)]
        if promises:
            write_sealed(self._path, PROMISE, self._identity, promises[-1])
            self._promised = promises[-1]
        self._inner.write(writes)

    def read(self, slot: Slot) -> Record | None:
        return self._inner.read(slot)

    @property
    def log_room(self) -> int:
        return self._inner.log_room

    def close(self) -> None:
        self._inner.close()

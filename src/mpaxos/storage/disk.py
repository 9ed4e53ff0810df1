"""The store on an ordinary disk: promise and log of one replica in a write-ahead log.

Everything that a turn writes is one write and one fdatasync (group commit). What survives: the
crash of any number of replicas, power cuts included, as long as the devices keep what they
synced; a log that is damaged is refused, never guessed at. Format and argument:
docs/storage-disk.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from mpaxos._native import WAL_DECIDED, WAL_PROMISE, WAL_RECORD, WAL_TRUNCATE, Wal
from mpaxos.core.invariant import InvariantViolated, invariant
from mpaxos.core.output import Truncate, Write, WritePromise, WriteRecord
from mpaxos.core.types import Ballot, Record, Recovered, Slot, Value
from mpaxos.errors import ConfigError
from mpaxos.storage.store import Position, check_reach

if TYPE_CHECKING:
    from mpaxos._native import Batch

SEGMENT_SIZE = 64 << 20
"""Bytes of one segment, where nothing else is asked for."""

FEWEST_SEGMENTS = 3
"""The one being written, the next one, and the reserve."""

DECIDED_EVERY = 32
"""Slots after which the log is told how far it is decided. So many, at most, and those that were
never told about, are decided anew after a crash of all."""


def create_log(
    path: Path, *, cluster: bytes, replica: int, size: int, segment_size: int = SEGMENT_SIZE
) -> None:
    """Create the directory `path` with a log that takes `size` bytes on disk, rounded down to
    whole segments of `segment_size` bytes (a multiple of 4 KiB). A crash leaves all of it or
    nothing.

    A record may have up to a sixteenth of a segment, so `segment_size` must be at least 16 times
    the largest batch. Raises StorageFull (no room: all of it is reserved now), StorageForeign
    (something is there), ConfigError.
    """
    segments = size // segment_size
    if segments < FEWEST_SEGMENTS:
        raise ConfigError(
            f"a log of {size} bytes is shorter than {FEWEST_SEGMENTS} segments of {segment_size} "
            "bytes: make it larger, or its segments smaller"
        )
    Wal.create(
        str(path), cluster=cluster, replica=replica, segments=segments, segment_size=segment_size
    )


class DiskStore:
    """mpaxos.storage.store.Store over an open write-ahead log; also a LaterStore and a KeptLog."""

    def __init__(self, wal: Wal, applied: Position, truncatable: Position | None = None) -> None:
        """`applied`: the machine's position when the replica starts; `truncatable`: that of its
        newest snapshot, as far as which records may be given up; by default the same."""
        self.wal = wal
        self._applied = applied
        self._truncatable = truncatable or applied
        self._decided = self._written = wal.decided_upto

    def recovered(self) -> Recovered:
        """Raises StorageCorrupt when the log begins after the machine's position: then commands
        are missing that neither the log nor the machine has."""
        wal = self.wal
        mark, time = self._applied()
        check_reach(wal.truncated_upto, mark.slot)
        return Recovered(
            promised=Ballot(*wal.promised),
            accepted=[
                (slot, Ballot(round_, leader))
                for slot, round_, leader in wal.slots()
                if slot > mark.slot
            ],
            applied=mark,
            applied_time=time,
            truncated_upto=wal.truncated_upto,
            log_room=wal.log_room,
            log_size=wal.log_size,
        )

    def write(self, writes: list[Write]) -> None:
        """As Store.write. A truncation that comes alone when the log is full is only noted, and
        becomes durable with the next write: that an older one is found after a crash is safe.

        Raises StorageFull (nothing was written) and StorageError: the device failed, what of these
        writes it holds is unknown, and nothing can be written any more.
        """
        self.wal.write(self._encoded(writes))

    def submit(self, writes: list[Write]) -> int:
        """Begin to write; a ticket. The writes are durable once durable_upto() has reached it;
        read() sees them at once. Raises StorageFull (nothing was written), StorageError."""
        return self.wal.submit(self._encoded(writes))

    def wait(self, ticket: int) -> None:
        """Return when what the ticket stands for is durable. Raises StorageError."""
        self.wal.wait(ticket)

    def durable_upto(self) -> int:
        """The last ticket that is durable. Raises StorageError."""
        return self.wal.durable_upto()

    def fileno(self) -> int:
        """An eventfd, readable when durable_upto() has moved since it was read."""
        return self.wal.fileno()

    def read(self, slot: Slot) -> Record | None:
        found = self.wal.read(slot)
        if found is None:
            return None
        round_, leader, time, batch = found
        return Record(slot, Ballot(round_, leader), Value(batch, time))

    @property
    def log_room(self) -> int:
        return self.wal.log_room

    @property
    def log_size(self) -> int:
        return self.wal.log_size

    @property
    def decided_upto(self) -> Slot:
        return self._written

    def decided(self, upto: Slot) -> None:
        self._decided = upto

    def close(self) -> None:
        self.wal.close()

    def _encoded(self, writes: list[Write]) -> list[tuple[int, int, int, int, int, Batch | None]]:
        encoded: list[tuple[int, int, int, int, int, Batch | None]] = []
        for write in writes:
            if isinstance(write, WriteRecord):
                slot, (round_, leader), (batch, time) = write.record
                encoded.append((WAL_RECORD, slot, round_, leader, time, cast("Batch", batch)))
            elif isinstance(write, WritePromise):
                encoded.append((WAL_PROMISE, 0, write.ballot.round, write.ballot.leader, 0, None))
            else:
                if not isinstance(write, Truncate):
                    raise InvariantViolated(f"a write that the log has no place for: {write!r}")
                bound = self._truncatable()[0].slot
                invariant(write.upto <= bound, f"{write} beyond the snapshot of slot {bound}")
                encoded.append((WAL_TRUNCATE, write.upto, 0, 0, 0, None))
        if self._decided >= self._written + DECIDED_EVERY and encoded:
            encoded.append((WAL_DECIDED, self._decided, 0, 0, 0, None))
            self._written = self._decided
        return encoded


def open_log(
    path: Path,
    *,
    cluster: bytes,
    replica: int,
    applied: Position,
    truncatable: Position | None = None,
) -> DiskStore:
    """Open and verify the log in `path`. Raises StorageMissing, StorageForeign, StorageVersion,
    StorageCorrupt, StorageFull (not even the record of this start has room), StorageError."""
    return DiskStore(Wal(str(path), cluster=cluster, replica=replica), applied, truncatable)

"""The store in persistent memory: promise and log of one replica in a PMDK pool.

Real persistent memory (a DAX file system) and emulated one (a file on tmpfs) are the same code. On
an ordinary file system it works as well, through msync, correctly and slowly.

With a persistent machine the pool holds the state, too. Beside a volatile machine it is for the
log only, and the state's snapshots say how far the log may be truncated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mpaxos import _native
from mpaxos._native import Pool
from mpaxos.core.invariant import invariant
from mpaxos.core.output import Truncate, Write, WritePromise, WriteRecord
from mpaxos.core.types import Ballot, Mark, Record, Recovered, Slot, Value
from mpaxos.storage.store import Position, check_reach

if TYPE_CHECKING:
    from mpaxos._native import Batch

LOG_OVERHEAD = 12 << 20
"""Bytes of a pool beside a log: libpmemobj's own and the roots."""


class PmemStore:
    """mpaxos.storage.store.Store over an open pool, whose `pool` the engine shares."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def recovered(self) -> Recovered:
        pool = self.pool
        return self._recovered(Mark(pool.applied_upto, pool.applied_digest), pool.applied_time)

    def _recovered(self, applied: Mark, time: int) -> Recovered:
        pool = self.pool
        slots = [(slot, Ballot(round_, leader)) for slot, round_, leader in pool.slots()]
        return Recovered(
            promised=Ballot(*pool.promised),
            accepted=[(slot, ballot) for slot, ballot in slots if slot > applied.slot],
            applied=applied,
            applied_time=time,
            truncated_upto=pool.truncated_upto,
            log_room=pool.log_room,
            log_size=pool.log_size,
        )

    def write(self, writes: list[Write]) -> None:
        """One call into the extension for everything a turn writes: promise, records, truncation.

        The last promise of a turn covers the earlier ones: the pool has it before the records, and
        a record's ballot is at least as high as any promise that came before it in the turn; a
        record below the turn's last promise is therefore written first, on its own.
        """
        promise: tuple[int, int] | None = None
        records: list[tuple[int, int, int, int, Batch]] = []
        truncate_upto = 0
        for write in writes:
            if isinstance(write, WriteRecord):
                slot, ballot, (batch, time) = write.record
                records.append((slot, ballot.round, ballot.leader, time, batch))  # type: ignore[arg-type]
            elif isinstance(write, WritePromise):
                if records:
                    self.pool.write(promise, records, 0)
                    records = []
                promise = (write.ballot.round, write.ballot.leader)
            elif isinstance(write, Truncate):
                truncate_upto = max(truncate_upto, write.upto)
            else:
                invariant(False, f"a write that the pool has no place for: {write!r}")
        self.pool.write(promise, records, truncate_upto)

    def read(self, slot: Slot) -> Record | None:
        found = self.pool.read(slot)
        if found is None:
            return None
        round_, leader, time, batch = found
        return Record(slot, Ballot(round_, leader), Value(batch, time))

    @property
    def log_room(self) -> int:
        return self.pool.log_room

    @property
    def log_size(self) -> int:
        return self.pool.log_size

    def close(self) -> None:
        self.pool.close()


class PmemLog(PmemStore):
    """The same over a pool for the log only: the machine is volatile."""

    def __init__(self, pool: Pool, applied: Position, truncatable: Position) -> None:
        """`applied`: the machine's position when the replica starts; `truncatable`: that of its
        newest snapshot."""
        super().__init__(pool)
        self._applied = applied
        self._truncatable = truncatable
        self._decided = self._written = pool.decided_upto

    @property
    def decided_upto(self) -> Slot:
        return self._written

    def decided(self, upto: Slot) -> None:
        self._decided = upto

    def recovered(self) -> Recovered:
        """Raises StorageCorrupt when the log begins after the machine's position."""
        mark, time = self._applied()
        check_reach(self.pool.truncated_upto, mark.slot)
        return self._recovered(mark, time)

    def write(self, writes: list[Write]) -> None:
        for write in writes:
            if isinstance(write, Truncate):
                bound = self._truncatable()[0].slot
                invariant(write.upto <= bound, f"{write} beyond the snapshot of slot {bound}")
        super().write(writes)
        if self._decided > self._written:
            self.pool.write_decided(self._decided)
            self._written = self._decided


def gives_large_pages(directory: Path) -> bool:
    """Pools made in this directory, on a tmpfs, get pages of 2 MiB from the kernel."""
    return _native.gives_large_pages(str(directory))


def create_log(path: Path, *, cluster: bytes, replica: int, replicas: int, log_size: int) -> int:
    """Make a pool for a log only; its size in bytes. Raises StorageFull, StorageForeign."""
    size = log_size + LOG_OVERHEAD
    Pool.create(
        str(path),
        size=size,
        log_size=log_size,
        cluster=cluster,
        replica=replica,
        replicas=replicas,
        machine="",
        state_limit=0,
        max_sessions=0,
        max_reply_slots=0,
        log_only=True,
    )
    return size

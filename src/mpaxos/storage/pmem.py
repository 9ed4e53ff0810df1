"""The store in persistent memory: promise and log of one replica in a PMDK pool.

Real persistent memory (a DAX file system) and emulated one (a file on tmpfs) are the same code. On
an ordinary file system it works as well, through msync, correctly and slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaxos.core.invariant import invariant
from mpaxos.core.output import Truncate, Write, WritePromise, WriteRecord
from mpaxos.core.types import Ballot, Mark, Record, Recovered, Slot, Value

if TYPE_CHECKING:
    from mpaxos._native import Batch, Pool


class PmemStore:
    """mpaxos.storage.store.Store over an open pool, whose `pool` the engine shares."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def recovered(self) -> Recovered:
        pool = self.pool
        applied = pool.applied_upto
        slots = [(slot, Ballot(round_, leader)) for slot, round_, leader in pool.slots()]
        return Recovered(
            promised=Ballot(*pool.promised),
            accepted=[(slot, ballot) for slot, ballot in slots if slot > applied],
            applied=Mark(applied, pool.applied_digest),
            applied_time=pool.applied_time,
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

    def close(self) -> None:
        self.pool.close()

"""A simulated store: a durable image that survives crashes, and the crashes themselves."""

from __future__ import annotations

from collections.abc import Callable

from mpaxos.core.invariant import invariant
from mpaxos.core.output import Truncate, Write, WritePromise, WriteRecord
from mpaxos.core.types import ZERO_BALLOT, Mark, Record, Recovered, Slot
from mpaxos.errors import StorageFull


class Crash(Exception):
    """The simulated process dies here."""


class SimStore:
    """Implements mpaxos.storage.store.Store in memory. The object itself is the durable image:
    whoever recovers uses the same one."""

    OVERHEAD = 64
    """Bytes that a record takes beside its batch."""

    def __init__(self, log_size: int, applied: Callable[[], tuple[Mark, int]]) -> None:
        """`applied`: the machine's durable position and time, which live beside the log."""
        self.promised = ZERO_BALLOT
        self.records: dict[Slot, Record] = {}
        self.truncated_upto: Slot = 0
        self.crash_after: int | None = None
        """Die after so many more single writes; None: do not."""
        self.on_record: Callable[[Record], None] | None = None
        self._log_size = log_size
        self._applied = applied

    def recovered(self) -> Recovered:
        mark, time = self._applied()
        return Recovered(
            promised=self.promised,
            accepted=sorted(
                (slot, record.ballot) for slot, record in self.records.items() if slot > mark.slot
            ),
            applied=mark,
            applied_time=time,
            truncated_upto=self.truncated_upto,
            log_room=self.log_room,
            log_size=self._log_size,
        )

    def write(self, writes: list[Write]) -> None:
        for write in writes:
            if self.crash_after is not None:
                if self.crash_after == 0:
                    raise Crash("between two writes of a turn")
                self.crash_after -= 1
            self._write_one(write)

    def read(self, slot: Slot) -> Record | None:
        return self.records.get(slot)

    @property
    def log_room(self) -> int:
        return self._log_size - sum(self._size(record) for record in self.records.values())

    def close(self) -> None:
        """Nothing to let go of."""

    def _write_one(self, write: Write) -> None:
        if isinstance(write, WritePromise):
            invariant(write.ballot > self.promised, f"promise {write.ballot} is not above")
            self.promised = write.ballot
        elif isinstance(write, WriteRecord):
            record = write.record
            held = self.records.get(record.slot)
            invariant(record.ballot >= self.promised, f"accepted {record} below the promise")
            invariant(held is None or held.ballot <= record.ballot, f"{record} below {held}")
            invariant(record.slot > self.truncated_upto, f"{record} was truncated")
            if self._size(record) > self.log_room:
                raise StorageFull("the simulated log is full")
            self.records[record.slot] = record
            if self.on_record is not None:
                self.on_record(record)
        else:
            invariant(isinstance(write, Truncate), f"unknown write {write!r}")
            invariant(write.upto <= self._applied()[0].slot, f"{write} beyond the applied slot")
            self.truncated_upto = max(self.truncated_upto, write.upto)
            self.records = {s: r for s, r in self.records.items() if s > self.truncated_upto}

    def _size(self, record: Record) -> int:
        return record.value.batch.length + self.OVERHEAD

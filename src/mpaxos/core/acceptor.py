"""The acceptor: the memory that makes Paxos safe (Lamport 2001, "Paxos Made Simple", section 2.2).

Two rules, and everything else in this package may be wrong without breaking agreement:

    promise(b)     only if b > promised; from then on nothing below b is promised or accepted
    accept(b, v)   only if b >= promised; it is a promise of b as well

What is promised or accepted here is written before anything that tells of it leaves the replica:
both go into the same turn's output, whose writes are durable before its messages are sent.
"""

from __future__ import annotations

from mpaxos.core.invariant import invariant
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Flight
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, LogReader, Record, Recovered, Slot, Value


class Acceptor:
    """One replica's promise and accepted records."""

    def __init__(self, settings: Settings, recovered: Recovered, log: LogReader) -> None:
        self.promised = recovered.promised
        self.truncated_upto = recovered.truncated_upto
        if recovered.recovering:
            # The records of what is applied may be lost, and a promise must not read as if there
            # had been none: what we have not, we call truncated.
            self.truncated_upto = max(recovered.truncated_upto, recovered.applied.slot)
        self.settled_upto = recovered.applied.slot
        """Slots up to here are known to be decided; their records are never needed to vote."""
        self.last_slot = max([recovered.applied.slot] + [slot for slot, _ in recovered.accepted])
        """The highest slot ever accepted."""
        self.room = recovered.log_room
        self._log = log
        self._log_size = recovered.log_size
        self._overhead = settings.record_overhead
        self._horizon = settings.horizon
        self._recent: dict[Slot, Record] = {}
        """Records accepted in this incarnation and not settled before this turn. The log does not
        have this turn's records yet: reading it too early would bring up older, other values."""
        self._settled: list[Slot] = []

    # -- the two rules -------------------------------------------------------------------

    def promise(self, turn: Turn, ballot: Ballot) -> bool:
        """Promise `ballot` if it is above everything promised so far."""
        if ballot <= self.promised:
            return False
        self.promised = ballot
        turn.write_promise(ballot)
        return True

    def accept(self, turn: Turn, ballot: Ballot, slot: Slot, value: Value) -> bool:
        """Accept `value` for `slot` in `ballot`; True when the vote may be told.

        False when a higher ballot was promised, when the log has no room, or when the slot is far
        ahead of what is decided here (records of such slots would keep the head of the log in
        place while catch-up needs room): then the vote is simply not given, which is always safe.
        """
        if ballot < self.promised:
            return False
        if slot <= self.settled_upto:
            # The slot is decided, so whatever a leader proposes for it in any later ballot is the
            # decided value: voting for it again needs no record.
            self.promise(turn, ballot)
            return True
        held = self._recent.get(slot)
        if held is not None and held.ballot == ballot:
            return True  # sent again: the record is there, or among this turn's writes
        if slot > self.settled_upto + self._horizon or not self.has_room(value):
            return False
        self.promise(turn, ballot)
        self._append(turn, Record(slot, ballot, value))
        return True

    def learn(self, turn: Turn, slot: Slot, ballot: Ballot, value: Value) -> bool:
        """Keep the decided `value`, which another replica held in `ballot`; False: no room.

        The record is made under max(ballot, promised). That is a true statement about an accept:
        the value was decided in some ballot <= `ballot`, so it is the only one that any leader
        can propose for this slot from there on.
        """
        ballot = max(ballot, self.promised)
        held = self.record(slot)
        if held is not None and held.ballot >= ballot:
            return True
        if not self.has_room(value):
            return False
        self.promise(turn, ballot)
        self._append(turn, Record(slot, ballot, value))
        return True

    # -- the log -------------------------------------------------------------------------

    def has_room(self, value: Value, reserve: int = 0) -> bool:
        """True when a record of `value` fits and leaves `reserve` bytes free."""
        return self.room - reserve >= value.batch.length + self._overhead

    def record(self, slot: Slot) -> Record | None:
        """The newest record of `slot`, from memory or from the log."""
        record = self._recent.get(slot)
        return record if record is not None else self._log.read(slot)

    def accepted_from(self, start: Slot) -> list[Record]:
        """All accepted records from `start` on, ascending by slot."""
        first = max(start, self.truncated_upto + 1)
        records = (self.record(slot) for slot in range(first, self.last_slot + 1))
        return [record for record in records if record is not None]

    def settle(self, slot: Slot) -> None:
        """`slot` is decided and was handed on: from the next turn on its record is in the log."""
        self._settled.append(slot)
        self.settled_upto = slot

    def begin_turn(self) -> None:
        """The writes of the last turn are durable: what was settled in it can be read back."""
        for slot in self._settled:
            self._recent.pop(slot, None)
        self._settled.clear()

    def recent(self, slot: Slot) -> Record | None:
        """The record of `slot` if it was accepted in this incarnation and is not settled."""
        return self._recent.get(slot)

    def adopt(self, ballot: Ballot, flights: list[Flight], decided: Slot, room: int) -> None:
        """Records of `ballot` were made durable elsewhere; those of `flights` are not settled."""
        self._recent = {
            slot: Record(slot, ballot, Value(batch, time))
            for slot, time, _, _, batch in flights
            if batch is not None
        }
        self.last_slot = max([self.last_slot, decided, *self._recent])
        self.settled_upto = decided
        self.room = room

    def truncate(self, turn: Turn, upto: Slot) -> None:
        """Give up records of slots up to `upto`, all of which are applied here."""
        invariant(upto <= self.settled_upto, f"truncating undecided slot {upto}")
        self.truncated_upto = upto
        turn.truncate(upto)

    def room_is(self, turn: Turn, free: int) -> None:
        """The store told how much is free; this turn's own writes are not in that number yet."""
        self.room = free - turn.written

    @property
    def reserve(self) -> int:
        """The last eighth of the log, which new proposals leave free."""
        return self._log_size // 8

    @property
    def under_pressure(self) -> bool:
        """True when the log is three quarters full."""
        return self.room < self._log_size // 4

    def _append(self, turn: Turn, record: Record) -> None:
        size = record.value.batch.length + self._overhead
        self.room -= size
        self.last_slot = max(self.last_slot, record.slot)
        self._recent[record.slot] = record
        turn.write_record(record, size)

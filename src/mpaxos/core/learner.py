"""The learner: which slots are decided.

A slot is decided when a majority accepted it *in the same ballot* (Lamport 2001, section 2.3):
votes belong to a ballot, and a vote of another ballot never completes a majority. There are two
more ways to know: the leader says up to where it is decided, which holds for what we accepted in
that leader's own ballot; and catch-up, which brings decided values themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.invariant import invariant
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Flight, Standing
from mpaxos.core.turn import Turn
from mpaxos.core.types import (
    ZERO_BALLOT,
    Ballot,
    Instant,
    Record,
    Recovered,
    ReplicaId,
    Slot,
    Value,
    majority,
)


class Learner:
    """Counts votes and hands out decided values, in slot order and without gaps."""

    def __init__(
        self,
        settings: Settings,
        recovered: Recovered,
        acceptor: Acceptor,
        on_decided: Callable[[Slot, Value], None],
    ) -> None:
        self.decided_upto = recovered.applied.slot
        self.known_upto = self.decided_upto
        """The highest slot that anybody said is decided."""
        self.applied_upto = self.decided_upto
        """How far the state machine is; slots are handed out a bounded distance before it."""
        self._max_lag = settings.max_apply_lag
        self._majority = majority(settings.replicas)
        self._horizon = settings.horizon
        self._acceptor = acceptor
        self._on_decided = on_decided
        self._votes: dict[Slot, tuple[Ballot, int]] = {}
        self._leader_says: tuple[Ballot, Slot] = (ZERO_BALLOT, 0)

    def vote(self, slot: Slot, ballot: Ballot, voter: ReplicaId) -> None:
        """`voter` has durably accepted `slot` in `ballot`."""
        if not self.decided_upto < slot <= self.decided_upto + self._horizon:
            return  # decided already, or so far ahead that catch-up is the way
        held = self._votes.get(slot)
        if held is None or held[0] < ballot:
            self._votes[slot] = (ballot, 1 << voter)
        elif held[0] == ballot:
            self._votes[slot] = (ballot, held[1] | 1 << voter)

    def voted(self, slot: Slot, ballot: Ballot, voter: ReplicaId) -> bool:
        """True when the vote of `voter` for `slot` in `ballot` is known."""
        held = self._votes.get(slot)
        return held is not None and held[0] == ballot and bool(held[1] >> voter & 1)

    def leader_says(self, ballot: Ballot, decided_upto: Slot) -> None:
        """The leader of `ballot` knows everything up to `decided_upto` to be decided."""
        self.heard_of(decided_upto)
        self._leader_says = max(self._leader_says, (ballot, decided_upto))

    def heard_of(self, decided_upto: Slot) -> None:
        """Somebody knows everything up to `decided_upto` to be decided."""
        self.known_upto = max(self.known_upto, decided_upto)

    def advance(self, turn: Turn) -> None:
        """Hand out all that is decided and contiguous, as far as the state machine keeps up."""
        if self.decided_upto + 1 not in self._votes and self._leader_says[1] <= self.decided_upto:
            return
        while self.may_hand_out() and (record := self._next_decided()) is not None:
            self._emit(turn, record.slot, record.value)

    def flights(
        self, ballot: Ballot, sent: OrderedDict[Slot, Instant] | None
    ) -> list[Flight] | None:
        """The undecided slots, if all their records are of `ballot`, there are no gaps, and nobody
        knows of more that is decided. `sent`: when a leader sent them."""
        last = max(self._acceptor.last_slot, self.decided_upto)
        if last > self.decided_upto + self._horizon or self.known_upto > last:
            return None
        found: list[Flight] = []
        for slot in range(self.decided_upto + 1, last + 1):
            record = self._acceptor.recent(slot)
            if record is None or record.ballot != ballot:
                return None
            at = 0 if sent is None else sent.get(slot, 0)
            found.append(
                (slot, record.value.time, at, self._mask(slot, ballot), record.value.batch)
            )
        for slot in sorted(self._votes) if len(self._votes) > len(found) else ():
            if slot > last and (mask := self._mask(slot, ballot)):
                found.append((slot, 0, 0, mask, None))
        return found

    def _mask(self, slot: Slot, ballot: Ballot) -> int:
        held = self._votes.get(slot)
        return held[1] if held is not None and held[0] == ballot else 0

    def said_in(self, ballot: Ballot) -> Slot:
        """Up to where the leader of `ballot` said that it is decided; 0 if it said nothing."""
        said_ballot, said = self._leader_says
        return said if said_ballot == ballot else 0

    def adopt(self, ballot: Ballot, standing: Standing) -> None:
        """Slots were decided elsewhere, and handed on."""
        self.decided_upto = standing.decided
        self.applied_upto = standing.applied
        self.leader_says(ballot, standing.said)
        self.heard_of(standing.decided)
        self._votes = {slot: (ballot, mask) for slot, _, _, mask, _ in standing.flights if mask}

    def may_hand_out(self) -> bool:
        """False while the state machine is too far behind: then we do not vote far ahead of it
        either (see Settings.horizon), and no queue grows."""
        return self.decided_upto - self.applied_upto < self._max_lag

    def learn(self, turn: Turn, slot: Slot, ballot: Ballot, value: Value) -> bool:
        """Another replica sent the decided `value` of the next slot. False: no room for it."""
        if slot != self.decided_upto + 1:
            invariant(False, f"learned slot {slot} out of order")
        if not self._acceptor.learn(turn, slot, ballot, value):
            return False
        self._emit(turn, slot, value)
        return True

    def _next_decided(self) -> Record | None:
        slot = self.decided_upto + 1
        ballot, mask = self._votes.get(slot, (ZERO_BALLOT, 0))
        if mask.bit_count() >= self._majority:
            record = self._acceptor.record(slot)
            # A record of a later ballot holds the same value: its leader had to propose it again.
            return record if record is not None and record.ballot >= ballot else None
        said_ballot, said_upto = self._leader_says
        if slot <= said_upto:
            record = self._acceptor.record(slot)
            return record if record is not None and record.ballot == said_ballot else None
        return None

    def _emit(self, turn: Turn, slot: Slot, value: Value) -> None:
        self._votes.pop(slot, None)
        self.decided_upto = slot
        self.heard_of(slot)
        self._acceptor.settle(slot)
        turn.decide(slot, value)
        self._on_decided(slot, value)

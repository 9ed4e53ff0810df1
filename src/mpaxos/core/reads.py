"""Linearizable reads without a log entry: read-index (Ongaro 2014, section 6.4).

A read may be answered from a state that contains every write acknowledged before the read began.
The leader names a slot that covers all of those, proves with one round of heartbeats that it was
still the leader when the read arrived, and the replica that holds the read answers it once it has
applied up to that slot.

The slot is the last one the leader has *proposed*, not the last one it knows to be decided: with
three replicas a follower knows a slot to be decided as soon as its own vote is durable, and may
have answered a client before the leader hears of that vote.
"""

from __future__ import annotations

from mpaxos.core.messages import ReadIndexReply, ReadIndexRequest
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import Batch, Instant, ReplicaId, Slot, majority

Asker = tuple[ReplicaId, int]
"""Who waits for a read index: a replica and the number it gave its question."""


class ReadConfirmation:
    """The leader's side: rounds of heartbeats that confirm waiting reads."""

    def __init__(self, settings: Settings) -> None:
        self._needed = majority(settings.replicas) - 1
        self._waiting: list[tuple[Asker, Slot]] = []
        self._confirming: list[tuple[Asker, Slot]] = []
        self._round = 0
        self._acks: dict[ReplicaId, int] = {}

    def ask(self, asker: Asker, slot: Slot) -> None:
        """`slot` covers the reads of `asker` if this is still the leader."""
        self._waiting.append((asker, slot))

    @property
    def waiting(self) -> list[tuple[Asker, Slot]]:
        """Reads that no round confirms yet."""
        return self._waiting

    @property
    def confirming(self) -> list[tuple[Asker, Slot]]:
        """Reads that the round `round` confirms."""
        return self._confirming

    @property
    def round(self) -> int:
        """The heartbeat whose answers are counted."""
        return self._round

    def acks(self, replica: ReplicaId) -> int:
        """The newest heartbeat that `replica` answered."""
        return self._acks.get(replica, 0)

    def adopt(
        self, waiting: list[tuple[Asker, Slot]], confirming: list[tuple[Asker, Slot]], number: int
    ) -> None:
        """What waits and is being confirmed now."""
        self._waiting, self._confirming, self._round = waiting, confirming, number

    def wants_round(self) -> bool:
        """True when reads wait and no round is under way: send a heartbeat now."""
        return bool(self._waiting) and not self._confirming

    @property
    def under_way(self) -> bool:
        """True when a round has begun and is not confirmed yet."""
        return bool(self._confirming)

    def started(self, number: int) -> None:
        """Heartbeat `number` was sent: if no round is under way it confirms all that wait."""
        if not self._confirming and self._waiting:
            self._confirming, self._waiting = self._waiting, []
            self._round = number

    def acknowledged(self, replica: ReplicaId, number: int) -> None:
        """`replica` answered heartbeat `number` of this leadership."""
        self._acks[replica] = max(number, self._acks.get(replica, 0))

    def confirmed(self) -> list[tuple[Asker, Slot]]:
        """The reads whose round a majority has answered; each is returned once."""
        if not self._confirming:
            return []
        if sum(number >= self._round for number in self._acks.values()) < self._needed:
            return []
        done, self._confirming = self._confirming, []
        return done


class ReadQueue:
    """Every replica's side: reads of its own clients that wait for a read index."""

    LIMIT = 1024
    """Batches of reads kept while there is no leader; beyond it the oldest are dropped, and their
    clients ask elsewhere when they hear nothing."""

    def __init__(self, settings: Settings, incarnation: int) -> None:
        self._retry = settings.retry
        # Numbers of one life are not repeated in the next: an answer that comes late enough to
        # meet a restarted replica must not be taken for the answer to a newer question.
        self._number = incarnation
        self._waiting: list[Batch] = []
        self._asked: dict[int, list[Batch]] = {}
        self._asked_at: Instant = 0

    def add(self, batch: Batch) -> None:
        self._waiting.append(batch)
        if len(self._waiting) > self.LIMIT:
            del self._waiting[0]

    def __len__(self) -> int:
        if not self._asked:
            return len(self._waiting)
        return len(self._waiting) + sum(map(len, self._asked.values()))

    def leader_changed(self) -> None:
        """Questions to the old leader will not be answered: ask anew."""
        asked = [batch for batches in self._asked.values() for batch in batches]
        self._asked.clear()
        self._waiting = (asked + self._waiting)[-self.LIMIT :]

    def take(self) -> int | None:
        """Group all waiting reads under a new number, if there are any."""
        if not self._waiting:
            return None
        self._number += 1
        self._asked[self._number] = self._waiting
        self._waiting = []
        return self._number

    def asked(self, number: int) -> list[Batch]:
        """The reads that were asked for under `number`."""
        return self._asked.get(number, [])

    def forget_asked(self) -> None:
        """What was asked for is answered, or asked for anew by number_of()."""
        self._asked.clear()

    def number_of(self, batch: Batch) -> int:
        """A number for reads that the leader, this replica, confirms."""
        self._number += 1
        self._asked[self._number] = [batch]
        return self._number

    def ask(self, turn: Turn, leader: ReplicaId) -> None:
        """Ask the leader for an index: one question at a time, repeated if it got lost."""
        if self._asked and self._asked_at + self._retry <= turn.now:
            self.leader_changed()
        if self._asked:
            return
        number = self.take()
        if number is not None:
            self._asked_at = turn.now
            turn.send(leader, ReadIndexRequest(number))

    def answered(self, turn: Turn, reply: ReadIndexReply) -> None:
        for batch in self._asked.pop(reply.number, ()):
            turn.read_ready(batch, reply.slot)

    def wake_at(self) -> Instant | None:
        return self._asked_at + self._retry if self._asked else None

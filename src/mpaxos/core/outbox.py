"""Batches of this replica's own clients, from their arrival to their decision.

A follower forwards them to the leader; whatever is not seen decided is forwarded again, to the same
leader after a while or at once to a new one. That a batch may so be decided twice does no harm:
the session table runs each request once.
"""

from __future__ import annotations

from mpaxos.core.messages import Forward
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import Batch, Instant, ReplicaId, Value


class Outbox:
    """Undecided batches of one incarnation of one replica, in order of arrival."""

    def __init__(self, settings: Settings, incarnation: int) -> None:
        self._me = settings.replica
        self._limit = settings.local_batches
        self._retry = settings.retry
        self._incarnation = incarnation
        self._batches: dict[int, Batch] = {}
        self._sent_at: dict[int, Instant] = {}

    @property
    def room(self) -> int:
        """How many more batches are welcome."""
        return max(0, self._limit - len(self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: Batch) -> None:
        self._batches[batch.number] = batch

    def batches(self) -> list[Batch]:
        """All that wait, oldest first."""
        return list(self._batches.values())

    def decided(self, batch: Batch) -> None:
        """Take note that `batch`, of whatever origin, is decided."""
        if batch.origin == self._me and batch.incarnation == self._incarnation:
            self._batches.pop(batch.number, None)
            self._sent_at.pop(batch.number, None)

    def leader_changed(self) -> None:
        """What was forwarded to the leader before may be lost: it is all to be sent again."""
        self._sent_at.clear()

    def forward(self, turn: Turn, leader: ReplicaId) -> None:
        """Send to the leader what it was not sent yet, or was sent too long ago."""
        due = [
            number
            for number in self._batches
            if self._sent_at.get(number, -self._retry) + self._retry <= turn.now
        ]
        for number in due:
            self._sent_at[number] = turn.now
            turn.send(leader, Forward([Value(self._batches[number], 0)]))

    def sent(self) -> list[tuple[Batch, Instant]]:
        """All that wait, oldest first, and when they were forwarded last."""
        never = -self._retry
        return [(batch, self._sent_at.get(n, never)) for n, batch in self._batches.items()]

    def adopt(self, waiting: list[tuple[Batch, Instant]], *, sent: bool) -> None:
        """What waits now. `sent`: to the leader, at those times."""
        self._batches = {batch.number: batch for batch, _ in waiting}
        self._sent_at = {batch.number: at for batch, at in waiting} if sent else {}

    def wake_at(self) -> Instant | None:
        """When something is to be forwarded again."""
        if not self._sent_at:
            return None
        return min(self._sent_at.values()) + self._retry

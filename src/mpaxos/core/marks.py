"""Do all replicas have the same state? Running digests, compared while the service runs.

Each replica keeps its digests at slots that are multiples of the marking interval. Followers report
their newest to the leader, the leader compares it with its own of that slot and tells everybody
the newest mark on which a majority agrees. Whoever differs from a majority stops: its
state cannot be trusted, nor repaired from within.
"""

from __future__ import annotations

from typing import ClassVar

from mpaxos.core.invariant import invariant
from mpaxos.core.settings import SECOND, Settings
from mpaxos.core.types import Instant, Mark, ReplicaId, Slot, majority

NO_MARK = Mark(0, 0)


class Marks:
    """Recent digests of this replica and what the others reported of theirs."""

    KEPT = 512
    """Own marks kept for comparison; with the default interval they reach 16,384 slots back."""
    DOUBT: ClassVar[Instant] = 1 * SECOND
    """How long a leader waits for a majority to agree with it when some replica differs."""

    def __init__(self, settings: Settings) -> None:
        self._interval = settings.mark_interval
        self._majority = majority(settings.replicas)
        self._own: dict[Slot, int] = {}
        self._alike: dict[ReplicaId, Slot] = {}
        self._different: dict[ReplicaId, Slot] = {}
        self._doubt_since: Instant | None = None
        self.newest = NO_MARK

    def applied(self, marks: list[Mark]) -> None:
        """Own digests after each newly applied slot."""
        for mark in marks:
            if mark.slot % self._interval == 0:
                self._own[mark.slot] = mark.digest
                self.newest = mark
                if len(self._own) > self.KEPT:
                    del self._own[next(iter(self._own))]

    def forget_reports(self) -> None:
        """A new leadership starts to compare from the beginning."""
        self._alike.clear()
        self._different.clear()
        self._doubt_since = None

    def reported(self, replica: ReplicaId, mark: Mark, now: Instant) -> None:
        """The leader hears the newest mark of a follower. Raises InvariantViolated when some
        replica differs and after a while no majority agrees with this one."""
        own = self._own.get(mark.slot)
        if own is not None and own == mark.digest:
            self._alike[replica] = max(mark.slot, self._alike.get(replica, 0))
            self._different.pop(replica, None)
        elif own is not None:
            self._different[replica] = mark.slot
            self._alike.pop(replica, None)
        if not self._different or len(self._alike) + 1 >= self._majority:
            self._doubt_since = None
            return
        if self._doubt_since is None:
            self._doubt_since = now
        invariant(
            now - self._doubt_since < self.DOUBT,
            f"this replica's state differs from that of replica(s) {sorted(self._different)} at "
            f"slot {max(self._different.values())} and no majority agrees with it",
        )

    def agreed(self) -> Mark:
        """The newest own mark that a majority reported alike."""
        reports = sorted(self._alike.values(), reverse=True)
        needed = self._majority - 1
        if len(reports) < needed:
            return NO_MARK
        slot = self.newest.slot if needed == 0 else reports[needed - 1]
        digest = self._own.get(slot)
        return NO_MARK if digest is None else Mark(slot, digest)

    def compare(self, agreed: Mark) -> None:
        """A follower hears what the majority agreed on. Raises InvariantViolated if it differs."""
        own = self._own.get(agreed.slot)
        invariant(
            own is None or own == agreed.digest,
            f"this replica's state differs from the majority's at slot {agreed.slot} "
            f"({own or 0:016x} here, {agreed.digest:016x} there)",
        )

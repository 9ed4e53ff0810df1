"""Lives: which memory of each replica counts.

A replica that comes back with less than it had promised and accepted begins a new *life*. What it
promised in an earlier one it does not know any more, so nobody may count on that. Every
replica keeps the newest life it knows of each; promises carry these numbers, and a candidate counts
only promises of the newest life known to any of those who promised (mpaxos.core.recovery says why
that is enough). A replica that forgets nothing stays in its first life for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpaxos.core.invariant import invariant
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import Recovered, ReplicaId

FIRST_LIFE = 1


class Lives:
    """The newest known life of each replica. Whatever raises one is durable before any message
    that tells of it leaves."""

    def __init__(self, settings: Settings, recovered: Recovered) -> None:
        self._me = settings.replica
        self._known = [
            self.in_vector(recovered.lives, replica) for replica in range(settings.replicas)
        ]
        invariant(
            self._known[self._me] <= recovered.life,
            f"the store begins life {recovered.life} of a replica that has been in life "
            f"{self._known[self._me]} before: its number of lives went back",
        )
        self._known[self._me] = recovered.life
        self.recovering = recovered.recovering

    @staticmethod
    def in_vector(vector: Sequence[int], replica: ReplicaId) -> int:
        """The life of `replica` in a vector; what a vector leaves out is in its first life."""
        return vector[replica] if replica < len(vector) else FIRST_LIFE

    @property
    def own(self) -> int:
        """The present life of this replica."""
        return self._known[self._me]

    def of(self, replica: ReplicaId) -> int:
        """The newest known life of `replica`."""
        return self._known[replica]

    def vector(self) -> list[int]:
        """The newest known life of each replica, by id."""
        return self._known.copy()

    def began(self, turn: Turn, replica: ReplicaId, life: int) -> None:
        """`replica` says it is in `life`."""
        if life > self._known[replica]:
            self._known[replica] = life
            self._write(turn)

    def learn(self, turn: Turn, vector: Sequence[int]) -> None:
        """Another replica knows these lives. Raises InvariantViolated when it knows of a later life
        of this replica: then there are two of it, or its data are an old copy."""
        newest = [
            max(known, self.in_vector(vector, replica)) for replica, known in enumerate(self._known)
        ]
        if newest == self._known:
            return
        invariant(
            newest[self._me] == self.own,
            f"this is life {self.own} of replica {self._me}, and others have seen it in life "
            f"{newest[self._me]}: either it was replaced and this is the old one, which must not "
            "run any more, or its data directory is an old copy. Replace it (mpaxos init "
            "--replace), so that it begins a life of its own",
        )
        self._known = newest
        self._write(turn)

    def recovered(self, turn: Turn) -> None:
        """This replica knows again all it must know: it takes part from here on."""
        self.recovering = False
        self._write(turn)

    def _write(self, turn: Turn) -> None:
        turn.write_lives(tuple(self._known), self.recovering)

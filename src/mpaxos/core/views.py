"""What a replica of the protocol tells about itself, to people and metrics."""

from __future__ import annotations

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.catchup import Catchup
from mpaxos.core.election import Election
from mpaxos.core.leader import Leadership
from mpaxos.core.learner import Learner
from mpaxos.core.outbox import Outbox
from mpaxos.core.reads import ReadQueue
from mpaxos.core.recovery import Recovery
from mpaxos.core.types import Ballot, ReplicaId, Slot


class Views:
    """Read-only properties of a Replica, which owns the parts named here."""

    _acceptor: Acceptor
    _catchup: Catchup
    _election: Election
    _leadership: Leadership | None
    _learner: Learner
    _outbox: Outbox
    _peers: tuple[ReplicaId, ...]
    _reads: ReadQueue
    _recovery: Recovery | None

    @property
    def leader(self) -> ReplicaId | None:
        """The replica believed to lead."""
        return self._election.leader

    @property
    def is_leader(self) -> bool:
        return self._leadership is not None

    @property
    def role(self) -> str:
        """leader, follower, what it does to become leader (pre-vote, prepare), or recovering: it
        has forgotten votes and takes no part until it knows again what it must know."""
        if self._recovery is not None:
            return "recovering"
        return "leader" if self.is_leader else self._election.phase.value

    @property
    def waits_for(self) -> str | None:
        """What a recovering replica needs to go on, in words; None when it is not recovering."""
        return None if self._recovery is None else self._recovery.waits_for

    @property
    def ballot(self) -> Ballot:
        """The highest ballot promised."""
        return self._acceptor.promised

    @property
    def decided_upto(self) -> Slot:
        return self._learner.decided_upto

    @property
    def known_upto(self) -> Slot:
        """The highest slot that anybody said is decided."""
        return self._learner.known_upto

    @property
    def truncated_upto(self) -> Slot:
        return self._acceptor.truncated_upto

    @property
    def too_far_behind(self) -> bool:
        """No other replica's log reaches back to what this one needs next."""
        return self._catchup.too_far_behind(len(self._peers))

    @property
    def queue_lengths(self) -> dict[str, int]:
        """Lengths of the bounded queues, by name."""
        queued = self._leadership.queued if self._leadership else 0
        return {"outbox": len(self._outbox), "reads": len(self._reads), "proposals": queued}

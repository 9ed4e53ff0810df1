"""Recovery of a replica that has forgotten what it promised or accepted.

With all of its memory a replica that restarts just goes on. With less (`durability` view keeps the
promise, epoch keeps a number of lives, a replaced replica starts from nothing) its votes would be
lies: it could accept in a ballot below one it promised, or promise without telling of a
record it accepted. So it first makes good for what it forgot (Konczak et al., "Recovery Algorithms
for Paxos-based State Machine Replication", ViewSS and EpochSS):

    Recover(life)      to all, repeated until the end
    RecoverReply       from all who are not recovering themselves; they have noted the life before

It waits until a majority *of all, itself not counted* has answered, among them the leader of the
highest ballot in these answers, as the leader of that ballot. Then it promises that ballot, and
catches up with all slots that this leader had proposed. Only after that does it take part.

Why that is safe, for 2f + 1 replicas. Any f + 1 others share a replica with the other f members of
each majority that the forgotten vote belonged to.

- A forgotten promise of ballot b that a leader of b counted: another one who promised b answered.
  Either after its promise: then the highest ballot is at least b, and is promised again. Or
  before: then it knew the new life when it promised, its promise told of it, and the forgotten
  one was not counted (Lives).
- A forgotten record, accepted in ballot b: its leader had been promised b by a majority, so as
  above the highest ballot B is at least b. If B = b, its leader had proposed the slot before the
  record was made, so before it answered: the slot is caught up with. If B > b, the leader of B has
  learned from a majority's promises of every value that b can still decide, and proposes it: its
  log end covers that slot, too.

Longer, with examples: docs/recovery.md.
"""

from __future__ import annotations

from collections.abc import Callable

from mpaxos.core import messages as m
from mpaxos.core.acceptor import Acceptor
from mpaxos.core.election import Election
from mpaxos.core.learner import Learner
from mpaxos.core.lives import Lives
from mpaxos.core.messages import Recover, RecoverReply
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import ZERO_BALLOT, Ballot, Instant, ReplicaId, Slot, majority


class Recovery:
    """The exchange, from the start of a life to the moment it takes part."""

    def __init__(
        self,
        settings: Settings,
        lives: Lives,
        acceptor: Acceptor,
        learner: Learner,
        election: Election,
        follow: Callable[[Turn, Ballot], bool],
        hear_leader: Callable[[m.Heartbeat], None],
    ) -> None:
        """`follow`: takes the leader of a ballot for the leader, unless a higher one was promised.
        `hear_leader`: takes in what a heartbeat tells, without answering it."""
        self._needed = majority(settings.replicas)
        self._others = settings.replicas - 1
        self._retry = settings.retry
        self._lives = lives
        self._acceptor = acceptor
        self._learner = learner
        self._election = election
        self._follow = follow
        self._hear_leader = hear_leader
        self._answers: dict[ReplicaId, RecoverReply] = {}
        self._ballot = ZERO_BALLOT
        """The highest ballot of a majority's answers, once its leader has answered."""
        self._log_end: Slot | None = None
        """What that leader had proposed when it answered."""
        self._repeat_at: Instant | None = None
        self._asked_leader_of = ZERO_BALLOT

    def handlers(self) -> dict[type, Callable[..., None]]:
        """What a recovering replica does otherwise with messages: it gives no vote of any kind,
        nothing that a leader would count, and seeks none. It learns who leads, what is decided."""
        return {
            m.Prepare: self._on_prepare,
            m.Accept: self._on_accept,
            m.PreVote: self._on_pre_vote,
            m.Heartbeat: self._on_heartbeat,
            m.TakeOver: ignore,
            m.Recover: ignore,
            m.RecoverReply: self.on_reply,
        }

    def tick(self, turn: Turn) -> bool:
        """Ask when it is time; True once this replica may take part."""
        if self._log_end is not None and self._learner.decided_upto >= self._log_end:
            self._lives.recovered(turn)
            return True
        if self._repeat_at is None or turn.now >= self._repeat_at:
            self._repeat_at = turn.now + self._retry
            turn.broadcast(self._question())
        self._election.expire(turn.now)
        return False

    def greet(self, turn: Turn, peer: ReplicaId) -> None:
        """A replica (re)connected: it may have missed the question."""
        turn.send(peer, self._question())

    def _on_prepare(self, turn: Turn, sender: ReplicaId, message: m.Prepare) -> None:
        self._election.saw_round(message.ballot)

    def _on_pre_vote(self, turn: Turn, sender: ReplicaId, message: m.PreVote) -> None:
        self._learner.heard_of(message.decided_upto)

    def _on_accept(self, turn: Turn, sender: ReplicaId, message: m.Accept) -> None:
        if self._follow(turn, message.ballot):
            self._learner.leader_says(message.ballot, message.decided_upto)
            self._leader_heard(turn, sender, message.ballot)

    def _on_heartbeat(self, turn: Turn, sender: ReplicaId, message: m.Heartbeat) -> None:
        if self._follow(turn, message.ballot):
            self._hear_leader(message)
            self._leader_heard(turn, sender, message.ballot)

    def _leader_heard(self, turn: Turn, leader: ReplicaId, ballot: Ballot) -> None:
        """Someone leads `ballot`: if it has not answered as such, do not wait for the next round
        of questions, once per ballot."""
        answer = self._answers.get(leader)
        if answer is not None and answer.leads and answer.promised >= ballot:
            return
        if ballot > self._asked_leader_of:
            self._asked_leader_of = ballot
            turn.send(leader, self._question())

    def on_reply(self, turn: Turn, sender: ReplicaId, message: RecoverReply) -> None:
        """An answer. Raises InvariantViolated if the sender knows a later life of this replica."""
        if message.life != self._lives.own:
            return  # to a question of an earlier life: what was forgotten since is not in it
        self._lives.learn(turn, message.lives)
        self._learner.heard_of(message.decided_upto)
        self._answers[sender] = message
        self._aim(turn)

    def wake_at(self) -> Instant | None:
        """When to ask again."""
        return self._repeat_at

    @property
    def waits_for(self) -> str:
        """What it takes to go on, for people."""
        if self._log_end is not None:
            return (
                f"catching up with slot {self._log_end}, which the leader of ballot {self._ballot} "
                f"had proposed; decided here up to {self._learner.decided_upto}"
            )
        missing = self._needed - len(self._answers)
        if missing > 0:
            return (
                f"answers of {missing} more replica{'s' * (missing > 1)}: {self._needed} of the "
                f"{self._others} others must be up and must not be recovering themselves, "
                f"{sorted(self._answers)} have answered"
            )
        return f"a leader: nobody answers as that of the highest ballot, {self._highest()}"

    def _question(self) -> Recover:
        return Recover(self._lives.own)

    def _highest(self) -> Ballot:
        return max(answer.promised for answer in self._answers.values())

    def _aim(self, turn: Turn) -> None:
        """Set the goal when the answers allow it. Each set of answers that does stays valid; a
        newer one replaces it, as a leader that died may leave slots that are never decided."""
        if len(self._answers) < self._needed:
            return
        highest = self._highest()
        leader = self._answers.get(highest.leader)
        if leader is None or not leader.leads or leader.promised != highest:
            return
        if self._log_end is None or highest > self._ballot:
            self._ballot = highest
            self._log_end = leader.log_end
            self._acceptor.promise(turn, highest)


def ignore(turn: Turn, sender: ReplicaId, message: m.AnyMessage) -> None:
    """A message that means nothing to this replica now."""

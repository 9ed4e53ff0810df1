"""Who leads: suspicion, pre-vote, prepare.

    FOLLOWER --- leader silent ---> PRE-VOTE --- majority would follow ---> PREPARE
        ^                              |                                      |
        |<-- a leader is heard, timeout|                 majority promised ---+--> leads
        +<-- a higher ballot is heard ------------------------------------------+

Pre-vote (Ongaro 2014, section 9.6) keeps a replica that was cut off from deposing a working leader:
nobody grants one who hears a leader, or who knows more decided slots than the candidate could
take over (the candidate is told, and catches up). Timeouts are random, so that no two duel.
"""

from __future__ import annotations

import enum
import random

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.learner import Learner
from mpaxos.core.lives import Lives
from mpaxos.core.messages import Prepare, PreVote, PreVoteReply, Promise
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import (
    ZERO_BALLOT,
    Ballot,
    Batch,
    Instant,
    Record,
    ReplicaId,
    Slot,
    Value,
    majority,
)


class Phase(enum.Enum):
    """Where a replica that does not lead stands."""

    FOLLOWER = "follower"
    PRE_VOTE = "pre-vote"
    PREPARE = "prepare"


class Election:
    """A replica's view of who leads, and its own attempts to."""

    def __init__(
        self,
        settings: Settings,
        acceptor: Acceptor,
        learner: Learner,
        lives: Lives,
        rng: random.Random,
    ) -> None:
        self.phase = Phase.FOLLOWER
        self.leader: ReplicaId | None = None
        self.ballot = ZERO_BALLOT
        """In PRE_VOTE and PREPARE: the ballot that is sought."""
        self._settings = settings
        self._acceptor = acceptor
        self._learner = learner
        self._lives = lives
        self._rng = rng
        self._majority = majority(settings.replicas)
        self._highest_round = acceptor.promised.round
        self._heard_at: Instant | None = None
        self._deadline: Instant | None = None
        self._patience: Instant = 0
        """How long the present leader may be silent; drawn once for each."""
        self._repeat_at: Instant = 0
        self._granted: set[ReplicaId] = set()
        self._start: Slot = 0
        self._promised: dict[ReplicaId, int] = {}
        """Who promised the ballot, and in which life."""
        self._best: dict[Slot, Record] = {}

    # -- following -----------------------------------------------------------------------

    def follow(self, now: Instant, ballot: Ballot) -> bool:
        """A message of the leader of `ballot` came; True when that leader is new to us."""
        new = self.leader != ballot.leader or self.ballot != ballot
        if new:
            self.leader = ballot.leader
            self.ballot = ballot
            self.phase = Phase.FOLLOWER
            self._patience = self._timeout()
        self._heard_at = now
        self._deadline = now + self._patience
        return new

    def follows(self, ballot: Ballot) -> bool:
        """This replica follows the leader of `ballot`, and seeks no votes itself."""
        following = self.phase is Phase.FOLLOWER and self.ballot == ballot
        return following and self.leader == ballot.leader

    def heard(self, at: Instant) -> None:
        """The leader that is followed was heard; 0: it was not."""
        if at > 0:
            self._heard_at = at
            self._deadline = at + self._patience

    def abandon(self, now: Instant) -> None:
        """No leader is known (any more): wait a while, then seek votes."""
        self.leader = None
        self.phase = Phase.FOLLOWER
        self._heard_at = None
        self._deadline = now + self._timeout()

    def leader_down(self, now: Instant) -> None:
        """The connection to the leader broke: it is probably dead, so do not wait long."""
        self.leader = None
        self.phase = Phase.FOLLOWER
        self._heard_at = None
        self._deadline = now + self._rng.randrange(max(1, self._settings.down_spread))

    def expire(self, now: Instant) -> None:
        """As tick, for a replica that may not seek votes: a leader that fell silent is none."""
        if self.leader is not None and self._deadline is not None and now >= self._deadline:
            self.abandon(now)

    def saw_round(self, ballot: Ballot) -> None:
        """Some replica has promised `ballot`: ours must be above it to be of use."""
        self._highest_round = max(self._highest_round, ballot.round)

    # -- seeking votes -------------------------------------------------------------------

    def tick(self, turn: Turn) -> None:
        """Start, repeat or give up an attempt when its time has come."""
        if self._deadline is None:
            # Just started. A living leader greets us as soon as we are connected, and pre-vote
            # protects it: no need to wait as long as for one that fell silent.
            spread = self._rng.randrange(max(1, self._settings.election_spread))
            self._deadline = turn.now + 2 * self._settings.heartbeat + spread
        if turn.now >= self._deadline:
            self._start_pre_vote(turn)
        elif self.phase is not Phase.FOLLOWER and turn.now >= self._repeat_at:
            self._repeat(turn)

    def wake_at(self) -> Instant | None:
        if self.phase is Phase.FOLLOWER or self._deadline is None:
            return self._deadline
        return min(self._deadline, self._repeat_at)

    def on_pre_vote(self, turn: Turn, sender: ReplicaId, message: PreVote, leading: bool) -> None:
        """Would we follow this candidate? A working leader, or one who hears it, would not."""
        self._learner.heard_of(message.decided_upto)
        mine = self._learner.decided_upto
        granted = (
            not leading
            and not self._hears_leader(turn.now)
            and message.ballot > self._acceptor.promised
            and message.decided_upto + self._settings.window >= mine
        )
        reply = PreVoteReply(message.ballot, granted, self._acceptor.promised, mine)
        turn.send(sender, reply)

    def on_pre_vote_reply(self, turn: Turn, sender: ReplicaId, message: PreVoteReply) -> None:
        self.saw_round(message.promised)
        self._learner.heard_of(message.decided_upto)
        if self.phase is not Phase.PRE_VOTE or message.ballot != self.ballot:
            return
        if message.granted:
            self._granted.add(sender)
            if len(self._granted) >= self._majority:
                self.prepare(turn)

    def greet(self, turn: Turn, peer: ReplicaId) -> None:
        """A replica (re)connected: it may have missed our question."""
        if self.phase is not Phase.FOLLOWER:
            turn.send(peer, self._question())

    def prepare(self, turn: Turn) -> None:
        """Phase 1: promise an own ballot and ask everybody for theirs."""
        self.leader = None
        self.phase = Phase.PREPARE
        self.ballot = self._next_ballot()
        self._start = self._learner.decided_upto + 1
        self._acceptor.promise(turn, self.ballot)
        self._highest_round = self.ballot.round
        self._deadline = turn.now + self._timeout()
        self._repeat_at = turn.now + self._settings.retry
        self._promised = {self._settings.replica: self._lives.own}
        self._best = {record.slot: record for record in self._acceptor.accepted_from(self._start)}
        turn.broadcast(Prepare(self.ballot, self._start))

    def on_promise(self, turn: Turn, sender: ReplicaId, message: Promise) -> None:
        """Gather the values that earlier ballots may have decided."""
        self._learner.heard_of(message.decided_upto)
        self._lives.learn(turn, message.lives)
        if self.phase is not Phase.PREPARE or message.ballot != self.ballot:
            return
        if message.start != self._start:
            return
        if message.truncated_upto >= self._start:
            # What we miss is in nobody's promise: it must be caught up first.
            self.abandon(turn.now)
            return
        self._promised[sender] = self._lives.in_vector(message.lives, sender)
        for (slot, ballot), value in zip(message.accepted, message.values, strict=True):
            held = self._best.get(slot)
            if held is None or held.ballot < ballot:
                self._best[slot] = Record(slot, ballot, value)

    def won(self) -> bool:
        """True when a majority, this replica included, has promised the ballot.

        A promise given in an earlier life than the newest known one is forgotten by its giver, who
        may have voted below the ballot since: it does not count.
        """
        if self.phase is not Phase.PREPARE or len(self._promised) < self._majority:
            return False
        kept = sum(life >= self._lives.of(giver) for giver, life in self._promised.items())
        return kept >= self._majority

    def backlog(self, noop: Batch, time: int) -> dict[Slot, Value]:
        """Values to propose again: per slot that of the highest ballot, no-ops in holes."""
        best, self._best = self._best, {}
        first = self._learner.decided_upto + 1
        return {
            slot: best[slot].value if slot in best else Value(noop, time)
            for slot in range(first, max(best, default=0) + 1)
        }

    def lead(self) -> None:
        """The attempt succeeded."""
        self.phase = Phase.FOLLOWER
        self.leader = self._settings.replica
        self._heard_at = None
        self._deadline = None

    # ------------------------------------------------------------------------------------

    def _hears_leader(self, now: Instant) -> bool:
        if self.leader is None or self._heard_at is None:
            return False
        return now < self._heard_at + self._settings.election

    def _timeout(self) -> Instant:
        return self._settings.election + self._rng.randrange(max(1, self._settings.election_spread))

    def _next_ballot(self) -> Ballot:
        round_ = max(self._highest_round, self._acceptor.promised.round) + 1
        return Ballot(round_, self._settings.replica)

    def _start_pre_vote(self, turn: Turn) -> None:
        self.leader = None
        self._heard_at = None
        self.phase = Phase.PRE_VOTE
        self.ballot = self._next_ballot()
        self._granted = {self._settings.replica}
        self._deadline = turn.now + self._timeout()
        self._repeat_at = turn.now + self._settings.retry
        if len(self._granted) >= self._majority:
            self.prepare(turn)
        else:
            turn.broadcast(PreVote(self.ballot, self._learner.decided_upto))

    def _repeat(self, turn: Turn) -> None:
        self._repeat_at = turn.now + self._settings.retry
        turn.broadcast(self._question())

    def _question(self) -> PreVote | Prepare:
        if self.phase is Phase.PRE_VOTE:
            return PreVote(self.ballot, self._learner.decided_upto)
        return Prepare(self.ballot, self._start)

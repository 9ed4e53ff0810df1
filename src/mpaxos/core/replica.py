"""One replica of the protocol: everything it decides, nothing it does.

    replica = Replica(settings, recovered, log, incarnation=..., make_noop=..., epoch=..., seed=...)
    output = replica.step(now, events)

`step` is a pure function of what the replica knows: no I/O, no clock, no threads, no randomness but
that of `seed`. The caller carries the Output out in its order: writes are durable before messages
are sent. The parts, each a module with its theory at the top: Acceptor (promises and records),
Learner (what is decided), Election, Leadership (while it leads), Outbox (own clients' batches),
ReadQueue and ReadConfirmation (linearizable reads), Catchup, Marks (do all states agree), Lives and
Recovery (a replica that has forgotten votes), Views (what it tells of itself).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from mpaxos.core import messages as m
from mpaxos.core import output as o
from mpaxos.core.acceptor import Acceptor
from mpaxos.core.catchup import Catchup
from mpaxos.core.election import Election, Phase
from mpaxos.core.invariant import invariant
from mpaxos.core.leader import Leadership
from mpaxos.core.learner import Learner
from mpaxos.core.lives import Lives
from mpaxos.core.mandate import Mandates
from mpaxos.core.marks import Marks
from mpaxos.core.outbox import Outbox
from mpaxos.core.reads import ReadQueue
from mpaxos.core.recovery import Recovery, ignore
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Standing
from mpaxos.core.state_source import StateSource
from mpaxos.core.transfer import StateTarget
from mpaxos.core.truncation import Truncation
from mpaxos.core.turn import Turn
from mpaxos.core.types import (
    Ballot,
    Batch,
    Instant,
    LogReader,
    Recovered,
    ReplicaId,
    Slot,
    Value,
)


class Replica(Mandates):
    """The protocol of one replica, as a state machine over events."""

    def __init__(
        self,
        settings: Settings,
        recovered: Recovered,
        log: LogReader,
        *,
        incarnation: int,
        make_noop: Callable[[], Batch],
        epoch: int,
        seed: int,
    ) -> None:
        """`incarnation`: random 63-bit number of this life of the replica. `make_noop`: makes a
        batch without requests. `epoch`: wall clock minus monotonic clock in nanoseconds, for the
        time stamps of values. `seed`: of the random timeouts."""
        rng = random.Random(seed)
        peers = tuple(r for r in range(settings.replicas) if r != settings.replica)
        self.settings = settings
        self.applied_upto = recovered.applied.slot
        self.connected: dict[ReplicaId, bool] = dict.fromkeys(peers, False)
        self._peers = peers
        self._epoch = epoch
        self._make_noop = make_noop
        self._last_time = recovered.applied_time
        self._acceptor = Acceptor(settings, recovered, log)
        self._outbox = Outbox(settings, incarnation)
        self._learner = Learner(settings, recovered, self._acceptor, self._on_decided)
        self._lives = Lives(settings, recovered)
        self._election = Election(settings, self._acceptor, self._learner, self._lives, rng)
        self._catchup = Catchup(settings, self._acceptor, self._learner, rng)
        self.state_target = StateTarget(settings, self._catchup, self._learner)
        self.state_source = StateSource(settings, self.state_target)
        self._marks = Marks(settings)
        self._reads = ReadQueue(settings, incarnation)
        self._leadership: Leadership | None = None
        self._truncation = Truncation(recovered, self._acceptor)
        self._leaderless_since: Instant | None = None
        self._handlers: dict[type, Callable[..., None]] = {
            m.Prepare: self._on_prepare,
            m.Promise: self._on_promise,
            m.Accept: self._on_accept,
            m.Accepted: self._on_accepted,
            m.Reject: self._on_reject,
            m.PreVote: self._on_pre_vote,
            m.PreVoteReply: self._election.on_pre_vote_reply,
            m.Heartbeat: self._on_heartbeat,
            m.HeartbeatReply: self._on_heartbeat_reply,
            m.Forward: self._on_forward,
            m.CatchupRequest: self._catchup.serve,
            m.CatchupReply: self._on_catchup_reply,
            m.ReadIndexRequest: self._on_read_index_request,
            m.ReadIndexReply: self._on_read_index_reply,
            m.TakeOver: self._on_take_over,
            m.Recover: self._on_recover,
            m.RecoverReply: ignore,  # to questions that need no answer any more
        }
        self._handlers |= self.state_target.handlers() | self.state_source.handlers()
        self._recovery: Recovery | None = None
        if recovered.recovering:
            parts = (self._lives, self._acceptor, self._learner, self._election)
            self._recovery = Recovery(settings, *parts, self._follow, self._hear_leader)
            self._in_step_handlers = self._handlers
            self._handlers = self._handlers | self._recovery.handlers()

    # -- the step --------------------------------------------------------------------------

    def step(self, now: Instant, events: list[o.Event]) -> o.Output:
        """Take in `events` at time `now` and say what is to be done."""
        turn = Turn(now, self._peers)
        self._acceptor.begin_turn()
        for event in events:
            if isinstance(event, o.Received):
                self._handlers[type(event.message)](turn, event.sender, event.message)
            else:
                self._on_local(turn, event)
        self._learner.advance(turn)
        self._lead_or_follow(turn)
        self._learner.advance(turn)  # a cluster of one decides by its own vote
        self._truncation.run(turn, self.applied_upto)
        turn.output.room = self._outbox.room
        turn.output.quorum = self._has_quorum(now)
        turn.output.wake_at = self._wake_at(now)
        turn.output.votes = self._awaits_votes()
        if self.state_target.active:
            turn.output.useful_upto = self._acceptor.settled_upto + self.settings.horizon
        return turn.output

    def _on_local(self, turn: Turn, event: o.Event) -> None:
        match event:
            case o.LocalBatch(batch=batch):
                self._outbox.add(batch)
                if self._leadership is not None:
                    self._leadership.enqueue(batch)
            case Standing():
                self._adopt(turn, event)
            case o.LocalReads(batch=batch):
                self._reads.add(batch)
            case o.Applied(mark=mark, marks=marks):
                if mark.slot > self.decided_upto:
                    invariant(False, f"applied undecided slot {mark.slot}")
                self.applied_upto = self._learner.applied_upto = mark.slot
                self._marks.applied(marks)
            case o.LogRoom(free=free):
                self._acceptor.room_is(turn, free)
            case o.PeerUp(peer=peer):
                self.connected[peer] = True
                self._catchup.connected(peer)
                if self._recovery is not None:
                    self._recovery.greet(turn, peer)
                elif self._leadership is not None:
                    self._leadership.greet(turn, peer)
                else:
                    self._election.greet(turn, peer)
            case o.PeerDown(peer=peer):
                self.connected[peer] = False
                if peer == self.leader:
                    self._election.leader_down(turn.now)
            case o.Snapshotted(upto=upto):
                invariant(upto <= self.decided_upto, f"a snapshot of undecided slot {upto}")
                self._truncation.snapshot = upto
            case o.Resign():
                self._resign(turn)
            case _:
                self._handlers[type(event)](turn, event)

    def _lead_or_follow(self, turn: Turn) -> None:
        if self._leadership is not None and not self._leadership.has_quorum(turn.now):
            self._step_down(turn.now)
        if self._recovery is not None:
            if self._recovery.tick(turn):
                self._recovery = None
                self._handlers = self._in_step_handlers
        elif self._leadership is None:
            self._election.tick(turn)
            if self._election.won():
                self._take_office(turn)
        if self._leadership is not None:
            self._run_leadership(turn, self._leadership)
        else:
            if self.leader is not None:
                self._outbox.forward(turn, self.leader)
                self._reads.ask(turn, self.leader)
            connected = [peer for peer in self._peers if self.connected[peer]]
            self._catchup.request(turn, connected, self.leader, self.applied_upto)
            self.state_target.tick(turn, connected, self.leader)
        self.state_source.tick(turn)

    def _run_leadership(self, turn: Turn, leadership: Leadership) -> None:
        leadership.propose(turn, turn.now + self._epoch, self.applied_upto)
        leadership.retry(turn)
        number = self._reads.take()
        if number is not None:
            leadership.reads.ask((self.settings.replica, number), leadership.last_proposed)
        self._answer_reads(turn, leadership)
        leadership.beat(turn, self._kept_upto)
        self._answer_reads(turn, leadership)  # a cluster of one needs nobody's confirmation
        self._truncation.by_all = leadership.applied_by_all(self._kept_upto)

    def _answer_reads(self, turn: Turn, leadership: Leadership) -> None:
        for (replica, number), slot in leadership.reads.confirmed():
            reply = m.ReadIndexReply(number, slot)
            if replica == self.settings.replica:
                self._reads.answered(turn, reply)
            else:
                turn.send(replica, reply)

    # -- becoming and ceasing to be leader ---------------------------------------------------

    def _take_office(self, turn: Turn) -> None:
        time = max(self._last_time, turn.now + self._epoch)
        ballot = self._election.ballot
        backlog = self._election.backlog(self._make_noop(), time)
        self._election.lead()
        self._leadership = Leadership(
            self.settings,
            ballot,
            self._acceptor,
            self._learner,
            self._marks,
            backlog,
            turn.now,
            self._last_time,
        )
        for batch in self._outbox.batches():
            self._leadership.enqueue(batch)
        self._reads.leader_changed()

    def _step_down(self, now: Instant) -> None:
        if self._leadership is not None:
            self._leadership = None
            self._outbox.leader_changed()
            self._reads.leader_changed()
        self._election.abandon(now)

    def _follow(self, turn: Turn, ballot: Ballot) -> bool:
        """A message of the leader of `ballot` came: follow it unless we promised a higher one."""
        if ballot < self._acceptor.promised:
            turn.send(ballot.leader, m.Reject(self._acceptor.promised))
            return False
        if ballot.leader == self.settings.replica:  # the text is made only when it is needed
            invariant(False, f"another replica leads our ballot {ballot}")
        self._acceptor.promise(turn, ballot)
        if self._leadership is not None:
            self._step_down(turn.now)
        if self._election.follow(turn.now, ballot):
            self._outbox.leader_changed()
            self._reads.leader_changed()
        return True

    def _resign(self, turn: Turn) -> None:
        if self._leadership is None:
            return
        connected = [peer for peer in self._peers if self.connected[peer]]
        successor = self._leadership.best_successor(connected)
        if successor is not None:
            turn.send(successor, m.TakeOver(self._leadership.ballot))

    # -- messages --------------------------------------------------------------------------

    def _on_prepare(self, turn: Turn, sender: ReplicaId, message: m.Prepare) -> None:
        self._election.saw_round(message.ballot)
        promised = self._acceptor.promised
        if message.ballot < promised:
            turn.send(sender, m.Reject(promised))
            return
        if self._acceptor.promise(turn, message.ballot):
            self._step_down(turn.now)
        records = self._acceptor.accepted_from(message.start)
        turn.send(
            sender,
            m.Promise(
                message.ballot,
                message.start,
                self.decided_upto,
                self._acceptor.truncated_upto,
                [(record.slot, record.ballot) for record in records],
                [record.value for record in records],
                self._lives.vector(),
            ),
        )

    def _on_promise(self, turn: Turn, sender: ReplicaId, message: m.Promise) -> None:
        self._election.on_promise(turn, sender, message)
        if self._leadership is None and self._election.won():
            self._take_office(turn)

    def _on_accept(self, turn: Turn, sender: ReplicaId, message: m.Accept) -> None:
        if not self._follow(turn, message.ballot):
            return
        self._learner.leader_says(message.ballot, message.decided_upto)
        if message.vote:
            self._learner.vote(message.slot, message.ballot, sender)
        if not self._acceptor.accept(turn, message.ballot, message.slot, message.values[0]):
            return
        self._learner.vote(message.slot, message.ballot, self.settings.replica)
        vote = m.Accepted(message.ballot, [message.slot], self._kept_upto)
        if self.settings.replicas <= 3:
            # With three replicas, the leader's vote and our own are all we need to know.
            turn.send(sender, vote)
        else:
            turn.broadcast(vote)

    def _on_accepted(self, turn: Turn, sender: ReplicaId, message: m.Accepted) -> None:
        for slot in message.slots:
            self._learner.vote(slot, message.ballot, sender)
        if self._leadership is not None and message.ballot == self._leadership.ballot:
            self._leadership.heard(sender, turn.now, message.applied_upto)

    def _on_reject(self, turn: Turn, sender: ReplicaId, message: m.Reject) -> None:
        self._election.saw_round(message.promised)
        if self._leadership is not None and message.promised > self._leadership.ballot:
            self._step_down(turn.now)
        elif self._election.phase is Phase.PREPARE and message.promised > self._election.ballot:
            self._election.abandon(turn.now)

    def _on_pre_vote(self, turn: Turn, sender: ReplicaId, message: m.PreVote) -> None:
        self._election.on_pre_vote(turn, sender, message, self._leadership is not None)

    def _on_heartbeat(self, turn: Turn, sender: ReplicaId, message: m.Heartbeat) -> None:
        if not self._follow(turn, message.ballot):
            return
        self._hear_leader(message)
        turn.send(
            sender,
            m.HeartbeatReply(
                message.ballot,
                message.number,
                self.decided_upto,
                self._kept_upto,
                self._marks.newest,
            ),
        )

    def _hear_leader(self, message: m.Heartbeat) -> None:
        self._learner.leader_says(message.ballot, message.decided_upto)
        self._marks.compare(message.agreed)
        self._truncation.by_all = max(self._truncation.by_all, message.applied_by_all)

    def _on_heartbeat_reply(self, turn: Turn, sender: ReplicaId, message: m.HeartbeatReply) -> None:
        if self._leadership is None or message.ballot != self._leadership.ballot:
            return
        self._leadership.heard(sender, turn.now, message.applied_upto)
        self._leadership.reads.acknowledged(sender, message.number)
        self._marks.reported(sender, message.mark, turn.now)

    def _on_forward(self, turn: Turn, sender: ReplicaId, message: m.Forward) -> None:
        if self._leadership is not None:
            for value in message.values:
                self._leadership.enqueue(value.batch)

    def _on_catchup_reply(self, turn: Turn, sender: ReplicaId, message: m.CatchupReply) -> None:
        if self._leadership is None:
            self._catchup.received(turn, sender, message)
            if self._election.phase is Phase.PREPARE and self.ballot > self._election.ballot:
                self._election.abandon(turn.now)

    def _on_read_index_request(
        self, turn: Turn, sender: ReplicaId, message: m.ReadIndexRequest
    ) -> None:
        if self._leadership is not None:
            asker = (sender, message.number)
            self._leadership.reads.ask(asker, self._leadership.last_proposed)

    def _on_read_index_reply(
        self, turn: Turn, sender: ReplicaId, message: m.ReadIndexReply
    ) -> None:
        self._reads.answered(turn, message)

    def _on_take_over(self, turn: Turn, sender: ReplicaId, message: m.TakeOver) -> None:
        if self._leadership is None and message.ballot == self._acceptor.promised:
            self._election.prepare(turn)

    # -- recovery: of others, and our own ----------------------------------------------------

    def _on_recover(self, turn: Turn, sender: ReplicaId, message: m.Recover) -> None:
        # Noted before the answer, durably: from here on we help nobody to count on what the
        # sender promised before. An older life than the known one is told so by the answer.
        self._lives.began(turn, sender, message.life)
        led = self._leadership
        if led is not None:
            invariant(led.ballot == self.ballot, f"leading {led.ballot}, promised {self.ballot}")
        turn.send(
            sender,
            m.RecoverReply(
                message.life,
                self.ballot,
                led is not None,
                0 if led is None else led.last_proposed,
                self.decided_upto,
                self._lives.vector(),
            ),
        )

    # ----------------------------------------------------------------------------------------

    def _on_decided(self, slot: Slot, value: Value) -> None:
        self._last_time = max(self._last_time, value.time)
        self._outbox.decided(value.batch)

    @property
    def _kept_upto(self) -> Slot:
        return self._truncation.kept_upto(self.applied_upto)

    def _awaits_votes(self) -> bool:
        """Whether an Accepted or a HeartbeatReply could bring something about."""
        undecided = self._acceptor.last_slot > self._learner.decided_upto
        return undecided or (self._leadership is not None and self._leadership.reads.under_way)

    def _has_quorum(self, now: Instant) -> bool:
        if self.leader is not None:
            self._leaderless_since = None
            return True
        if self._leaderless_since is None:
            self._leaderless_since = now
        return now < self._leaderless_since + self.settings.quorum_grace

    def _wake_at(self, now: Instant) -> Instant:
        wake = now + self.settings.heartbeat
        if self._leadership is not None:
            return max(now, min(wake, self._leadership.wake_at()))
        seeking = self._election if self._recovery is None else self._recovery
        times = [seeking.wake_at(), self._catchup.wake_at(now), self.state_target.wake_at()]
        if self.leader is not None:
            times += [self._outbox.wake_at(), self._reads.wake_at()]
        for time in times:
            if time is not None and time < wake:
                wake = time
        return max(now, wake)

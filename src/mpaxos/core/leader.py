"""The leader of one ballot: proposes batches slot after slot, within a window.

A leadership begins with the values that a majority of promises revealed (the backlog): per slot the
one of the highest ballot, no-ops in holes (Lamport 2001, section 3). They are proposed again before
anything new.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.invariant import invariant
from mpaxos.core.learner import Learner
from mpaxos.core.marks import NO_MARK, Marks
from mpaxos.core.messages import Accept, Accepted, Heartbeat
from mpaxos.core.reads import ReadConfirmation
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Standing
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, Batch, Instant, Mark, ReplicaId, Slot, Value, majority

BatchId = tuple[ReplicaId, int, int]


def batch_id(batch: Batch) -> BatchId:
    return (batch.origin, batch.incarnation, batch.number)


class Leadership:
    """Everything a replica knows only while it leads `ballot`; dropped when it steps down."""

    HINTS = 4096
    """Batches remembered as proposed: one that is forwarded twice is then seldom decided twice."""

    def __init__(
        self,
        settings: Settings,
        ballot: Ballot,
        acceptor: Acceptor,
        learner: Learner,
        marks: Marks,
        backlog: dict[Slot, Value],
        now: Instant,
        last_time: int,
    ) -> None:
        self.ballot = ballot
        self.reads = ReadConfirmation(settings)
        self._settings = settings
        self._peers = [peer for peer in range(settings.replicas) if peer != settings.replica]
        self._acceptor = acceptor
        self._learner = learner
        self._marks = marks
        self._backlog = deque(sorted(backlog.items()))
        self._queue: deque[Batch] = deque()
        self._proposed: OrderedDict[BatchId, None] = OrderedDict()
        self._seen: dict[ReplicaId, tuple[int, int]] = {}
        """Of each origin, the newest incarnation and the highest number remembered."""
        self._next_slot = learner.decided_upto + 1
        self._last_backlog = max(backlog, default=0)
        self._last_time = max([last_time] + [value.time for value in backlog.values()])
        self._flying: OrderedDict[Slot, Instant] = OrderedDict()
        """Slots proposed and not yet decided, with the time they were last sent."""
        self._heard: dict[ReplicaId, Instant] = {}
        self._quorum_until = now + settings.election + settings.election_spread
        self._forgotten = learner.decided_upto
        self._applied: dict[ReplicaId, Slot] = {}
        self._beat_at = now
        self._beat = 0
        marks.forget_reports()
        for value in backlog.values():
            self._remember(value.batch)

    # -- proposing -----------------------------------------------------------------------

    @property
    def last_proposed(self) -> Slot:
        """Every slot that is decided anywhere, now or before, is at most this one."""
        return max(self._next_slot - 1, self._last_backlog)

    @property
    def queued(self) -> int:
        return len(self._queue) + len(self._backlog)

    def enqueue(self, batch: Batch) -> None:
        """Take a batch of any replica's clients, unless it was taken before."""
        if batch_id(batch) not in self._proposed:
            self._remember(batch)
            self._queue.append(batch)

    def propose(self, turn: Turn, wall: int, applied_upto: Slot) -> None:
        """Propose what waits, as far as the window, the log and the applier allow."""
        self._forget_decided()
        first = self._next_slot
        self._propose_all(turn, wall, applied_upto)
        if self._settings.early_accepts and first < self._next_slot:
            slots = list(range(first, self._next_slot))
            turn.broadcast(Accepted(self.ballot, slots, applied_upto))

    def _propose_all(self, turn: Turn, wall: int, applied_upto: Slot) -> None:
        while self._may_propose(applied_upto) and (value := self._next_value(wall)) is not None:
            slot = self._next_slot
            # The last eighth of the log is kept for taking over: a backlog must always fit.
            reserve = 0 if self._backlog else self._acceptor.reserve
            if not self._acceptor.has_room(value, reserve):
                return
            if not self._acceptor.accept(turn, self.ballot, slot, value):
                return
            if self._backlog:
                self._backlog.popleft()
            else:
                if slot <= self._learner.decided_upto:
                    invariant(False, f"slot {slot} proposed when decided")
                self._queue.popleft()
            self._last_time = value.time
            self._next_slot += 1
            self._flying[slot] = turn.now
            self._learner.vote(slot, self.ballot, self._settings.replica)
            if self._settings.early_accepts:
                # What is decided may rest on our own votes that are not durable yet.
                turn.broadcast_early(Accept(self.ballot, slot, 0, [value], vote=False))
            else:
                turn.broadcast(Accept(self.ballot, slot, self._learner.decided_upto, [value]))

    # -- mandates (mpaxos.core.mandate) ----------------------------------------------------

    @property
    def flying(self) -> OrderedDict[Slot, Instant]:
        """Slots proposed and not yet decided, with the time they were last sent."""
        return self._flying

    def is_steady(self) -> bool:
        """Nothing of earlier ballots is left to propose."""
        first_free = self._acceptor.last_slot + 1
        return not self._backlog and self._next_slot == first_free > self._last_backlog

    def describe(self, standing: Standing) -> None:
        """Fill in what a leader knows."""
        standing.proposed_time = self._last_time
        standing.queue = list(self._queue)
        standing.seen = [(origin, *seen) for origin, seen in self._seen.items()]
        standing.peers = [
            (peer, 0, self._applied.get(peer, 0), self.reads.acks(peer), NO_MARK, 0)
            for peer in self._peers
        ]
        standing.beat = self._beat

    def adopt(self, standing: Standing) -> None:
        """Go on from where ordinary turns led."""
        sent = [(at, slot) for slot, _, at, _, batch in standing.flights if batch is not None]
        self._flying = OrderedDict((slot, at) for at, slot in sorted(sent))
        self._forgotten = standing.decided
        self._next_slot = standing.decided + len(sent) + 1
        self._last_time = standing.proposed_time
        self._queue = deque(standing.queue)
        self._beat = standing.beat
        if standing.beat_at:
            self._beat_at = standing.beat_at + self._settings.heartbeat
        for id in standing.remembered:
            self._remember_id(id)
        for peer, heard_at, applied, acked, mark, reported_at in standing.peers:
            self.heard(peer, heard_at, applied)
            self.reads.acknowledged(peer, acked)
            if reported_at:
                self._marks.reported(peer, Mark(*mark), reported_at)

    def retry(self, turn: Turn) -> None:
        """Send accepts again that were not decided in time, to those who have not voted."""
        self._forget_decided()
        for slot, sent_at in list(self._flying.items()):
            if turn.now < sent_at + self._settings.retry:
                break
            self._flying.move_to_end(slot)
            self._flying[slot] = turn.now
            for peer in self._peers:
                if not self._learner.voted(slot, self.ballot, peer):
                    self._send_accept(turn, peer, slot)

    def greet(self, turn: Turn, peer: ReplicaId) -> None:
        """A replica (re)connected: it missed what was sent meanwhile."""
        self._forget_decided()
        turn.send(peer, self._heartbeat())
        for slot in self._flying:
            self._send_accept(turn, peer, slot)

    # -- the others ----------------------------------------------------------------------

    def heard(self, replica: ReplicaId, now: Instant, applied_upto: Slot) -> None:
        """`replica` follows this ballot and has applied that far."""
        self._heard[replica] = now
        self._applied[replica] = max(applied_upto, self._applied.get(replica, 0))

    def has_quorum(self, now: Instant) -> bool:
        """Check-quorum (Ongaro 2014, section 6.2): did a majority answer lately?"""
        if now < self._quorum_until:
            return True
        needed = majority(self._settings.replicas) - 1
        if len(self._heard) < needed:
            return False
        patience = self._settings.election + self._settings.election_spread
        # As long as this holds without another word of anybody: seldom computed.
        latest = sorted(self._heard.values(), reverse=True)
        self._quorum_until = latest[needed - 1] + patience if needed else now + patience
        return now < self._quorum_until

    def applied_by_all(self, own: Slot) -> Slot:
        """Every replica has applied up to here, crashed ones included."""
        applied = self._applied
        return min(own, *[applied.get(peer, 0) for peer in self._peers]) if self._peers else own

    def best_successor(self, connected: list[ReplicaId]) -> ReplicaId | None:
        """The connected replica that has applied most."""
        ranked = [(self._applied.get(peer, 0), peer) for peer in connected if peer in self._heard]
        return max(ranked)[1] if ranked else None

    # -- heartbeats ----------------------------------------------------------------------

    def beat(self, turn: Turn, applied_upto: Slot) -> None:
        """Broadcast a heartbeat if one is due, or if reads wait for one."""
        if turn.now < self._beat_at and not self.reads.wants_round():
            return
        self._beat += 1
        self._beat_at = turn.now + self._settings.heartbeat
        self.reads.started(self._beat)
        turn.broadcast(self._heartbeat(applied_upto))

    def wake_at(self) -> Instant:
        self._forget_decided()
        oldest = next(iter(self._flying.values()), None)
        if oldest is None:
            return self._beat_at
        return min(self._beat_at, oldest + self._settings.retry)

    # ------------------------------------------------------------------------------------

    def _heartbeat(self, applied_upto: Slot = 0) -> Heartbeat:
        return Heartbeat(
            self.ballot,
            self._beat,
            self._learner.decided_upto,
            self.applied_by_all(applied_upto),
            self._marks.agreed(),
        )

    def _may_propose(self, applied_upto: Slot) -> bool:
        decided = self._learner.decided_upto
        in_window = self._next_slot <= decided + self._settings.window
        return in_window and decided - applied_upto < self._settings.max_apply_lag

    def _next_value(self, wall: int) -> Value | None:
        if self._backlog:
            slot, value = self._backlog[0]
            return value if slot == self._next_slot else self._skip(slot)
        if self._queue:
            return Value(self._queue[0], max(wall, self._last_time))
        return None

    def _skip(self, slot: Slot) -> Value | None:
        """The backlog has no holes but those decided since it was made: they are behind us."""
        while self._backlog and self._backlog[0][0] < self._next_slot:
            self._backlog.popleft()
        if not self._backlog:
            return None
        return self._backlog[0][1] if self._backlog[0][0] == self._next_slot else None

    def _forget_decided(self) -> None:
        decided = self._learner.decided_upto
        if decided == self._forgotten:
            return
        self._forgotten = decided
        for slot in [slot for slot in self._flying if slot <= decided]:
            del self._flying[slot]

    def _send_accept(self, turn: Turn, peer: ReplicaId, slot: Slot) -> None:
        record = self._acceptor.record(slot)
        if record is not None and record.ballot == self.ballot:
            accept = Accept(self.ballot, slot, self._learner.decided_upto, [record.value])
            turn.send(peer, accept)

    def _remember(self, batch: Batch) -> None:
        if batch.count == 0:
            return  # no-ops are all alike
        self._remember_id(batch_id(batch))

    def _remember_id(self, id: BatchId) -> None:
        self._proposed[id] = None
        if len(self._proposed) > self.HINTS:
            self._proposed.popitem(last=False)
        origin, incarnation, number = id
        known, highest = self._seen.get(origin, (incarnation, 0))
        self._seen[origin] = (incarnation, max(number, highest) if known == incarnation else number)

"""Catch-up: a replica that missed decided slots gets them from the log of another one.

One request is under way at a time, to a replica chosen at random among those that may have the
slots, the leader only when nobody else can help. A leader itself never catches up: what it
says about decided slots must come from votes in its own ballot alone (see Learner.leader_says).
"""

from __future__ import annotations

import random

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.learner import Learner
from mpaxos.core.messages import CatchupReply, CatchupRequest
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, Instant, ReplicaId, Slot, Value


class Catchup:
    """Asks for missing slots, and serves others'."""

    def __init__(
        self, settings: Settings, acceptor: Acceptor, learner: Learner, rng: random.Random
    ) -> None:
        self._settings = settings
        self._acceptor = acceptor
        self._learner = learner
        self._rng = rng
        self._asked: tuple[ReplicaId, Instant] | None = None
        """Whom the question under way went to, and when."""
        self._pause_until: Instant = 0
        self._helpless: dict[ReplicaId, Slot] = {}
        """Replicas that could not help with this slot."""
        self._stuck_at: Slot = 0
        """Every connected replica was asked for this slot, and some had it once."""
        self._answers: dict[ReplicaId, tuple[Slot, Slot]] = {}
        """What each replica said last: truncated up to, decided up to."""

    def too_far_behind(self, others: int) -> bool:
        """True when no other replica has what is needed next: all those that ever had it have
        truncated it."""
        needed = self._learner.decided_upto + 1
        gone = [truncated >= needed for truncated, _ in self._answers.values()]
        behind = [decided < needed for _, decided in self._answers.values()]
        helpless = sum(g or b for g, b in zip(gone, behind, strict=True))
        return any(gone) and helpless >= others

    @property
    def stuck(self) -> bool:
        """No log in reach goes back to the slot that is needed next: the whole state is needed."""
        return self._stuck_at == self._learner.decided_upto + 1

    @property
    def is_missing(self) -> bool:
        """Somebody knows a slot to be decided that we do not."""
        return self._missing(self._learner.decided_upto + 1)

    def is_ahead(self, peer: ReplicaId) -> bool:
        """`peer` said that it knows the slot that is needed next to be decided."""
        return self._answers.get(peer, (0, 0))[1] > self._learner.decided_upto

    def connected(self, peer: ReplicaId) -> None:
        """`peer` is there (again), and may have what nobody else had: it is asked at once."""
        self._helpless.pop(peer, None)
        self._pause_until = 0

    def pick(self, peers: list[ReplicaId]) -> ReplicaId | None:
        """One of them, at random."""
        return self._rng.choice(peers) if peers else None

    def serve(self, turn: Turn, asker: ReplicaId, request: CatchupRequest) -> None:
        """Send decided values from `request.start` on, as many as the limits allow."""
        ballots: list[Ballot] = []
        values: list[Value] = []
        size = 0
        last = min(
            request.end,
            self._learner.decided_upto,
            request.start + self._settings.catchup_slots - 1,
        )
        for slot in range(max(1, request.start), last + 1):
            record = self._acceptor.record(slot)
            if record is None:
                break
            size += record.value.batch.length
            if values and size > self._settings.catchup_bytes:
                break
            ballots.append(record.ballot)
            values.append(record.value)
        turn.send(
            asker,
            CatchupReply(
                request.start,
                self._acceptor.truncated_upto,
                self._learner.decided_upto,
                ballots,
                values,
            ),
        )

    def request(
        self, turn: Turn, connected: list[ReplicaId], leader: ReplicaId | None, applied_upto: Slot
    ) -> None:
        """Ask for what is missing, unless a question is under way or the applier is behind."""
        start = self._learner.decided_upto + 1
        if not self._missing(start) or not connected:
            self._asked = None
            return
        far_ahead = start - applied_upto > self._settings.max_apply_lag // 2
        if far_ahead or turn.now < self._pause_until:
            self._asked = None
            return
        if self._asked is not None:
            peer, asked_at = self._asked
            if turn.now >= asked_at + self._settings.retry:
                self._helpless[peer] = start
            elif peer in connected:
                # Also when slots came another way meanwhile: a replica that works off what piled
                # up would ask anew in every turn, and bury itself and the others in answers.
                return
        source = self._choose(connected, leader, start)
        if source is None:
            answers = [self._answers.get(peer, (0, 0)) for peer in connected]
            if any(truncated >= start for truncated, _ in answers):
                self._stuck_at = start
            self._helpless.clear()
            self._pause_until = turn.now + self._settings.retry
            return
        self._asked = (source, turn.now)
        turn.send(source, CatchupRequest(start, self._learner.known_upto))

    def received(self, turn: Turn, sender: ReplicaId, reply: CatchupReply) -> None:
        """Learn the decided values of a reply."""
        self._learner.heard_of(reply.decided_upto)
        self._answers[sender] = (reply.truncated_upto, reply.decided_upto)
        if self._asked is not None and self._asked[0] == sender:
            self._asked = None
        if not reply.values:
            self._helpless[sender] = reply.start
        for offset, (ballot, value) in enumerate(zip(reply.ballots, reply.values, strict=True)):
            slot = reply.start + offset
            if slot != self._learner.decided_upto + 1:
                continue
            if not self._learner.may_hand_out():
                break  # asked for again once the state machine has come closer
            if not self._learner.learn(turn, slot, ballot, value):
                self._pause_until = turn.now + self._settings.retry  # no room for it
                break

    def wake_at(self, now: Instant) -> Instant | None:
        """When to look again, if something is missing."""
        if not self._missing(self._learner.decided_upto + 1):
            return None
        if self._asked is None:
            return self._pause_until if self._pause_until > now else None
        return self._asked[1] + self._settings.retry

    def _missing(self, slot: Slot) -> bool:
        """Somebody knows `slot` to be decided and we do not."""
        return slot <= self._learner.known_upto

    def _choose(
        self, connected: list[ReplicaId], leader: ReplicaId | None, start: Slot
    ) -> ReplicaId | None:
        able = [peer for peer in connected if self._helpless.get(peer) != start]
        followers = [peer for peer in able if peer != leader]
        return self.pick(followers or able)

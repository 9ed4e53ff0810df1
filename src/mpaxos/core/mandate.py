"""Mandates: ordinary turns are taken by somebody faster, and adopted.

Nearly all turns of a replica are alike: a leader proposes batches and counts votes, a follower
accepts the next slot and votes, reads are confirmed, heartbeats answered. When nothing else is
under way, the protocol says where it stands (mandate), turns are taken from there by native code
without entering Python (native/src/steady.hpp), and before anything that is not ordinary, or a
timer, the protocol is told where that led and goes on from there (adopt).

Two rules make this safe. A mandate is for one ballot, and ends before any message of another one,
or anything that could change a promise, is looked at: so the promise cannot change under it. And
what is not in the Standing is not changed by ordinary turns: adopting one gives the same state as
taking the turns here would have given. tests/sim/test_steady.py compares both at every step.
"""

from __future__ import annotations

from mpaxos.core.invariant import invariant
from mpaxos.core.leader import Leadership
from mpaxos.core.marks import NO_MARK, Marks
from mpaxos.core.settings import Settings
from mpaxos.core.standing import ReadAt, Standing
from mpaxos.core.truncation import Truncation
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, Mark, Slot
from mpaxos.core.views import Views


class Mandates(Views):
    """The part of a Replica, which owns what is named here, that gives and takes mandates."""

    settings: Settings
    applied_upto: Slot
    _marks: Marks
    _truncation: Truncation
    _last_time: int

    def mandate(self) -> Standing | None:
        """Where this replica stands; None while anything but ordinary turns is called for."""
        ballot = self._acceptor.promised
        # A state that is durable in snapshots only, or votes that follow later, are not ordinary.
        if self._truncation.snapshot is not None or self.settings.early_accepts:
            return None
        if self._recovery is not None or self._acceptor.under_pressure:
            return None
        leadership = self._leadership
        if leadership is None:
            if not self._election.follows(ballot):
                return None
        elif leadership.ballot != ballot or not leadership.is_steady():
            return None
        sent = None if leadership is None else leadership.flying
        flights = self._learner.flights(ballot, sent)
        if flights is None:
            return None
        standing = Standing(
            ballot=ballot,
            now=0,
            decided=self._learner.decided_upto,
            applied=self._learner.applied_upto,
            newest=self._marks.newest,
            agreed=NO_MARK,
            room=self._acceptor.room,
            decided_time=self._last_time,
            flights=flights,
            outbox=self._outbox.sent(),
            said=self._learner.said_in(ballot),
            by_all=self._truncation.by_all,
        )
        if leadership is None or self._as_leader(standing, leadership):
            return standing
        return None

    def _as_leader(self, standing: Standing, leadership: Leadership) -> bool:
        reads = leadership.reads
        waiting = self._own_reads(reads.waiting)
        confirming = self._own_reads(reads.confirming)
        if waiting is None or confirming is None:
            return False
        standing.waiting = waiting
        standing.confirming = confirming
        standing.asked_beat = reads.round
        standing.agreed = self._marks.agreed()
        leadership.describe(standing)
        return True

    def _own_reads(self, asked: list[tuple[tuple[int, int], int]]) -> list[ReadAt] | None:
        """The batches behind questions of our own; None if others ask as well."""
        found: list[ReadAt] = []
        for (replica, number), slot in asked:
            if replica != self.settings.replica:
                return None
            found += [(batch, slot) for batch in self._reads.asked(number)]
        return found

    def _adopt(self, turn: Turn, standing: Standing) -> None:
        """Ordinary turns were taken since the last mandate: this is where they led."""
        ballot = Ballot(*standing.ballot)
        if ballot != self._acceptor.promised:
            invariant(False, f"turns of ballot {ballot} were taken, promised is {self.ballot}")
        if standing.decided < self._learner.decided_upto:
            invariant(False, f"decided up to {standing.decided}, {self.decided_upto} before")
        self._acceptor.adopt(ballot, standing.flights, standing.decided, standing.room)
        self._learner.adopt(ballot, standing)
        self.applied_upto = standing.applied
        self._last_time = max(self._last_time, standing.decided_time)
        self._marks.applied([Mark(*mark) for mark in standing.marks])
        self._outbox.adopt(standing.outbox, sent=self._leadership is None)
        if self._leadership is None:
            self._election.heard(standing.heard_at)
            self._truncation.by_all = max(self._truncation.by_all, standing.by_all)
            self._marks.compare(Mark(*standing.agreed))
            return
        self._leadership.adopt(standing)
        me = self.settings.replica
        reads = self._leadership.reads
        self._reads.forget_asked()
        reads.adopt(
            [((me, self._reads.number_of(batch)), slot) for batch, slot in standing.waiting],
            [((me, self._reads.number_of(batch)), slot) for batch, slot in standing.confirming],
            standing.asked_beat,
        )
        for batch, slot in standing.ready:
            turn.read_ready(batch, slot)

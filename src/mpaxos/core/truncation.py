"""How far the log is given up.

A record is needed by a replica that has not applied it, and by this one itself after a crash.
Leaders hear from all how far they are and tell everybody (`by_all`); records up to there go. A
replica that is away would let all logs grow without limit: so under pressure half of what is
applied here goes, whoever lacks it. What never goes is what this replica itself would need: a state
that is durable only in snapshots needs the log from the newest one on.
"""

from __future__ import annotations

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.turn import Turn
from mpaxos.core.types import Recovered, Slot


class Truncation:
    """The bounds of one replica's log."""

    def __init__(self, recovered: Recovered, acceptor: Acceptor) -> None:
        self.by_all: Slot = 0
        """All replicas need no slot up to this one any more, crashed ones included."""
        self.snapshot = recovered.snapshot
        """Slot of the newest snapshot; None: the state needs none to be durable."""
        self._log_survives = recovered.log_survives
        self._acceptor = acceptor

    def kept_upto(self, applied: Slot) -> Slot:
        """Up to here this replica never again needs the log of another one: what it tells them to
        have applied."""
        if self.snapshot is None or self._log_survives:
            return applied
        return min(self.snapshot, applied)

    def run(self, turn: Turn, applied: Slot) -> None:
        """Give up what may go."""
        done = self._acceptor.truncated_upto
        durable = applied
        if self.snapshot is not None and self._log_survives and self.snapshot < durable:
            durable = self.snapshot
        upto = min(self.by_all, durable)
        if self._acceptor.under_pressure:
            upto = max(upto, done + (durable - done + 1) // 2)
        if upto > done:
            self._acceptor.truncate(turn, upto)

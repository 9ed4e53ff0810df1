"""The key-value service on replicas that are broken on purpose: the rig must notice.

Importing this module, as a replica does to load its service, breaks the protocol of the process.
"""

from __future__ import annotations

from typing import Any

from mpaxos.compiled import RUNS
from mpaxos.core.replica import Replica
from mpaxos.services.kv import KeyValue


def answer_at_once(lead_or_follow: Any) -> Any:
    """Reads are answered by whoever holds them, without asking the leader."""

    def broken(self: Replica, turn: Any) -> None:
        for batch in self._reads._waiting:
            turn.read_ready(batch, 0)
        self._reads._waiting.clear()
        lead_or_follow(self, turn)

    return broken


class StaleReads(KeyValue):
    """Stale reads: see above."""


assert RUNS.startswith("source"), "a compiled protocol cannot be broken"
Replica._lead_or_follow = answer_at_once(Replica._lead_or_follow)  # type: ignore[method-assign]

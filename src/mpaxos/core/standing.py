"""Where the protocol stands while nothing out of the ordinary happens: what is handed to, and
taken back from, whoever takes ordinary turns in its name (mpaxos.core.mandate, docs/steady.md).
"""

from __future__ import annotations

import msgspec

from mpaxos.core.types import Ballot, Batch, Instant, Mark, ReplicaId, Slot

Flight = tuple[Slot, int, Instant, int, Batch | None]
"""An undecided slot: its value's time, when it was last sent (by a leader), a bit for each replica
that voted for it in the ballot, and its batch; None when only votes have come."""

PeerSeen = tuple[ReplicaId, Instant, Slot, int, tuple[Slot, int], Instant]
"""What a leader heard of a replica: when last, applied up to, newest heartbeat that it answered,
its mark and when it was told (0: not in this mandate)."""

ReadAt = tuple[Batch, Slot]


class Standing(msgspec.Struct):
    """A replica's position in one ballot; the order of the fields is known to the extension.

    On its way out it is a mandate: go on from here. On its way back it is an event: this is where
    ordinary turns have led since. Fields of the other role are empty.
    """

    ballot: Ballot
    now: Instant
    """Of the last turn that was taken; 0 in a mandate."""
    decided: Slot
    applied: Slot
    newest: Mark
    """Own digest at the newest slot where digests are compared."""
    agreed: Mark
    """The newest mark that a majority reported alike."""
    room: int
    """Free bytes of the log."""
    decided_time: int
    flights: list[Flight]
    """Ascending; those with a batch without gaps from decided + 1 on."""
    outbox: list[tuple[Batch, Instant]]
    """Own clients' batches, oldest first, and when they were sent to the leader."""
    said: Slot = 0
    """Decided up to here, says the leader (of a follower)."""
    by_all: Slot = 0
    heard_at: Instant = 0
    proposed_time: int = 0
    """Time of the newest value proposed (of a leader, as all that follows)."""
    queue: list[Batch] = []
    seen: list[tuple[ReplicaId, int, int]] = []
    """Origin, incarnation and highest number of batches that were queued."""
    peers: list[PeerSeen] = []
    beat: int = 0
    asked_beat: int = 0
    """The heartbeat whose answers confirm the reads in `confirming`."""
    beat_at: Instant = 0
    """When the last heartbeat was sent; 0: not in this mandate."""
    waiting: list[ReadAt] = []
    confirming: list[ReadAt] = []
    ready: list[ReadAt] = []
    """Confirmed, and their slot is not decided yet."""
    marks: list[Mark] = []
    """New own ones since the mandate was given."""
    remembered: list[tuple[ReplicaId, int, int]] = []
    """Batches that were queued since then."""

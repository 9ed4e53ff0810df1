"""The values the protocol speaks about: ballots, slots, batches, log entries.

Everything here is pure data. A *batch* is opaque to the protocol: it is only ever named by its
digest, length and number of requests; the bytes stay in native memory (or, in the simulated world,
in a small Python object) and never pass through the protocol.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import msgspec

Slot = int
"""Position in the replicated log, from 1 upwards without gaps; 0 means "before the first"."""

Instant = int
"""Nanoseconds of a monotonic clock; only differences mean anything."""

ReplicaId = int
"""Small non-negative integer, unique in the cluster: 0, 1, 2, ..."""


class Ballot(NamedTuple):
    """A leader's term of office, totally ordered: by round, ties broken by leader id.

    The classic *ballot number* (Lamport, "Paxos Made Simple", section 2.2). Two replicas never
    share a ballot because the leader's id is part of it.
    """

    round: int
    leader: ReplicaId

    def next_for(self, replica: ReplicaId) -> Ballot:
        """The lowest ballot of `replica` that is above this one."""
        return Ballot(self.round + 1, replica)

    def __str__(self) -> str:
        return f"{self.round}.{self.leader}"


ZERO_BALLOT = Ballot(0, 0)
"""Below every ballot a leader can hold: rounds of real ballots start at 1."""


Chunk = Any
"""A part of an image of the state: the bytes of one chunk, in whatever form the runtime has them.
All that the protocol asks of it is its len()."""


class Batch(Protocol):
    """What the protocol may know of a batch. Implemented natively and by the simulator."""

    @property
    def digest(self) -> int:
        """64-bit digest over all bytes of the batch; equal digests mean equal batches."""

    @property
    def length(self) -> int:
        """Size in bytes, header included."""

    @property
    def count(self) -> int:
        """Number of requests inside; 0 for a no-op."""

    @property
    def origin(self) -> ReplicaId:
        """The replica whose clients the requests came from."""

    @property
    def incarnation(self) -> int:
        """Random 64-bit number of the origin's process; differs after every restart."""

    @property
    def number(self) -> int:
        """Counts the batches of one incarnation of one origin, from 1."""


class Value(NamedTuple):
    """What one slot holds: a batch and the time its leader stamped on it.

    `time` is nanoseconds since the Unix epoch, chosen by the leader that first proposed the batch
    and kept when a later leader proposes it again: commands see it as their clock.
    """

    batch: Batch
    time: int

    def same_as(self, other: Value) -> bool:
        """True when both are the same value (same bytes, same time)."""
        return self.batch.digest == other.batch.digest and self.time == other.time


class Record(NamedTuple):
    """One accepted slot in the log: the value and the ballot in which it was accepted."""

    slot: Slot
    ballot: Ballot
    value: Value


class Mark(NamedTuple):
    """The running digest of everything applied and answered up to and including `slot`."""

    slot: Slot
    digest: int


class LogReader(Protocol):
    """Read access of the protocol to the replica's own log. Reading is not an effect."""

    def read(self, slot: Slot) -> Record | None:
        """The newest accepted record of `slot`, or None when there is none (or truncated).

        Raises StorageCorrupt when what is stored does not match its checksum.
        """


class Recovered(msgspec.Struct, frozen=True):
    """What a store found when it was opened; all a replica knows of its life before."""

    promised: Ballot
    accepted: list[tuple[Slot, Ballot]]
    """Slot and ballot of each record above `applied_upto`, ascending by slot."""
    applied: Mark
    applied_time: int
    """The largest time stamp among applied values, nanoseconds since the Unix epoch."""
    truncated_upto: Slot
    log_room: int
    """Free bytes of the log."""
    log_size: int
    """Capacity of the log in bytes."""
    snapshot: Slot | None = None
    """The state is durable up to this slot: that of the newest snapshot. None: what is applied is
    durable (or nothing is, and this replica never comes back)."""
    log_survives: bool = True
    """With a snapshot: what comes after it is in the log, which is therefore not truncated beyond
    it. False: only the logs of the others have it after a crash, so these are told of the
    snapshot's slot instead of the applied one, and keep what comes after it as long as they can."""
    life: int = 1
    """The life that this start belongs to; grows whenever something was forgotten."""
    lives: tuple[int, ...] = ()
    """The newest known life of each replica, by id; empty: all are in their first one."""
    recovering: bool = False
    """Something that was promised or accepted may be forgotten: see mpaxos.core.recovery."""


def majority(replicas: int) -> int:
    """Votes that make a majority of `replicas`; any two majorities share a replica."""
    return replicas // 2 + 1

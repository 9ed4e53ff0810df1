"""What goes into a step of the protocol and what comes out.

    output = replica.step(now, events)

The caller carries an Output out in the order of its fields; nothing else is asked of the world.
"""

from __future__ import annotations

import msgspec

from mpaxos.core.messages import AnyMessage, Envelope
from mpaxos.core.standing import Standing
from mpaxos.core.transfer_io import TransferEvent, TransferStep
from mpaxos.core.types import Ballot, Batch, Instant, Mark, Record, ReplicaId, Slot, Value

# ------------------------------------------------------------------ events


class Received(msgspec.Struct):
    """A message of another replica arrived."""

    sender: ReplicaId
    message: AnyMessage


class PeerUp(msgspec.Struct):
    """The connection to a replica is open."""

    peer: ReplicaId


class PeerDown(msgspec.Struct):
    """The connection to a replica broke: a crashed process is noticed at once."""

    peer: ReplicaId


class LocalBatch(msgspec.Struct):
    """Commands of this replica's own clients."""

    batch: Batch


class LocalReads(msgspec.Struct):
    """Queries of this replica's own clients."""

    batch: Batch


class Applied(msgspec.Struct):
    """The state machine has made everything up to `mark.slot` durable; `marks` are the digests of
    the slots applied since the last such event, in order (the last one is `mark`)."""

    mark: Mark
    marks: list[Mark]


class LogRoom(msgspec.Struct):
    """Free bytes in the log, told after each write."""

    free: int


class Snapshotted(msgspec.Struct):
    """A snapshot of the state at slot `upto` is durable: the log may be truncated that far."""

    upto: Slot


class Resign(msgspec.Struct):
    """An operator asks: hand the leadership to another replica if we hold it."""


Event = (
    Received
    | PeerUp
    | PeerDown
    | LocalBatch
    | LocalReads
    | Applied
    | LogRoom
    | Snapshotted
    | Resign
    | Standing
    | TransferEvent
)

# ------------------------------------------------------------------ output


class WritePromise(msgspec.Struct):
    ballot: Ballot


class WriteRecord(msgspec.Struct):
    record: Record


class Truncate(msgspec.Struct):
    """Records of slots up to `upto` are not needed any more. Always at most the applied slot, and
    the slot of the newest snapshot where the state is durable only in snapshots."""

    upto: Slot


class WriteLives(msgspec.Struct):
    """The newest known life of each replica, by id, this one's own among them; and whether this
    replica still has to recover. Durable like a promise, and after all writes before it in the
    list: that the recovery is done may only be found together with what it learned."""

    lives: tuple[int, ...]
    recovering: bool


Write = WritePromise | WriteRecord | Truncate | WriteLives


class Decided(msgspec.Struct):
    slot: Slot
    value: Value


class ReadReady(msgspec.Struct):
    """These queries may be answered once everything up to `slot` is applied."""

    batch: Batch
    slot: Slot


class Output(msgspec.Struct):
    """All that one step asks for, to be done in the order of the fields."""

    early: list[Envelope] = []
    """1. Messages that rest on no write, neither of this turn nor of one before."""
    writes: list[Write] = []
    """2. Durable before anything below, in this order."""
    messages: list[Envelope] = []
    """3. May be lost, repeated, reordered; so may the early ones."""
    decided: list[Decided] = []
    """4. In slot order, no gaps, once per incarnation."""
    reads: list[ReadReady] = []
    """5. Answered once applied that far."""
    transfer: list[TransferStep] = []
    """6. Parts of a state transfer; their results come back as events."""
    wake_at: Instant = 0
    """Call step again then, at the latest."""
    room: int = 0
    """How many more batches of local clients the protocol can take now."""
    quorum: bool = True
    """False: no majority has been reachable for a while; clients are told so."""
    votes: bool = True
    """False: no vote is waited for, nor an answer to a heartbeat. Those that come may wait a moment
    for another event, so that the one that was not needed any more costs no turn of its own."""
    useful_upto: Slot = 0
    """Above 0 while the state is being received: accepts of later slots are of no use here, so of
    those that come between two steps the first will do; and what other replicas send may wait a
    moment for more."""

"""One turn of the protocol: the time it happens at and what it asks of the world so far."""

from __future__ import annotations

from mpaxos.core.messages import AnyMessage, Envelope
from mpaxos.core.output import (
    Decided,
    Output,
    ReadReady,
    Truncate,
    WriteLives,
    WritePromise,
    WriteRecord,
)
from mpaxos.core.transfer_io import TransferStep
from mpaxos.core.types import Ballot, Batch, Instant, Record, ReplicaId, Slot, Value


class Turn:
    """Collects the effects of one step. The parts of the protocol add to it and have none."""

    __slots__ = ("_peers", "now", "output", "written")

    def __init__(self, now: Instant, peers: tuple[ReplicaId, ...]) -> None:
        self.now = now
        self.output = Output(early=[], writes=[], messages=[], decided=[], reads=[], transfer=[])
        self.written = 0
        """Bytes of log that this turn's records will take, an upper bound."""
        self._peers = peers

    def send(self, to: ReplicaId, message: AnyMessage) -> None:
        self.output.messages.append(Envelope(to, message))

    def broadcast(self, message: AnyMessage) -> None:
        """Send to every other replica."""
        for peer in self._peers:
            self.output.messages.append(Envelope(peer, message))

    def broadcast_early(self, message: AnyMessage) -> None:
        """Send to every other replica, before this turn's writes are durable."""
        for peer in self._peers:
            self.output.early.append(Envelope(peer, message))

    def write_promise(self, ballot: Ballot) -> None:
        self.output.writes.append(WritePromise(ballot))

    def write_record(self, record: Record, size: int) -> None:
        self.output.writes.append(WriteRecord(record))
        self.written += size

    def write_lives(self, lives: tuple[int, ...], recovering: bool) -> None:
        self.output.writes.append(WriteLives(lives, recovering))

    def truncate(self, upto: Slot) -> None:
        self.output.writes.append(Truncate(upto))

    def decide(self, slot: Slot, value: Value) -> None:
        self.output.decided.append(Decided(slot, value))

    def read_ready(self, batch: Batch, slot: Slot) -> None:
        self.output.reads.append(ReadReady(batch, slot))

    def transfer(self, step: TransferStep) -> None:
        self.output.transfer.append(step)

"""Ordinary turns in the simulated world: the very code that takes them in a real replica.

The extension's Steady is driven event by event with the world's own messages and batches; what a
turn asks for becomes an Output, to be carried out in its order.
"""

from __future__ import annotations

from typing import Any

from mpaxos import _native
from mpaxos.core import messages as m
from mpaxos.core.messages import AnyMessage, Envelope
from mpaxos.core.output import (
    Decided,
    Event,
    LocalBatch,
    LocalReads,
    Output,
    ReadReady,
    Received,
    WriteRecord,
)
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Standing
from mpaxos.core.types import ZERO_BALLOT, Ballot, Batch, Instant, Mark, Record, Slot, Value
from mpaxos.runtime.steady import NativeSteady

_NO_MARK = (0, 0)


class SimSteady(NativeSteady):
    """Takes ordinary turns in one life of a simulated replica."""

    def __init__(self, native: _native.Steady, settings: Settings) -> None:
        super().__init__(native, None)
        self._native = native
        self._peers = [peer for peer in range(settings.replicas) if peer != settings.replica]
        self._ballot = ZERO_BALLOT

    def begin(self, mandate: Standing, /) -> None:
        self._ballot = mandate.ballot
        super().begin(mandate)

    def copy(self) -> SimSteady:
        """The same, to try something out."""
        other: SimSteady = object.__new__(SimSteady)
        other.__dict__.update(self.__dict__)
        other._native = other._steady = self._native.copy()
        return other

    @property
    def decided(self) -> Slot:
        """Decided up to here, under the present mandate."""
        return self._native.decided

    @property
    def room(self) -> int:
        """Batches of own clients that are welcome."""
        return self._native.room

    def take(self, now: Instant, events: list[Event]) -> tuple[int, Output]:
        """One turn with the first of `events`, as far as they are ordinary: how many these are, and
        what the turn asks for."""
        taken = 0
        if self.begin_turn(now):
            while taken < len(events) and self.event(events[taken]):
                taken += 1
        return taken, self.finish() if taken else Output()

    def begin_turn(self, now: Instant) -> bool:
        """False: the protocol has to be asked first."""
        return self._native.begin_turn(now)

    def event(self, event: Event) -> bool:
        """Take it in; False: it is not ordinary, and nothing was changed."""
        if isinstance(event, LocalBatch):
            return self._native.on_batch(event.batch)
        if isinstance(event, LocalReads):
            return self._native.on_reads(event.batch)
        if not isinstance(event, Received):
            return False
        fields = _fields(event.message)
        return fields is not None and self._native.on_message(event.sender, fields)

    def finish(self) -> Output:
        """What the turn asks for."""
        output = Output(writes=[], messages=[], decided=[], reads=[])
        records, letters, decided, reads = self._native.finish()
        for slot, time, batch in records:
            output.writes.append(WriteRecord(Record(slot, self._ballot, Value(batch, time))))
        for letter in letters:
            message = _message(self._ballot, letter)
            for peer in self._peers if letter[1] < 0 else [letter[1]]:
                output.messages.append(Envelope(peer, message))
        output.decided += [Decided(slot, Value(batch, time)) for slot, time, batch in decided]
        # Their slot is among those decided now or before.
        last = output.decided[-1].slot if output.decided else 0
        output.reads += [ReadReady(batch, last) for batch in reads]
        return output


def _fields(message: AnyMessage) -> tuple[Any, ...] | None:
    """A message as Steady.on_message() takes it; None: not one of ordinary turns."""
    match message:
        case m.Accept(ballot, slot, decided, [Value(batch, time)], vote):
            return ("accept", ballot, slot, decided, 0, time, _NO_MARK, vote, batch)
        case m.Accepted(ballot, [slot], applied):
            return ("accepted", ballot, slot, 0, applied, 0, _NO_MARK, True, None)
        case m.Forward([Value(batch, _)]):
            return ("forward", ZERO_BALLOT, 0, 0, 0, 0, _NO_MARK, True, batch)
        case m.Heartbeat(ballot, number, decided, by_all, mark):
            return ("heartbeat", ballot, number, decided, by_all, 0, mark, True, None)
        case m.HeartbeatReply(ballot, number, decided, applied, mark):
            return ("alive", ballot, number, decided, applied, 0, mark, True, None)
    return None


def _message(ballot: Ballot, letter: tuple[Any, ...]) -> AnyMessage:
    kind, _, slot, decided, applied, time, mark, batch = letter
    found: Batch | None = batch
    if kind == "accept" and found is not None:
        return m.Accept(ballot, slot, decided, [Value(found, time)])
    if kind == "forward" and found is not None:
        return m.Forward([Value(found, 0)])
    if kind == "accepted":
        return m.Accepted(ballot, [slot], applied)
    made = m.Heartbeat if kind == "heartbeat" else m.HeartbeatReply
    return made(ballot, slot, decided, applied, Mark(*mark))

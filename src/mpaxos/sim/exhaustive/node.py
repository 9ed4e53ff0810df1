"""One replica of the searched world: the real protocol over a simulated store, as a value.

The search needs a replica's state as something that can be compared, hashed and come back to.
`Node` is the living object, `freeze` its canonical value. Time stands still in this world, and the
random source always says the same, so a step depends on nothing but the state and the event; what
time would bring about (an election, a retransmission) are events of the search.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from mpaxos.core.invariant import InvariantViolated, invariant
from mpaxos.core.messages import (
    Accept,
    Accepted,
    Envelope,
    Forward,
    Heartbeat,
    Promise,
    Recover,
    TakeOver,
)
from mpaxos.core.output import (
    Applied,
    Event,
    LocalBatch,
    LogRoom,
    Output,
    PeerUp,
    Received,
    Write,
    WriteRecord,
)
from mpaxos.core.replica import Replica
from mpaxos.core.settings import Settings
from mpaxos.core.types import Ballot, Mark, ReplicaId, Slot, Value
from mpaxos.sim.exhaustive.scope import Scope
from mpaxos.sim.store import SimStore

T = TypeVar("T")

LOG_SIZE = 1 << 20


class Token(msgspec.Struct, frozen=True):
    """A batch that is nothing but its name."""

    digest: int
    origin: ReplicaId
    incarnation: int
    number: int
    count: int = 1
    length: int = 64


NOOP = Token(0, 0, 0, 0, 0)


def noop() -> Token:
    """The batch that fills holes."""
    return NOOP


class FixedRandom:
    """A random source that always says the same."""

    def randrange(self, stop: int) -> int:
        return 0

    def choice(self, items: Sequence[T]) -> T:
        return items[0]


Name = tuple[int, int]
"""What tells one value from another: digest of the batch, and time."""

Accepts = frozenset[tuple[Slot, Ballot, Name]]
"""Slot, ballot and value of all that a store ever accepted, overwritten or not."""


def _name(value: Value) -> Name:
    return (value.batch.digest, value.time)


class Step(NamedTuple):
    """What a node did in one turn."""

    messages: list[Envelope]
    decided: list[tuple[Slot, Name]]


class Node:
    """A replica with its store, across its lives."""

    def __init__(self, scope: Scope, id: ReplicaId) -> None:
        self.scope = scope
        self.id = id
        self.life = 0
        self.mark = Mark(0, 0)
        self.decided_upto = 0
        self.accepts: Accepts = frozenset()
        self.store = SimStore(LOG_SIZE, self.durable, scope.durability)
        self.start()

    def durable(self) -> tuple[Mark, int]:
        """What the state machine has made durable: position and time."""
        return self.mark, 0

    def start(self) -> Output:
        """Begin a life with what the store holds; what its first turn asks for."""
        scope = self.scope
        self.life += 1
        self.store.begin_life()
        self.decided_upto = self.mark.slot
        self.replica = Replica(
            Settings(
                replica=self.id,
                replicas=scope.replicas,
                window=2,
                local_batches=2,
                mark_interval=1,
                early_accepts=scope.early,
            ),
            self.store.recovered(),
            self.store,
            incarnation=self.life,
            make_noop=noop,
            epoch=0,
            seed=0,
        )
        for part in (self.replica._election, self.replica._catchup):
            part._rng = FixedRandom()  # type: ignore[assignment]
        events: list[Event] = []
        if scope.catch_up:
            events += [PeerUp(peer) for peer in range(scope.replicas) if peer != self.id]
        if self.id in scope.elections:
            events += [LocalBatch(self._token(number)) for number in range(1, scope.slots + 1)]
        return self.replica.step(0, events)

    def turn(self, event: Event, writes: int | None = None) -> Step:
        """One turn of the loop, as the runtime does it. `writes`: crash after so many of them, and
        come back; None: do not crash. Raises InvariantViolated."""
        output = self.replica.step(0, [event])
        if writes is not None:
            self._check_sent(output.early)
            self._write(output.writes[:writes])
            step = self.restart()
            return Step(output.early + step.messages, step.decided)
        messages: list[Envelope] = []
        decided: list[tuple[Slot, Name]] = []
        while True:
            self._check_sent(output.early)
            messages += output.early
            self._write(output.writes)
            self._check_sent(output.messages)
            messages += [envelope for envelope in output.messages if self._is_in_scope(envelope)]
            if not (output.decided or output.writes):
                return Step(messages, decided)
            marks = [Mark(d.slot, d.value.batch.digest) for d in output.decided]
            for slot, value in ((d.slot, d.value) for d in output.decided):
                last = self.decided_upto
                invariant(slot == last + 1, f"slot {slot} decided after {last}")
                decided.append((slot, _name(value)))
                self.decided_upto = slot
            # What the loop tells in the next turn; here it is told at once.
            news: list[Event] = [LogRoom(self.store.log_room)] if output.writes else []
            if marks and self.scope.applies:
                self.mark = marks[-1]
                news.append(Applied(self.mark, marks))
            output = self.replica.step(0, news)

    def restart(self) -> Step:
        """Crash, and come back with what the store holds."""
        output = self.start()
        return Step([e for e in output.messages if isinstance(e.message, Recover)], [])

    def writes_of(self, event: Event) -> int:
        """How many writes a turn with `event` makes. Changes this object: use a copy."""
        return len(self.replica.step(0, [event]).writes)

    def seek_votes(self) -> Event:
        """The event that makes this replica a candidate: what a timeout leads to."""
        return Received(self.id, TakeOver(self.replica.ballot))

    def _write(self, writes: list[Write]) -> None:
        self.store.write(writes)
        for write in writes:
            if isinstance(write, WriteRecord):
                slot, ballot, value = write.record
                invariant(
                    ballot <= self.store.promised,
                    f"slot {slot} accepted in {ballot}, above the promise {self.store.promised}",
                )
                self.accepts |= {(slot, ballot, _name(value))}
        invariant(
            self.replica.ballot >= self.store.promised,
            f"the store promised {self.store.promised}, the replica {self.replica.ballot}",
        )

    def _check_sent(self, envelopes: list[Envelope]) -> None:
        """Nothing leaves before what it tells is durable."""
        for envelope in envelopes:
            match envelope.message:
                case Promise(ballot=ballot):
                    told = [(ballot, 0)]
                case Accepted(ballot=ballot, slots=slots):
                    told = [(ballot, slot) for slot in slots]
                case Accept(ballot=ballot, slot=slot, vote=vote):
                    told = [(ballot, slot if vote else 0)]
                case _:
                    continue
            for ballot, slot in told:
                record = self.store.records.get(slot)
                known = slot <= self.replica.decided_upto or record is not None
                if ballot > self.store.promised or not known:
                    raise InvariantViolated(f"{envelope.message} sent before its write")

    def _is_in_scope(self, envelope: Envelope) -> bool:
        # Leaving a message out is losing it, which is always allowed.
        if isinstance(envelope.message, Forward):
            return False
        return self.scope.heartbeats or not isinstance(envelope.message, Heartbeat)

    def _token(self, number: int) -> Token:
        return Token(100 * self.id + 10 * self.life + number, self.id, self.life, number)


# ------------------------------------------------------------------ canonical values

_SKIPPED = {
    *("scope", "settings", "_settings", "_peers", "_epoch", "_handlers", "_log", "_rng"),
    *("_make_noop", "_on_decided", "on_record", "_images", "_promise_image", "_in_step_handlers"),
    *("_follow", "_hear_leader", "may_die", "durability"),
}
_UNORDERED = {
    *("_votes", "_recent", "_best", "_heard", "_applied", "_acks", "_answers", "_helpless"),
    *("connected", "records", "_alike"),
}
"""Dictionaries that are only asked by key: the order in which they were filled means nothing."""


def freeze(node: Node) -> Any:
    """The state of `node` as a value: equal values behave alike for ever."""
    return _freeze(node, "", set())


def _freeze(thing: Any, name: str, seen: set[int]) -> Any:
    if thing is None or isinstance(thing, int | str | bytes):
        return thing
    if isinstance(thing, Value):
        return (thing.batch.digest, thing.time)
    if isinstance(thing, Token):
        return thing.digest
    if isinstance(thing, enum.Enum):
        return thing.name
    if isinstance(thing, dict):
        items = [(key, _freeze(value, "", seen)) for key, value in thing.items()]
        if name in _UNORDERED and not isinstance(thing, OrderedDict):
            items.sort(key=lambda item: item[0])
        return tuple(items)
    if isinstance(thing, set | frozenset):
        return tuple(sorted(thing))
    if isinstance(thing, msgspec.Struct):
        return tuple(_freeze(value, "", seen) for value in msgspec.structs.astuple(thing))
    if hasattr(thing, "__dict__") and not isinstance(thing, tuple):
        if id(thing) in seen or callable(thing):
            return None
        seen.add(id(thing))
        return tuple(
            _freeze(value, key, seen) for key, value in vars(thing).items() if key not in _SKIPPED
        )
    return tuple(_freeze(item, "", seen) for item in thing)

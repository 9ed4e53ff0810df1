"""A replica that takes every ordinary turn twice: by the protocol, and under a mandate.

Put in the place of a simulated replica it compares, at every step of a run, what both ask for. What
the world sees is the protocol's own output.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from mpaxos.core import messages as m
from mpaxos.core.invariant import invariant
from mpaxos.core.marks import NO_MARK
from mpaxos.core.messages import Envelope
from mpaxos.core.output import Applied, Event, LogRoom, Output, Received, Truncate
from mpaxos.core.replica import Replica
from mpaxos.core.settings import Settings
from mpaxos.core.standing import Standing
from mpaxos.core.types import Instant, LogReader, Recovered
from mpaxos.runtime.steady import native_steady
from mpaxos.sim.steady import SimSteady


class Twin:
    """Two replicas with one life; the second one has mandates."""

    turns = 0
    """Ordinary ones that were compared, over all twins."""
    handed_back = 0
    """Mandates that ended after turns were taken."""

    def __init__(
        self, settings: Settings, recovered: Recovered, log: LogReader, **options: Any
    ) -> None:
        noop = options["make_noop"]()  # batches are compared by identity
        options["make_noop"] = lambda: noop
        self._first = Replica(settings, recovered, log, **options)
        self._second = Replica(settings, recovered, log, **options)
        native = native_steady(
            settings,
            log_size=recovered.log_size,
            epoch=options["epoch"],
            incarnation=options["incarnation"],
        )
        self._steady = SimSteady(native, settings)
        self._wake_at: Instant = 0
        self._reads: tuple[set[int], set[int]] = (set(), set())
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no two reads have one id()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def step(self, now: Instant, events: list[Event]) -> Output:
        trial = self._try(now, events)
        if trial is not None:
            Twin.turns += 1
            output = self._first.step(now, events)
            self._compare(now, events, output, trial)
            return output
        standing = self._steady.end()
        if standing is not None:
            Twin.handed_back += 1
        output = self._first.step(now, events)
        told: list[Event] = [] if standing is None else [standing]
        again = self._second.step(now, told + [self._translated(event) for event in events])
        self._compare(now, events, output, again)
        invariant(self._reads[0] == self._reads[1], "a read was answered by one only")
        self._is_same()
        self._wake_at = again.wake_at
        mandate = self._second.mandate()
        if mandate is not None:
            self._steady.begin(mandate)
        return output

    def _try(self, now: Instant, events: list[Event]) -> Output | None:
        """The turn under the mandate, if all of it is ordinary."""
        if not self._steady.active or now >= self._wake_at:
            return None
        trial = self._steady.copy()
        if not trial.begin_turn(now):
            return None
        for event in events:
            if isinstance(event, Applied):
                trial.applied(event)
            elif isinstance(event, LogRoom):
                trial.room_is(event.free)
            elif not trial.event(event):
                return None
        self._steady = trial
        return trial.finish()

    def _compare(self, now: Instant, events: list[Event], output: Output, again: Output) -> None:
        for name, one, two in (
            ("messages", _plain(output.messages), _plain(again.messages)),
            ("writes", _kept(output), _kept(again)),
            ("decided", output.decided, again.decided),
        ):
            if one != two:
                lone = [item for item in one if item not in two]
                more = [item for item in two if item not in one]
                invariant(False, f"{name} differ: only {lone}\nand only {more}\nafter {events}")
        for one_sent, two_sent in zip(output.messages, again.messages, strict=True):
            asked, also_asked = one_sent.message, two_sent.message
            if isinstance(asked, m.ReadIndexRequest):
                assert isinstance(also_asked, m.ReadIndexRequest)
                self._numbers[asked.number] = also_asked.number
        for known, found in zip(self._reads, (output, again), strict=True):
            known.update(id(read.batch) for read in found.reads)
            self._kept += [read.batch for read in found.reads]
        invariant(self._reads[1] <= self._reads[0], "a read was answered too early")

    def _translated(self, event: Event) -> Event:
        """The two number their questions to leaders differently."""
        if isinstance(event, Received) and isinstance(event.message, m.ReadIndexReply):
            number = self._numbers.get(event.message.number, 0)
            return Received(event.sender, m.ReadIndexReply(number, event.message.slot))
        return event

    def _is_same(self) -> None:
        for one, two in zip(_state(self._first), _state(self._second), strict=True):
            if one != two:
                invariant(False, f"the replicas differ:\n{one}\n{two}")


def _plain(messages: Iterable[Envelope]) -> list[tuple[int, Any]]:
    """Without what may lag under a mandate: the agreed mark, and how far the log is given up."""
    return [(envelope.to, _unlagged(envelope.message)) for envelope in messages]


def _unlagged(message: Any) -> Any:
    if isinstance(message, m.Heartbeat):
        return msgspec.structs.replace(message, agreed=NO_MARK)
    if isinstance(message, m.ReadIndexRequest | m.ReadIndexReply):
        return msgspec.structs.replace(message, number=0)
    if isinstance(message, m.Promise | m.CatchupReply):
        return msgspec.structs.replace(message, truncated_upto=0)
    return message


def _kept(output: Output) -> list[Any]:
    return [write for write in output.writes if not isinstance(write, Truncate)]


def _state(replica: Replica) -> list[tuple[str, Any]]:
    """Positions, ballots and queues: what the two must have in common."""
    mandate = replica.mandate()
    standing = [] if mandate is None else [("standing", _standing(mandate))]
    return [
        ("decided", replica.decided_upto),
        ("applied", replica.applied_upto),
        ("known", replica.known_upto),
        ("ballot", replica.ballot),
        ("leader", (replica.leader, replica.role)),
        ("queues", replica.queue_lengths),
        *standing,
    ]


def _standing(standing: Standing) -> Standing:
    """A leader has no use for when it forwarded what it now proposes itself. How far the log may be
    given up is looked at by the protocol alone."""
    outbox = [(batch, 0) for batch, _ in standing.outbox] if standing.seen else standing.outbox
    reads = {
        name: sorted(getattr(standing, name), key=lambda read: read[0].number)
        for name in ("waiting", "confirming")
    }
    return msgspec.structs.replace(standing, agreed=NO_MARK, by_all=0, outbox=outbox, **reads)


def make_twin(*arguments: Any, **options: Any) -> Replica:
    """For World(make_replica=...)."""
    return cast(Replica, Twin(*arguments, **options))

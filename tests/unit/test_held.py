"""A turn whose writes are not durable yet says nothing, nor does any turn after it."""

from __future__ import annotations

import os
import random
import threading
from typing import Any

import pytest

from mpaxos.core.messages import Envelope, Reject
from mpaxos.core.output import Decided, Event, LogRoom, Output, ReadReady, Truncate, WritePromise
from mpaxos.core.types import Ballot, Value
from mpaxos.errors import StorageError
from mpaxos.net.plane import Polled
from mpaxos.runtime.applier import InlineApplier
from mpaxos.runtime.held import MOST, QUICK, DurableWatch, Held
from mpaxos.runtime.loop import Loop
from tests.unit.core_world import FakeBatch


class Scripted:
    """A plane, a replica, a machine and a store that make writes durable when the test says so.
    `said` is everything that left, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.outputs: list[Output] = []
        self.events: list[Event] = []
        self.submitted = 0
        self.durable = 0
        self.waited: list[int] = []
        self.fails = False
        self.slot = 0
        self.now = 0
        self.takes = 0
        self.written = 0
        nothing: Any = None
        me: Any = self
        self.loop = Loop(me, me, me, InlineApplier(me), nothing, nothing, later=me)
        self.loop._held = Held(me, quick=0)

    # the plane
    def poll(self, output: Output) -> Polled:
        return Polled(1, [], [], [])

    def send(self, messages: list[Envelope]) -> None:
        self.said += [("message", envelope.to) for envelope in messages]

    def deliver(self, replies: Any) -> None:
        self.said.append(("reply", replies))

    def flush(self) -> None:
        pass

    # the replica
    def step(self, now: int, events: list[Event]) -> Output:
        self.events += events
        return self.outputs.pop(0)

    # the machine
    def apply(self, slot: int, time: int, batch: Any) -> Any:
        self.slot = slot
        return slot

    def query(self, batch: Any) -> Any:
        return "read"

    @property
    def mark(self) -> tuple[int, int]:
        return self.slot, 0

    # the store
    def submit(self, writes: list[Any]) -> int:
        self.submitted += 1
        return self.submitted

    def write(self, writes: list[Any]) -> None:
        self.now += self.takes
        self.durable = self.submitted = self.submitted + 1
        self.written += 1

    def durable_upto(self) -> int:
        if self.fails:
            raise StorageError("the device failed")
        return self.durable

    def wait(self, ticket: int) -> None:
        self.waited.append(ticket)
        self.durable = max(self.durable, ticket)

    @property
    def log_room(self) -> int:
        return 100 - self.submitted

    # the test
    def turn(self, output: Output) -> None:
        self.outputs.append(output)
        self.loop.turn()


def turn(number: int, *, writes: bool, decided: int = 0) -> Output:
    """A message to replica `number`, and one decided slot."""
    value = Value(FakeBatch(number), 0)
    return Output(
        writes=[WritePromise(Ballot(number, 0))] if writes else [],
        messages=[Envelope(number, Reject(Ballot(1, 0)))],
        decided=[Decided(decided, value)] if decided else [],
    )


def test_nothing_is_said_before_it_is_durable() -> None:
    world = Scripted()
    world.turn(turn(1, writes=True, decided=1))
    assert world.said == [] and world.slot == 0
    assert [event for event in world.events if isinstance(event, LogRoom)] == []
    world.turn(Output())
    # What the log has room for is known at once: the writes are in it.
    assert LogRoom(99) in world.events
    world.durable = 1
    world.turn(Output())
    assert world.said == [("message", 1), ("reply", 1)]
    assert world.slot == 1


def test_what_rests_on_no_write_waits_for_none() -> None:
    world = Scripted()
    world.turn(turn(1, writes=True))
    early = turn(2, writes=True)
    early.early = [Envelope(7, Reject(Ballot(1, 0)))]
    world.turn(early)
    assert world.said == [("message", 7)]
    world.durable = 2
    world.turn(Output())
    assert world.said == [("message", 7), ("message", 1), ("message", 2)]


def test_later_turns_wait_behind_it_though_they_write_nothing() -> None:
    world = Scripted()
    world.turn(turn(1, writes=False))
    assert world.said == [("message", 1)]
    world.turn(turn(2, writes=True))
    world.turn(turn(3, writes=False, decided=1))
    world.turn(turn(4, writes=True))
    world.turn(Output(reads=[ReadReady(FakeBatch(9), 0)]))
    assert world.said == [("message", 1)]
    world.durable = 1
    world.turn(Output())
    assert world.said[1:] == [("message", 2), ("message", 3), ("reply", 1)]
    world.durable = 2
    world.turn(Output())
    assert world.said[4:] == [("message", 4), ("reply", "read")]


def test_the_order_is_that_of_a_store_that_is_waited_for() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        world, expected = Scripted(), list[Any]()
        slot = 0
        for number in range(1, 60):
            decided = rng.random() < 0.5
            slot += decided
            world.turn(turn(number, writes=rng.random() < 0.6, decided=slot if decided else 0))
            expected += [("message", number)] + ([("reply", slot)] if decided else [])
            for kind in ("message", "reply"):
                said = [what for what in world.said if what[0] == kind]
                assert said == [what for what in expected if what[0] == kind][: len(said)]
            world.durable = rng.randint(world.durable, world.submitted)
        world.loop.finish()
        assert sorted(world.said) == sorted(expected)


def test_a_device_that_is_far_behind_is_waited_for() -> None:
    world = Scripted()
    for number in range(1, MOST + 1):
        world.turn(turn(number, writes=True))
    assert world.waited == []
    world.turn(turn(MOST + 1, writes=True))
    assert world.waited == [1]
    assert world.said == [("message", 1)]


def test_a_device_that_fails_stops_the_loop() -> None:
    world = Scripted()
    world.fails = True
    with pytest.raises(StorageError):
        world.turn(turn(1, writes=True))
    assert world.said == []


def test_a_device_that_is_quick_is_waited_for() -> None:
    world = Scripted()
    me: Any = world
    world.loop._held = Held(me, clock=lambda: world.now)
    world.takes = QUICK // 10
    for number in range(1, 5):
        world.turn(turn(number, writes=True))
        assert world.said[-1] == ("message", number)
    assert world.written == 4
    # It becomes slow: once it is waited for, and then no more.
    world.takes = 100 * QUICK
    world.turn(turn(5, writes=True))
    assert world.said[-1] == ("message", 5) and world.written == 5
    for number in range(6, 9):
        world.turn(turn(number, writes=True))
    assert world.said[-1] == ("message", 5) and world.written == 5
    # And quick again, which is seen in what is submitted, after some of it.
    world.takes = 0
    for number in range(9, 200):
        world.durable = world.submitted
        world.turn(turn(number, writes=True))
        world.now += 1
    world.durable = world.submitted
    world.turn(Output())
    world.turn(turn(200, writes=True))
    assert world.written > 5
    assert [what for what in world.said if what[0] == "message"] == [
        ("message", number) for number in range(1, 201)
    ]


def test_room_that_is_made_wakes_the_protocol() -> None:
    world = Scripted()
    world.turn(Output(writes=[Truncate(1)], wake_at=1 << 60))
    assert world.loop.output.wake_at == 0


def test_the_watch_wakes_when_the_descriptor_is_readable() -> None:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    woken = threading.Semaphore(0)
    watch = DurableWatch(descriptor, woken.release)
    try:
        for _ in range(3):
            os.eventfd_write(descriptor, 1)
            assert woken.acquire(timeout=30)
    finally:
        watch.close()
        os.close(descriptor)

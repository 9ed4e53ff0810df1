"""What goes to the thread of a machine and comes back, with and without the protocol in between."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from mpaxos import _native
from mpaxos._native import Batch, HandOver, Plane, ReplySet
from mpaxos.core.settings import Settings
from mpaxos.errors import InvariantViolated
from mpaxos.runtime.steady import NativeSteady, native_steady
from tests.fuzz import targets
from tests.unit import pools
from tests.unit.plane_world import PATIENCE, entry, hello, requests
from tests.unit.test_steady import standing

LOG = 1 << 20


def reply(session: int, sequence: int) -> ReplySet:
    made = ReplySet()
    made.add(session, sequence, 0, b"done")
    return made


def test_work_comes_in_the_order_it_was_given() -> None:
    hand_over = HandOver()
    first, reads = Batch.noop(0, 1, 1), Batch.noop(0, 1, 2)
    hand_over.put_slot(7, 99, first)
    hand_over.put_call()
    hand_over.put_reads(reads)
    kind, slot, stamp, batch = hand_over.take()
    assert (kind, slot, stamp, batch.number) == (_native.WORK_SLOT, 7, 99, 1)
    assert hand_over.take()[0] == _native.WORK_CALL
    kind, slot, _, batch = hand_over.take()
    assert (kind, slot, batch.number) == (_native.WORK_READS, 0, 2)


def test_stop_drops_what_waits_and_ends_a_wait() -> None:
    hand_over = HandOver()
    hand_over.put_call()
    hand_over.stop()
    hand_over.put_call()
    assert hand_over.take()[0] == hand_over.take()[0] == _native.WORK_STOP

    other, taken = HandOver(), list[int]()
    worker = threading.Thread(target=lambda: taken.append(other.take()[0]))
    worker.start()
    other.stop()
    worker.join(PATIENCE)
    assert taken == [_native.WORK_STOP]


def test_results_are_taken_once() -> None:
    hand_over, replies = HandOver(), reply(5, 6)
    hand_over.done(3, 1 << 63, replies)
    hand_over.done(0, 0, ReplySet())
    (slot, digest, moved), (reads, _, nothing) = hand_over.results()
    assert (slot, digest, reads, len(nothing)) == (3, 1 << 63, 0, 0)
    assert moved.entries() == [(5, 6, 0, b"done")] and len(replies) == 0
    assert hand_over.results() == []


def test_poll_returns_when_something_is_done_and_leaves_it_without_a_mandate() -> None:
    plane, hand_over = targets.plane(), HandOver()
    try:
        plane.serve(hand_over)
        end = time.monotonic() + PATIENCE
        for _ in range(20):
            worker = threading.Thread(target=lambda: hand_over.done(1, 2, ReplySet()))
            worker.start()
            found = list[tuple[int, int, ReplySet]]()
            while not found:
                assert time.monotonic() < end
                plane.poll(time.monotonic_ns() + 50_000_000, 8, True)
                found = hand_over.results()
            assert [result[:2] for result in found] == [(1, 2)]
            worker.join(PATIENCE)
    finally:
        plane.close()
    hand_over.done(1, 2, ReplySet())  # nobody is told any more


@contextmanager
def leading(max_apply_lag: int = 512) -> Iterator[tuple[Plane, HandOver, NativeSteady]]:
    """A plane with a mandate; what it decides goes to the hand-over."""
    with pools.scratch() as directory:
        pools.make(directory / "pool", replica=0)
        pool = pools.reopen(directory / "pool", replica=0)
        settings = msgspec.structs.replace(
            Settings(replica=0, replicas=1), max_apply_lag=max_apply_lag, mark_interval=2
        )
        incarnation = targets.PLANE_OPTIONS["incarnation"]
        native = native_steady(settings, log_size=pool.log_size, epoch=0, incarnation=incarnation)
        plane, hand_over = targets.plane(), HandOver()
        plane.serve(hand_over)
        plane.attach(native, pool, None)
        steady = NativeSteady(native, None)
        pool.write((1, 0), [], 0)
        steady.begin(standing(decided=0, applied=0, room=pool.log_room))
        try:
            yield plane, hand_over, steady
        finally:
            plane.close()
            pool.close()


def machine(hand_over: HandOver, applied: list[int]) -> None:
    """Answers everything, as the machine's thread."""
    while True:
        kind, slot, _, batch = hand_over.take()
        if kind == _native.WORK_STOP:
            return
        replies = ReplySet()
        for session, sequence, *_ in batch.entries():
            replies.add(session, sequence, 0, b"done")
        if kind == _native.WORK_SLOT:
            applied.append(slot)
        hand_over.done(slot, slot * 10, replies)


def test_under_a_mandate_clients_are_answered_without_the_protocol() -> None:
    applied = list[int]()
    with leading() as (plane, hand_over, steady):
        worker = threading.Thread(target=machine, args=(hand_over, applied))
        worker.start()
        try:
            with socket.create_connection(("127.0.0.1", plane.ports()[1])) as client:
                client.setblocking(False)
                client.sendall(hello(7))
                received, end, sent = b"", time.monotonic() + PATIENCE, 0
                while received.count(b"done") < 20:
                    assert time.monotonic() < end
                    if sent < 20:
                        sent += 1
                        kind = 3 if sent % 5 == 0 else 0
                        client.sendall(requests(entry(7, sent, b"x", kind)))
                    _, events = plane.poll(time.monotonic_ns() + 5_000_000, 8, True)
                    assert [e for e in events if e[0] != _native.EVENT_NOTICE] == []
                    try:
                        received += client.recv(1 << 16)
                    except BlockingIOError:
                        continue
        finally:
            hand_over.stop()
            worker.join(PATIENCE)
        led = steady.end()
    assert led is not None and led.applied == led.decided == len(applied) > 0
    assert applied == list(range(1, len(applied) + 1))
    assert [tuple(mark) for mark in led.marks] == [
        (slot, slot * 10) for slot in applied if slot % 2 == 0
    ]


def test_what_waited_for_the_machine_goes_on_when_it_is_done() -> None:
    """One slot may be ahead of the machine: the second is decided because the first is applied."""
    with leading(max_apply_lag=1) as (plane, hand_over, steady):
        with socket.create_connection(("127.0.0.1", plane.ports()[1])) as client:
            client.sendall(hello(7))
            end = time.monotonic() + PATIENCE
            for number in (1, 2):
                client.sendall(requests(entry(7, number, b"x")))
                while plane.counters()["requests"] < number:
                    assert time.monotonic() < end
                    plane.poll(time.monotonic_ns() + 5_000_000, 8, True)
            assert hand_over.take()[1] == 1
            hand_over.done(1, 10, reply(7, 1))
            plane.poll(time.monotonic_ns() + 5_000_000, 8, True)
        led = steady.end()
        assert led is not None and (led.applied, led.decided) == (1, 2)
        assert hand_over.take()[1] == 2


def test_results_are_the_protocols_when_the_log_has_no_room() -> None:
    with leading() as (plane, hand_over, steady):
        steady.room_is(0)
        hand_over.done(0, 0, reply(1, 1))
        plane.poll(time.monotonic_ns() + 50_000_000, 8, True)
        assert len(hand_over.results()) == 1


def test_only_batches_are_handed_over() -> None:
    nothing: Any = None
    with pytest.raises((InvariantViolated, TypeError)):
        HandOver().put_slot(1, 1, nothing)


def test_a_mandate_without_anybody_who_applies_is_refused() -> None:
    with pools.scratch() as directory:
        pools.make(directory / "pool", replica=0)
        pool = pools.reopen(directory / "pool", replica=0)
        settings = Settings(replica=0, replicas=1)
        native = native_steady(settings, log_size=LOG, epoch=0, incarnation=4)
        plane = targets.plane()
        try:
            with pytest.raises(InvariantViolated, match="who applies"):
                plane.attach(native, pool, None)
        finally:
            plane.close()
            pool.close()

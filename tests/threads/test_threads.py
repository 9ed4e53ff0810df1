"""The extension used by two threads at once, in the ways the runtime does.

These tests find little by themselves: ThreadSanitizer watches while they run (scripts/tsan.sh).
They are in Python because the real callers are: what may overlap is decided by where the extension
gives up the interpreter's lock.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from mpaxos import _native
from mpaxos._native import Batch, Engine, Plane, Pool
from mpaxos.core.output import Decided, ReadReady
from mpaxos.core.types import Value
from mpaxos.runtime.applier import NativeMachine, ThreadedApplier
from tests.fuzz import targets
from tests.unit import pools
from tests.unit.plane_world import entry, hello, requests

PATIENCE = 60.0
SLOTS = 300


@contextmanager
def thread(work: Callable[[], None]) -> Iterator[None]:
    """`work` on another thread while the block runs; what it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield
    finally:
        worker.join(PATIENCE)
    assert not worker.is_alive(), "it never ended"
    for failure in failures:
        raise failure


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = targets.plane()
    yield plane
    plane.close()


def until_end(end: float) -> int:
    """A time for poll that lets the other thread matter."""
    return int(min(end, time.monotonic() + 0.05) * 1e9)


def test_poll_is_woken_by_another_thread(plane: Plane) -> None:
    """wake() is the one call that may come from anywhere."""
    stop = threading.Event()

    def wake() -> None:
        while not stop.is_set():
            plane.wake()
            time.sleep(0)

    with thread(wake), thread(wake):
        for _ in range(200):
            plane.poll(time.monotonic_ns() + 50_000_000, 8, True)
            plane.flush()
        stop.set()


def test_a_client_is_served_while_others_wake(plane: Plane) -> None:
    """Sockets, events, replies and waking at once; the poll releases the interpreter's lock."""
    stop = threading.Event()
    sent = 200

    def wake() -> None:
        while not stop.is_set():
            plane.wake()
            time.sleep(0)

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", plane.ports()[1])) as wire:
            wire.sendall(hello(7))
            for number in range(sent):
                wire.sendall(requests(entry(7, number + 1, b"x" * 100)))
            wire.settimeout(PATIENCE)
            received = 0
            while received < sent * 16:
                received += len(wire.recv(1 << 16))

    with thread(wake), thread(ask):
        answered = 0
        end = time.monotonic() + PATIENCE
        while answered < sent:
            assert time.monotonic() < end
            _, events = plane.poll(until_end(end), 8, True)
            replies = _native.ReplySet()
            for event in events:
                if event[0] == _native.EVENT_BATCH:
                    batch: Any = event[1]
                    for session, sequence, *_ in batch.entries():
                        replies.add(session, sequence, 0, b"reply")
                        answered += 1
            plane.deliver(replies)
            plane.flush()
        stop.set()


def test_closed_while_another_thread_wakes() -> None:
    """The loop's thread ends the plane; the thread that applies may still have something to say."""
    for _ in range(20):
        plane = targets.plane()
        stop = threading.Event()

        def wake(plane: Plane = plane, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                plane.wake()

        with thread(wake):
            plane.poll(time.monotonic_ns() + 1_000_000, 8, True)
            plane.close()
            stop.set()


def put(slot: int, session: int) -> tuple[int, int, int, int, bytes]:
    key = b"key %d" % (slot % 40)
    request = b"p" + len(key).to_bytes(4, "big") + key + b"value" * (slot % 90)
    return (session, slot, max(0, slot - 3), 0, request)


@contextmanager
def filled() -> Iterator[tuple[Pool, Engine, int]]:
    """A pool with an open session, whose id is the third."""
    with pools.scratch() as directory:
        path = directory / "pool"
        pools.make(path)
        pool = pools.reopen(path)
        engine = Engine(pool)
        opening = Batch.build(0, 1, 1, [(0, 9, 0, 1, b"\x10\0\0\0")])
        pool.write((1, 1), [(1, 1, 1, 0, opening)], 0)
        ((_, _, _, reply),) = engine.apply_kv(1, 0, opening).entries()
        yield pool, engine, int.from_bytes(reply, "little")
        del engine
        pool.close()


def test_the_log_is_written_while_another_thread_applies() -> None:
    """What the loop does with a machine of its own thread: accept, truncate and serve catch-up
    from the log, read positions, while slots before that are applied and the state digested."""
    with filled() as (pool, engine, session):
        woken = threading.Event()
        applier = ThreadedApplier(NativeMachine(engine), woken.set, _native.HandOver())
        applied = 1
        replies = 0
        for slot in range(2, SLOTS):
            batch = Batch.build(0, 1, slot, [put(slot, session)])
            pool.write((slot, 1), [(slot, slot, 1, slot, batch)], max(0, applied - 5))
            query = Batch.build(0, 1, slot, [(session, 1 << 63, 0, 3, b"n")])
            applier.submit([Decided(slot, Value(batch, slot))], [ReadReady(query, slot)])
            found = pool.read(slot)
            assert found is not None and found[3].digest == batch.digest
            assert pool.applied_upto >= applied
            assert pool.info()["size"] == pools.SIZE
            assert len(pool.slots()) <= SLOTS
            if slot % 50 == 0:
                applier.call(lambda: void(engine.state_digest()))
            done = applier.collect()
            replies += sum(len(r) for r in done.replies)
            if done.applied is not None:
                applied = done.applied.mark.slot
        end = time.monotonic() + PATIENCE
        while applied < SLOTS - 1 or replies < 2 * (SLOTS - 2):
            assert time.monotonic() < end
            woken.wait(0.05)
            woken.clear()
            done = applier.collect()
            replies += sum(len(r) for r in done.replies)
            if done.applied is not None:
                applied = done.applied.mark.slot
        assert applier.stop(PATIENCE)
        assert engine.mark[0] == SLOTS - 1


def void(_: object) -> None:
    """For lambdas that must return nothing."""


def test_planes_and_pools_of_several_replicas_in_one_process() -> None:
    """Nothing in the extension is shared between instances."""

    def replica() -> None:
        plane = targets.plane()
        with filled() as (pool, engine, session):
            for slot in range(2, 60):
                batch = Batch.build(0, 1, slot, [put(slot, session)])
                pool.write((slot, 1), [(slot, slot, 1, slot, batch)], 0)
                engine.apply_kv(slot, slot, batch)
                plane.poll(time.monotonic_ns() + 100_000, 8, True)
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", plane.ports()[0])).close()
        plane.close()

    with thread(replica), thread(replica):
        replica()

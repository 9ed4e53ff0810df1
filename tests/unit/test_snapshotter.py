"""Snapshots while commands go on: when they are taken, and what becomes of those that fail."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit import memories, pools

# ruff: isort: split
from mpaxos._native import Engine
from mpaxos.config import SnapshotsConfig
from mpaxos.core.output import Decided, Output, Truncate, WritePromise
from mpaxos.core.types import Ballot
from mpaxos.runtime.snapshotter import Snapshotter
from mpaxos.storage.disk import DECIDED_EVERY
from mpaxos.storage.memory import Memory
from mpaxos.storage.restore import replay
from mpaxos.storage.snapshots import Snapshot, Snapshots, SnapshotWriter


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory


ROOM = 200_000
"""Bytes of the log that a test's load leaves free."""


class Rig:
    """A machine under load with a snapshotter; all but the writer's thread is the test's own."""

    def __init__(self, memory: Memory, rules: SnapshotsConfig) -> None:
        assert memory.snapshots is not None
        self.memory = memory
        self.engine = Engine(memory.pool)
        if memory.kept is not None:
            replay(memory.kept, self.engine.mark[0], self.engine.apply_kv)
        self.snapshotter = Snapshotter(
            memory,
            memory.snapshots,
            self.engine,
            rules,
            call=lambda function: function(),
            wake=lambda: None,
        )
        self.taken: list[Snapshot] = []

    def turn(self, slots: int = 0) -> None:
        """One turn of the loop in which so many slots are decided and applied."""
        first = self.engine.mark[0] + 1
        if self.memory.store.log_room < ROOM:
            slots = 0  # as the protocol does: the writer's thread may be slow, the log is short
        if slots:
            memories.run(self.memory, self.engine, first + slots - 1)
        decided = [Decided(s, memories.value(s)) for s in range(first, first + slots)]
        found = self.snapshotter.after_turn(Output(decided=decided))
        if found is not None:
            self.taken.append(found)
            self.memory.store.write([Truncate(found.mark.slot)])

    def until(self, condition: Callable[[], bool], slots: int = 0) -> None:
        end = time.monotonic() + 60
        while not condition():
            self.turn(slots)
            assert time.monotonic() < end, "waited in vain"

    def close(self) -> None:
        self.snapshotter.close()


OFTEN = SnapshotsConfig(minimum=20_000, ratio=1.0)


def test_one_is_taken_when_the_log_is_as_long_as_the_last_one(path: Path) -> None:
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, OFTEN)
        rig.turn(20)
        assert not rig.snapshotter.under_way
        rig.until(lambda: len(rig.taken) == 4, slots=5)
        sizes = [snapshot.size for snapshot in rig.taken]
        slots = [snapshot.mark.slot for snapshot in rig.taken]
        assert slots == sorted(set(slots))
        # A batch has about 250 bytes: that much lies between two, or the minimum.
        for (before, after), size in zip(itertools.pairwise(slots), sizes, strict=False):
            assert (after - before) * 260 >= max(20_000, size) * 0.8
        assert memory.snapshots is not None and len(memory.snapshots.slots()) == 2
        report = rig.snapshotter.report()
        assert (report["slot"], report["taken"], report["failure"]) == (slots[-1], 4, None)
        rig.close()


def test_what_it_holds_is_the_state_of_its_slot(path: Path) -> None:
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, OFTEN)
        rig.until(lambda: len(rig.taken) == 3, slots=1)
        # Behind the last snapshot, without a turn that could begin another one. That slots are
        # decided is told to the log with a later write, and not of every slot.
        for slots in (2 * DECIDED_EVERY, 1):
            memories.run(rig.memory, rig.engine, rig.engine.mark[0] + slots)
        expected = (rig.engine.mark, rig.engine.state_digest())
        rig.close()
    with memories.opened(cluster) as memory:
        assert memory.newest == rig.taken[-1]
        rig = Rig(memory, OFTEN)
        assert rig.engine.mark[0] > memory.newest.mark.slot, "the log had nothing to add"
        memories.run(memory, rig.engine, expected[0][0])
        assert (rig.engine.mark, rig.engine.state_digest()) == expected
        rig.close()


SELDOM = SnapshotsConfig(minimum=1 << 40, ratio=1000.0)


def test_one_is_taken_before_the_log_is_full(path: Path) -> None:
    cluster = memories.made(path, "pmem", "volatile")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, SELDOM)
        kept = memory.kept
        assert kept is not None
        rig.until(lambda: rig.snapshotter.under_way, slots=20)
        assert kept.log_room > kept.log_size // 4, "it was begun when there was little room left"
        rig.until(lambda: len(rig.taken) == 2, slots=20)
        rig.close()


def test_a_log_that_is_full_asks_for_one(path: Path) -> None:
    """Of what else than what was applied, such as records of several ballots."""
    cluster = memories.made(path, "pmem", "volatile")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, SELDOM)
        rig.turn(10)
        assert not rig.snapshotter.under_way
        kept = memory.kept
        assert kept is not None
        number = 1
        while kept.log_room >= kept.log_size // 4:
            number += 1
            memory.store.write([WritePromise(Ballot(number, 0))])
            memory.store.write(memories.writes(11, 200, Ballot(number, 0)))
        rig.turn()
        assert rig.snapshotter.under_way
        rig.until(lambda: bool(rig.taken))
        rig.close()


def test_one_that_does_not_fit_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mpaxos.runtime.snapshotter as module

    monkeypatch.setattr(module, "RETRY", 0.0)
    left = 2

    def add(self: SnapshotWriter, chunk: bytes) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(28, os.strerror(28), str(self))
        original(self, chunk)

    original = SnapshotWriter.add
    monkeypatch.setattr(SnapshotWriter, "add", add)
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, OFTEN)
        rig.until(lambda: left == 1, slots=5)
        rig.until(lambda: rig.snapshotter.report()["failure"] is not None, slots=1)
        assert "No space left" in str(rig.snapshotter.report()["failure"])
        assert memory.snapshotted()[0].slot == 0, "the log may not be truncated"
        rig.until(lambda: len(rig.taken) == 1, slots=1)
        assert left == 0 and rig.snapshotter.report()["failure"] is None
        rig.close()


@pytest.mark.parametrize("where", ["begin", "finish"])
def test_a_directory_that_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(30, "Read-only file system", "x")

    monkeypatch.setattr(Snapshots if where == "begin" else SnapshotWriter, where, fail)
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, OFTEN)
        rig.until(lambda: rig.snapshotter.report()["failure"] is not None, slots=5)
        assert not rig.snapshotter.under_way
        rig.turn(5)
        assert not rig.snapshotter.under_way, "not at once"
        assert memory.snapshots is not None and memory.snapshots.slots() == []
        assert not (cluster.directory(0) / "snapshot.new").exists()
        rig.close()


def test_a_stop_in_the_middle_leaves_nothing(path: Path) -> None:
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        rig = Rig(memory, OFTEN)
        rig.until(lambda: rig.snapshotter.under_way, slots=10)
        rig.turn()
        rig.close()
        assert not rig.snapshotter.under_way
        assert not (cluster.directory(0) / "snapshot.new").exists()

"""DiskStore behind the seam: the same answers as the simulated store, restart or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mpaxos.core.output import Truncate, Write, WritePromise, WriteRecord
from mpaxos.core.types import ZERO_BALLOT, Ballot, Mark, Record, Value
from mpaxos.errors import ConfigError, InvariantViolated, StorageCorrupt, StorageFull
from mpaxos.sim.store import SimStore
from mpaxos.storage.disk import DiskStore, create_log, open_log
from mpaxos.storage.store import Store
from tests.unit import logs, pools


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory / "wal"


def make(path: Path, size: int = 4 * logs.SEGMENT) -> None:
    create_log(path, cluster=logs.CLUSTER, replica=1, size=size, segment_size=logs.SEGMENT)


def nothing_applied() -> tuple[Mark, int]:
    return Mark(0, 0), 0


class Twins(RuleBasedStateMachine):
    """The same turns to both stores."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.path = self.stack.enter_context(pools.scratch()) / "wal"
        self.applied = Mark(0, 0)
        self.last = 0
        make(self.path)
        self.sim = SimStore(1 << 40, self.position)
        self.disk = self.open()

    def position(self) -> tuple[Mark, int]:
        return self.applied, 3 * self.applied.slot

    def open(self) -> DiskStore:
        return open_log(self.path, cluster=logs.CLUSTER, replica=1, applied=self.position)

    @initialize()
    def first_promise(self) -> None:
        self.both([WritePromise(Ballot(1, 0))])

    @rule(
        rounds=st.lists(st.integers(0, 1), min_size=1, max_size=4),
        back=st.lists(st.integers(-1, 6), min_size=4, max_size=4),
        sizes=st.lists(st.integers(0, 3900), min_size=4, max_size=4),
        submitted=st.booleans(),
    )
    def turn(self, rounds: list[int], back: list[int], sizes: list[int], submitted: bool) -> None:
        """Promises and records, new ones and again, in this order."""
        writes: list[Write] = []
        ballot, last = self.sim.promised, self.last
        for more, behind, size in zip(rounds, back, sizes, strict=False):
            if more:
                ballot = ballot.next_for(more)
                writes.append(WritePromise(ballot))
            slot = last - behind
            if slot <= self.sim.truncated_upto:
                slot = last + 1
            last = max(last, slot)
            value = Value(logs.batch(size, slot), slot + size)
            writes.append(WriteRecord(Record(slot, ballot, value)))
        self.both(writes, submitted)

    @rule(ahead=st.integers(0, 20), kept=st.integers(0, 10))
    def apply_and_truncate(self, ahead: int, kept: int) -> None:
        slot = min(self.applied.slot + ahead, self.last)
        self.applied = Mark(slot, 17 * slot)
        self.both([Truncate(max(slot - kept, 0))])

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:
        if orderly:
            self.disk.close()
        del self.disk
        self.disk = self.open()

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        slot = data.draw(st.integers(0, self.last + 1))
        expected, found = self.sim.read(slot), self.disk.read(slot)
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            assert found[:2] == expected[:2] and found.value.same_as(expected.value)

    @invariant()
    def the_same_is_found(self) -> None:
        expected, found = self.sim.recovered(), self.disk.recovered()
        for name in ("promised", "accepted", "applied", "applied_time", "truncated_upto"):
            assert getattr(found, name) == getattr(expected, name), name
        assert 0 <= found.log_room <= found.log_size

    def both(self, writes: list[Write], submitted: bool = False) -> None:
        """What has room by the disk's own count must be taken; else free some first."""
        records = [write.record for write in writes if isinstance(write, WriteRecord)]
        needed = sum(record.value.batch.length + 128 for record in records)
        if records and needed > self.disk.log_room:
            self.applied = Mark(self.last, 17 * self.last)
            self.disk.write([Truncate(self.last)])
            self.sim.write([Truncate(self.last)])
            if any(record.slot <= self.last for record in records):
                return
        try:
            if submitted:
                self.disk.wait(self.disk.submit(writes))
            else:
                self.disk.write(writes)
        except StorageFull:
            assert needed > self.disk.log_room
            return
        self.sim.write(writes)
        self.last = max([self.last, *(record.slot for record in records)])

    def teardown(self) -> None:
        self.stack.close()


TestTwins = Twins.TestCase
TestTwins.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_it_is_a_store(path: Path) -> None:
    make(path)
    opened = open_log(path, cluster=logs.CLUSTER, replica=1, applied=nothing_applied)
    store: Store = opened
    recovered = store.recovered()
    assert recovered.promised == ZERO_BALLOT and recovered.accepted == []
    assert recovered.log_room == store.log_room > 0
    ticket = opened.submit([WritePromise(Ballot(1, 2))])
    opened.wait(ticket)
    assert opened.durable_upto() == ticket and opened.fileno() >= 0
    store.close()


def test_a_snapshot_older_than_the_log_is_refused(path: Path) -> None:
    make(path)
    position = Mark(5, 1)
    store = open_log(path, cluster=logs.CLUSTER, replica=1, applied=lambda: (position, 0))
    value = Value(logs.batch(10), 1)
    store.write([WritePromise(Ballot(1, 0)), WriteRecord(Record(6, Ballot(1, 0), value))])
    with pytest.raises(InvariantViolated, match="beyond the snapshot of slot 5"):
        store.write([Truncate(6)])
    store.write([Truncate(5)])
    store.close()
    older = open_log(path, cluster=logs.CLUSTER, replica=1, applied=lambda: (Mark(4, 1), 0))
    with pytest.raises(StorageCorrupt, match=r"truncated up to slot 5.*snapshot is of slot 4"):
        older.recovered()


def test_a_log_that_is_too_small(path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter than 3 segments"):
        make(path, 3 * logs.SEGMENT - 1)
    wrong: Any = object()
    make(path)
    store = open_log(path, cluster=logs.CLUSTER, replica=1, applied=nothing_applied)
    with pytest.raises(InvariantViolated, match="no place for"):
        store.write([wrong])

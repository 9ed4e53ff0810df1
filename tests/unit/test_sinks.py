"""Where a state from another replica goes: whatever breaks on the way, no vote is forgotten."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit import memories, pools

# ruff: isort: split
from mpaxos._native import ENTRY_COMMAND, ENTRY_OPEN, Batch, Engine, ImageSource
from mpaxos.config import ClusterConfig
from mpaxos.core.output import Decided, Event, Output, WritePromise, WriteRecord
from mpaxos.core.transfer_io import ChunkMade, InstallChunk, Installed, InstallFailed, MakeChunk
from mpaxos.core.types import Ballot, Record, Value
from mpaxos.errors import ConfigError, ImageError, InvariantViolated, StorageIncomplete
from mpaxos.runtime import grow, pool_sink
from mpaxos.runtime.applier import InlineApplier, NativeMachine
from mpaxos.runtime.pool_sink import PoolSink
from mpaxos.runtime.sinks import finish_switch, make_sink
from mpaxos.runtime.snapshot_sink import SnapshotSink
from mpaxos.runtime.transfer import Installer, Transfers
from mpaxos.services import kv
from mpaxos.storage.directory import initialise, open_directory
from mpaxos.storage.memory import Memory, open_memory, taken_over
from mpaxos.storage.pmem import PmemStore

SLOT = 30
"""The state that is transferred."""

PROMISE = Ballot(9, 2)
ABOVE = (SLOT + 1, SLOT + 3)
"""Slots that the target has voted for, above the state it gets."""


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory


def apply(memory: Memory, slots: int) -> Engine:
    """Put into the key-value machine, one key per slot."""
    engine = Engine(memory.pool)
    session = 1 << 16
    opened = (0, 7, 0, ENTRY_OPEN, struct.pack("<I", 64))
    engine.apply_kv(1, 1, Batch.build(0, 1, 1, [opened]))
    for slot in range(2, slots + 1):
        request = kv.put_request(f"{slot}", bytes(500))
        entry = (session, slot, slot, ENTRY_COMMAND, request)
        engine.apply_kv(slot, slot, Batch.build(0, 1, slot, [entry]))
    return engine


def image(path: Path, durability: str) -> list[bytes]:
    """The chunks of another replica's state."""
    source = memories.config(path / "source", durability)
    initialise(source, 0)
    with memories.opened(source) as memory:
        taken = ImageSource(apply(memory, SLOT))
        chunks = list(iter(lambda: taken.next(4096), None))
        taken.close()
    return [chunk for chunk in chunks if chunk is not None]


@contextmanager
def target(path: Path, durability: str = "pmem") -> Iterator[tuple[Any, Memory, ClusterConfig]]:
    """A replica that has applied ten slots, and voted for some above the state it gets."""
    config = memories.config(path, durability)
    initialise(config, 0)
    with open_directory(config.directory(0), config.cluster_id, 0, config) as directory:
        memory = open_memory(directory, config)
        memory.lives.begin(durability)
        apply(memory, 10)
        votes = [Record(slot, Ballot(3, 1), Value(Batch.noop(1, 1, slot), 5)) for slot in ABOVE]
        memory.store.write([WriteRecord(vote) for vote in votes])
        memory.store.write([WritePromise(PROMISE)])
        yield directory, memory, config
        memory.close()


def knows_everything(memory: Memory) -> None:
    """The new state is there, with the promise and the votes of the old store."""
    found = memory.store.recovered()
    assert found.promised == PROMISE
    assert found.applied.slot == SLOT
    assert [slot for slot, _ in found.accepted] == list(ABOVE)
    for slot in ABOVE:
        record = memory.store.read(slot)
        assert record is not None and record.ballot == Ballot(3, 1)
        assert record.value.batch.digest == Batch.noop(1, 1, slot).digest
    engine = Engine(memory.pool)
    assert engine.size(engine.container("data")) == SLOT - 1


def install(sink: Any, chunks: list[bytes]) -> None:
    sink.begin()
    assert [sink.install(chunk) for chunk in chunks][-1] == SLOT


def test_a_pool_takes_the_place_of_the_old_one(path: Path) -> None:
    chunks = image(path, "pmem")
    with target(path) as (directory, memory, config):
        sink = make_sink(directory, memory, config)
        install(sink, chunks)
        sink.switch(memory.store, SLOT)
        memory.close()
        knows_everything(open_memory(directory, config))
        assert [path.name for path in directory.path.glob("pool.*")] == ["pool.replaced"]


def test_a_replaced_pool_is_removed_in_the_next_life(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_sink, "REPLACED_KEPT", 0.01)
    chunks = image(path, "pmem")
    with target(path) as (directory, memory, config):
        sink = make_sink(directory, memory, config)
        install(sink, chunks)
        replaced = directory.path / "pool.replaced"
        replaced.write_bytes(b"of a life before, which ended too early")
        old = (directory.path / "pool").stat().st_ino
        sink.switch(memory.store, SLOT)
        assert replaced.stat().st_ino == old
        memory.close()
        memory = open_memory(directory, config)
        assert make_sink(directory, memory, config).found() is None
        end = time.monotonic() + 30
        while replaced.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not replaced.exists()
        knows_everything(memory)


@pytest.mark.parametrize("durability", ["view", "epoch", "none"])
def test_a_scratch_pool_is_gone_on_with(path: Path, durability: str) -> None:
    chunks = image(path, durability)
    with target(path, durability) as (directory, memory, config):
        life = memory.lives.lives.life
        sink = make_sink(directory, memory, config)
        with pytest.raises(InvariantViolated):
            sink.switch(memory.store, SLOT)
        install(sink, chunks)
        sink.switch(memory.store, SLOT)
        pool = sink.take()  # type: ignore[attr-defined]
        memory.close()
        taken = taken_over(directory, pool)
        knows_everything(taken)
        assert taken.lives.lives.life == life
        taken.close()


def test_a_snapshot_becomes_the_newest_one(path: Path) -> None:
    chunks = image(path, "disk")
    with target(path, "disk") as (directory, memory, config):
        sink = make_sink(directory, memory, config)
        assert isinstance(sink, SnapshotSink)
        sink.begin()
        sink.install(chunks[0])
        sink.drop()
        assert not list(directory.path.glob("snapshot*"))
        install(sink, chunks)
        sink.switch(memory.store, SLOT)
        memory.close()
        knows_everything(open_memory(directory, config))


def test_what_is_incomplete_or_older_is_not_switched_to(path: Path) -> None:
    chunks = image(path, "pmem")
    with target(path) as (directory, memory, config):
        sink = make_sink(directory, memory, config)
        sink.begin()
        sink.install(chunks[0])
        sink._close()  # type: ignore[attr-defined]
        with pytest.raises(StorageIncomplete):
            sink.switch(memory.store, SLOT)
        with pytest.raises(InvariantViolated, match="back to slot 9"):
            sink.switch(memory.store, 9)


def test_an_installation_is_gone_on_with_after_a_crash(path: Path) -> None:
    chunks = image(path, "pmem")
    with target(path) as (directory, memory, config):
        sink = make_sink(directory, memory, config)
        sink.begin()
        sink.install(chunks[0])
        sink.install(chunks[1])
        sink._close()  # type: ignore[attr-defined]
        again = make_sink(directory, memory, config)
        found = again.found()
        assert found is not None and found[1] == 2
        with pytest.raises(ImageError):
            again.install(chunks[0])
        assert [again.install(chunk) for chunk in chunks[2:]][-1] == SLOT


def test_a_damaged_installation_is_removed(path: Path) -> None:
    with target(path) as (directory, memory, config):
        (directory.path / "pool.transfer").write_bytes(b"nothing good")
        (directory.path / "pool.transfer.new").write_bytes(b"half made")
        assert make_sink(directory, memory, config).found() is None
        assert not list(directory.path.glob("pool.*"))


class Died(Exception):
    """The process is gone."""


@pytest.mark.parametrize("moment", ["first record", "promise", "fsync", "rename"])
def test_a_crash_in_the_switch(path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old pool still counts, and the next start switches to the complete new one."""
    chunks = image(path, "pmem")
    with target(path) as (directory, memory, config):
        sink = make_sink(directory, memory, config)
        install(sink, chunks)

        def die(*arguments: object) -> None:
            raise Died

        write = PmemStore.write

        def write_some(self: Any, writes: list[Any]) -> None:
            write(self, writes[: 1 if moment == "first record" else 2])
            raise Died

        with monkeypatch.context() as patch:
            if moment in ("fsync", "rename"):
                patch.setattr(os, moment, die)
            else:
                patch.setattr(PmemStore, "write", write_some)
            with pytest.raises(Died):
                sink.switch(memory.store, SLOT)
        old = memory.store.recovered()
        assert (old.promised, old.applied.slot) == (PROMISE, 10)
        memory.close()
        finish_switch(directory)
        knows_everything(open_memory(directory, config))


def test_growing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    with target(path) as (_, memory, config):
        apply_more = memory.pool.info()["state_limit"]
        memory.close()
    larger = 96 << 20
    with pytest.raises(ConfigError, match="at least"):
        grow.grow(config, 0, 32 << 20, None, lambda done, total: None)
    with pytest.raises(ConfigError, match="cannot be lowered"):
        grow.grow(config, 0, larger, 1 << 20, lambda done, total: None)

    def die(*arguments: object) -> None:
        raise Died

    for moment in ("rename", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, moment, die)
            with pytest.raises(Died):
                grow.grow(config, 0, larger, None, lambda done, total: told.append((done, total)))
        assert told, "no progress was shown"
        with memories.opened(config) as opened:  # the old one, whatever the marker was told
            assert opened.pool.info()["size"] == 24 << 20
    grown = grow.grow(config, 0, larger, 2 * int(apply_more), lambda done, total: None)
    assert (grown.applied, grown.new_size) == (10, larger)
    with memories.opened(config) as opened:
        assert opened.pool.info()["size"] == larger
        assert opened.pool.info()["state_limit"] == grown.state_limit == 2 * int(apply_more)
        found = opened.store.recovered()
        assert (found.promised, [slot for slot, _ in found.accepted]) == (PROMISE, list(ABOVE))


def test_growing_crashed_behind_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker still names both sizes: the larger pool is opened."""
    with target(path) as (_, memory, config):
        memory.close()

    def die(*arguments: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(pool_sink, "sync_directory", die)
        with pytest.raises(Died):
            grow.grow(config, 0, 96 << 20, None, lambda done, total: None)
    with memories.opened(config) as opened:
        assert opened.pool.info()["size"] == 96 << 20
        assert opened.store.recovered().promised == PROMISE


def test_a_pool_sink_is_for_one_replica(path: Path) -> None:
    with target(path) as (directory, memory, _):
        sink = PoolSink(
            directory.path / "pool", cluster=bytes(16), replica=0, info=memory.pool.info()
        )
        assert sink.complete_at() is None


def test_no_room_for_a_second_store_is_an_event_and_leaves_nothing(path: Path) -> None:
    """The replica goes on as it was, says why, and tries again later."""
    events: deque[Event] = deque()
    with target(path) as (directory, memory, _):
        info = memory.pool.info() | {"size": 1 << 49}
        sink = PoolSink(directory.path / "pool", cluster=pools.CLUSTER, replica=0, info=info)
        done = threading.Event()
        installer = Installer(sink, events, done.set)
        installer.put(InstallChunk(3, 7, 0, b"chunk"))
        assert done.wait(30)
        installer.put(InstallChunk(3, 7, 1, b"chunk"))  # of the same image: not tried
        assert installer.stop()
        (failed,) = events
        assert isinstance(failed, InstallFailed) and failed.job == 3
        assert "no room for a pool" in failed.reason
        assert not list(directory.path.glob("pool.*"))
        assert memory.store.recovered().promised == PROMISE


def test_a_place_that_was_made_ahead_is_used_once(path: Path) -> None:
    chunks = image(path, "pmem")
    with target(path) as (directory, memory, _):
        pool_sink_of(directory, memory).prepare()
        new = directory.path / "pool.transfer"
        made = new.stat().st_ino
        sink = pool_sink_of(directory, memory)
        assert sink.found() is None and sink.prepared
        install(sink, chunks)
        assert new.stat().st_ino == made and not sink.prepared
        sink.begin()
        assert new.stat().st_ino != made, "what was installed is not gone on with"
        sink.drop()


def test_a_place_made_for_another_size_is_not_used(path: Path) -> None:
    with target(path) as (directory, memory, _):
        pool_sink_of(directory, memory).prepare()
        sink = pool_sink_of(directory, memory, state_limit=12345)
        assert sink.found() is None and not sink.prepared
        assert not (directory.path / "pool.transfer").exists()


def test_a_place_that_nobody_needs_is_removed(path: Path) -> None:
    """Some log reached back to the first slot, so that it was decided here."""
    with target(path) as (directory, memory, _):
        pool_sink_of(directory, memory).prepare()
        sink = pool_sink_of(directory, memory)
        engine = Engine(memory.pool)
        applier = InlineApplier(NativeMachine(engine))
        transfers = Transfers(engine, applier, sink, lambda: None, Deciding(0))
        transfers.carry_out(Output())
        assert sink.prepared
        value = Value(Batch.noop(0, 1, 1), 5)
        transfers.carry_out(Output(decided=[Decided(11, value)]))
        end = time.monotonic() + 60
        while list(directory.path.glob("pool.*")) and time.monotonic() < end:
            time.sleep(0.001)
        assert transfers.stop_installing()
        assert not list(directory.path.glob("pool.*")) and not sink.prepared


@dataclass
class Deciding:
    decided_upto: int


class Slow:
    """A sink that takes its time with each chunk, from when it may begin."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.may_begin = threading.Event()

    def begin(self) -> None:
        assert self.may_begin.wait(30)

    def install(self, data: Any) -> int | None:
        time.sleep(self.seconds)
        return None


@pytest.mark.parametrize(
    ("seconds", "size"), [(0.0, 5), (2 * Installer.UNTOLD, 5), (0.0, Installer.UNTOLD_BYTES)]
)
def test_what_is_installed_is_told_when_it_matters(seconds: float, size: int) -> None:
    """Not of each chunk; but always of the last, and often enough: in time, and before the source
    has nothing left that it may send."""
    events: deque[Event] = deque()
    told: list[int] = []
    sink = Slow(seconds)
    installer = Installer(sink, events, lambda: told.append(len(events)))  # type: ignore[arg-type]
    for number in range(20):
        installer.put(InstallChunk(1, 7, number, bytes(size)))
    sink.may_begin.set()
    end = time.monotonic() + 30
    while 20 not in told and time.monotonic() < end:
        time.sleep(0.001)
    assert installer.stop()
    assert told[-1] == 20
    assert len(told) == 20 if seconds or size > 5 else len(told) < 10


def test_the_last_chunk_is_told_of_at_once() -> None:
    class Complete(Slow):
        def install(self, data: Any) -> int:
            return 5

    events: deque[Event] = deque()
    told = threading.Event()
    sink = Complete(0.0)
    installer = Installer(sink, events, told.set)  # type: ignore[arg-type]
    installer._told_at = time.monotonic() + 1000  # nothing else is urgent
    sink.may_begin.set()
    installer.put(InstallChunk(1, 7, 0, b"chunk"))
    assert told.wait(30)
    assert installer.stop()
    assert events.pop() == Installed(1, 1, 5)


def test_a_source_rests_after_a_chunk_while_commands_are_decided(path: Path) -> None:
    replica = Deciding(5)
    with target(path) as (directory, memory, _):
        engine = Engine(memory.pool)
        applier = InlineApplier(NativeMachine(engine))
        sink = pool_sink_of(directory, memory)
        transfers = Transfers(engine, applier, sink, lambda: None, replica)

        def due_when_asked() -> int:
            output = Output(transfer=[MakeChunk(1)], wake_at=1 << 62)
            transfers.carry_out(output)
            return output.wake_at

        def made(now: int) -> list[type]:
            return [type(event) for event in transfers.collect(now)]

        assert due_when_asked() == 0 and made(0) == [ChunkMade]
        ended = time.monotonic_ns()
        replica.decided_upto += 1
        due = due_when_asked()
        assert made(due - 1) == []
        assert 0 < due - ended < 10_000_000_000, "as long as the chunk took"
        assert made(due) == [ChunkMade] and made(due) == []
        assert due_when_asked() == 0, "nothing was decided since"
        transfers.close()


def pool_sink_of(directory: Any, memory: Memory, **changes: int) -> PoolSink:
    identity = directory.identity
    return PoolSink(
        directory.path / "pool",
        cluster=identity.cluster,
        replica=identity.replica,
        info=memory.pool.info() | changes,
    )

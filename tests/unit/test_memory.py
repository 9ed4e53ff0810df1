"""What each durability finds after a crash, and what it refuses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit import memories, pools

# ruff: isort: split
from mpaxos._native import Engine
from mpaxos.config import ClusterConfig
from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.output import Truncate, WritePromise
from mpaxos.core.types import Ballot, Mark
from mpaxos.errors import (
    ConfigError,
    StorageCorrupt,
    StorageForeign,
    StorageForgotten,
    StorageFull,
    StorageMissing,
    StorageVersion,
)
from mpaxos.storage.directory import MARKER, initialise, open_directory
from mpaxos.storage.files import NEW, Identity, read_sealed, write_sealed
from mpaxos.storage.memory import Memory
from mpaxos.storage.restore import replay
from mpaxos.storage.scratch import make_scratch, scratch_path

COMBINATIONS = [
    ("pmem", "persistent"),
    ("pmem", "volatile"),
    ("disk", "volatile"),
    ("view", "volatile"),
    ("epoch", "volatile"),
    ("none", "volatile"),
]

KEEPING = [("pmem", "volatile"), ("disk", "volatile")]


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory


def restarted(memory: Memory) -> Engine:
    """The machine after a start: from the newest snapshot and the log."""
    engine = Engine(memory.pool)
    if memory.kept is not None:
        replay(memory.kept, engine.mark[0], engine.apply_kv)
    return engine


# ------------------------------------------------------------------ all


@pytest.mark.parametrize(("durability", "machine"), COMBINATIONS)
def test_a_first_start_finds_nothing(path: Path, durability: str, machine: str) -> None:
    cluster = memories.made(path, durability, machine)
    with memories.opened(cluster) as memory:
        recovered = memory.store.recovered()
        assert recovered.applied == Mark(0, 0) and recovered.accepted == []
        assert recovered.log_room == memory.store.log_room > 1 << 20
        assert memory.lives.lives.life == 1 and not memory.lives.lives.recovering
        engine = Engine(memory.pool)
        memories.run(memory, engine, 10)
        record = memory.store.read(7)
        assert record is not None and record.value.same_as(memories.value(7))
        info = memory.info()
        assert info["state_used"] > 0 and info["log_used"] > 0
    assert list((path / "scratch").iterdir()) == []


@pytest.mark.parametrize(("durability", "machine"), COMBINATIONS)
def test_what_a_restart_finds(path: Path, durability: str, machine: str) -> None:
    cluster = memories.made(path, durability, machine)
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        memories.run(memory, engine, 40)
        mark, digest = engine.mark, engine.state_digest()
        memory.store.write([WritePromise(Ballot(9, 2))])  # with it the log hears of slot 40
    if durability == "none":
        with (
            pytest.raises(StorageForgotten, match="durability = 'none' keeps nothing"),
            memories.opened(cluster),
        ):
            pass
        return
    with memories.opened(cluster) as memory:
        engine = restarted(memory)
        recovered, lives = memory.store.recovered(), memory.lives.lives
        assert (recovered.promised == Ballot(9, 2)) == (durability != "epoch")
        if durability in ("pmem", "disk"):
            assert (engine.mark, engine.state_digest()) == (mark, digest)
            assert recovered.applied == Mark(*mark) and recovered.accepted == []
            assert (lives.life, lives.recovering) == (1, False)
        else:
            assert recovered.applied == Mark(0, 0) and recovered.accepted == []
            assert (lives.life, lives.recovering) == (2, True)


@pytest.mark.parametrize(("durability", "machine"), COMBINATIONS)
def test_a_directory_of_another_combination(path: Path, durability: str, machine: str) -> None:
    memories.made(path, durability, machine)
    for other in COMBINATIONS:
        if other != (durability, machine):
            with (
                pytest.raises(StorageForeign, match="was made for durability = "),
                memories.opened(memories.config(path, *other)),
            ):
                pass


@pytest.mark.parametrize(("durability", "machine"), COMBINATIONS)
def test_init_touches_nothing_that_is_there(path: Path, durability: str, machine: str) -> None:
    cluster = memories.made(path, durability, machine)
    with pytest.raises(StorageForeign, match="initialised before"):
        initialise(cluster, 0)
    # Not even what is left of a replica.
    (cluster.directory(0) / MARKER).unlink()
    with pytest.raises(StorageForeign, match="initialised before"):
        initialise(cluster, 0)


def test_a_directory_of_the_first_format(path: Path) -> None:
    cluster = memories.made(path, "pmem")
    marker = cluster.directory(0) / MARKER
    text = marker.read_text()
    assert '"format": 1' in text
    (cluster.directory(0) / "lives").unlink()
    marker.write_text(text.replace('"lives": true', '"lives": false'))
    with memories.opened(cluster) as memory:
        assert memory.lives.lives.life == 1
    marker.write_text(text)
    with pytest.raises(StorageMissing, match="lives is missing"), memories.opened(cluster):
        pass
    marker.write_text(text.replace('"format": 1', '"format": 3'))
    with pytest.raises(StorageVersion, match="has format 3"), memories.opened(cluster):
        pass


# ------------------------------------------------------------------ the log bounds, snapshots


@pytest.mark.parametrize(("durability", "machine"), KEEPING)
def test_a_log_is_not_truncated_beyond_the_snapshot(
    path: Path, durability: str, machine: str
) -> None:
    cluster = memories.made(path, durability, machine)
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        memories.run(memory, engine, 20)
        with pytest.raises(InvariantViolated, match="beyond the snapshot of slot 0"):
            memory.store.write([Truncate(1)])
        assert memories.snapshot(memory, engine).mark == Mark(*engine.mark)
        memories.run(memory, engine, 60)
        memory.store.write([Truncate(20)])
        with pytest.raises(InvariantViolated, match="beyond the snapshot of slot 20"):
            memory.store.write([Truncate(21)])
        mark, digest = engine.mark, engine.state_digest()
        memory.store.write([WritePromise(Ballot(2, 1))])
    with memories.opened(cluster) as memory:
        assert memory.newest.mark.slot == 20
        engine = restarted(memory)
        assert (engine.mark, engine.state_digest()) == (mark, digest)


@pytest.mark.parametrize(("durability", "machine"), KEEPING)
def test_slots_that_are_not_known_to_be_decided_are_left_to_the_protocol(
    path: Path, durability: str, machine: str
) -> None:
    cluster = memories.made(path, durability, machine)
    with memories.opened(cluster) as memory:
        memories.run(memory, Engine(memory.pool), 40)
        memory.store.write(memories.writes(41, 44))
        memory.store.write(memories.writes(45, 45))
    with memories.opened(cluster) as memory:
        engine = restarted(memory)
        recovered = memory.store.recovered()
        # The log on disk is told only now and then.
        assert engine.mark[0] == 40
        assert [slot for slot, _ in recovered.accepted] == [41, 42, 43, 44, 45]


def test_a_log_that_lacks_a_decided_slot_is_refused(path: Path) -> None:
    cluster = memories.made(path, "pmem", "volatile")
    with memories.opened(cluster) as memory:
        memories.run(memory, Engine(memory.pool), 5)
        kept = memory.kept
        assert kept is not None
        kept.decided(7)
        memory.store.write([WritePromise(Ballot(2, 1))])
    with (
        memories.opened(cluster) as memory,
        pytest.raises(StorageCorrupt, match="no record of slot 6"),
    ):
        restarted(memory)


@pytest.mark.parametrize("damage", ["cut", "flip", "header", "empty"])
@pytest.mark.parametrize(("durability", "machine"), KEEPING)
def test_a_damaged_snapshot_falls_back_to_the_older_one(
    path: Path, durability: str, machine: str, damage: str
) -> None:
    cluster = memories.made(path, durability, machine)
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        memories.run(memory, engine, 20)
        memories.snapshot(memory, engine)
        memories.run(memory, engine, 40)
        memories.snapshot(memory, engine)
        mark, digest = engine.mark, engine.state_digest()
        memory.store.write([WritePromise(Ballot(2, 1))])
    newest = cluster.directory(0) / "snapshot-40"
    harm(newest, damage)
    with memories.opened(cluster) as memory:
        assert memory.newest.mark.slot == 20
        engine = restarted(memory)
        assert (engine.mark, engine.state_digest()) == (mark, digest)
        memory.store.recovered()
        memory.accept()
        assert not newest.exists()
        # The one that was of use is not taken for the oldest of three.
        memories.run(memory, engine, 50)
        memories.snapshot(memory, engine)
        assert memory.snapshots is not None
        assert memory.snapshots.slots() == [50, 20]


@pytest.mark.parametrize(("durability", "machine"), KEEPING)
def test_a_snapshot_that_the_log_does_not_reach_is_refused(
    path: Path, durability: str, machine: str
) -> None:
    cluster = memories.made(path, durability, machine)
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        memories.run(memory, engine, 20)
        memories.snapshot(memory, engine)
        memory.store.write([Truncate(20)])
    newest = cluster.directory(0) / "snapshot-20"
    harm(newest, "flip")
    with (
        memories.opened(cluster) as memory,
        pytest.raises(StorageCorrupt, match=r"truncated up to slot 20.*replace the replica"),
    ):
        memory.store.recovered()
    assert newest.exists(), "nothing was changed"


def harm(file: Path, how: str) -> None:
    size = file.stat().st_size
    if how == "cut":
        os.truncate(file, size - 10)
    elif how == "empty":
        os.truncate(file, 0)
    else:
        at = 30 if how == "header" else size - 100
        with file.open("r+b") as opened:
            opened.seek(at)
            byte = opened.read(1)[0]
            opened.seek(at)
            opened.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("step", ["begun", "chunks", "whole", "renamed"])
def test_a_crash_while_a_snapshot_is_written(path: Path, step: str) -> None:
    cluster = memories.made(path, "disk")
    data = cluster.directory(0)
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        memories.run(memory, engine, 20)
        memories.snapshot(memory, engine)
        memories.run(memory, engine, 60)
        mark = engine.mark
        memories.snapshot(memory, engine)
        memory.store.write([WritePromise(Ballot(2, 1))])
    whole = (data / "snapshot-60").read_bytes()
    unfinished = data / f"snapshot{NEW}"
    if step != "renamed":
        (data / "snapshot-60").unlink()
        header = whole if step == "whole" else bytes(4096) + whole[4096:]
        unfinished.write_bytes(header[: {"begun": 0, "chunks": 6000, "whole": len(whole)}[step]])
    with memories.opened(cluster) as memory:
        assert memory.newest.mark.slot == (60 if step == "renamed" else 20)
        assert not unfinished.exists()
        assert restarted(memory).mark == mark


def test_only_two_snapshots_are_kept(path: Path) -> None:
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        for last in (10, 20, 30, 40):
            memories.run(memory, engine, last)
            memories.snapshot(memory, engine)
        assert memory.snapshots is not None
        assert memory.snapshots.slots() == [40, 30]


def test_the_snapshot_of_something_else(path: Path) -> None:
    cluster = memories.made(path, "disk")
    with memories.opened(cluster) as memory:
        engine = Engine(memory.pool)
        memories.run(memory, engine, 20)
        memories.snapshot(memory, engine)
    made = cluster.directory(0) / "snapshot-20"
    other = memories.config(path / "other", "disk", id="cd" * 16)
    initialise(other, 0)
    shutil.copy(made, other.directory(0))
    with (
        pytest.raises(StorageForeign, match="belongs to replica 0 of cluster"),
        memories.opened(other),
    ):
        pass
    changed = memories.LIMITS | {"state_limit": "5 MiB"}
    with (
        pytest.raises(ConfigError, match="limits of state and sessions were changed"),
        memories.opened(memories.config(path, "disk", limits=changed)),
    ):
        pass


# ------------------------------------------------------------------ lives and promises


def test_a_new_life_begins_when_it_takes_part(path: Path) -> None:
    cluster = memories.made(path, "epoch")
    for life in (1, 2, 3):
        with memories.opened(cluster) as memory:
            assert memory.lives.lives.life == life
    # Found, and not started: that costs none.
    with open_directory(cluster.directory(0), cluster.cluster_id, 0, cluster) as directory:
        assert directory.open_lives().lives.life == 3


@pytest.mark.parametrize(("durability", "name"), [("view", "promise"), ("epoch", "lives")])
def test_a_small_file_that_is_damaged_or_gone(path: Path, durability: str, name: str) -> None:
    cluster = memories.made(path, durability)
    file = cluster.directory(0) / name
    good = file.read_bytes()
    for at in range(0, len(good), 7):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(StorageCorrupt, match="is damaged"), memories.opened(cluster):
            pass
    file.write_bytes(good[:-1])
    with pytest.raises(StorageCorrupt, match="is damaged"), memories.opened(cluster):
        pass
    file.unlink()
    with pytest.raises(StorageMissing, match="is missing"), memories.opened(cluster):
        pass


def test_a_promise_is_in_the_file_before_the_write_returns(path: Path) -> None:
    cluster = memories.made(path, "view")
    file = cluster.directory(0) / "promise"
    with memories.opened(cluster) as memory:
        memory.store.write([WritePromise(Ballot(1, 0)), WritePromise(Ballot(3, 2))])
        assert '"value":[3,2]' in file.read_text()
        before = file.stat().st_ino
        memory.store.write(memories.writes(2, 3, Ballot(3, 2)))
        assert file.stat().st_ino == before, "records do not touch the file"


def test_a_promise_that_has_no_room_is_not_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = memories.made(path, "view")
    file = cluster.directory(0) / "promise"
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with memories.opened(cluster) as memory:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match=r"cannot write .*promise: No space left"):
            memory.store.write(memories.writes(1, 1))
        monkeypatch.undo()
        assert memory.store.read(1) is None, "nothing of the turn was written"
        assert file.read_bytes() == before
        memory.store.write(memories.writes(1, 1))


def test_sealed_files_belong_to_somebody(path: Path) -> None:
    file, mine = path / "x", Identity(b"c" * 16, 1)
    write_sealed(file, "kind", mine, [1, 2])
    assert read_sealed(file, "kind", mine, list[int]) == [1, 2]
    with pytest.raises(StorageForeign, match="a file for 'kind'"):
        read_sealed(file, "other", mine, list[int])
    for other in (Identity(b"d" * 16, 1), Identity(b"c" * 16, 2)):
        with pytest.raises(StorageForeign, match="belongs to replica 1"):
            read_sealed(file, "kind", other, list[int])
    with pytest.raises(StorageCorrupt):
        read_sealed(file, "kind", mine, str)


# ------------------------------------------------------------------ scratch pools


def volatile(path: Path, **pool: Any) -> ClusterConfig:
    sizes = {"size": "24 MiB", "log_size": "4 MiB", "scratch": str(path / "scratch")}
    return memories.config(path, "disk", pool=sizes | pool)


def test_a_scratch_pool_leaves_no_name(path: Path) -> None:
    cluster = volatile(path)
    left = scratch_path(cluster, 0)
    left.write_text("of a crash while it was made")
    left.with_name(left.name + NEW).write_text("and of one before")
    pool = make_scratch(cluster, 0, installing=False)
    assert list((path / "scratch").iterdir()) == []
    Engine(pool).apply_kv(1, 1, memories.put(1))
    pool.close()


def test_no_directory_or_no_room_for_it(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pool.scratch = .* no such directory"):
        make_scratch(volatile(path, scratch=str(path / "nowhere")), 0, installing=False)
    with pytest.raises(StorageFull, match=r"no room for a pool.*another directory"):
        make_scratch(volatile(path, size="900 TiB"), 0, installing=False)
    assert list((path / "scratch").iterdir()) == []

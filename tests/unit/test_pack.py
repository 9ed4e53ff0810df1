"""Packing: a state whose items are moved together is the same state, also in the middle of a slot
that finds no room."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos import _native as n
from mpaxos._native import Batch, Engine, ImageSource, ImageTarget, Pool
from mpaxos.errors import ImageError, StorageCorrupt, StorageFull
from mpaxos.services import kv
from tests.unit import pools

MIB = 1 << 20
SIZE = 24 * MIB
SLOT = 200
WINDOW = 512

Change = tuple[bytes, bytes | None]


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


class World:
    """A pool, one client of the key-value machine or of one in Python, and what the state is."""

    def __init__(self, path: Path, native: bool, limit: int = 20 * MIB) -> None:
        """The limit alone would let the items fill the pool: it is not what these tests test."""
        self.path = path
        self.native = native
        pools.make(path, size=SIZE, state_limit=limit, max_sessions=64, max_reply_slots=WINDOW)
        self.pool: Pool
        self.engine: Engine
        self.rng = random.Random(1)
        self.expected: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._sequence = 0
        self.reopen()
        opening = (0, 1, 0, n.ENTRY_OPEN, struct.pack("<I", WINDOW))
        self.engine.apply_kv(1, 0, Batch.build(0, 1, 1, [opening]))

    def reopen(self) -> None:
        if hasattr(self, "pool"):
            self.pool.close()
        self.pool = pools.reopen(self.path, size=SIZE)
        self.engine = Engine(self.pool)

    @property
    def packings(self) -> int:
        return int(self.pool.info()["packings"])

    def apply(self, changes: list[Change]) -> None:
        """One slot."""
        slot = self.engine.mark[0] + 1
        entries = []
        for key, value in changes:
            request = kv.delete_request(key) if value is None else kv.put_request(key, value)
            lowest = max(0, self._sequence - WINDOW + 1)
            entries.append((1 << 16, self._sequence, lowest, n.ENTRY_COMMAND, request))
            self._sequence += 1
        batch = Batch.build(0, 1, slot, entries)
        if self.native:
            statuses = {
                status for _, _, status, _ in self.engine.apply_kv(slot, 0, batch).entries()
            }
            assert statuses == {n.STATUS_OK}
        else:
            run = self.engine.begin(slot, 0, batch)
            data = self.engine.container("data")
            done = [(data, key, value) for key, value in changes]
            self.engine.finish([(n.STATUS_OK, b"")] * len(run), done)
        for key, value in changes:
            if value is None:
                del self.expected[key]
            else:
                if key not in self.expected:
                    self._keys.append(key)
                self.expected[key] = value

    def grow(self, upto: int, shortest: int, longest: int) -> None:
        """Put items until the state has `upto` bytes. Each slot also overwrites some in place."""
        while self.engine.state_used() < upto:
            # First, so that they are looked up before anything of the slot has moved.
            changes: list[Change] = [
                (key, self.rng.randbytes(len(self.expected[key])))
                for key in self.rng.sample(self._keys, min(50, len(self._keys)))
            ]
            for _ in range(SLOT):
                size = self.rng.randint(shortest, longest)
                changes.append((self.rng.randbytes(12), self.rng.randbytes(size)))
            self.apply(changes)

    def thin_out(self, share: float) -> None:
        """Remove items at random until so many are left."""
        self.rng.shuffle(self._keys)
        left = round(len(self._keys) * share)
        gone, self._keys = self._keys[left:], self._keys[:left]
        for at in range(0, len(gone), SLOT):
            self.apply([(key, None) for key in gone[at : at + SLOT]])

    def check(self) -> None:
        """The state is what it should be, also after a start."""
        for again in (False, True):
            if again:
                self.reopen()
            data = self.engine.container("data")
            items = dict(self.engine.scan(data, b"", None, 1 << 30))
            assert items == self.expected
            used = sum(n.ITEM_OVERHEAD + len(k) + len(v) for k, v in items.items())
            assert self.engine.state_used() == used


@pytest.mark.parametrize("native", [True, False])
def test_a_state_whose_items_change_their_sizes_finds_room(directory: Path, native: bool) -> None:
    world = World(directory / "p", native)
    for _ in range(2):
        for shortest, longest in [(50, 100), (900, 1000), (300, 400), (1500, 1600), (100, 200)]:
            world.grow(10 * MIB, shortest, longest)
            world.thin_out(0.3)
    assert world.packings > 2
    world.check()


def test_a_slot_that_packed_is_as_one_that_did_not_need_to(directory: Path) -> None:
    small, large = World(directory / "s", True), World(directory / "l", True)
    for size in (80, 1000, 300):
        for world in (small, large):
            world.grow(10 * MIB, size, size)
            world.thin_out(0.3)
            if world is large:
                world.engine.pack(100)  # so it always has room
    assert small.packings > 0
    assert small.engine.mark == large.engine.mark
    assert small.engine.state_digest() == large.engine.state_digest()


def test_packing_empties_blocks_and_changes_nothing(directory: Path) -> None:
    world = World(directory / "p", True)
    world.grow(7 * MIB, 80, 80)
    world.thin_out(0.1)
    digest, mark = world.engine.state_digest(), world.engine.mark
    moved = [world.engine.pack(75) for _ in range(8)]
    assert moved[0] > 100_000
    assert moved[-1] == 0, "what is close together is not moved again"
    assert (world.engine.state_digest(), world.engine.mark) == (digest, mark)
    world.check()


def test_an_image_goes_on_across_packing(directory: Path) -> None:
    world = World(directory / "p", True)
    world.grow(6 * MIB, 10, 1000)
    world.thin_out(0.2)
    source, chunks = ImageSource(world.engine), []
    digests = {}
    while (chunk := source.next(64 << 10)) is not None:
        chunks.append(chunk)
        digests[world.engine.mark] = world.engine.state_digest()
        world.engine.pack(95)
        world.apply([(world.rng.randbytes(12), world.rng.randbytes(300))])
    assert len(chunks) > 5
    path = directory / "target"
    pools.make(
        path,
        size=SIZE,
        state_limit=20 * MIB,
        max_sessions=64,
        max_reply_slots=WINDOW,
        installing=True,
    )
    pool = pools.reopen(path, size=SIZE, installing=True)
    target = ImageTarget(pool)
    assert [target.install(chunk) for chunk in chunks][-1]
    received = Engine(pool)
    assert digests[received.mark] == received.state_digest()


def test_an_image_is_given_up_when_a_slot_is_applied_anew(directory: Path) -> None:
    world = World(directory / "p", True)
    world.grow(10 * MIB, 80, 80)
    world.thin_out(0.3)
    source = ImageSource(world.engine)
    source.next(64 << 10)
    world.grow(10 * MIB, 1000, 1000)
    assert world.packings > 0
    with pytest.raises(ImageError, match="applied anew"):
        source.next(64 << 10)
    assert ImageSource(world.engine).next(64 << 10) is not None


def test_what_has_no_room_at_all_stops_the_engine_and_loses_nothing(directory: Path) -> None:
    world = World(directory / "p", True)
    world.grow(10 * MIB, 1000, 1000)
    with pytest.raises(StorageFull, match="mpaxos grow"):
        world.grow(20 * MIB, 1000, 1000)
    world.reopen()
    world.check()


def test_damage_is_not_moved_along(directory: Path) -> None:
    world = World(directory / "p", True)
    world.grow(4 * MIB, 500, 500)
    world.thin_out(0.2)
    value = next(iter(world.expected.values()))
    world.pool.close()
    file = world.path.read_bytes()
    at = file.index(value)
    world.path.write_bytes(file[: at + 7] + bytes([file[at + 7] ^ 1]) + file[at + 8 :])
    world.pool = pools.reopen(world.path, size=SIZE)
    world.engine = Engine(world.pool)
    with pytest.raises(StorageCorrupt, match="checksum"):
        world.engine.pack(75)

"""The limit of the state bites before the allocator runs dry, whatever the items are like.

If it did not, one replica would stop where another goes on: how a pool is filled depends on its
history.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos import _native as n
from mpaxos._native import Batch, Engine
from mpaxos.config.schema import LimitsConfig, PoolConfig, default_state_limit
from mpaxos.services import kv
from tests.unit import pools

MIB = 1 << 20
SESSIONS, WINDOW, SLOT = 64, 1024, 500


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


class State:
    """A pool of `size` bytes with the state limit that is its default, and one client."""

    def __init__(self, path: Path, size: int) -> None:
        limits = LimitsConfig(max_sessions=SESSIONS, max_reply_slots=WINDOW)
        self.limit = default_state_limit(PoolConfig(size=size, log_size=pools.LOG), limits)
        pools.make(
            path,
            size=size,
            state_limit=self.limit,
            max_sessions=SESSIONS,
            max_reply_slots=WINDOW,
        )
        self.engine = Engine(pools.reopen(path, size=size))
        opening = (0, 1, 0, n.ENTRY_OPEN, struct.pack("<I", WINDOW))
        self.engine.apply_kv(1, 0, Batch.build(0, 1, 1, [opening]))
        self.rng = random.Random(1)
        self.keys: list[bytes] = []
        self._sequence = 0

    def _statuses(self, requests: list[bytes]) -> list[int]:
        entries = []
        for request in requests:
            lowest = max(0, self._sequence - SLOT)
            entries.append((1 << 16, self._sequence, lowest, n.ENTRY_COMMAND, request))
            self._sequence += 1
        slot = self.engine.mark[0] + 1
        replies = self.engine.apply_kv(slot, 0, Batch.build(0, 1, slot, entries))
        return [status for _, _, status, _ in replies.entries()]

    def fill(self, key: int, shortest: int, longest: int) -> None:
        """Put items with keys of `key` bytes and values of random lengths until one is refused."""
        full = False
        while not full:
            keys = [self.rng.randbytes(key) for _ in range(SLOT)]
            values = [bytes(self.rng.randint(shortest, longest)) for _ in keys]
            statuses = self._statuses(list(map(kv.put_request, keys, values)))
            self.keys += [k for k, status in zip(keys, statuses, strict=True) if status == 0]
            assert set(statuses) <= {n.STATUS_OK, n.STATUS_NOSPACE}
            full = n.STATUS_NOSPACE in statuses

    def thin_out(self) -> None:
        """Remove half of the items, at random."""
        self.rng.shuffle(self.keys)
        half = len(self.keys) // 2
        gone, self.keys = self.keys[:half], self.keys[half:]
        for at in range(0, half, SLOT):
            assert set(self._statuses(list(map(kv.delete_request, gone[at : at + SLOT])))) == {0}


@pytest.mark.parametrize(
    ("key", "value"), [(4, 0), (8, 33), (16, 100), (16, 1024), (300, 700), (16, 3000), (16, 90_000)]
)
def test_items_of_one_size_fill_the_state_to_its_limit(
    directory: Path, key: int, value: int
) -> None:
    state = State(directory / "p", 32 * MIB)
    state.fill(key, value, value)
    assert state.engine.state_used() > state.limit - (64 + key + value)


@pytest.mark.parametrize(("size", "rounds"), [(48 * MIB, 12), (256 * MIB, 3)])
def test_so_do_items_of_all_sizes_that_come_and_go(directory: Path, size: int, rounds: int) -> None:
    state = State(directory / "p", size)
    state.fill(16, 0, 2500)
    for _ in range(rounds):
        state.thin_out()
        state.fill(16, 0, 2500)
    assert state.engine.state_used() > state.limit - 3000

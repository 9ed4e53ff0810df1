"""Flipped bits in the session table of a pool are found when it is opened."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos import _native as n
from mpaxos._native import Batch, Engine
from mpaxos.errors import StorageCorrupt
from tests.unit import pools

SIZE = 8 << 20
REPLY = b"found nowhere else"
CELL = 64


@pytest.fixture
def image() -> Iterator[tuple[Path, int]]:
    """A pool whose only session of two cells has one reply, and where that cell is."""
    with pools.scratch() as directory:
        path = directory / "pool"
        pools.make(path, size=SIZE, log_size=16 << 10, max_sessions=4, max_reply_slots=16)
        pool = pools.reopen(path, size=SIZE)
        engine = Engine(pool)
        opening = (0, 1, 0, n.ENTRY_OPEN, struct.pack("<I", 2))
        engine.begin(1, 0, Batch.build(0, 1, 1, [opening]))
        engine.finish([], [])
        engine.begin(2, 0, Batch.build(0, 1, 2, [(1 << 16, 0, 0, n.ENTRY_COMMAND, b"")]))
        engine.finish([(0, REPLY)], [])
        del engine
        pool.close()
        data = path.read_bytes()
        assert data.count(REPLY) == 1
        yield path, data.index(REPLY) - 44  # the payload is the last 20 bytes of its cell


def opens(path: Path) -> None:
    pool = pools.reopen(path, size=SIZE)
    try:
        Engine(pool)
    finally:
        pool.close()


def test_the_table_as_it_was_opens(image: tuple[Path, int]) -> None:
    opens(image[0])


@pytest.mark.parametrize("byte", [*range(CELL), *range(CELL, 2 * CELL, 7)])
def test_any_byte_of_a_used_or_unused_cell(image: tuple[Path, int], byte: int) -> None:
    """The flag that tells a used cell from an unused one (byte 41) as well."""
    path, cell = image
    with path.open("r+b") as file:
        file.seek(cell + byte)
        (old,) = file.read(1)
        file.seek(cell + byte)
        file.write(bytes([old ^ 1]))
    with pytest.raises(StorageCorrupt, match="session table"):
        opens(path)

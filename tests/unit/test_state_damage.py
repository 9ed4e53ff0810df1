"""Flipped bits in what leads to the state's items: an error, never "there is no such key"."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos._native import Batch, Engine, digest64
from mpaxos.errors import StorageCorrupt
from tests.unit import pools

SIZE = 24 << 20
KEYS = [b"key %02d" % n for n in range(16)]
OPEN = (0, 5, 0, 1, b"\4\0\0\0")


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        path = directory / "pool"
        pools.make(path, size=SIZE)
        pool = pools.reopen(path, size=SIZE)
        engine = Engine(pool)
        number = engine.container("data")
        engine.begin(1, 1, Batch.build(0, 1, 1, [OPEN]))
        engine.finish([], [(number, key, b"value of " + key) for key in KEYS])
        del engine
        pool.close()
        yield path


def change(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, at)


def read_all(path: Path) -> list[bytes | None]:
    pool = pools.reopen(path, size=SIZE)
    try:
        engine = Engine(pool)
        number = engine.container("data")
        return [engine.get(number, key) for key in (*KEYS, b"absent")]
    finally:
        pool.close()


def branches(image: bytes) -> list[int]:
    """Offsets of what is a branch of the tree by its own checksum."""
    found = []
    for at in range(0, len(image) - 32, 16):
        if image[at : at + 8] != bytes(8):
            *_, check = struct.unpack_from("<QQIIQ", image, at)
            if check and check == digest64(image[at : at + 24]):
                found.append(at)
    return found


def test_undamaged(path: Path) -> None:
    assert read_all(path) == [*(b"value of " + key for key in KEYS), None]
    assert len(branches(path.read_bytes())) == len(KEYS) - 1


@pytest.mark.parametrize("field", [0, 8, 16, 20])
def test_a_branch_that_leads_elsewhere(path: Path, field: int) -> None:
    """Each field of each branch: children, byte, bit."""
    image = path.read_bytes()
    for at in branches(image):
        change(path, at + field, bytes([image[at + field] ^ 1]))
        with pytest.raises(StorageCorrupt, match="damaged"):
            read_all(path)
        change(path, at + field, image[at + field : at + field + 1])
    read_all(path)


def test_an_item_whose_key_changed_is_not_absent(path: Path) -> None:
    at = path.read_bytes().find(b"key 03value")
    change(path, at, b"K")
    with pytest.raises(StorageCorrupt, match="an item does not match its checksum"):
        read_all(path)


def test_an_item_that_claims_more_room_than_it_has(path: Path) -> None:
    """Writing into that room would destroy what lies behind the item."""
    at = path.read_bytes().find(b"key 03value")
    change(path, at - 8, struct.pack("<I", 4096))
    with pytest.raises(StorageCorrupt, match="an item does not match its checksum"):
        read_all(path)


@pytest.mark.parametrize("field", [0, 64, 72])
def test_a_container_that_lost_name_items_or_count(path: Path, field: int) -> None:
    at = path.read_bytes().find(b"data" + bytes(60))
    change(path, at + field, bytes(8))
    with pytest.raises(StorageCorrupt, match="a container does not match its checksum"):
        read_all(path)


def test_a_session_that_is_gone_from_the_table(path: Path) -> None:
    image = path.read_bytes()
    session = image.find(struct.pack("<QI", 1 << 16, 4))
    table = image.find(struct.pack("<Q", session))
    assert session > 0 and table > 0
    change(path, table, bytes(8))
    with pytest.raises(StorageCorrupt, match="session"):
        read_all(path)

"""The seeds of the native targets, and changed copies of them, through the extension itself.

A short replay of what `make fuzz` does for longer: real sockets, real pools, fixed random numbers.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpaxos._native import EVENT_PEER_MESSAGE, Batch, Engine, Plane, Pool
from mpaxos.errors import StorageCorrupt, StorageForeign, StorageVersion, WireError
from tests.fuzz import targets
from tests.fuzz.seeds import seeds
from tests.unit import pools

SECONDS = 2.5
"""Each test changes seeds for so long, in an order that is the same every time."""

PORTS = {"peer": 0, "client": 1, "jpaxos": 2}
PIECES = (1 << 30, 1, 2, 5, 16, 17, 64, 1000)
CUT = 24
"""Most pieces that a stream is cut into; the rest comes in one."""


def changed(name: str) -> Iterator[bytes]:
    """All seeds of a target, then changed ones until the time is over."""
    inputs = seeds()[name]
    yield from inputs
    chance = random.Random(zlib.crc32(name.encode()))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.randint(1, 3)):
            if not data:
                break
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    data[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\0\0\0\x80"))
                case 2:
                    del data[at : at + chance.randint(1, 8)]
                case _:
                    data[at:at] = data[chance.randrange(len(data)) :][:40]
        yield bytes(data)


@contextlib.contextmanager
def open_plane() -> Iterator[Plane]:
    plane = targets.plane()
    try:
        yield plane
    finally:
        plane.close()


def turn(plane: Plane, quorum: bool = True) -> None:
    _, events = plane.poll(0, 1 << 20, quorum)
    for event in events:
        if event[0] == EVENT_PEER_MESSAGE:
            values: Any = event[3]
            for _, batch in values:
                assert Batch.parse(batch.data()).digest == batch.digest
    plane.flush()


def feed(plane: Plane, port: int, data: bytes) -> None:
    """What streams.cpp does with an input, over loopback, until the connection is closed."""
    flags = data[0] if data else 0
    stream = targets.sealed(data[1:]) if flags & 1 else data[1:]
    piece = PIECES[flags >> 1 & 7]
    quorum = not flags & 16
    opened = plane.counters()["accepted"]
    with socket.create_connection(("127.0.0.1", plane.ports()[port])) as wire:
        # The end of it as a reset leaves no port behind in TIME_WAIT.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        while plane.counters()["accepted"] == opened:
            turn(plane, quorum)
        with contextlib.suppress(OSError):
            for at in range(0, min(len(stream), piece * CUT), piece):
                wire.sendall(stream[at : at + piece])
                turn(plane, quorum)
            wire.sendall(stream[piece * CUT :])
            turn(plane, quorum)
    while any(plane.counters()[f"connections_{name}"] for name in PORTS):
        turn(plane, quorum)


@pytest.mark.parametrize("name", sorted(PORTS))
def test_streams_end_in_service_or_a_named_reason(name: str) -> None:
    with open_plane() as plane:
        ran = 0
        for data in changed(name):
            feed(plane, PORTS[name], data)
            ran += 1
        counters = plane.counters()
    closed = sum(count for key, count in counters.items() if key.startswith("closed_"))
    assert counters["accepted"] == closed == ran
    assert ran > len(seeds()[name])


def test_flipped_bits_in_a_pool_are_noticed_or_harmless(tmp_path: Path) -> None:
    """Bits of the pool's own parts; see native/fuzz/pool.cpp for the long form."""
    with pools.scratch() as directory:
        path = directory / "pool"
        pools.make(path, size=16 << 20, log_size=1 << 20)
        expected = _fill(path)
        image = path.read_bytes()
        used = [at for at in _places(image) if at < len(image)]
        chance = random.Random(7)
        end = time.monotonic() + SECONDS
        ran = noticed = 0
        while time.monotonic() < end:
            at = chance.choice(used)
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), bytes([image[at] ^ 1 << chance.randrange(8)]), at)
            try:
                found = _contents(path)
            except (StorageCorrupt, StorageForeign, StorageVersion):
                noticed += 1
            else:
                assert found == expected, f"byte {at} was changed and nobody noticed"
            path.write_bytes(image)
            ran += 1
    assert 0 < noticed <= ran


def _fill(path: Path) -> list[tuple[bytes, bytes]]:
    pool = pools.reopen(path, size=16 << 20)
    engine = Engine(pool)
    number = engine.container("data")
    for slot in range(1, 9):
        batch = Batch.build(0, 1, slot, [(0, slot, 0, 1, b"\4\0\0\0")])
        pool.write((slot, 1), [(slot, slot, 1, slot, batch)], 0)
        assert engine.begin(slot, slot, batch) == []
        items = [(number, b"key %d %d" % (slot, n), b"value" * 9) for n in range(8)]
        engine.finish([], [*items])
    del engine
    pool.close()
    return _contents(path)


def _contents(path: Path) -> list[tuple[bytes, bytes]]:
    pool = pools.reopen(path, size=16 << 20)
    try:
        for slot, _, _ in pool.slots():
            assert pool.read(slot) is not None
        engine = Engine(pool)
        engine.state_digest()
        number = engine.container("data")
        items = engine.scan(number, b"", None, 1000)
        for key, value in items:
            assert engine.get(number, key) == value
        assert engine.get(number, b"absent") is None
        return [(b"%d" % engine.mark[0], b"%d" % engine.mark[1]), *items]
    finally:
        pool.close()


def _places(image: bytes) -> list[int]:
    """Bytes of the pool's root object, its log, and of items."""
    root = image.find(b"mPaxPool")
    log = image.find(b"mPR1")
    places = [*range(root, root + 1100), *range(log, log + 300)]
    at = 0
    while (at := image.find(b"key ", at)) >= 0:
        places += range(at - 16, at + 20)
        at += 1
    return places


@pytest.mark.parametrize("name", ["requests"])
def test_any_entries_are_applied(name: str) -> None:
    with pools.scratch() as directory:
        path = directory / "pool"
        pools.make(path)
        pool = pools.reopen(path)
        engine = Engine(pool)
        _apply_all(engine, name, pool)


def _apply_all(engine: Engine, name: str, pool: Pool) -> None:
    slot = 0
    for data in changed(name):
        head = b"mPb1" + (1).to_bytes(2, "little") + bytes(2)
        for count in range(20):
            raw = head + count.to_bytes(4, "little") + bytes(20) + data
            with contextlib.suppress(WireError):
                batch = Batch.parse(raw)
                slot += 1
                replies = engine.apply_kv(slot, slot, batch)
                assert len(replies) <= batch.count
                break
    assert engine.mark[0] == slot > 0
    engine.state_digest()
    pool.close()

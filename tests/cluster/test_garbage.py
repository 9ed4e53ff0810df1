"""Garbage on every port: its connection is closed, everybody else is served on."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import zlib
from collections.abc import Iterator

from mpaxos._native import crc32c
from mpaxos.config import parse_address
from mpaxos.local import LocalCluster
from tests.cluster.workload import Workload


def frame(kind: int, payload: bytes, **wrong: int) -> bytes:
    """A frame of docs/wire.md, with any field replaced."""
    length = wrong.get("length", len(payload))
    header = struct.pack("<4sBBHI", b"mPx1", wrong.get("version", 1), kind, 0, length)
    crc = wrong.get("crc", crc32c(header + payload))
    return header + struct.pack("<I", crc) + payload


def garbage(chance: random.Random) -> Iterator[bytes]:
    """Bytes that no port should take."""
    hello = struct.pack("<HHIQ", 1, 16, 0, 0)
    yield chance.randbytes(1000)
    yield b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
    yield bytes(100_000)
    yield frame(1, hello, crc=1)
    yield frame(1, hello, version=9)
    yield frame(1, hello, length=0xFFFF_FFF0)
    yield frame(4, struct.pack("<QQQIB3x", 1, 1, 1, 0xFFFF_FFFF, 0))
    yield frame(200, b"unknown kind")
    yield frame(6, b"{not json")
    yield frame(1, hello) + frame(4, struct.pack("<QQQIB3x", 77, 1, 1, 5, 0) + b"hello")
    yield frame(16, bytes(44))
    yield frame(17, chance.randbytes(64))
    yield b"T" + struct.pack(">iqii", 0, 1, 1, 0x7FFF_FFFF)
    yield b"T" + struct.pack(">iqii", 99, -1, -1, -1)
    yield b"F" + bytes(3)
    yield b"X"
    valid = frame(1, hello)
    for _ in range(20):
        changed = bytearray(valid)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield bytes(changed)


def throw(address: tuple[str, int], data: bytes) -> None:
    """Send, then read until the other side closes or is silent for a moment."""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def ports(cluster: LocalCluster) -> list[tuple[str, int]]:
    texts = [
        text
        for entry in cluster.config.replicas
        for text in (entry.peer, entry.client, entry.jpaxos)
        if text is not None
    ]
    return [parse_address(text) for text in texts]


def test_garbage_on_all_ports_during_load(cluster: LocalCluster) -> None:
    load = Workload(cluster.addresses)
    load.wait_for(200)
    leader = cluster.leader()
    chance = random.Random(zlib.crc32(b"garbage"))
    for address in ports(cluster):
        for data in garbage(chance):
            throw(address, data)
    load.wait_for(200)
    load.stop()
    assert cluster.leader() == leader
    for number in cluster.numbers:
        assert cluster.is_running(number)
        status = cluster.status(number)
        assert status is not None
        closed = sum(n for name, n in status["counters"].items() if name.startswith("closed_"))
        assert closed > 0, status["counters"]
        assert "Traceback" not in cluster.log(number, 1 << 20)
    load.verify(cluster)


def test_connections_that_say_nothing_do_no_harm(cluster: LocalCluster) -> None:
    with contextlib.ExitStack() as held:
        for address in ports(cluster):
            for start in (b"", b"m", frame(1, bytes(16))[:9]):
                connection = held.enter_context(socket.create_connection(address, timeout=5))
                connection.sendall(start)
        load = Workload(cluster.addresses)
        load.wait_for(300)
        load.stop()
    load.verify(cluster)

"""Real planes and raw sockets in one thread: a wait turns the planes until its condition holds."""

from __future__ import annotations

import functools
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from mpaxos import _native

CLUSTER = b"0123456789abcdef"
PATIENCE = 30.0  # seconds until a condition that never comes fails the test

HELLO, WELCOME, OPENED, REQUESTS, REPLIES, ADMIN, ADMIN_REPLY, BYE = range(1, 9)
PEER_HELLO, PEER = 16, 17
PEER_PROTOCOL = 7


def frame(
    kind: int,
    payload: bytes,
    *,
    magic: bytes = b"mPx1",
    version: int = 1,
    reserved: int = 0,
    length: int | None = None,
    covered: int | None = None,
    spoil: int = 0,
) -> bytes:
    """A frame; `spoil` is added to its checksum."""
    size = len(payload) if length is None else length
    head = magic + struct.pack("<BBHI", version, kind, reserved, size)
    crc = _native.crc32c(head + payload[:covered])
    return head + struct.pack("<I", (crc + spoil) % 2**32) + payload


def hello(session: int = 0, window: int = 8, protocol: int = 1) -> bytes:
    return frame(HELLO, struct.pack("<HHIQ", protocol, window, 0, session))


def entry(
    session: int, sequence: int, payload: bytes = b"", kind: int = 0, lowest: int = 1
) -> bytes:
    return struct.pack("<QQQIB3x", session, sequence, lowest, len(payload), kind) + payload


def requests(*entries: bytes) -> bytes:
    return frame(REQUESTS, b"".join(entries))


def peer_hello(
    sender: int,
    receiver: int,
    *,
    cluster: bytes = CLUSTER,
    agreement: int = 7,
    protocol: int = PEER_PROTOCOL,
    born: tuple[int, int] = (1, 0),
    known: tuple[int, int] = (0, 0),
) -> bytes:
    """`born`: life and birth of the sender; `known`: those with which it met the receiver."""
    head = struct.pack("<HHHH", protocol, sender, receiver, 0)
    return frame(PEER_HELLO, head + cluster + struct.pack("<5Q", agreement, *born, *known))


def peer_message(
    control: bytes, batches: list[tuple[int, _native.Batch]], *, digest: int = 0, spoil: int = 0
) -> bytes:
    """A PEER frame; `digest` is added to each digest in its table."""
    table = b"".join(
        struct.pack("<QQII", when, (b.digest + digest) % 2**64, b.length, 0) for when, b in batches
    )
    head = struct.pack("<II", len(control), len(batches)) + table + control
    data = b"".join(b.data() for _, b in batches)
    return frame(PEER, head + data, covered=len(head), spoil=spoil)


def replies_of(payload: bytes) -> list[tuple[int, int, bytes]]:
    """(sequence, status, payload) of a REPLIES frame."""
    found = []
    at = 0
    while at < len(payload):
        sequence, length, status = struct.unpack_from("<QIB3x", payload, at)
        found.append((sequence, status, payload[at + 16 : at + 16 + length]))
        at += 16 + length
    assert at == len(payload)
    return found


class World:
    """Some planes, turned together, and all that they have told so far."""

    def __init__(self) -> None:
        self.planes: dict[int, _native.Plane] = {}
        self.events: dict[int, list[tuple[Any, ...]]] = {}
        self.wires: list[Wire] = []
        self.room = 8
        self.quorum = True

    def open(self, replica: int = 0, **options: Any) -> _native.Plane:
        settings: dict[str, Any] = {
            "cluster": CLUSTER,
            "incarnation": 1000 + replica,
            "agreement": 7,
            "peers": {},
            "listen_peer": ("127.0.0.1", 0),
            "listen_client": ("127.0.0.1", 0),
            "listen_jpaxos": ("127.0.0.1", 0),
        }
        plane = _native.Plane(replica=replica, **(settings | options))
        plane.set_identity("test", "kv")
        self.planes[replica] = plane
        self.events.setdefault(replica, [])
        return plane

    def shut(self, replica: int) -> None:
        self.planes.pop(replica).close()

    def close(self) -> None:
        for wire in self.wires:
            wire.socket.close()
        for plane in self.planes.values():
            plane.close()

    def turn(self) -> None:
        for replica, plane in self.planes.items():
            until = time.monotonic_ns() + 1_000_000
            _, events = plane.poll(until, self.room, self.quorum)
            self.events[replica] += events
            plane.flush()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"never came: {what}"
            self.turn()

    def of_kind(self, kind: int, replica: int = 0) -> list[tuple[Any, ...]]:
        return [event for event in self.events[replica] if event[0] == kind]

    def notices(self, replica: int = 0) -> list[str]:
        return [event[3] for event in self.of_kind(_native.EVENT_NOTICE, replica)]

    def entries(self, kind: int = _native.EVENT_BATCH) -> list[tuple[int, int, int, int, bytes]]:
        """All entries handed out so far, in order."""
        return [e for event in self.of_kind(kind) for e in event[1].entries()]

    def counter(self, name: str, replica: int = 0) -> int:
        return self.planes[replica].counters()[name]

    def reply(self, *replies: tuple[int, int, int, bytes]) -> None:
        answers = _native.ReplySet()
        for session, sequence, status, payload in replies:
            answers.add(session, sequence, status, payload)
        self.planes[0].deliver(answers)
        self.planes[0].flush()

    def wire(self, port: int, **options: Any) -> Wire:
        wire = Wire(self, port, **options)
        self.wires.append(wire)
        return wire

    def client(self, session: int) -> Wire:
        """A client attached to `session`."""
        wire = self.wire(self.planes[0].ports()[1])
        wire.send(hello(session))
        assert wire.frame()[0] == WELCOME
        return wire


class Wire:
    """The test's end of a connection."""

    def __init__(self, world: World, port: int, receive_buffer: int = 0) -> None:
        self.world = world
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.ended = False

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        end = time.monotonic() + PATIENCE
        while view:
            assert time.monotonic() < end, "the plane does not read"
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                self.world.turn()
            except (BrokenPipeError, ConnectionResetError):
                self.ended = True
                return

    def dribble(self, data: bytes) -> None:
        """Byte by byte, each one seen by the plane before the next."""
        for i in range(len(data)):
            self.pass_on(data[i : i + 1])

    def pass_on(self, data: bytes) -> None:
        """Send, and wait until the plane has seen it."""
        target = self.world.counter("bytes_in") + len(data)
        self.send(data)
        self.world.wait(functools.partial(self._arrived, target), "the bytes")

    def _arrived(self, target: int) -> bool:
        return self.world.counter("bytes_in") >= target

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self.ended = self.ended or not data
        self.buffer += data
        return True

    def read(self, size: int) -> bytes:
        self.world.wait(
            lambda: len(self.buffer) >= size or (self._receive() and len(self.buffer) >= size),
            f"{size} bytes, after {self.buffer!r:.100}",
        )
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def frame(self) -> tuple[int, bytes]:
        head = self.read(16)
        magic, version, kind, reserved, length, crc = struct.unpack("<4sBBHII", head)
        assert (magic, version, reserved) == (b"mPx1", 1, 0)
        payload = self.read(length)
        if kind != PEER:
            assert _native.crc32c(head[:12] + payload) == crc
        return kind, payload

    def replies(self, count: int) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        while len(found) < count:
            kind, payload = self.frame()
            assert kind == REPLIES
            found += replies_of(payload)
        return found

    def end(self) -> bytes:
        """What still comes before the other side closes."""
        self.world.wait(lambda: self.ended or (self._receive() and self.ended), "the end")
        return self.buffer

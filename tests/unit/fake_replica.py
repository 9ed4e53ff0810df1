"""Stand-ins for tests: an engine in memory, and replicas that speak the client port and misbehave.

All replicas of a FakeCluster share one session table and one toy machine, as if agreement were
perfect: what is tested is the client.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

from mpaxos.client import wire
from mpaxos.machine.engine import Change, Request
from mpaxos.machine.host import MachineHost

ENTRY = struct.Struct("<QQQIB3x")
REPLY = struct.Struct("<QIB3x")


class FakeReplies:
    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int, bytes]] = []

    def add(self, session: int, sequence: int, status: int, payload: bytes) -> None:
        self._entries.append((session, sequence, status, payload))

    def entries(self) -> list[tuple[int, int, int, bytes]]:
        return self._entries

    def __len__(self) -> int:
        return len(self._entries)


class FakeBatch:
    def __init__(self, entries: list[tuple[int, int, int, int, bytes]]) -> None:
        self._entries = entries

    def entries(self) -> list[tuple[int, int, int, int, bytes]]:
        return self._entries


class FakeEngine:
    """Dictionaries in memory; every entry of a batch is run (no session table)."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.tables: list[dict[bytes, bytes]] = []
        self.mark = (0, 0)
        self.broken: Exception | None = None
        self._begun: tuple[int, list[Request]] = (0, [])

    def begin(self, slot: int, time: int, batch: Any) -> list[Request]:
        entries = enumerate(batch.entries())
        requests = [(i, session, sequence, data) for i, (session, sequence, _, _, data) in entries]
        self._begun = (slot, requests)
        return requests

    def finish(self, replies: list[tuple[int, bytes]], changes: list[Change]) -> FakeReplies:
        slot, requests = self._begun
        assert len(replies) == len(requests)
        for container, key, value in changes:
            if value is None:
                del self.tables[container][key]
            else:
                self.tables[container][key] = value
        result = FakeReplies()
        for (_, session, sequence, _), (status, payload) in zip(requests, replies, strict=True):
            result.add(session, sequence, status, payload)
        self.mark = (slot, 0)
        return result

    def container(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
            self.tables.append({})
        return self.names.index(name)

    def get(self, container: int, key: bytes) -> bytes | None:
        if self.broken is not None:
            raise self.broken
        return self.tables[container].get(key)

    def scan(
        self, container: int, start: bytes, end: bytes | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        found = sorted(
            (key, value)
            for key, value in self.tables[container].items()
            if key >= start and (end is None or key < end)
        )
        return found[:limit]

    def size(self, container: int) -> int:
        return len(self.tables[container])

    def state_used(self) -> int:
        return sum(64 + len(k) + len(v) for table in self.tables for k, v in table.items())


class Session:
    def __init__(self, window: int) -> None:
        self.window = window
        self.lowest = 0
        self.cells: dict[int, tuple[int, int, bytes]] = {}


def echo(kind: int, payload: bytes) -> tuple[int, bytes]:
    """The toy machine: answers what it was asked; `!` and a status number fail that way."""
    if payload.startswith(b"!"):
        return int(payload[1:2]), payload[2:]
    return wire.OK, b"=" + payload


def hosted(host: MachineHost) -> Callable[[int, bytes], tuple[int, bytes]]:
    """A real state machine as the machine of a FakeCluster; one slot per command."""
    slots = iter(range(1, 1 << 30))

    def run(kind: int, payload: bytes) -> tuple[int, bytes]:
        batch = FakeBatch([(1, 1, 1, kind, payload)])
        is_query = kind == wire.QUERY
        replies = host.query(batch) if is_query else host.apply(next(slots), 0, batch)
        return cast(tuple[int, bytes], replies.entries()[0][2:])

    return run


class FakeCluster:
    """Session table (docs/sessions.md) and toy machine."""

    def __init__(
        self, machine: Callable[[int, bytes], tuple[int, bytes]] = echo, name: str = "m:Toy"
    ) -> None:
        self.machine = machine
        self.machine_name = name
        self.cluster_id = b"0123456789abcdef"
        self.max_request = 1 << 20
        self.protocol = 1
        self.sessions: dict[int, Session] = {}
        self.executed: list[tuple[int, int, bytes]] = []
        self.opened = 0
        self.closed = 0
        self.most_in_flight = 0

    def open(self, window: int) -> int:
        self.opened += 1
        self.sessions[self.opened << 16] = Session(window)
        return self.opened << 16

    def run(
        self, session_id: int, sequence: int, lowest: int, kind: int, payload: bytes
    ) -> tuple[int, bytes] | None:
        if kind == wire.QUERY:
            return self.machine(kind, payload)
        session = self.sessions.get(session_id)
        if session is None:
            return wire.EXPIRED, b""
        if kind == wire.CLOSE:
            del self.sessions[session_id]
            self.closed += 1
            return wire.OK, b""
        if lowest > sequence:
            return wire.BAD, b"lowest above sequence"
        session.lowest = max(session.lowest, lowest)
        if sequence < session.lowest:
            return None
        if sequence >= session.lowest + session.window:
            return wire.BAD, b"sequence outside the window"
        cell = session.cells.get(sequence % session.window)
        if cell is None or cell[0] != sequence:
            self.executed.append((session_id, sequence, payload))
            cell = (sequence, *self.machine(kind, payload))
            session.cells[sequence % session.window] = cell
        return cell[1:]


class FakeReplica:
    """One client port. The attributes below make it misbehave."""

    def __init__(self, cluster: FakeCluster, number: int = 0) -> None:
        self.cluster = cluster
        self.number = number
        self.port = 0
        self.mute = False
        """Takes everything, executes, answers nothing (not even the handshake)."""
        self.swallow = False
        """Takes requests and forgets them."""
        self.refusing = 0
        """Status (REFUSED, OVERLOADED) of all requests, which are not executed."""
        self.hold = False
        """Keeps replies back until release()."""
        self.open_sessions = True
        self.garbage: bytes | None = None
        """Sent instead of the welcome."""
        self.goodbye: bytes | None = None
        self.cut: Callable[[], int | None] = lambda: None
        """Called per connection: bytes, in and out together, after which it breaks."""
        self.connections: set[FakeConnection] = set()
        self.accepted = 0
        self.frames: list[int] = []
        """Number of entries in each frame of requests."""
        self._server: asyncio.Server | None = None

    async def start(self) -> FakeReplica:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: FakeConnection(self), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def drop(self) -> None:
        """Break all connections."""
        for connection in list(self.connections):
            connection.transport.abort()

    def release(self) -> None:
        """Send what was held back."""
        self.hold = False
        for connection in list(self.connections):
            connection.flush()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        # Until the aborted sockets are really gone.
        while self.connections:
            await asyncio.sleep(0)


class FakeConnection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, replica: FakeReplica) -> None:
        self.replica = replica
        self.reader = wire.FrameReader()
        self.session = 0
        self.left = replica.cut()
        self.replies: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.replica.connections.add(self)
        self.replica.accepted += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.replica.connections.discard(self)

    def write(self, data: bytes) -> None:
        if self.left is not None:
            part, self.left = data[: self.left], self.left - len(data)
            if self.left <= 0:
                self.transport.write(part)
                self.transport.close()
                return
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.left is not None:
            data, self.left = data[: self.left], self.left - len(data)
        if not self.transport.is_closing():
            for kind, payload in self.reader.feed(data):
                self.frame(kind, payload)
            self.flush()
        if self.left is not None and self.left <= 0:
            self.transport.close()

    def frame(self, kind: int, payload: bytes) -> None:
        if kind == wire.HELLO:
            protocol, window, reserved, self.session = struct.unpack("<HHIQ", payload)
            assert (protocol, reserved) == (1, 0)
            self.welcome(window)
        elif kind == wire.REQUESTS:
            assert self.session != 0, "requests before the session is open"
            self.requests(payload)
        elif kind == wire.ADMIN:
            self.write(wire.frame(wire.ADMIN_REPLY, b'{"asked":' + payload + b"}"))
        else:
            raise AssertionError(f"frame of kind {kind}")

    def welcome(self, window: int) -> None:
        replica, cluster = self.replica, self.replica.cluster
        if replica.mute:
            return
        if replica.garbage is not None:
            self.write(replica.garbage)
            return
        if replica.goodbye is not None:
            self.write(wire.frame(wire.BYE, replica.goodbye))
            self.transport.close()
            return
        payload = struct.pack(
            "<HHIQ16s",
            cluster.protocol,
            replica.number,
            cluster.max_request,
            self.session,
            cluster.cluster_id,
        )
        name = cluster.machine_name.encode()
        self.write(wire.frame(wire.WELCOME, payload + b"\4test" + bytes([len(name)]) + name))
        if self.session == 0 and replica.open_sessions:
            self.session = cluster.open(window)
            self.write(wire.frame(wire.OPENED, struct.pack("<Q", self.session)))

    def requests(self, payload: bytes) -> None:
        replica = self.replica
        at = count = 0
        while at < len(payload):
            session, sequence, lowest, length, kind = ENTRY.unpack_from(payload, at)
            assert session == self.session, "an entry of another session than the connection's"
            at += ENTRY.size
            data = payload[at : at + length]
            assert len(data) == length
            at += length
            count += 1
            if kind != wire.QUERY:
                in_flight = sequence - lowest + 1
                replica.cluster.most_in_flight = max(replica.cluster.most_in_flight, in_flight)
            if replica.swallow:
                continue
            if replica.refusing and kind != wire.CLOSE:
                reply: tuple[int, bytes] | None = (replica.refusing, b"")
            else:
                reply = replica.cluster.run(session, sequence, lowest, kind, data)
            if reply is not None:
                status, body = reply
                self.replies.append(REPLY.pack(sequence, len(body), status) + body)
        replica.frames.append(count)

    def flush(self) -> None:
        if self.replies and not self.replica.hold and not self.replica.mute:
            self.write(wire.frame(wire.REPLIES, b"".join(self.replies)))
            self.replies.clear()

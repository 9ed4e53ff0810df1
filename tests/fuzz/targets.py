"""The fuzz targets written in Python: one function per format.

Each takes any bytes and returns whether they were accepted. A typed error is a refusal; anything
else that escapes is a bug, and so is an AssertionError: then what was accepted is not consistent.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mpaxos import StateMachine, command, query
from mpaxos._native import EVENT_PEER_MESSAGE, Batch, Plane, chunk_info, crc32c
from mpaxos.client import admin, core, wire
from mpaxos.config import agreement, load
from mpaxos.core.messages import VALUE_CARRIERS
from mpaxos.core.output import Output, Received
from mpaxos.core.types import Ballot, Mark
from mpaxos.errors import (
    ClientError,
    ConfigError,
    StorageError,
    VersionMismatch,
    WireError,
)
from mpaxos.machine import codec as values
from mpaxos.machine.declaration import Declaration
from mpaxos.machine.declare import COMMAND, QUERY, BadRequest
from mpaxos.machine.inspection import inspect_machine
from mpaxos.net import codec
from mpaxos.net.adapter import NativePlane
from mpaxos.net.plane import AdminRequest
from mpaxos.runtime.status import Status
from mpaxos.storage.directory import MARKER, open_directory
from mpaxos.storage.files import Identity, read_sealed
from mpaxos.storage.lives import LIVES, LivesFile
from mpaxos.storage.snapshots import BLOCK, Snapshot, Snapshots
from mpaxos.storage.view import PROMISE

CLUSTER = b"0123456789abcdef"
REPLICA = 1
IDENTITY = Identity(CLUSTER, REPLICA)

_FRAME = struct.Struct("<4sBBHII")


@functools.cache
def _directory() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="mpaxos-fuzz-")
    _held.append(holder)
    return Path(holder.name)


_held: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


# ------------------------------------------------------------------ between replicas


class _StubPlane:
    """A native plane that hands out one message."""

    def __init__(self, control: bytes, attached: list[tuple[int, Batch]]) -> None:
        self._event = (EVENT_PEER_MESSAGE, 2, control, attached)

    def poll(
        self, until: int, room: int, quorum: bool, votes: bool, useful_upto: int
    ) -> tuple[int, list[Any]]:
        return 0, [self._event]

    def counters(self) -> dict[str, int]:
        return {}


def control(data: bytes) -> bool:
    """A message's control part. First byte: how many values came with it."""
    attached = [(7, Batch.noop(0, 1, n)) for n in range(data[0] % 4 if data else 0)]
    stub: Any = _StubPlane(data[1:], attached)
    plane = NativePlane(stub)
    polled = plane.poll(Output())
    if not polled.events:
        assert plane.counters()["undecodable"] == 1
        return False
    event = polled.events[0]
    assert isinstance(event, Received)
    for named in ("accepted", "ballots"):
        listed: list[Any] = getattr(event.message, named, attached)
        if isinstance(event.message, VALUE_CARRIERS):
            assert len(listed) == len(attached), "the values of a message do not fit it"
    again, values_again = codec.encode(event.message)
    assert [time for time, _ in values_again] == [time for time, _ in attached]
    other = codec.decode(again, values_again)
    assert codec.encode(other)[0] == again
    return True


def batch(data: bytes) -> bool:
    """A batch, as native/fuzz/batch.cpp takes it."""
    try:
        found = Batch.parse(data[1:])
    except WireError:
        return False
    entries = found.entries()
    assert len(entries) == found.count
    again = Batch.build(found.origin, found.incarnation, found.number, entries)
    assert again.length == found.length
    return True


# ------------------------------------------------------------------ client and replica


def sealed(stream: bytes) -> bytes:
    """The stream with the checksums of the whole frames at its front put right."""
    at = 0
    out = bytearray(stream)
    while len(stream) - at >= _FRAME.size:
        magic, version, kind, reserved, length, _ = _FRAME.unpack_from(stream, at)
        end = at + _FRAME.size + length
        if magic != b"mPx1" or end > len(stream):
            break
        crc = crc32c(stream[at + _FRAME.size : end], crc32c(stream[at : at + 12]))
        _FRAME.pack_into(out, at, magic, version, kind, reserved, length, crc)
        at = end
    return bytes(out)


def _frames(stream: bytes, piece: int) -> tuple[list[tuple[int, bytes]], type[Exception] | None]:
    reader = wire.FrameReader()
    frames: list[tuple[int, bytes]] = []
    try:
        for at in range(0, len(stream), piece):
            frames += reader.feed(stream[at : at + piece])
    except (WireError, VersionMismatch) as error:
        return frames, type(error)
    return frames, None


def client_wire(data: bytes) -> bool:
    """What a client reads. First byte: bit 0 puts checksums right, the rest is how it is cut."""
    flags = data[0] if data else 0
    stream = sealed(data[1:]) if flags & 1 else data[1:]
    frames, error = _frames(stream, 1 + (flags >> 1))
    whole, whole_error = _frames(stream, max(1, len(stream)))
    assert error is whole_error, "the verdict depends on how the stream is cut"
    if error is None:
        assert frames == whole
    accepted = error is None
    for kind, payload in frames:
        accepted = _frame(kind, payload) and accepted
    return accepted


def _frame(kind: int, payload: bytes) -> bool:
    try:
        if kind == wire.WELCOME:
            welcome = wire.parse_welcome(payload)
            texts = [text.encode() for text in (welcome.cluster_name, welcome.machine)]
            assert b"".join(bytes([len(t)]) + t for t in texts) in payload
        elif kind == wire.OPENED:
            assert wire.parse_opened(payload) != 0
        elif kind == wire.REPLIES:
            replies = list(wire.parse_replies(payload))
            assert sum(16 + len(body) for _, _, body in replies) == len(payload)
            for _, status, body in replies:
                assert isinstance(core._error(status, body), ClientError)
        elif kind in (wire.ADMIN_REPLY, wire.BYE):
            admin._answer(("127.0.0.1", 1), kind, payload)
    except (WireError, VersionMismatch, ClientError):
        return False
    return True


class _Answers:
    """A plane that keeps the answers."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def answer(self, token: int, data: bytes) -> None:
        self.answers.append(data)

    def flush(self) -> None:
        pass


def admin_request(data: bytes) -> bool:
    """An admin request, which anybody may send to the client port."""
    plane = _Answers()
    nothing: Any = None
    status = Status(
        cluster="fuzz",
        service="fuzz",
        plane=_any(plane),
        replica=nothing,
        memory=nothing,
        setting={},
        snapshots=None,
        machine=nothing,
        applier=nothing,
        state_digest=lambda: 0,
        transfer=dict,
        started=0.0,
    )
    try:
        status.answer(AdminRequest(1, data))
    except AttributeError as error:
        # It went on to ask the replica, which is None here: the request was understood.
        assert "NoneType" in str(error), error
        return True
    (answer,) = plane.answers
    assert "error" in msgspec.json.decode(answer, type=dict[str, str])
    return False


def _any(value: Any) -> Any:
    return value


# ------------------------------------------------------------------ state machines


@dataclasses.dataclass
class Point:
    """A value of a user's own type."""

    x: int
    y: float


class Shapes(StateMachine):
    """Arguments of many types."""

    @command
    def plain(self, a: int, b: str, c: bytes, d: bool, e: float) -> int:
        return 1

    @command
    def nested(self, a: list[dict[str, int]], b: tuple[int, str] | None) -> None: ...

    @command
    def shaped(self, points: list[Point], names: set[str]) -> Point:
        return points[0]

    @query
    def anything(self, a: Any) -> Any:
        return a


@functools.cache
def shapes() -> Declaration:
    """What the decoder of requests knows of Shapes."""
    return inspect_machine(Shapes)


def arguments(data: bytes) -> bool:
    """A request to a typed state machine. First byte: a command or a query."""
    kind = QUERY if data[:1] == b"q" else COMMAND
    try:
        method, given = shapes().decode(data[1:], kind)
    except (BadRequest, msgspec.ValidationError, ConfigError):
        return False
    assert method.kind == kind
    assert len(given) == len(method.parameters)
    return True


_HINTS: tuple[Any, ...] = (
    int,
    str,
    bytes,
    bool,
    float,
    list[int],
    dict[str, int],
    tuple[int, str],
    set[str],
    int | None,
    Point,
    Any,
)
_CODECS = [values.packed_codec(hint) for hint in _HINTS]


def value(data: bytes) -> bool:
    """A value of a container, or a result. First byte: its type."""
    chosen = _CODECS[(data[0] if data else 0) % len(_CODECS)]
    try:
        found = chosen.decode(data[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    try:
        encoded = chosen.encode(found)
    except (TypeError, OverflowError, RecursionError, ValueError):
        assert chosen.text == "Any"  # extension types, time stamps, keys that are maps
        return True
    assert chosen.encode(chosen.decode(encoded)) == encoded
    return True


# ------------------------------------------------------------------ files


def cluster_file(data: bytes) -> bool:
    """A cluster file; when it is taken, all that is derived from it exists."""
    path = _directory() / "cluster.toml"
    path.write_bytes(data)
    try:
        config = load(path)
    except ConfigError:
        return False
    assert len(config.cluster_id) == 16
    assert 0 <= agreement(config) < 1 << 64
    for entry in config.replicas:
        number = entry.id
        assert len(config.peers_of(number)) == len(config.replicas) - 1
        for _, port in (config.listen_peer(number), config.listen_client(number)):
            assert 0 <= port < 1 << 16
        config.listen_jpaxos(number)
        config.settings(number)
        config.directory(number)
    return True


def marker(data: bytes) -> bool:
    """replica.json, and the pool it says is there (which is none)."""
    directory = _directory()
    (directory / MARKER).write_bytes(data)
    pool = directory / "pool"
    pool.write_bytes(b"not a pool")
    try:
        with open_directory(directory, CLUSTER, REPLICA) as opened:
            found = opened.marker
            assert (found.cluster, found.replica) == (CLUSTER.hex(), REPLICA)
            try:
                opened.open_store()
            except StorageError:
                return True
            raise AssertionError("a pool of a few bytes was opened")
    except StorageError:
        return False


def small_file(data: bytes) -> bool:
    """A small file of a replica. The first byte says which, and whether its checksum is right."""
    kind, rest = data[:1] or b"\0", data[1:]
    if kind[0] & 1:
        line = rest.partition(b"\n")[0]
        rest = line + b"\ncrc32c %08x\n" % crc32c(line)
    path = _directory() / LIVES
    path.write_bytes(rest)
    try:
        if kind[0] & 2:
            ballot = read_sealed(path, PROMISE, IDENTITY, Ballot)
            assert all(isinstance(number, int) for number in ballot)
        else:
            lives = LivesFile.open(path.parent, IDENTITY).lives
            assert isinstance(lives.life, int) and isinstance(lives.started, bool)
            assert all(isinstance(life, int) for life in lives.known)
    except StorageError:
        return False
    return True


def snapshot(data: bytes) -> bool:
    """The file of a snapshot. The first byte says whether its header is right."""
    right, rest = data[:1] or b"\0", data[1:]
    snapshots = Snapshots(_directory(), IDENTITY, "m:M")
    if right[0] & 1:
        whole = Snapshot(Mark(9, 1), 2, BLOCK + len(rest))
        rest = snapshots._header(whole, 3) + rest
    snapshots.path(9).write_bytes(rest)
    chunks: list[bytes] = []
    try:
        found = snapshots.read(9, chunks.append)
    except StorageError:
        return False
    assert found.mark.slot == 9 and found.size == len(rest)
    assert b"".join(chunks) == rest[BLOCK:] and chunk_info(chunks[-1])[3]
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    "sealed": small_file,
    "snapshot": snapshot,
    "control": control,
    "wire": client_wire,
    "admin": admin_request,
    "arguments": arguments,
    "values": value,
    "config": cluster_file,
    "marker": marker,
}
"""Those that `make fuzz` runs under atheris; the native ones are in native/fuzz."""

PLANE_OPTIONS: dict[str, Any] = {
    "cluster": CLUSTER,
    "incarnation": 1,
    "agreement": 7,
    "peers": {1: ("127.0.0.1", 1), 2: ("127.0.0.1", 2)},
    "listen_peer": ("127.0.0.1", 0),
    "listen_client": ("127.0.0.1", 0),
    "listen_jpaxos": ("127.0.0.1", 0),
    "max_request": 2 << 10,
    "max_batch": 4 << 10,
}


def plane() -> Plane:
    """A real plane for the streams of the native targets."""
    return Plane(replica=0, **PLANE_OPTIONS)

"""Inputs to start fuzzing from, made by the real encoders.

    python -m tests.fuzz.seeds DIRECTORY     writes DIRECTORY/<target>/<number> for all targets

Nothing of it is kept in the repository: so seeds never fall behind the formats.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from mpaxos._native import (
    ENTRY_CLOSE,
    ENTRY_COMMAND,
    ENTRY_OPEN,
    ENTRY_QUERY,
    Batch,
    Engine,
    ImageSource,
)
from mpaxos.client import wire
from mpaxos.config.example import example
from mpaxos.core import messages as m
from mpaxos.core.types import Ballot, Mark, Value
from mpaxos.machine.codec import pack, packed_codec
from mpaxos.net import codec
from mpaxos.storage.directory import FORMATS, Marker
from mpaxos.storage.files import write_sealed
from mpaxos.storage.lives import LIVES, Lives
from mpaxos.storage.view import PROMISE
from tests.fuzz import targets
from tests.unit import memories, pools
from tests.unit.plane_world import PEER, PEER_HELLO, frame, peer_hello, peer_message

_MACHINE_CALLS: tuple[tuple[Any, ...], ...] = (
    ("plain", 1, "text", b"bytes", True, 0.5),
    ("nested", [{"a": 1}, {}], (1, "x")),
    ("nested", [], None),
    ("shaped", [{"x": 1, "y": 2.0}], ["a", "b"]),
    ("anything", [None, {"k": [1, 2]}]),
    ("missing",),
    ("plain", 1),
)


def _batch(number: int, count: int) -> Batch:
    entries = [(7, n + 1, n // 2, n % 2 * 2, b"payload " * n) for n in range(count)]
    return Batch.build(1, 5, number, entries)


def _entry(session: int, sequence: int, lowest: int, kind: int, payload: bytes) -> bytes:
    return wire.entry_header(session, sequence, lowest, len(payload), kind) + payload


def _kv() -> list[bytes]:
    def text(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    return [
        b"p" + text(b"key") + b"value",
        b"P" + text(b"key") + b"another value that is longer than a cell",
        b"g" + text(b"key"),
        b"G" + text(b"kex"),
        b"d" + text(b"key"),
        b"c" + text(b"key") + b"\1" + text(b"value") + b"\1" + b"new",
        b"c" + text(b"key") + b"\0" + b"\0",
        b"s" + (10).to_bytes(4, "big") + b"\1" + text(b"a") + b"k",
        b"s" + (3).to_bytes(4, "big") + b"\0",
        b"n",
    ]


def _messages() -> list[Any]:
    low, high = Ballot(1, 0), Ballot(9, 2)
    value = Value(_batch(1, 2), 1_700_000_000_000_000_000)
    return [
        m.Prepare(high, 5),
        m.Promise(high, 5, 4, 2, [(5, low), (6, high)], [value, value]),
        m.Promise(high, 5, 4, 2, [(5, low)], [value], [1, 3, 1]),
        m.Accept(high, 7, 6, [value]),
        m.Accepted(high, [7, 8, 9], 6),
        m.Reject(high),
        m.PreVote(high, 8),
        m.PreVoteReply(high, True, low, 3),
        m.Heartbeat(high, 3, 8, 2, Mark(32, 0xDEAD)),
        m.HeartbeatReply(high, 3, 8, 7, Mark(32, 1 << 63)),
        m.Forward([value]),
        m.CatchupRequest(1, 256),
        m.CatchupReply(1, 0, 8, [low, high], [value, value]),
        m.ReadIndexRequest(12),
        m.ReadIndexReply(12, 1 << 40),
        m.TakeOver(high),
        m.Recover(3),
        m.RecoverReply(3, high, True, 9, 8, [1, 1, 3]),
    ]


def _control() -> list[bytes]:
    """Each message with the right number of values and with wrong ones."""
    parts = [part for part, _ in map(codec.encode, _messages())]
    return [bytes([count]) + part for part in parts for count in range(4)]


def _client() -> list[bytes]:
    """What a client sends: sessions, commands, queries, admin requests."""
    requests = b"".join(
        _entry(7, n + 1, n, ENTRY_COMMAND, request) for n, request in enumerate(_kv())
    )
    queries = b"".join(
        _entry(7, wire.FIRST_QUERY + n, 0, ENTRY_QUERY, request)
        for n, request in enumerate(_kv()[2:4])
    )
    status = wire.frame(wire.ADMIN, b'{"op": "status"}')
    streams = [
        wire.hello(8, 0),
        wire.hello(8, 7) + wire.frame(wire.REQUESTS, requests),
        wire.hello(8, 7) + wire.frame(wire.REQUESTS, queries) + status,
        status * 3,
        wire.hello(8, 7) + wire.frame(wire.REQUESTS, _entry(7, 0, 0, ENTRY_CLOSE, b"")),
        wire.hello(8, 7) + wire.frame(wire.REQUESTS, _entry(8, 1, 0, ENTRY_COMMAND, b"")),
        wire.hello(8, 7) + wire.frame(wire.BYE, b""),
    ]
    return [bytes([flags]) + stream for stream in streams for flags in (1, 0x0B, 0x11)]


def _jpaxos() -> list[bytes]:
    requests = b"".join(
        struct.pack(">iqii", kind, 7, sequence, len(body)) + body
        for kind, sequence, body in ((1, 0, b""), (0, 1, _kv()[0]), (0, 1, _kv()[1]))
    )
    streams = [
        b"T",
        b"F" + (7).to_bytes(8, "big") + requests,
        b"F" + (7).to_bytes(8, "big") + struct.pack(">iqii", 0, 7, 1, 1000),
        b"F" + (7).to_bytes(8, "big") + struct.pack(">iqii", 0, 7, 1, 3000) + bytes(3000),
        b"T" + requests,
        b"\x92\xa4Type\xd9\x07message",
    ]
    return [bytes([flags]) + stream for stream in streams for flags in (0, 0x0A, 0x10)]


def _peer() -> list[bytes]:
    hello = peer_hello(2, 0, cluster=targets.CLUSTER)
    parts = [codec.encode(message) for message in _messages()]
    told = b"".join(
        peer_message(part, [(time, _batch(1, 2)) for time, _ in values]) for part, values in parts
    )
    streams = [
        hello,
        hello + told,
        hello + peer_message(b"x", [(1, _batch(n, n)) for n in range(5)]),
        hello + peer_message(b"x", [(1, _batch(1, 3))], digest=1),
        # 24 bytes for each of so many batches are 8 when counted in 32 bits.
        hello + frame(PEER, struct.pack("<II", 0, 0x0AAA_AAAB) + bytes(24), covered=16),
        peer_hello(2, 1, cluster=targets.CLUSTER),
        peer_hello(5, 0, cluster=bytes(16)),
        frame(PEER_HELLO, bytes(64)),
    ]
    accepted = [bytes([flags]) + stream for stream in streams for flags in (1, 0x0C)]
    dialled = peer_hello(1, 0, cluster=targets.CLUSTER) + peer_message(b"x", [])
    return [*accepted, b"\x21" + dialled, b"\x2c" + dialled]


def _requests() -> list[bytes]:
    """Entries for sessions 1 to 4, which stand for open ones."""
    window = (4).to_bytes(4, "little")
    commands = [_entry(n % 4 + 1, n + 1, n, ENTRY_COMMAND, kv) for n, kv in enumerate(_kv())]
    queries = [_entry(1, wire.FIRST_QUERY + n, 0, ENTRY_QUERY, kv) for n, kv in enumerate(_kv())]
    return [
        b"".join(commands),
        b"".join(commands[:2] * 2),
        b"".join(queries),
        _entry(0, 77, 0, ENTRY_OPEN, window) * 6,
        commands[0] + _entry(1, 0, 0, ENTRY_CLOSE, b"") + commands[0],
        _entry(1, 1, 2, ENTRY_COMMAND, b"") + _entry(1, 99, 1, ENTRY_COMMAND, b""),
    ]


def _pool() -> list[bytes]:
    """Edits of native/fuzz/pool_image.hpp: a flip in each object, and wrong but sealed values."""
    edits = [struct.pack("<HHBBH", n, n * 7 % 60, n % 4, n % 8, n * 5) for n in range(200)]
    return [b"\0", *(b"\0" + edit for edit in edits), *(b"\1" + edit for edit in edits)]


def _wire() -> list[bytes]:
    """What a replica sends to a client."""
    replies = b"".join(
        struct.pack("<QIB3x", n + 1, len(body), status) + body
        for n, (status, body) in enumerate(
            [(0, b"value"), (1, pack(("ValueError", "no"))), (2, b""), (3, b"full"), (6, b"bad")]
        )
    )
    welcome = struct.pack("<HHIQ16s", 1, 2, 1 << 20, 0, targets.CLUSTER) + b"\4test\2kv"
    streams = [
        wire.frame(wire.WELCOME, welcome)
        + wire.frame(wire.OPENED, (9).to_bytes(8, "little"))
        + wire.frame(wire.REPLIES, replies),
        wire.frame(wire.BYE, b"no quorum: try another replica"),
        wire.frame(wire.ADMIN_REPLY, b'{"replica": 1}'),
        wire.frame(wire.WELCOME, b"\2\0" + welcome[2:]),
    ]
    return [bytes([flags]) + stream for stream in streams for flags in (1, 3, 0xFF)]


def _arguments() -> list[bytes]:
    return [kind + pack(call) for call in _MACHINE_CALLS for kind in (b"c", b"q")]


def _values() -> list[bytes]:
    samples: list[tuple[Any, Any]] = [
        (int, -(1 << 63)),
        (str, "text"),
        (bytes, b"bytes"),
        (bool, True),
        (float, 0.1),
        (list[int], [1, 2, 3]),
        (dict[str, int], {"a": 1}),
        (tuple[int, str], (1, "x")),
        (set[str], {"b", "a"}),
        (int | None, None),
        (targets.Point, targets.Point(1, 2.0)),
        (Any, {"k": [1, {"n": "x"}]}),
    ]
    return [bytes([n]) + packed_codec(hint).encode(x) for n, (hint, x) in enumerate(samples)]


def _config() -> list[bytes]:
    texts = [example(replicas=count) for count in (1, 3, 5)]
    texts += [
        texts[0].replace('"512 MiB"', "16777216").replace("4001", "0"),
        texts[1].replace("# state_limit", "state_limit").replace("127.0.0.1", "[::1]"),
        texts[0].replace("# window = 16", "window = 1"),
        texts[0].replace("512 MiB", "9" * 400),
    ]
    return [text.encode() for text in texts]


def _marker() -> list[bytes]:
    sound = Marker(
        format=FORMATS[0],
        cluster=targets.CLUSTER.hex(),
        cluster_name="test",
        replica=targets.REPLICA,
        replicas=3,
        machine="mpaxos.services.kv:KeyValue",
        pool_size=16 << 20,
        log_size=1 << 20,
    )
    changed: list[dict[str, Any]] = [
        {"format": 2},
        {"replica": 2},
        {"cluster": "ab"},
        {"pool_size": 1 << 60},
    ]
    all_ = [sound, *(msgspec.structs.replace(sound, **change) for change in changed)]
    return [msgspec.json.format(msgspec.json.encode(marker)) for marker in all_]


def _sealed() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        write_sealed(path, PROMISE, targets.IDENTITY, Ballot(3, 1))
        promise = path.read_bytes()
        write_sealed(path, LIVES, targets.IDENTITY, Lives(2, True, False, (2, 1, 1)))
        lives = path.read_bytes()
    return [b"\0" + lives, b"\1" + lives, b"\2" + promise, b"\3" + promise, b"\1" + promise]


def _snapshot() -> list[bytes]:
    """The chunks of an image of a small state."""
    with pools.scratch() as path:
        cluster = memories.made(path, "epoch")
        with memories.opened(cluster) as memory:
            engine = Engine(memory.pool)
            memories.run(memory, engine, 12)
            source = ImageSource(engine)
            chunks = list(iter(lambda: source.next(600), None))
            source.close()
            memories.snapshot(memory, engine)
        whole = next(cluster.directory(0).glob("snapshot-*")).read_bytes()
    return [
        b"\1" + b"".join(chunks),
        b"\1" + chunks[-1],
        b"\0" + whole,
        b"\1" + b"".join(chunks[:2]),
    ]


def _admin() -> list[bytes]:
    return [b'{"op": "status"}', b'{"op": "digest"}', b'{"op": "resign"}', b"{}", b'{"op": [1]}']


def seeds() -> dict[str, list[bytes]]:
    """All seeds of all targets, those in native/fuzz included."""
    return {
        "admin": _admin(),
        "arguments": _arguments(),
        "batch": [b"\1" + _batch(n, n).data() for n in range(4)],
        "client": _client(),
        "config": _config(),
        "control": _control(),
        "jpaxos": _jpaxos(),
        "marker": _marker(),
        "sealed": _sealed(),
        "snapshot": _snapshot(),
        "peer": _peer(),
        "pool": _pool(),
        "requests": _requests(),
        "values": _values(),
        "wire": _wire(),
    }


def main() -> None:
    """Write all seeds below the directory that is named."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(str(__doc__))
    for target, inputs in seeds().items():
        directory = Path(sys.argv[1]) / target
        directory.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (directory / f"{number:03}").write_bytes(data)


if __name__ == "__main__":
    main()

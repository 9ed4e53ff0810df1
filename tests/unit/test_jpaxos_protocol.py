"""The client protocol of JPaxos and mPaxosSM, byte by byte as their clients speak it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
import pytest

from mpaxos import _native
from tests.unit.plane_world import Wire, World, entry, requests

CLIENT = 0x0102030405060708


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.open(max_request=1000)
    yield world
    world.close()


def connect(world: World, client: int = CLIENT) -> Wire:
    wire = world.wire(world.planes[0].ports()[2])
    wire.send(b"F" + struct.pack(">q", client))
    return wire


def request(sequence: int, payload: bytes = b"", *, kind: int = 0, client: int = CLIENT) -> bytes:
    return struct.pack(">iqii", kind, client, sequence, len(payload)) + payload


def test_transcript(world: World) -> None:
    wire = world.wire(world.planes[0].ports()[2])
    wire.send(b"T")
    world.wait(world.entries, "the opening")
    assert world.entries()[0][0] == 0
    assert world.entries()[0][3:] == (_native.ENTRY_OPEN, b"\x01\x00\x00\x00")
    token = world.entries()[0][1]
    world.reply((0, token, _native.STATUS_OPENED, struct.pack("<Q", CLIENT)))
    assert wire.read(8) == bytes.fromhex("0102030405060708")

    wire.send(
        bytes.fromhex(
            "00000000"  # REQUEST
            "0102030405060708"  # client id
            "00000001"  # sequence
            "00000009"  # length
            "50000000036b6579"  # P, key length 3, key
            "76"  # value
        )
    )
    world.wait(lambda: len(world.entries()) == 2, "the request")
    assert world.entries()[1] == (CLIENT, 1, 1, 0, b"P\x00\x00\x00\x03keyv")
    world.reply((CLIENT, 1, _native.STATUS_OK, b"old"))
    assert wire.read(27) == bytes.fromhex(
        "00000000"  # OK
        "00000013"  # length of what follows
        "0102030405060708"  # client id
        "00000001"  # sequence
        "00000003"  # length of the value
        "6f6c64"  # old
    )

    wire.send(request(0, kind=1))  # ALIVE
    assert wire.read(24) == bytes.fromhex("000000000000001001020304050607080000000000000000")
    assert len(world.entries()) == 2


def test_every_byte_boundary(world: World) -> None:
    wire = world.wire(world.planes[0].ports()[2])
    data = b"F" + struct.pack(">q", CLIENT) + request(1, b"first")
    wire.dribble(data)
    world.wait(lambda: len(world.entries()) == 1, "the request")
    world.reply((CLIENT, 1, 0, b"1"))
    assert wire.read(25)
    for cut in range(1, len(request(2, b"xy"))):
        data = request(cut + 1, b"xy")
        wire.pass_on(data[:cut])
        assert len(world.entries()) == cut
        wire.pass_on(data[cut:])
        world.turn()
        assert len(world.entries()) == cut + 1
        world.reply((CLIENT, cut + 1, 0, b"2"))
        assert wire.read(25)[-1:] == b"2"
    assert world.notices() == []


def test_repeating_a_request_elsewhere(world: World) -> None:
    first = connect(world)
    first.send(request(5, b"x"))
    world.wait(lambda: len(world.entries()) == 1, "the request")
    second = connect(world)
    second.send(request(5, b"x"))
    world.wait(lambda: len(world.entries()) == 2, "its repetition")
    assert first.end() == b""
    world.reply((CLIENT, 4, 0, b"stale"), (CLIENT, 5, 0, b"same"), (CLIENT, 5, 0, b"same"))
    assert second.read(28) == struct.pack(">iiqii", 0, 20, CLIENT, 5, 4) + b"same"
    second.send(request(6, b"y"))
    world.wait(lambda: len(world.entries()) == 3, "the next request")
    world.reply((CLIENT, 6, 0, b"next"))
    assert second.read(28)[-4:] == b"next"
    assert world.notices() == []


@pytest.mark.parametrize(
    ("status", "payload", "result", "text"),
    [
        (_native.STATUS_FAILED, msgspec.msgpack.encode(["KeyError", "no"]), 1, b"KeyError: no"),
        (
            _native.STATUS_FAILED,
            msgspec.msgpack.encode(["E" * 40, "m" * 70_000]),
            1,
            b"E" * 40 + b": " + b"m" * 70_000,
        ),
        (_native.STATUS_FAILED, b"\x92\xdb\xff\xff\xff\xffx", 1, b"the command failed"),
        (_native.STATUS_FAILED, b"", 1, b"the command failed"),
        (_native.STATUS_BAD, b"unknown operation", 1, b"unknown operation"),
        (_native.STATUS_NOSPACE, b"", 1, b"no space left for the state"),
        (_native.STATUS_REFUSED, b"ignored", 3, b""),
        (_native.STATUS_OVERLOADED, b"ignored", 3, b""),
    ],
)
def test_results(world: World, status: int, payload: bytes, result: int, text: bytes) -> None:
    wire = connect(world)
    wire.send(request(1))
    world.wait(world.entries, "the request")
    world.reply((CLIENT, 1, status, payload))
    assert wire.read(8 + len(text)) == struct.pack(">ii", result, len(text)) + text


def test_expired_session(world: World) -> None:
    wire = connect(world)
    wire.send(request(1))
    world.wait(world.entries, "the request")
    world.reply((CLIENT, 1, _native.STATUS_EXPIRED, b""))
    result, length = struct.unpack(">ii", wire.read(8))
    assert (result, b"expired" in wire.read(length)) == (1, True)


def test_without_quorum(world: World) -> None:
    wire = connect(world)
    world.quorum = False
    wire.send(request(1))
    assert wire.read(8) == struct.pack(">ii", 3, 0)
    newcomer = world.wire(world.planes[0].ports()[2])
    newcomer.send(b"T")
    assert newcomer.end() == b""
    world.quorum = True
    wire.send(request(1))
    world.wait(world.entries, "the request")


BAD = {
    "first byte": (b"X", "garbage", "neither T nor F"),
    "id 0": (b"F" + bytes(8), "protocol", "not a client id"),
    "request while opening": (b"T" + request(1), "protocol", "before the client has its id"),
    "type": (request(1, kind=2), "protocol", "unknown command type 2"),
    "negative type": (request(1, kind=-1), "protocol", "unknown command type -1"),
    "negative length": (struct.pack(">iqii", 0, CLIENT, 1, -1), "oversize", "negative length"),
    "length": (struct.pack(">iqii", 0, CLIENT, 1, 1001), "oversize", "limit is 1000"),
    "huge length": (struct.pack(">iqii", 1, CLIENT, 1, 2**31 - 1), "oversize", "limit is 1000"),
    "other id": (request(1, client=CLIENT + 1), "protocol", "another client id"),
    "sequence": (request(-1), "protocol", "sequences start at 1"),
    "two at once": (request(1) + request(2), "protocol", "while another one is unanswered"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(world: World, case: str) -> None:
    data, reason, text = BAD[case]
    other = connect(world, 5)
    wire = world.wire(world.planes[0].ports()[2])
    if data[:1] == b"\x00" or data[:1] == b"\xff":
        wire.send(b"F" + struct.pack(">q", CLIENT))
    wire.send(data)
    assert wire.end() == b""
    assert world.counter(f"closed_{reason}") == 1
    [notice] = world.of_kind(_native.EVENT_NOTICE)
    assert (notice[1], text in notice[3]) == ("jpaxos", True)
    other.send(request(1, b"other", client=5))
    world.wait(lambda: (5, 1, 1, 0, b"other") in world.entries(), "another client's request")


def test_end_inside_a_request(world: World) -> None:
    wire = connect(world)
    wire.send(request(1, b"abc")[:-1])
    world.turn()
    wire.socket.close()
    world.wait(lambda: world.counter("closed_truncated") == 1, "the cut request")
    assert world.entries() == []


def test_sessions_of_both_ports_are_one_space(world: World) -> None:
    wire = connect(world)
    world.wait(lambda: world.counter("frames_in") == 1, "the first one's greeting")
    native = world.client(CLIENT)
    assert wire.end() == b""
    native.send(requests(entry(CLIENT, 1)))
    world.wait(world.entries, "the request")
    world.reply((CLIENT, 1, 0, b"r"))
    assert native.replies(1) == [(1, 0, b"r")]

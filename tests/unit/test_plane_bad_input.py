"""Bad, slow and random bytes: that connection is closed, it is told why, others are served on."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpaxos import _native
from tests.unit.plane_world import (
    ADMIN,
    BYE,
    HELLO,
    REQUESTS,
    WELCOME,
    World,
    entry,
    frame,
    hello,
    peer_hello,
    peer_message,
    requests,
)

OPEN = entry(0, 5, struct.pack("<I", 1), kind=1)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def port(world: World) -> int:
    return world.planes[0].ports()[1]


def is_served(world: World) -> bool:
    """A request of a new client comes through."""
    wire = world.client(77)
    before = len(world.entries())
    wire.send(requests(entry(77, 1)))
    world.wait(lambda: len(world.entries()) > before, "another client's request")
    wire.socket.close()
    return True


FIRST = {
    "other protocol": (b"GET / HTTP/1.0\r\n\r\n", "garbage", "wrong magic"),
    "one wrong byte": (b"x", "garbage", "wrong magic"),
    "fourth byte wrong": (b"mPxx", "garbage", "wrong magic"),
    "version": (frame(HELLO, bytes(16), version=2), "version", "frame of version 2"),
    "reserved": (frame(HELLO, bytes(16), reserved=1), "garbage", "reserved"),
    "crc": (frame(HELLO, bytes(16), spoil=1), "crc", "checksum"),
    "kind": (frame(99, b""), "protocol", "kind 99"),
    "kind of a replica": (frame(5, b""), "protocol", "kind 5"),
    "kind of a peer": (peer_hello(1, 0), "protocol", "kind 16"),
    "short hello": (frame(HELLO, bytes(15)), "protocol", "wrong size"),
    "long hello": (frame(HELLO, bytes(17)), "oversize", "limit is 16"),
    "protocol": (hello(protocol=2), "version", "protocol 2"),
    "requests first": (frame(REQUESTS, b"", length=4_000_000), "protocol", "before the session"),
    "admin too long": (frame(ADMIN, b"", length=65_537), "oversize", "limit is 65536"),
    "gigabytes": (frame(ADMIN, b"", length=2**32 - 1), "oversize", "announces 4294967295"),
}


@pytest.mark.parametrize("case", FIRST)
def test_bad_first_frame(world: World, case: str) -> None:
    data, reason, text = FIRST[case]
    world.open()
    other = world.client(8)
    wire = world.wire(port(world))
    wire.send(data)
    wire.end()
    assert world.counter(f"closed_{reason}") == 1
    [notice] = world.of_kind(_native.EVENT_NOTICE)
    assert notice[1] == "client"
    assert notice[2] == f"127.0.0.1:{wire.socket.getsockname()[1]}"
    assert text in notice[3]
    other.send(requests(entry(8, 1)))
    world.wait(world.entries, "another client's request")


LATER = {
    "second hello": (hello(5), "protocol", "second hello"),
    "no entries": (frame(REQUESTS, b""), "protocol", "without any"),
    "other session": (requests(entry(3, 1), entry(4, 1)), "protocol", "another session"),
    "opening": (requests(OPEN), "protocol", "another session"),
    "opening inside": (requests(entry(3, 1, b"1234", kind=1)), "protocol", "opening"),
    "kind": (requests(entry(3, 1, kind=4)), "protocol", "unknown kind 4"),
    "cut in its header": (frame(REQUESTS, entry(3, 1)[:-1]), "protocol", "cut short"),
    "cut in its payload": (frame(REQUESTS, entry(3, 1, b"xy")[:-1]), "protocol", "longer than"),
    "sequence": (requests(entry(3, 0)), "protocol", "sequences start at 1"),
    "oversize": (requests(entry(3, 1, b"x" * 1001)), "oversize", "the limit is 1000"),
    "frame": (frame(REQUESTS, b"", length=5_000_000), "oversize", "announces 5000000"),
    "garbage": (b"garbage, enough of it for a header", "garbage", "wrong magic"),
    "many admins": (frame(ADMIN, b"{}") * 17, "protocol", "too many admin"),
}


@pytest.mark.parametrize("case", LATER)
def test_bad_later_frame_and_its_goodbye(world: World, case: str) -> None:
    data, reason, text = LATER[case]
    world.open(max_request=1000)
    wire = world.client(3)
    wire.send(data)
    kind, goodbye = wire.frame()
    assert (kind, text in goodbye.decode()) == (BYE, True)
    assert wire.end() == b""
    assert world.counter(f"closed_{reason}") == 1
    assert [text in notice for notice in world.notices()] == [True]
    assert world.entries() == []  # nothing of it is executed
    wire.socket.close()
    world.wait(lambda: world.counter("connections_client") == 0, "the end")
    assert is_served(world)
    assert world.counter(f"closed_{reason}") == 1  # counted once


def test_end_of_stream_between_and_inside_frames(world: World) -> None:
    world.open()
    wire = world.client(3)
    wire.socket.close()
    world.wait(lambda: world.counter("closed_eof") == 1, "a clean end")
    assert world.notices() == []
    wire = world.client(3)
    wire.send(requests(entry(3, 1))[:-1])
    wire.socket.shutdown(socket.SHUT_WR)
    world.wait(lambda: world.counter("closed_truncated") == 1, "a cut frame")
    assert "inside a frame" in world.notices()[0]
    assert is_served(world)


def test_slow_bytes(world: World) -> None:
    world.open(handshake_seconds=0.2, frame_seconds=0.2)
    silent = [world.wire(p) for p in world.planes[0].ports()]
    half = world.wire(port(world))
    half.send(hello(1)[:20])
    patient = world.client(3)
    world.wait(lambda: world.counter("closed_slow") == 4, "slow greetings")
    assert {event[1] for event in world.of_kind(_native.EVENT_NOTICE)} == {
        "peer",
        "client",
        "jpaxos",
    }
    assert all("greeting" in text for text in world.notices())
    for wire in silent:
        assert wire.end() == b""
    patient.send(requests(entry(3, 1)))  # idle between frames is no fault
    world.wait(world.entries, "the request of a patient client")
    patient.send(requests(entry(3, 2))[:-1])
    assert patient.end() == b""
    assert world.counter("closed_slow") == 5
    assert "frame was not complete" in world.notices()[-1]


def test_time_in_which_the_replica_did_not_read_is_nobodys_fault(world: World) -> None:
    world.open(handshake_seconds=0.2, frame_seconds=0.2)
    wire = world.client(3)
    begun = world.wire(port(world))
    data = requests(entry(3, 1, b"x" * 100_000))  # several reads: sweeps come between them
    wire.pass_on(data[:20])
    begun.pass_on(hello(4)[:20])
    time.sleep(0.5)  # the replica is busy; what follows arrives meanwhile
    wire.send(data[20:])
    begun.socket.send(hello(4)[20:])
    world.wait(world.entries, "the request")
    assert begun.frame()[0] == WELCOME
    assert world.counter("closed_slow") == 0


def test_dribbling_does_not_help(world: World) -> None:
    world.open(frame_seconds=0.05)
    wire = world.client(3)
    data = requests(entry(3, 1, b"x" * 100_000))
    at = 0
    while world.counter("closed_slow") == 0 and at < len(data):
        wire.send(data[at : at + 1])
        at += 1
        world.turn()
    assert 0 < at < len(data)


def test_slow_reader(world: World) -> None:
    world.open()
    slow = world.wire(port(world), receive_buffer=4096)
    slow.send(hello(3))
    world.wait(lambda: world.counter("frames_in") == 1, "the hello")
    other = world.client(4)
    for i in range(400):
        world.reply((3, i, 0, b"x" * 100_000), (4, i, 0, b"x" * 1000))
        if world.counter("closed_slow_reader"):
            break
    assert world.counter("closed_slow_reader") == 1
    world.turn()
    assert "does not read" in world.notices()[0]
    assert other.replies(1)[0][0] == 0


def test_a_reader_that_is_only_slow_gets_everything(world: World) -> None:
    world.open()
    wire = world.wire(port(world), receive_buffer=4096)
    wire.send(hello(3))
    assert wire.frame()
    for i in range(120):
        world.reply((3, i, 0, bytes([i]) * 100_000))
    replies = wire.replies(120)
    assert [(r[0], r[2]) for r in replies] == [(i, bytes([i]) * 100_000) for i in range(120)]


def test_notices_of_one_turn_are_limited(world: World) -> None:
    plane = world.open()
    # Connected and sent before the plane looks: all in one turn or two.
    wires = [world.wire(port(world)) for _ in range(150)]
    for wire in wires:
        wire.socket.send(b"?")
    most = 0
    while world.counter("closed_garbage") < 150:
        _, events = plane.poll(2**62, 8, True)
        most = max(most, len(events))
        world.events[0] += events
    assert most <= 100
    assert len(world.notices()) + world.counter("notices_dropped") == 150


# ------------------------------------------------------------------ fuzz

GOOD = [
    hello(3),
    requests(entry(3, 1, b"abc"), entry(3, 2, b"q", kind=3)),
    frame(ADMIN, b"{}"),
    peer_hello(1, 0),
    b"F" + struct.pack(">q", 9),
    struct.pack(">iqii", 0, 9, 1, 3) + b"abc",
    struct.pack(">iqii", 1, 9, 1, 0),
    b"T",
]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Good frames, some of them damaged, in any order, cut anywhere."""
    message = peer_message(b"\x90", [(1, _native.Batch.noop(1, 2, 3))])
    data = bytearray()
    for piece in draw(st.lists(st.sampled_from([*GOOD, message]) | st.binary(max_size=40))):
        data += piece
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), streams()), min_size=1, max_size=3))
def test_random_bytes_on_any_port(attacks: list[tuple[int, bytes]]) -> None:
    world = World()
    try:
        ports = world.open(peers={1: ("127.0.0.1", 1)}).ports()
        for which, data in attacks:
            wire = world.wire(ports[which])
            wire.send(data)
            world.turn()
            wire.socket.close()
        assert is_served(world)
        peers = world.counter("connections_peer")
        world.wait(lambda: world.counter("connections_client") == 0, "the end of all")
        assert peers <= len(attacks)
    finally:
        world.close()

"""Chunks of images between two planes: they arrive as they left, or their connection ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos import _native
from mpaxos._native import CHUNK_HEADER, Chunk, Engine, ImageSource, ImageTarget
from mpaxos.core.messages import Envelope, StateChunk
from mpaxos.core.output import Output, Received
from mpaxos.errors import WireError
from mpaxos.net.adapter import NativePlane
from tests.chunks import put_record, reseal
from tests.unit import image_world, pools
from tests.unit.plane_world import World, frame, peer_message
from tests.unit.test_plane_peers import NOBODY, as_peer, connected, messages, pair

PEER_CHUNK = 19


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


@pytest.fixture
def chunks(directory: Path) -> list[bytes]:
    """Of an image with several."""
    source = image_world.World(directory / "source", 1)
    source.run(40)
    taken = ImageSource(source.engine)
    found = []
    while (chunk := taken.next(1500)) is not None:
        found.append(chunk)
    assert len(found) > 3
    return found


def test_chunks_arrive_as_they_left_and_in_order(world: World, chunks: list[bytes]) -> None:
    pair(world)
    connected(world)
    for number, data in enumerate(chunks):
        world.planes[0].send_chunk(1, b"c%d" % number, Chunk.parse(data))
        world.planes[0].send(1, b"between", [])
    world.wait(lambda: len(messages(world, 1)) == 2 * len(chunks), "all of them")
    found = messages(world, 1)
    assert [event[2] for event in found[1::2]] == [b"between"] * len(chunks)
    for number, (event, data) in enumerate(zip(found[::2], chunks, strict=True)):
        _, peer, control, chunk = event
        assert (peer, control) == (0, b"c%d" % number)
        assert bytes(chunk) == data and len(chunk) == len(data)
        assert (chunk.image, chunk.number, chunk.slot, chunk.final) == _native.chunk_info(data)


def large_chunk(number: int, size: int) -> bytes:
    """About so many bytes, which no other chunk has."""
    items = [
        put_record(b"%d" % item, bytes([number]) * 9000) for item in range(max(1, size // 9000))
    ]
    data = bytes(CHUNK_HEADER) + b"\2\0\4data" + b"".join(items)
    return reseal(data, magic=0x3149506D, version=2, flags=0, image=9, number=number)


def test_large_chunks_stay_as_they_came(world: World) -> None:
    """They stay in the memory they were received into: what comes later goes elsewhere."""
    pair(world)
    connected(world)
    sizes = [500, 530, 480, 130, 500, 127, 3, 900, 2000, 950, 500, 20, 530]  # KB
    chunks = [large_chunk(number, 1000 * size) for number, size in enumerate(sizes, 1)]
    for number, data in enumerate(chunks):
        world.planes[0].send_chunk(1, b"c%d" % number, Chunk.parse(data))
        if number % 3 == 0:
            world.planes[0].send(1, b"between", [])
    wanted = len(chunks) + len(chunks[::3])
    world.wait(lambda: len(messages(world, 1)) == wanted, "all of them")
    came = [event[3] for event in messages(world, 1) if event[2] != b"between"]
    assert [bytes(chunk) for chunk in came] == chunks


def test_a_chunk_that_was_received_is_installed(directory: Path, world: World) -> None:
    """All the way: made, sent through the adapter, installed, without its bytes in Python."""
    source = image_world.World(directory / "source", 2)
    source.run(20)
    pair(world)
    connected(world)
    sender, receiver = NativePlane(world.planes[0]), NativePlane(world.planes[1])
    image = ImageSource(source.engine)
    pool = image_world.make(directory / "target", installing=True)
    target = ImageTarget(pool)
    while (chunk := image.next_chunk(1500)) is not None:
        message = StateChunk(chunk.image, chunk.number, 0, chunk.final, 1, 2, chunk)
        sender.send([Envelope(1, message)])
        sender.flush()
        received: list[Received] = []
        while not received:
            events = receiver.poll(Output()).events
            received += [event for event in events if isinstance(event, Received)]
        (event,) = received
        assert isinstance(event.message, StateChunk) and event.message.number == chunk.number
        assert target.install(event.message.data) == chunk.final
    assert Engine(pool).state_digest() == source.engine.state_digest()


@pytest.mark.parametrize("at", [0, 5, 20, -1])
def test_a_damaged_chunk_is_not_handed_on(world: World, chunks: list[bytes], at: int) -> None:
    """Neither header nor records; the connection ends, as with a damaged batch."""
    damaged = bytearray(chunks[1])
    damaged[at] ^= 1
    with pytest.raises(WireError):
        Chunk.parse(bytes(damaged))
    world.open(0, peers={1: NOBODY})
    wire = as_peer(world)
    head = struct.pack("<II", 1, 0) + b"c"
    wire.send(peer_message(b"good", []))
    wire.send(frame(PEER_CHUNK, head + bytes(damaged), covered=len(head)))
    wire.end()
    assert world.counter("closed_protocol") == 1
    assert ["not a chunk" in notice for notice in world.notices()] == [True]
    assert [event[2] for event in messages(world, 0)] == [b"good"]


def test_bad_frames_of_chunks(world: World, chunks: list[bytes]) -> None:
    """The control part is under the frame's checksum; there are no batches; a chunk has a limit."""
    head = struct.pack("<II", 1, 0)
    row = struct.pack("<QQII", 0, 0, 0, 0)
    cases = [
        (frame(PEER_CHUNK, head + b"c" + chunks[1], covered=9, spoil=1), "crc"),
        (frame(PEER_CHUNK, head + b"c" + chunks[1][:-1], covered=9), "protocol"),
        (frame(PEER_CHUNK, struct.pack("<II", 1, 1) + row + b"c", covered=33), "protocol"),
        (frame(PEER_CHUNK, head), "garbage"),
        (frame(PEER_CHUNK, b"", length=5 << 20), "oversize"),
    ]
    world.open(0, peers={1: NOBODY})
    for data, reason in cases:
        before = world.counter(f"closed_{reason}")
        wire = as_peer(world)
        wire.send(data)
        wire.end()
        assert world.counter(f"closed_{reason}") == before + 1
    assert messages(world, 0) == []

"""Beyond 4 GiB no number of a transfer is cut off: in its messages, in chunks, in a pool."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from mpaxos._native import CHUNK_HEADER, ImageTarget, Pool, chunk_info
from mpaxos.core.messages import AnyMessage, StateChunk, StateRequest
from mpaxos.core.state_source import Serving
from mpaxos.core.transfer_io import ChunkMade
from mpaxos.errors import ImageError
from mpaxos.net import codec
from tests.chunks import put_record, reseal
from tests.unit import pools

BEYOND = [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, 5 << 30, (1 << 40) + 7, (1 << 63) - 1]

STATE_LIMIT = 5 << 30


@pytest.mark.parametrize("number", BEYOND)
def test_messages_of_a_transfer_carry_it(number: int) -> None:
    messages: list[AnyMessage] = [
        StateRequest(number, number, number, True),
        StateChunk(number, number, number, False, number, number + 1, b"x"),
    ]
    for message in messages:
        assert codec.decode(*codec.encode(message)) == message


@pytest.mark.parametrize("number", BEYOND)
def test_steps_and_their_bookkeeping_carry_it(number: int) -> None:
    """Also where they are compiled."""
    made = ChunkMade(1, number, number, number, False, number, number, b"")
    assert (made.image, made.number, made.slot, made.made, made.total) == (number,) * 5
    serving = Serving(1, 2, number, image=number, acknowledged=number, made=number, total=number)
    serving.kept += number
    assert msgspec.structs.asdict(serving)["kept"] == number


@pytest.mark.parametrize("number", BEYOND)
def test_a_chunk_carries_it(number: int) -> None:
    data = bytes(CHUNK_HEADER)
    sealed = reseal(data, magic=0x3149506D, version=2, flags=0, image=number, number=number)
    assert chunk_info(sealed)[:2] == (number, number)


def chunk(number: int, *records: bytes, final: bool = False) -> bytes:
    data = bytes(CHUNK_HEADER) + b"".join(records)
    return reseal(data, magic=0x3149506D, version=2, flags=int(final), image=9, number=number)


NAME = b"\2\0\4data"


def end(items: int, used: int, total: int) -> bytes:
    fields = struct.pack("<BQQQQQQQQB", 11, 5, 6, 7, used, 0, 0, total, 0, 1)
    return fields + b"\4data" + struct.pack("<Q", items)


def test_sizes_in_the_end_are_compared_in_full() -> None:
    """A size that differs by a multiple of 2^32 is another size; so is a number of items."""
    with pools.scratch() as directory:
        pool = make(directory / "pool", 24 << 20, installing=True)
        head = struct.pack("<BQQQ", 1, STATE_LIMIT, 64, 6000)
        target = ImageTarget(pool)
        target.install(chunk(0, head, NAME, put_record(b"k", b"v")))
        for wrong, match in (
            (end(1 + (1 << 32), 66, 0), "as many items"),
            (end(1, 66 + (1 << 32), 0), "another size"),
            (end(1, 66, 0), "not those of the source"),
        ):
            with pytest.raises(ImageError, match=match):
                target.install(chunk(1, wrong, final=True))
        pool.close()


def make(path: Path, size: int, *, installing: bool) -> Pool:
    Pool.create(
        str(path),
        size=size,
        log_size=pools.LOG,
        cluster=pools.CLUSTER,
        replica=1,
        replicas=3,
        machine="test",
        state_limit=STATE_LIMIT,
        max_sessions=64,
        max_reply_slots=6000,
        installing=installing,
    )
    return pools.reopen(path, size=size, installing=installing)

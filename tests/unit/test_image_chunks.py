"""Chunks that are damaged, out of order or made up: refused, with nothing changed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpaxos import _native as n
from mpaxos._native import Engine, ImageSource, ImageTarget, chunk_info, chunk_length
from mpaxos.errors import ImageError, StorageFull, WireError
from tests.chunks import put_record, reseal
from tests.unit import image_world, pools
from tests.unit.image_world import Receiver, World


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


def world_and_chunks(directory: Path, low: int = 256) -> tuple[World, list[bytes]]:
    world = World(directory / "a", 21)
    world.run(120)
    return world, world.take_all(random.Random(5), low=low)


def refused(receiver: Receiver, chunk: bytes, match: str = "") -> None:
    before = receiver.target.progress()
    with pytest.raises((WireError, ImageError), match=match):
        receiver.target.install(chunk)
    assert receiver.target.progress() == before and receiver.pool.installing


def test_every_damaged_byte_is_noticed(directory: Path) -> None:
    world, chunks = world_and_chunks(directory)
    receiver, rng = Receiver(directory / "b"), random.Random(9)
    for chunk in chunks:
        places = range(len(chunk)) if len(chunk) < 150 else rng.sample(range(len(chunk)), 30)
        for place in [*range(n.CHUNK_HEADER), *places]:
            damaged = bytearray(chunk)
            damaged[place] ^= 1 << rng.randrange(8)
            refused(receiver, bytes(damaged), "not a chunk")
        receiver.target.install(chunk)
    world.same_again(receiver.pool)


def test_every_cut_is_noticed(directory: Path) -> None:
    world, chunks = world_and_chunks(directory)
    receiver, rng = Receiver(directory / "b"), random.Random(9)
    for chunk in chunks:
        lengths = {0, 1, 39, 40, len(chunk) - 1, rng.randrange(len(chunk))} - {len(chunk)}
        for length in lengths:
            refused(receiver, chunk[:length], "shorter than a header|cut short")
        refused(receiver, chunk + b"!", "cut short or too long")
        receiver.target.install(chunk)
    world.same_again(receiver.pool)


def test_other_chunks_than_the_expected_one_are_refused(directory: Path) -> None:
    world, chunks = world_and_chunks(directory)
    other = world.take_all(random.Random(1))
    receiver, rng = Receiver(directory / "b"), random.Random(9)
    for number, chunk in enumerate(chunks):
        for wrong in {rng.randrange(len(chunks)), number + 1, number - 1, 0}:
            if wrong != number and 0 <= wrong < len(chunks):
                refused(receiver, chunks[wrong], f"chunk {wrong} came where chunk {number} is")
        if 0 < number < len(other):
            refused(receiver, other[number], "another image")
        receiver.target.install(chunk)
        if rng.random() < 0.1:
            receiver.crash()
    world.same_again(receiver.pool)


def test_a_file_of_chunks_can_be_read_back(directory: Path) -> None:
    world, chunks = world_and_chunks(directory)
    data, found = b"".join(chunks), list[bytes]()
    while data:
        length = chunk_length(data[: n.CHUNK_HEADER])
        found.append(data[:length])
        data = data[length:]
    assert found == chunks
    infos = [chunk_info(chunk) for chunk in chunks]
    assert [info[1] for info in infos] == list(range(len(chunks)))
    assert len({info[0] for info in infos}) == 1
    assert [info[3] for info in infos] == [False] * (len(chunks) - 1) + [True]
    world.same_again(Receiver(directory / "b").install(found))


def test_a_chunk_of_another_version_says_so() -> None:
    header = reseal(bytes(n.CHUNK_HEADER), magic=0x3149506D, version=1)
    with pytest.raises(WireError, match="version 1 and this program reads version 2"):
        chunk_length(header)
    longest = struct.pack("<IHHII", 0x3149506D, 2, 0, 1 << 31, 0) + bytes(24)
    with pytest.raises(WireError, match="longer than any chunk"):
        chunk_length(longest)


END = 8 * 8
"""Bytes of the fixed part of the end record: eight numbers."""


def with_end(chunk: bytes, change: Callable[[list[int]], None]) -> bytes:
    """The final chunk of a state with one container, `data`, with another end."""
    tail = 1 + 1 + 4 + 8  # count, length, "data", items
    at = len(chunk) - tail - END
    assert chunk[at - 1] == 11
    fields = [*struct.unpack("<8Q", chunk[at : at + END])]
    fields.append(int.from_bytes(chunk[-8:], "little"))
    change(fields)
    end = struct.pack("<8Q", *fields[:8]) + chunk[at + END : -8] + struct.pack("<Q", fields[8])
    return reseal(chunk[:at] + end)


@pytest.mark.parametrize("field", range(3, 9))
@pytest.mark.parametrize("delta", [1, 1 << 32, (1 << 64) - 1])
def test_a_state_that_is_not_the_sources_is_refused(
    directory: Path, field: int, delta: int
) -> None:
    """The size of the state, sessions, reply slots, sums and number of items are compared."""
    world, chunks = world_and_chunks(directory, low=1500)

    def change(fields: list[int]) -> None:
        fields[field] = (fields[field] + delta) % (1 << 64)

    receiver = Receiver(directory / "b")
    for chunk in chunks[:-1]:
        receiver.target.install(chunk)
    refused(receiver, with_end(chunks[-1], change), "does not fit together")
    receiver.crash()
    receiver.target.install(chunks[-1])
    world.same_again(receiver.pool)


def records(*parts: bytes, number: int = 0, flags: int = 0) -> bytes:
    """A chunk with these records, right in all else."""
    chunk = bytes(n.CHUNK_HEADER) + b"".join(parts)
    return reseal(chunk, magic=0x3149506D, version=2, flags=flags, image=9, number=number)


HEAD = struct.pack("<BQQQ", 1, image_world.LIMIT, 64, 6000)
NAME = b"\2\0\4data"
SESSION = struct.pack("<BIIQQQ", 7, 3, 8, 1 << 16, 0, 1 << 16)
REPLY = struct.pack("<BIQQQQBI", 9, 3, 1 << 16, 1, 0, 1 << 16, 0, 2) + b"ok"


def end(*counts: tuple[bytes, int], sum: int = 0, used: int = 0) -> bytes:
    made = struct.pack("<BQQQQQQQQB", 11, 5, 6, 7, used, 0, 0, sum, 0, len(counts))
    return made + b"".join(
        bytes([len(name)]) + name + struct.pack("<Q", items) for name, items in counts
    )


@pytest.mark.parametrize(
    ("chunk", "match"),
    [
        (records(NAME), "head is not where"),
        (records(), "head is missing"),
        (records(HEAD, HEAD), "head is not where"),
        (records(NAME, number=1), "chunk 1 came where chunk 0"),
        (records(HEAD, put_record(b"k", b"v")), "container has no name"),
        (records(HEAD, NAME, put_record(b"k", b"v", 1)), "container has no name"),
        (records(HEAD, NAME, put_record(b"k", b"v", 200)), "container has no name"),
        (records(HEAD, b"\2\100\4data"), "container is impossible"),
        (records(HEAD, b"\2\0\0"), "container is impossible"),
        (records(HEAD, b"\2\0\4da\0a"), "container is impossible"),
        (records(HEAD, b"\2\0\100" + b"x" * 64), "container is impossible"),
        (records(HEAD, NAME, put_record(b"k" * 65537, b"")), "key is too long"),
        (records(HEAD, NAME, b"\3\0" + struct.pack("<IIII", 1, 1 << 31, 0, 0) + b"k"), "cut short"),
        (records(HEAD, NAME, b"\3\0" + struct.pack("<IIII", 1, 1, 32, 0) + b"kv"), "another room"),
        (records(HEAD, NAME, b"\3\0\1"), "cut short"),
        (records(HEAD, b"\14"), "unknown kind"),
        (records(HEAD, b"\0"), "unknown kind"),
        (records(HEAD, end()), "end is missing"),
        (records(HEAD, flags=1), "end is missing"),
        (records(HEAD, end(), NAME, flags=1), "follows its end"),
        (records(HEAD, flags=2), "unknown flags"),
        (records(HEAD, end(*[(b"x", 0)] * 65), flags=1), "too many containers"),
        (records(HEAD, end((b"", 0)), flags=1), "name is too long"),
        (records(HEAD, end((b"a", 0), (b"a", 0)), flags=1), "named twice"),
        (records(HEAD, struct.pack("<BQI", 5, 7, 1) + b"x"), "part of a value is missing"),
        (records(HEAD, struct.pack("<BQI", 5, 0, 0)), "came twice"),
        (records(HEAD, NAME, struct.pack("<BBQI", 6, 0, 9, 0)), "part of a value is missing"),
        (records(HEAD, struct.pack("<BQI", 5, 0, 1) + b"x", end(), flags=1), "not sent to its end"),
        (records(HEAD, REPLY), "before its session"),
        (records(HEAD, SESSION, REPLY.replace(b"\0\1\0", b"\0\2\0", 1)), "another session"),
        (records(HEAD, SESSION.replace(b"\3", b"\100")), "place that does not exist"),
        (records(HEAD, struct.pack("<BI", 8, 64)), "place that does not exist"),
        (records(HEAD, struct.pack("<BIIQQQ", 7, 3, 0, 1, 0, 0)), "session is impossible"),
        (records(HEAD, struct.pack("<BIIQQQ", 7, 3, 1025, 1, 0, 0)), "session is impossible"),
        (records(HEAD, struct.pack("<BIIQQQ", 7, 3, 5, 0, 0, 0)), "session is impossible"),
        (records(HEAD, SESSION, SESSION.replace(b"\10", b"\11", 1)), "changed its window"),
        (records(HEAD, SESSION, end(), flags=1), "as many sessions"),
        (records(HEAD, NAME, put_record(b"k", b"v"), end((b"data", 1)), flags=1), "another size"),
        (
            records(HEAD, NAME, put_record(b"k", b"v"), end((b"data", 1), used=66), flags=1),
            "not those of the source",
        ),
        (records(HEAD, *[b"\2\0\2x" + bytes([65 + i]) for i in range(65)]), "more containers"),
        (records(HEAD.replace(b"\100", b"\101")), "other limits"),
    ],
)
def test_made_up_chunks(directory: Path, chunk: bytes, match: str) -> None:
    receiver = Receiver(directory / "b")
    refused(receiver, chunk, match)
    world = World(directory / "a", 1)
    world.run(5)
    source = ImageSource(world.engine)
    chunks = [source.next(), source.next()]
    assert chunks[0] is not None and chunks[1] is None
    world.same_again(receiver.install([chunks[0]]))  # nothing of the other was left behind


def test_nothing_is_appended_behind_the_items_of_a_refused_last_chunk(directory: Path) -> None:
    """It is refused when all of its records were installed."""
    receiver = Receiver(directory / "b")
    item = put_record(b"k", b"v")
    refused(receiver, records(HEAD, NAME, item, end((b"data", 1)), flags=1), "another size")
    world = World(directory / "a", 1)
    world.traffic.keys = [b"x", b"y", b"z"]
    world.run(40)
    world.same_again(receiver.install(world.take_all(random.Random(5), slots=0, low=6000)))


def test_records_do_what_the_document_says(directory: Path) -> None:
    """All but the sum over the items is right at the end: their number and sizes were compared."""
    receiver = Receiver(directory / "b")
    receiver.target.install(records(HEAD, NAME, put_record(b"k", b"old"), put_record(b"gone", b"")))
    erase = struct.pack("<BBI", 4, 5, 4) + b"gone"
    staged = struct.pack("<BQI", 5, 0, 2) + b"ne", struct.pack("<BQI", 5, 2, 2) + b"we"
    receiver.target.install(records(b"\2\5\4data", erase, staged[0], number=1))
    receiver.crash()
    receiver.target.install(
        records(NAME, staged[1], struct.pack("<BBQI", 6, 0, 4, 1) + b"k", number=2)
    )
    final = records(end((b"data", 1), used=64 + 1 + 4), number=3, flags=1)
    refused(receiver, final, "not those of the source")


@pytest.mark.parametrize("seed", range(40))
def test_items_in_any_order_make_the_same_tree(directory: Path, seed: int) -> None:
    """In order, as a sweep sends them; out of order and removed, as what changes behind it; both in
    one chunk, which no source makes. Counts, order, checksums and sizes are compared at the end."""
    rng = random.Random(seed)
    receiver, model = Receiver(directory / "b"), dict[tuple[int, bytes], bytes]()
    names = b"".join(b"\2" + bytes([i, 1]) + b"xy"[i : i + 1] for i in range(2))
    keys = sorted({rng.randbytes(rng.choice([0, 1, 2, 3, 40])) for _ in range(300)})
    number, at = 0, 0
    while at < len(keys):
        made = [HEAD] if number == 0 else []
        made.append(names)
        for _ in range(rng.randrange(1, 40)):
            container, value = rng.randrange(2), rng.randbytes(rng.choice([0, 7, 100, 900]))
            key = rng.choice(keys[: at + 1])
            if rng.random() < 0.7:
                key, at = keys[min(at, len(keys) - 1)], at + 1
            elif rng.random() < 0.5:
                made.append(struct.pack("<BBI", 4, container, len(key)) + key)
                model.pop((container, key), None)
                continue
            made.append(put_record(key, value, container))
            model[container, key] = value
        if rng.random() < 0.2:
            refused(receiver, records(*made, REPLY, number=number), "before its session")
        receiver.target.install(records(*made, number=number))
        number += 1
        if rng.random() < 0.2:
            receiver.crash()
    counts = [(name, sum(c == i for c, _ in model)) for i, name in enumerate((b"x", b"y"))]
    used = sum(64 + len(key) + len(value) for (_, key), value in model.items())
    final = records(end(*counts, sum=1, used=used), number=number, flags=1)
    refused(receiver, final, "not those of the source")


@pytest.mark.parametrize("seed", range(8))
def test_random_records_never_do_harm(directory: Path, seed: int) -> None:
    """Chunks with right checksums and wrong contents: each is refused or installed whole."""
    world, chunks = world_and_chunks(directory, low=1500)
    rng = random.Random(seed)
    receiver = Receiver(directory / "b")
    for chunk in chunks[: rng.randrange(1, len(chunks))]:
        receiver.target.install(chunk)
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        before = receiver.target.progress()
        base = bytearray(rng.choice(chunks))
        for _ in range(rng.randrange(1, 4)):
            if len(base) <= n.CHUNK_HEADER:
                break
            at = rng.randrange(n.CHUNK_HEADER, len(base))
            what = rng.random()
            if what < 0.5:
                base[at] = rng.choice([0, 1, 255, rng.randrange(256)])
            elif what < 0.7:
                del base[at : at + rng.randrange(1, 20)]
            elif what < 0.9:
                base[at:at] = base[rng.randrange(n.CHUNK_HEADER, len(base)) :][:60]
            else:
                del base[at + 1 :]
        image, number = chunk_info(chunks[0])[0], before["next"]
        try:
            done = receiver.target.install(reseal(bytes(base), image=image, number=number))
            outcomes[True] += 1
        except (WireError, ImageError, StorageFull):
            assert receiver.target.progress() == before
            outcomes[False] += 1
        else:
            if done:
                break
    assert outcomes[False] > 0
    receiver.pool.close()
    assert world.engine.mark[0] > 0


def test_the_snapshot_of_a_volatile_machine(directory: Path) -> None:
    """The same chunks in a file, restored into a new pool in DRAM at each start."""
    world, chunks = world_and_chunks(directory, low=1500)
    (directory / "snapshot").write_bytes(b"".join(chunks))
    for start in range(3):
        pool = image_world.make(directory / f"scratch-{start}", installing=True)
        target = ImageTarget(pool)
        with open(directory / "snapshot", "rb") as file:
            while header := file.read(n.CHUNK_HEADER):
                rest = file.read(chunk_length(header) - len(header))
                target.install(header + rest)
        assert target.complete
        assert Engine(pool).mark[0] == chunk_info(chunks[-1])[2]
        pool.close()
    assert world.pool.applied_upto >= chunk_info(chunks[-1])[2]

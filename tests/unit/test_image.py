"""Images of the whole state: taken under load, installed elsewhere, equal in all that matters."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpaxos import _native as n
from mpaxos._native import Batch, Engine, ImageSource, ImageTarget
from mpaxos.errors import (
    ImageError,
    InvariantViolated,
    StorageFull,
    StorageIncomplete,
)
from mpaxos.machine.host import MachineHost
from mpaxos.services import kv
from tests.unit import image_world, pools
from tests.unit.image_world import Receiver, World
from tests.unit.test_engine import command, open_entry


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


def put_all(engine: Engine, session: int, first: int, items: dict[str, bytes]) -> None:
    """One slot that puts items; `first` is the sequence of its first command."""
    entries = [
        command(session, first + i, kv.put_request(key, value), lowest=first)
        for i, (key, value) in enumerate(items.items())
    ]
    slot = engine.mark[0] + 1
    engine.apply_kv(slot, 0, Batch.build(0, 1, slot, entries))


def opened(engine: Engine, window: int = 512) -> int:
    slot = engine.mark[0] + 1
    (reply,) = engine.apply_kv(slot, 5, Batch.build(0, 1, slot, [open_entry(77, window)])).entries()
    return int.from_bytes(reply[3], "little")


def drained(source: ImageSource, size: int = 1 << 18) -> list[bytes]:
    chunks = []
    while (chunk := source.next(size)) is not None:
        chunks.append(chunk)
    return chunks


# ---------------------------------------------------------------- equal in all that matters


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 32),
    kind=st.sampled_from(["native", "python"]),
    before=st.integers(0, 150),
    slots=st.integers(0, 6),
)
def test_an_image_taken_under_load_is_the_state_at_its_slot(
    seed: int, kind: str, before: int, slots: int
) -> None:
    rng = random.Random(seed)
    with pools.scratch() as directory:
        world = World(directory / "a", seed, kind)
        world.run(before)
        chunks = world.take_all(rng, slots=slots)
        receiver = Receiver(directory / "b")
        for number, chunk in enumerate(chunks):
            if rng.random() < 0.05:
                receiver.crash()
            assert receiver.target.progress()["next"] == number
            done = receiver.target.install(chunk)
        assert done
        assert receiver.pool.applied_upto == receiver.pool.truncated_upto
        assert n.chunk_info(chunks[-1])[2:] == (receiver.pool.applied_upto, True)
        if rng.random() < 0.5:
            receiver.reopen()
        world.same_again(receiver.pool)


def test_state_and_digest_at_the_cut_itself(directory: Path) -> None:
    world = World(directory / "a", 5)
    world.run(200)
    source = ImageSource(world.engine)
    chunks = []
    while not source.cut:
        world.run()
        chunk = source.next(400)
        assert chunk is not None
        chunks.append(chunk)
    at_cut = (world.engine.mark, world.engine.state_digest(), world.pool.info())
    world.run(20)  # no longer in the image
    chunks += drained(source)
    pool = Receiver(directory / "b").install(chunks)
    engine = Engine(pool)
    info = pool.info() | {"log_used": at_cut[2]["log_used"]}
    assert (engine.mark, engine.state_digest(), info) == at_cut


def test_a_machine_in_python_goes_on_from_an_image(directory: Path) -> None:
    world = World(directory / "a", 11)
    host = MachineHost(world.engine, kv.KeyValue, image_world.LIMIT)
    source, chunks = None, list[bytes]()
    for slot in range(1, 250):
        batch, windows = world.traffic.batch(slot)
        world.batches.append(batch)
        world.traffic.opened(host.apply(slot, 1000 + slot, batch).entries(), windows)
        if slot > 100:
            source = source or ImageSource(world.engine)
            chunk = source.next(1500)
            if chunk is not None:
                chunks.append(chunk)
    assert source is not None and source.cut and len(chunks) > 10
    pool = Receiver(directory / "b").install(chunks)
    world.same_again(pool)  # by the native machine: the same one


def test_a_duplicate_is_answered_by_the_stored_reply(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    long = b"old" * 1000
    put_all(engine, session, 1, {"k": long})
    again = command(session, 2, b"P" + struct.pack(">I", 1) + b"k" + b"new")
    (first,) = engine.apply_kv(3, 0, Batch.build(0, 1, 3, [again])).entries()
    pool = Receiver(directory / "b").install(drained(ImageSource(engine), 256))
    (second,) = Engine(pool).apply_kv(4, 0, Batch.build(0, 1, 4, [again])).entries()
    assert second == first and first[3] == long


def test_an_empty_state_has_an_image_of_one_chunk(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    (chunk,) = drained(ImageSource(engine))
    pool = Receiver(directory / "b").install([chunk])
    assert Engine(pool).mark == engine.mark == (0, 0)


def test_long_values_keys_and_replies_pass_through_small_chunks(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    put_all(engine, session, 1, {"k" * 65536: b"v" * 70000, "m" * 65536: b"", "z": b"z" * 300000})
    swapped = command(session, 4, b"P" + struct.pack(">I", 1) + b"z" + b"short", lowest=1)
    engine.apply_kv(3, 0, Batch.build(0, 1, 3, [swapped]))  # its reply is the old value
    source = ImageSource(engine)
    chunks, sequence = [], 5
    while (chunk := source.next(256)) is not None:
        chunks.append(chunk)
        if len(chunks) in (10, 50, 300):  # the value is being sent in parts
            put_all(engine, session, sequence, {"k" * 65536: bytes([sequence]) * 70000, "a": b""})
            sequence += 2
    assert max(map(len, chunks)) < 65536 + 400
    final = engine.state_digest()
    assert sequence > 5
    pool = Receiver(directory / "b").install(chunks)
    assert Engine(pool).state_digest() == final


def test_two_images_at_once_and_no_third(directory: Path) -> None:
    world = World(directory / "a", 3)
    world.run(60)
    one, two = ImageSource(world.engine), ImageSource(world.engine)
    with pytest.raises(ImageError, match="2 images being taken"):
        ImageSource(world.engine)
    taken: dict[ImageSource, list[bytes]] = {one: [], two: []}
    rng = random.Random(1)
    for _ in range(30):
        for source, size in ((one, 256), (two, 900)):
            chunk = source.next(size)
            if chunk is not None:
                taken[source].append(chunk)
            world.run(rng.randrange(0, 3))
    for source, chunks in taken.items():
        chunks += drained(source, 500)
    ImageSource(world.engine).close()  # both are complete: there is room again
    assert one.image != two.image
    for name, chunks in zip("bc", taken.values(), strict=True):
        pool = Receiver(directory / name).install(chunks)
        world.same_again(pool)


def test_an_image_given_up_is_taken_anew(directory: Path) -> None:
    world = World(directory / "a", 8)
    world.run(50)
    source = ImageSource(world.engine)
    first = [source.next(256) for _ in range(5)]
    source.close()
    with pytest.raises(ImageError, match="closed"):
        source.next(256)
    world.run(20)
    again = world.take_all(random.Random(2))
    receiver = Receiver(directory / "b")
    assert first[0] is not None
    receiver.target.install(first[0])
    with pytest.raises(ImageError, match="another image"):
        receiver.target.install(again[1])
    pool = Receiver(directory / "c").install(again)
    world.same_again(pool)


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("max_dirty", [128 << 20, 30_000])
def test_a_sustained_load_does_not_keep_an_image_from_ending(
    directory: Path, max_dirty: int
) -> None:
    """Each call is followed by changes of much more than a chunk's worth, all of them to items
    that were sent; with little memory for them, they are sent before the cursor has arrived."""
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    for start in range(0, 2000, 200):
        items = {f"k{i:05}": b"x" * 60 for i in range(start, start + 200)}
        put_all(engine, session, 1 + start, items)
    source = ImageSource(engine, max_dirty=max_dirty)
    chunks, sequence, at_cut = [], 10_000, 0
    while (chunk := source.next(4096)) is not None:
        chunks.append(chunk)
        assert len(chunks) < 800
        if source.cut and at_cut == 0:
            at_cut = engine.state_digest()
        items = {f"k{i:05}": bytes([len(chunks) % 256]) * 60 for i in range(120)}
        put_all(engine, session, sequence, items)
        sequence += 120
    assert Engine(Receiver(directory / "b").install(chunks)).state_digest() == at_cut


def test_what_changes_after_the_cut_is_not_in_the_image(directory: Path) -> None:
    """Items that are still to be sent at the cut are changed, removed and made before they are."""
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    everything = {f"k{i:03}": b"x" * 60 for i in range(200)}
    put_all(engine, session, 1, everything)
    source = ImageSource(engine)
    chunks, sequence, after = [], 1000, 0
    while not source.cut:  # all items change between two calls: no pass can win
        chunk = source.next(2048)
        assert chunk is not None
        chunks.append(chunk)
        if not source.cut:
            put_all(engine, session, sequence, dict.fromkeys(everything, b"y%d" % sequence))
            sequence += 200
    at_cut = engine.state_digest()
    while (chunk := source.next(2048)) is not None:
        chunks.append(chunk)
        after += 1
        slot = engine.mark[0] + 1
        deletes = [
            command(session, sequence + i, kv.delete_request(key), lowest=sequence)
            for i, key in enumerate(sorted(everything)[::3])
        ]
        engine.apply_kv(slot, 0, n.Batch.build(0, 1, slot, deletes))
        put_all(engine, session, sequence + 100, dict.fromkeys(everything, b"late"))
        put_all(engine, session, sequence + 400, {f"new{sequence}": b""})
        sequence += 500
    assert after > 5
    assert Engine(Receiver(directory / "b").install(chunks)).state_digest() == at_cut


def test_hot_items_count_once(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    put_all(engine, session, 1, {f"k{i:03}": b"x" * 60 for i in range(300)})
    source = ImageSource(engine)
    source.next(8192)
    for round_ in range(50):
        put_all(engine, session, 1000 + 3 * round_, dict.fromkeys(("k000", "k001", "k002"), b"y"))
    assert source.progress()["dirty"] == 3


def test_an_image_asked_for_too_seldom_is_given_up(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    put_all(engine, session, 1, {f"k{i:03}": b"x" * 60 for i in range(300)})
    source = ImageSource(engine, max_dirty=2000)
    source.next(16384)
    put_all(engine, session, 1000, {f"k{i:03}": b"y" for i in range(100)})
    with pytest.raises(ImageError, match=r"given up.*2000 bytes.*too seldom"):
        source.next()
    put_all(engine, session, 2000, {"a": b"the engine goes on"})
    drained(ImageSource(engine))


@pytest.mark.parametrize("size", [0, 255, (4 << 20) + 1])
def test_chunks_have_limits(directory: Path, size: int) -> None:
    engine = Engine(image_world.make(directory / "a"))
    with pytest.raises(ImageError, match="from 256 to 4194304"):
        ImageSource(engine).next(size)


def test_not_within_a_slot(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    source = ImageSource(engine)
    engine.begin(1, 0, Batch.noop())
    with pytest.raises(InvariantViolated, match="not finished"):
        source.next()
    with pytest.raises(InvariantViolated, match="not finished"):
        ImageSource(engine)
    engine.finish([], [])
    assert source.next() is not None


# ---------------------------------------------------------------- pools that are being installed


def test_a_half_installed_pool_is_not_a_replica(directory: Path) -> None:
    world = World(directory / "a", 4)
    world.run(80)
    chunks = world.take_all(random.Random(4))
    receiver = Receiver(directory / "b")
    for stop in (0, 1, len(chunks) - 1):
        for chunk in chunks[receiver.target.progress()["next"] : stop]:
            receiver.target.install(chunk)
        assert receiver.pool.installing
        with pytest.raises(StorageIncomplete, match="Go on with the transfer, or remove"):
            Engine(receiver.pool)
        with pytest.raises(InvariantViolated, match="being installed"):
            receiver.pool.write((1, 1), [], 0)
        receiver.pool.close()
        with pytest.raises(StorageIncomplete, match="Go on with the transfer, or remove"):
            pools.reopen(receiver.path, size=image_world.SIZE)
        receiver.pool = pools.reopen(receiver.path, size=image_world.SIZE, installing=True)
        receiver.target = ImageTarget(receiver.pool)
    receiver.target.install(chunks[-1])
    receiver.pool.close()
    with pytest.raises(InvariantViolated, match="closed"):
        receiver.target.progress()
    world.same_again(pools.reopen(receiver.path, size=image_world.SIZE))


def test_only_a_pool_made_for_it_takes_an_image(directory: Path) -> None:
    pool = image_world.make(directory / "a")
    with pytest.raises(ImageError, match="not created to install"):
        ImageTarget(pool)
    (chunk,) = drained(ImageSource(Engine(pool)))
    receiver = Receiver(directory / "b")
    receiver.install([chunk])
    with pytest.raises(ImageError, match="complete already"):
        receiver.target.install(chunk)
    with pytest.raises(ImageError, match="has a complete one"):
        ImageTarget(receiver.pool)


def test_the_log_begins_after_the_image_and_the_promise_is_set(directory: Path) -> None:
    world = World(directory / "a", 6)
    world.run(40)
    chunks = drained(ImageSource(world.engine), 500)
    receiver = Receiver(directory / "b")
    for chunk in chunks:
        receiver.target.install(chunk, (7, 2))  # counts with the final one only
    pool = receiver.pool
    assert pool.promised == (7, 2) and pool.truncated_upto == 40 and pool.slots() == []
    with pytest.raises(InvariantViolated, match="given up"):
        pool.write(None, [(40, 8, 1, 0, Batch.noop())], 0)
    pool.write((8, 1), [(41, 8, 1, 0, Batch.noop())], 0)
    receiver.reopen()
    assert receiver.pool.promised == (8, 1) and receiver.pool.slots() == [(41, 8, 1)]


def test_the_promise_is_not_set_before_the_end(directory: Path) -> None:
    world = World(directory / "a", 6)
    world.run(40)
    chunks = drained(ImageSource(world.engine), 500)
    receiver = Receiver(directory / "b")
    for chunk in chunks[:-1]:
        receiver.target.install(chunk, (7, 2))
    receiver.reopen()
    assert receiver.pool.promised == (0, 0)
    receiver.target.install(chunks[-1])
    assert receiver.pool.promised == (0, 0)


def test_other_limits_are_refused(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a"))
    (chunk,) = drained(ImageSource(engine))
    target = ImageTarget(image_world.make(directory / "b", installing=True, state_limit=12345))
    with pytest.raises(ImageError, match="other limits"):
        target.install(chunk)


def test_a_pool_too_small_is_full_and_nothing_else(directory: Path) -> None:
    engine = Engine(image_world.make(directory / "a", size=32 << 20, state_limit=20 << 20))
    session = opened(engine)
    for i in range(10):
        put_all(engine, session, 1 + i, {f"k{i}": bytes(1 << 20)})
    target = ImageTarget(
        image_world.make(directory / "b", installing=True, size=10 << 20, state_limit=20 << 20)
    )
    chunks = drained(ImageSource(engine))
    with pytest.raises(StorageFull, match="no room"):
        for chunk in chunks:
            before = target.progress()
            target.install(chunk)
    assert target.progress() == before


@pytest.mark.parametrize("when", range(0, 60, 2))
def test_a_session_that_takes_the_place_of_one_half_sent(directory: Path, when: int) -> None:
    """Wherever the image is: the new session is there before its replies."""
    engine = Engine(image_world.make(directory / "a"))
    session = opened(engine)
    items = {f"k{i:03}": b"x" for i in range(40)}
    put_all(engine, session, 1, items)
    source = ImageSource(engine)
    chunks, at_cut, sequence = [], 0, 100
    while (chunk := source.next(512)) is not None:
        chunks.append(chunk)
        if source.cut and at_cut == 0:
            at_cut = engine.state_digest()
        if len(chunks) == when:
            slot = engine.mark[0] + 1
            close = (session, 1, 0, n.ENTRY_CLOSE, b"")
            batch = Batch.build(0, 1, slot, [close, open_entry(78, 256)])
            session = int.from_bytes(engine.apply_kv(slot, 5, batch).entries()[1][3], "little")
        put_all(engine, session, sequence, items)
        sequence += 40
    assert Engine(Receiver(directory / "b").install(chunks)).state_digest() == at_cut

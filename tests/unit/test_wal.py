"""The write-ahead log: round trips, room, who may open it, torn tails and damage."""

from __future__ import annotations

import os
import random
import resource
import select
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpaxos._native import Batch, Wal, crc32c
from mpaxos.errors import (
    ConfigError,
    InvariantViolated,
    StorageCorrupt,
    StorageError,
    StorageForeign,
    StorageFull,
    StorageMissing,
    StorageVersion,
)
from tests.unit import logs, pools
from tests.unit.logs import BLOCK, SEGMENT, Image, State, batch, promise, record, truncate

HEADER = 112
"""Bytes of a segment's header; its checksum is the last four."""


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory / "wal"


@contextmanager
def small_files_only() -> Iterator[None]:
    """No file of this process may grow beyond half a segment: a test of a full device must not
    fill one, whatever else is wrong."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT // 2, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_written_is_there_after_a_crash(path: Path) -> None:
    logs.make(path)
    wal = logs.reopen(path)
    wal.write([promise(3), record(1, 3, batch(100, 1))])
    wal.write([record(2, 3, batch(100, 2)), promise(4), record(2, 4, batch(3000, 3))])
    wal.write([record(3, 4, batch(0, 4)), truncate(1)])
    expected = logs.state_of(wal)
    assert expected[:2] == ((4, 1), 1) and [slot for slot, _ in expected[2]] == [2, 3]
    del wal
    again = logs.reopen(path)
    assert logs.state_of(again) == expected
    assert again.read(1) is None and again.read(4) is None
    assert again.info()["generation"] == 2 and again.info()["torn"] == 0
    again.close()
    with pytest.raises(InvariantViolated):
        again.write([promise(9)])
    assert logs.state_of(logs.reopen(path)) == expected


def test_a_long_life_against_a_model(path: Path) -> None:
    """Many laps, with restarts; the cache is smaller than what is read back."""
    logs.make(path, segments=4)
    rng = random.Random(5)
    wal = logs.reopen(path)
    state = logs.EMPTY
    for step in range(1500):
        items = logs.random_turn(rng, state, wal.log_room)
        wal.write(items)
        for item in items:
            state = logs.after(state, item)
        if step % 100 == 0:
            if rng.random() < 0.5:
                wal.close()
            del wal
            wal = logs.reopen(path)
            assert logs.state_of(wal) == state and wal.info()["torn"] == 0
    assert logs.state_of(wal) == state
    assert wal.info()["segment"] > 40


def test_submitted_writes_become_durable_in_order(path: Path) -> None:
    logs.make(path, segments=16)
    wal = logs.reopen(path, cache_size=0)
    tickets = [wal.submit([promise(1)])]
    seen = wal.durable_upto()
    for slot in range(1, 100):
        tickets.append(wal.submit([record(slot, 1, batch(slot * 10, slot))]))
        assert wal.durable_upto() >= seen
        seen = wal.durable_upto()
        found = wal.read(slot)  # also before it is durable
        assert found is not None and found[3].digest == batch(slot * 10, slot).digest
    assert tickets == sorted(set(tickets))
    wal.wait(tickets[-1])
    assert wal.durable_upto() == tickets[-1]
    readable, _, _ = select.select([wal.fileno()], [], [], 10)
    assert readable and struct.unpack("<Q", os.read(wal.fileno(), 8))[0] >= 1
    assert wal.submit([]) == tickets[-1]
    wal.close()
    assert [slot for slot, _, _ in logs.reopen(path).slots()] == list(range(1, 100))


def test_group_commit_is_one_write_and_one_sync(path: Path) -> None:
    logs.make(path)
    wal = logs.reopen(path, traced=True)
    wal.calls()
    wal.write([promise(1), *(record(slot, 1, batch(500, slot)) for slot in range(1, 9))])
    (write, file, offset, data), (sync, synced, _, _) = wal.calls()
    assert (write, sync) == ("w", "s") and file == synced
    assert offset % BLOCK == 0 and len(data) % BLOCK == 0
    wal.write([])
    assert wal.calls() == []


# ------------------------------------------------------------------ room


def test_room_is_kept_and_a_full_log_recovers(path: Path) -> None:
    """As long as `log_room` says so, records of up to the largest size are taken, and promises
    with them; beyond it StorageFull, with nothing written; a truncation always makes room."""
    logs.make(path, segments=5)
    wal = logs.reopen(path, traced=True)
    rng = random.Random(11)
    last = truncated = refused = round_ = 0
    sizes = (1, 705, 1985, 3905)  # with the headers just above a multiple of 64: nothing to spare
    for step in range(400):
        state = logs.state_of(wal)
        wal.calls()
        room = wal.log_room
        values: list[Batch] = []
        fill = rng.random() < 0.3  # all that there is room for, in one turn
        while len(values) < 3 or fill:
            value = batch(rng.choice(sizes), rng.getrandbits(30))
            if fill and room < value.length + 128:
                break
            room -= value.length + 128
            values.append(value)
        if fill and 192 <= room < 4096:
            values.append(batch(room - 192, step))
        promises = [promise(round_ + n) for n in (1, 2, 3, 4)]
        records = [record(last + 1 + n, round_ + 4, value) for n, value in enumerate(values)]
        try:
            wal.write([*promises, *records])
            last, round_ = last + len(values), round_ + 4
        except StorageFull:
            assert room < 0, step
            assert logs.state_of(wal) == state and wal.calls() == []
            refused += 1
            truncated = rng.randint(truncated + 1, last)
            wal.write([truncate(truncated)])
        assert wal.truncated_upto == truncated
        assert 0 <= wal.log_room <= wal.log_size
    assert refused > 20 and wal.info()["segment"] > 9


def test_the_reserve_is_for_promises_starts_and_truncations(path: Path) -> None:
    logs.make(path)
    wal = logs.reopen(path)
    wal.write([promise(1)])
    slot = 0
    with pytest.raises(StorageFull, match="no room for what this turn writes"):
        while True:
            wal.write([record(slot + 1, 1, batch(3900, slot))])
            slot += 1
    state = logs.state_of(wal)
    for round_ in range(2, 12):
        wal.write([promise(round_)])
    for _ in range(3):
        del wal
        wal = logs.reopen(path)
        assert logs.state_of(wal)[2] == state[2]
    with pytest.raises(StorageFull):
        for round_ in range(12, 99):
            wal.write([promise(round_)])
    wal.write([truncate(1)])  # frees no segment: noted only
    assert wal.truncated_upto == 1
    wal.write([truncate(slot)])
    wal.write([promise(99), record(slot + 1, 99, batch(3900))])
    expected = logs.state_of(wal)
    assert expected[1] == slot
    del wal
    assert logs.state_of(logs.reopen(path)) == expected


def test_a_record_above_the_largest_is_refused(path: Path) -> None:
    logs.make(path)
    wal = logs.reopen(path)
    wal.write([promise(1)])
    with pytest.raises(StorageFull, match="a sixteenth of a segment"):
        wal.write([record(1, 1, batch(4096))])
    wal.write([record(1, 1, batch(3900))])


FORBIDDEN: dict[str, list[tuple[int, ...]]] = {
    # (round,) is a promise, (slot, round) a record
    "lower promise": [(4,)],
    "same promise": [(5,)],
    "record below the promise": [(9, 4)],
    "slot given up": [(2, 5)],
    "record below this turn's promise": [(6,), (9, 5)],
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_must_never_be_written(path: Path, case: str) -> None:
    items = [
        promise(write[0]) if len(write) == 1 else record(write[0], write[1], batch(1))
        for write in FORBIDDEN[case]
    ]
    logs.make(path)
    wal = logs.reopen(path)
    wal.write([promise(5), *(record(slot, 5, batch(1)) for slot in (1, 2, 3)), truncate(2)])
    expected = logs.state_of(wal)
    with pytest.raises(InvariantViolated):
        wal.write(items)
    with pytest.raises(StorageError):
        wal.write([promise(7)])  # the index is not what the log says any more
    del wal
    assert logs.state_of(logs.reopen(path)) == expected


# ------------------------------------------------------------------ who may open it


def test_creation_refuses(path: Path) -> None:
    for segments, size in ((2, SEGMENT), (3, SEGMENT + 1), (3, SEGMENT // 2), (3, 2 << 30)):
        with small_files_only(), pytest.raises(ConfigError):
            logs.make(path, segments=segments, segment_size=size)
    assert not path.exists()
    logs.make(path)
    with pytest.raises(StorageForeign, match="exists already"):
        logs.make(path)
    assert not path.with_name("wal.new").exists()


def test_creation_begins_anew_after_a_crash(path: Path) -> None:
    temporary = path.with_name("wal.new")
    temporary.mkdir()
    (temporary / "segment-00000").write_bytes(b"half")
    logs.make(path)
    assert not temporary.exists()
    assert logs.state_of(logs.reopen(path)) == logs.EMPTY


def test_no_room_at_creation(path: Path) -> None:
    free = os.statvfs(path.parent)
    for segments, reason in ((3, "File too large"), (65536, "No space left on device")):
        size = SEGMENT if segments == 3 else 1 << 30
        assert segments == 3 or free.f_bavail * free.f_frsize < segments * size
        with (
            small_files_only(),
            pytest.raises(StorageFull, match=f"{reason}. Make room, or choose a smaller log"),
        ):
            logs.make(path, segments=segments, segment_size=size)
        assert list(path.parent.iterdir()) == []


def test_foreign_missing_newer_and_cut_logs_are_refused(path: Path) -> None:
    with pytest.raises(StorageMissing, match="is missing"):
        logs.reopen(path)
    path.write_bytes(b"a file")
    with pytest.raises(StorageForeign, match="not a directory"):
        logs.reopen(path)
    path.unlink()
    logs.make(path)
    with pytest.raises(StorageForeign, match="replica 1, not to 2"):
        logs.reopen(path, replica=2)
    with pytest.raises(StorageForeign, match="another cluster"):
        Wal(str(path), cluster=b"another cluster!", replica=1)
    other = path.with_name("other")
    logs.make(other)
    for number in range(3):
        file = path / f"segment-{number:05}"
        kept = file.read_bytes()
        for data, error in (
            (kept[:-BLOCK], StorageCorrupt),
            (kept[:50], StorageCorrupt),
            (b"", StorageCorrupt),
            (kept + bytes(BLOCK), StorageCorrupt),
            (bytes(len(kept)), StorageForeign),
            (kept[:8] + b"\2" + kept[9:], StorageVersion),
            ((other / file.name).read_bytes(), StorageForeign),
        ):
            file.write_bytes(data)
            with pytest.raises(error):
                logs.reopen(path)
        file.unlink()
        with pytest.raises(StorageMissing, match=r"segment-0000\d is missing"):
            logs.reopen(path)
        file.write_bytes(kept)
    assert logs.state_of(logs.reopen(path)) == logs.EMPTY


def test_a_file_from_an_older_copy_is_refused(path: Path) -> None:
    """A segment as it was a lap ago is not the log."""
    logs.make(path)
    wal = logs.reopen(path)
    wal.write([promise(1)])
    copies: list[Image] = []
    slot = 0
    while len(copies) < 5:
        slot += 1
        wal.write([record(slot, 1, batch(3900, slot)), truncate(max(slot - 2, 0))])
        if wal.info()["segment"] > len(copies) + 1:
            copies.append(logs.load(path))
    del wal
    newest = copies[-1]
    for number in range(3):
        old = dict(newest)
        old[number] = copies[0][number]
        if old[number] == newest[number]:
            continue
        logs.store(old, path)
        with pytest.raises(StorageCorrupt):
            logs.reopen(path)
    logs.store(newest, path)
    logs.reopen(path)


# ------------------------------------------------------------------ torn tails and damage


def small_log(path: Path, *, orderly: bool = False) -> tuple[list[State], int, int]:
    """Five groups of several kinds: the states after each, and where the last begins and ends."""
    logs.make(path)
    wal = logs.reopen(path, traced=True)
    states = [logs.state_of(wal)]
    for items in (
        [promise(1), record(1, 1, batch(100, 1))],
        [record(2, 1, batch(60, 2)), record(3, 1, batch(1000, 3))],
        [promise(2), record(3, 2, batch(30, 4)), truncate(1)],
        [record(4, 2, batch(200, 5)), promise(3), record(5, 3, batch(64, 6))],
    ):
        wal.calls()
        for item in items:
            states.append(logs.after(states[-1], item))
        wal.write(items)
    (_, file, offset, data), _ = wal.calls()
    assert file == 0 and logs.state_of(wal) == states[-1]
    if orderly:
        wal.close()
    return states, offset, offset + len(data.rstrip(b"\0"))


@pytest.mark.parametrize("rest", ["zeros", "noise", "older lap"])
def test_a_last_write_cut_at_every_byte(path: Path, rest: str) -> None:
    """What did not get to the disk of the last group is dropped, record by record."""
    states, start, end = small_log(path)
    image = logs.load(path)
    behind = {
        "zeros": bytes(end - start),
        "noise": random.Random(1).randbytes(end - start),
        "older lap": bytes(image[0][BLOCK + BLOCK : BLOCK + BLOCK + end - start]),
    }[rest]
    found = set()
    for cut in range(start, end):
        torn = {**image, 0: image[0][:cut] + behind[: end - cut] + image[0][end:]}
        logs.store(torn, path)
        state = logs.state_of(logs.reopen(path))
        assert state in states[-4:], cut
        found.add(states.index(state))
    assert found >= {len(states) - 4, len(states) - 3, len(states) - 2}


def test_a_flipped_bit_anywhere(path: Path) -> None:
    """Damage is refused, unless it is in the last group: that looks like a write that was cut
    short, and from there on everything is dropped."""
    states, start, end = small_log(path)
    image = logs.load(path)
    refused = dropped = 0
    rng = random.Random(2)
    for file, data in image.items():
        used = {at for at in range(len(data)) if data[at]} | set(range(HEADER))
        for at in sorted(used | {rng.randrange(len(data)) for _ in range(300)}):
            damaged = bytearray(data)
            damaged[at] ^= 1 << rng.randrange(8)
            (path / f"segment-{file:05}").write_bytes(damaged)
            try:
                state = logs.state_of(logs.reopen(path))
            except StorageError as error:
                assert f"segment-{file:05}" in str(error)
                refused += 1
                assert not (file == 0 and start <= at < end), f"the tail at byte {at}"
                continue
            if state != states[-1]:
                assert file == 0 and start <= at < end, f"file {file} byte {at}"
                assert state in states[-4:]
                dropped += 1
        logs.store(image, path)
    assert refused > 1500 and dropped > 300


@pytest.mark.parametrize("orderly", [True, False])
def test_the_last_group_is_protected_after_an_orderly_end_or_a_start(
    path: Path, orderly: bool
) -> None:
    states, start, end = small_log(path, orderly=orderly)
    if not orderly:
        logs.reopen(path)
    image = logs.load(path)
    assert logs.state_of(logs.reopen(path)) == states[-1]
    for at in (at for at in range(start, end) if image[0][at]):
        damaged = bytearray(image[0])
        damaged[at] ^= 0x10
        (path / "segment-00000").write_bytes(damaged)
        with pytest.raises(StorageCorrupt, match=r"segment-00000 at byte \d+ is damaged.*restore"):
            logs.reopen(path)


def test_a_lost_write_in_the_middle_is_refused(path: Path) -> None:
    """Also when all that lies there is what an earlier lap left."""
    logs.make(path)
    wal = logs.reopen(path, traced=True)
    wal.write([promise(1)])
    slot = 0
    before = logs.load(path)
    while wal.info()["segment"] < 5 or wal.info()["log_used"] < 9 * BLOCK:
        if wal.info()["segment"] == 4:
            before = logs.load(path)
        wal.calls()
        slot += 1
        wal.write([record(slot, 1, batch(900, slot)), truncate(max(slot - 3, 0))])
    calls = wal.calls()
    del wal
    image = logs.load(path)
    file, last = calls[-2][1], calls[-2][2]
    for offset in range(BLOCK, last, BLOCK):
        lost = {number: bytearray(data) for number, data in image.items()}
        lost[file][offset : offset + BLOCK] = before[file][offset : offset + BLOCK]
        logs.store(lost, path)
        with pytest.raises(StorageCorrupt):
            logs.reopen(path)


def test_damage_found_while_serving(path: Path) -> None:
    logs.make(path)
    wal = logs.reopen(path, cache_size=0)
    wal.write([promise(1), record(1, 1, batch(100, 1))])
    file = path / "segment-00000"
    data = file.read_bytes()
    at = data.index(batch(100, 1).data())
    for place in (at + 50, *range(at - 64, at)):
        with open(file, "r+b") as raw:
            raw.seek(place)
            raw.write(bytes([data[place] ^ 1]))
        with pytest.raises(StorageCorrupt, match="segment-00000 at byte"):
            wal.read(1)
        file.write_bytes(data)
    assert wal.read(1) is not None


def test_a_client_cannot_forge_a_record(path: Path) -> None:
    """A request that holds a well-formed record, with whatever checksum its sender can know, never
    makes a torn tail look like damage."""
    logs.make(path)
    wal = logs.reopen(path)
    wal.write([promise(1), record(1, 1, batch(10, 1))])
    forged = struct.pack("<HBBIQQQQQII", 0x5270, 4, 1, 0, 1000, 0, 0, 0, 0, 99, 1) + bytes(4)
    forged = forged + struct.pack("<I", crc32c(forged))
    assert len(forged) == 64
    value = Batch.build(0, 1, 1, [(1, 1, 0, 0, forged * 20)])
    wal.write([record(2, 1, value)])
    del wal
    for keep in (path, path.with_name("copy")):
        if keep != path:
            shutil.copytree(path, keep)
            file = keep / "segment-00000"
            data = bytearray(file.read_bytes())
            at = data.index(value.data())
            data[at] ^= 1
            file.write_bytes(data)
    assert [slot for slot, _, _ in logs.reopen(path).slots()] == [1, 2]
    assert [slot for slot, _, _ in logs.reopen(path.with_name("copy")).slots()] == [1]

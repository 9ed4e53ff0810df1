"""Write-ahead logs for tests: small ones, what they should hold, and what a power cut leaves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpaxos._native import WAL_PROMISE, WAL_RECORD, WAL_TRUNCATE, Batch, Wal

CLUSTER = b"test cluster 016"
SEGMENT = 64 << 10
BLOCK = 4096
SECTOR = 512

Item = tuple[int, int, int, int, int, Batch | None]
"""As Wal.write takes them: kind, slot, round, leader, time, batch."""

Call = tuple[str, int, int, bytes]
"""As Wal.calls returns them: "w" or "s", file, offset, bytes."""

Image = dict[int, bytearray]
"""Contents of each file."""


def make(path: Path, *, segments: int = 3, segment_size: int = SEGMENT, replica: int = 1) -> None:
    Wal.create(
        str(path), cluster=CLUSTER, replica=replica, segments=segments, segment_size=segment_size
    )


def reopen(path: Path, *, replica: int = 1, cache_size: int = 1 << 14, traced: bool = False) -> Wal:
    return Wal(str(path), cluster=CLUSTER, replica=replica, cache_size=cache_size, traced=traced)


@contextmanager
def opened(path: Path) -> Iterator[Wal]:
    """Open it and leave it as a crash would."""
    yield reopen(path)


def batch(size: int, number: int = 1) -> Batch:
    data = random.Random(number).randbytes(size)
    return Batch.build(0, 1, number, [(1, number, 0, 0, data)])


def promise(round_: int) -> Item:
    return (WAL_PROMISE, 0, round_, 1, 0, None)


def record(slot: int, round_: int, value: Batch) -> Item:
    return (WAL_RECORD, slot, round_, 1, 7 * slot + round_, value)


def truncate(upto: int) -> Item:
    return (WAL_TRUNCATE, upto, 0, 0, 0, None)


Held = tuple[int, int, int, int]
"""Of a slot: round, leader, time, digest."""

State = tuple[tuple[int, int], int, tuple[tuple[int, Held], ...]]
"""Promise, truncation point, slots."""

EMPTY: State = ((0, 0), 0, ())


def after(state: State, item: Item) -> State:
    """The state one write later."""
    promised, truncated, slots = state
    kind, slot, round_, leader, time, value = item
    if kind == WAL_PROMISE:
        return (round_, leader), truncated, slots
    if kind == WAL_TRUNCATE:
        upto = max(slot, truncated)
        return promised, upto, tuple(held for held in slots if held[0] > upto)
    assert value is not None
    held = dict(slots)
    held[slot] = (round_, leader, time, value.digest)
    return promised, truncated, tuple(sorted(held.items()))


def state_of(wal: Wal) -> State:
    """All that a log holds, read back."""
    slots: list[tuple[int, Held]] = []
    for slot, round_, leader in wal.slots():
        found = wal.read(slot)
        assert found is not None and found[:2] == (round_, leader)
        slots.append((slot, (*found[:3], found[3].digest)))
    return wal.promised, wal.truncated_upto, tuple(slots)


def random_turn(rng: random.Random, state: State, room: int) -> list[Item]:
    """What one turn may write after `state`: a promise, slots new and again, a truncation."""
    (round_, _), truncated, slots = state
    held = dict(slots)
    last = max(held, default=truncated)
    items: list[Item] = []
    if round_ == 0 or rng.random() < 0.1:
        round_ += 1
        items.append(promise(round_))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        value = batch(rng.choice((0, 10, 64, 500, 2000, 3900)), rng.getrandbits(32))
        room -= value.length + 128
        if room < 0:
            break
        if held and rng.random() < 0.15:
            slot = rng.choice(sorted(held))
        else:
            last += 1
            slot = last
        items.append(record(slot, round_, value))
        held[slot] = (0, 0, 0, 0)
    pressure = room < SEGMENT // 2
    if last > truncated and (pressure or rng.random() < 0.1):
        low = truncated + (last - truncated + 1) // 2 if pressure else truncated + 1
        items.append(truncate(rng.randint(min(low, last), last)))
    return items or [promise(round_ + 1)]


# ------------------------------------------------------------------ the device


def load(path: Path) -> Image:
    return {number: bytearray(file.read_bytes()) for number, file in enumerate(files(path))}


def store(image: Image, path: Path) -> None:
    """Put an image into the files of an existing log."""
    for file, data in zip(files(path), image.values(), strict=True):
        file.write_bytes(data)


def files(path: Path) -> list[Path]:
    return sorted(path.glob("segment-*"))


def power_cut(base: Image, calls: list[Call], rng: random.Random, sector: int = SECTOR) -> Image:
    """What a device may hold that held `base` and was told `calls` before the power went: all
    that was synced; of each sector of what was not, any of the versions written since."""
    image = {number: bytearray(data) for number, data in base.items()}
    pending: list[Call] = []
    for call in calls:
        what, file, offset, data = call
        if what == "w":
            pending.append(call)
            continue
        for _, _, at, synced in (done for done in pending if done[1] == file):
            image[file][at : at + len(synced)] = synced
        pending = [other for other in pending if other[1] != file]
    luck = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    for _, file, offset, data in pending:
        for start in range(0, len(data), sector):
            if rng.random() < luck:
                part = data[start : start + sector]
                image[file][offset + start : offset + start + len(part)] = part
    return image

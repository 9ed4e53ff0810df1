"""The pool and its log ring: round trips, crashes, damage, and who may open it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos._native import Batch, Engine, Pool
from mpaxos.core.output import WritePromise, WriteRecord
from mpaxos.core.types import Ballot, Record, Value
from mpaxos.errors import (
    InvariantViolated,
    StorageCorrupt,
    StorageError,
    StorageForeign,
    StorageFull,
    StorageLocked,
    StorageMissing,
    StorageVersion,
)
from mpaxos.storage.pmem import PmemStore
from tests.unit import pools

SMALL = 24 << 20


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory / "pool"


def make(path: Path, log_size: int = pools.LOG) -> None:
    pools.make(path, size=SMALL, log_size=log_size, max_sessions=4, max_reply_slots=16)


def reopen(path: Path) -> Pool:
    return pools.reopen(path, size=SMALL)


def batch(size: int, number: int = 1) -> Batch:
    data = random.Random(number).randbytes(size)
    return Batch.build(0, 1, number, [(1, number, 0, 0, data)])


def apply_upto(engine: Engine, slot: int) -> None:
    """Make slots count as applied, so that they may be truncated."""
    while engine.mark[0] < slot:
        engine.apply_kv(engine.mark[0] + 1, 0, Batch.noop())


def test_promise_and_records_are_there_after_a_crash(path: Path) -> None:
    make(path)
    store = PmemStore(reopen(path))
    first, second = Value(batch(100, 1), 11), Value(batch(5000, 2), 12)
    store.write([WritePromise(Ballot(3, 1)), WriteRecord(Record(1, Ballot(3, 1), first))])
    store.write(
        [
            WriteRecord(Record(2, Ballot(3, 1), first)),
            WritePromise(Ballot(4, 2)),
            WriteRecord(Record(2, Ballot(4, 2), second)),
        ]
    )
    crashed = path.with_name("crashed")
    shutil.copy(path, crashed)  # without a close: what a killed process leaves
    for origin in (path, crashed):
        store.close()  # a copy has its pool's identity: one process opens one of them at a time
        store = PmemStore(reopen(origin))
        recovered = store.recovered()
        assert recovered.promised == Ballot(4, 2)
        assert recovered.accepted == [(1, Ballot(3, 1)), (2, Ballot(4, 2))]
        for slot, value in ((1, first), (2, second)):
            record = store.read(slot)
            assert record is not None and record.value.same_as(value)
        assert store.read(3) is None


def test_a_long_life_of_the_ring_against_a_model(path: Path) -> None:
    """Random appends, rewrites in higher ballots, truncations and restarts, many laps long."""
    make(path, log_size=64 << 10)
    rng = random.Random(7)
    pool = reopen(path)
    engine = Engine(pool)
    model: dict[int, tuple[int, int]] = {}  # slot -> (round, digest)
    last, truncated, laps = 0, 0, 0
    for step in range(3000):
        record = batch(rng.choice([0, 1, 60, 64, 65, 400, 2500]), step)
        if record.length + 128 <= pool.log_room:
            rewrite = model and rng.random() < 0.2
            slot = rng.choice(sorted(model)) if rewrite else last + 1
            last = max(last, slot)
            pool.write(None, [(slot, step, 1, step, record)], 0)
            model[slot] = (step, record.digest)
            laps += record.length
        elif model:
            truncated = rng.randrange(truncated + 1, last + 1)
            apply_upto(engine, truncated)
            pool.write(None, [], truncated)
            model = {slot: value for slot, value in model.items() if slot > truncated}
        if step % 250 == 0:
            pool.close()
            pool = reopen(path)
            engine = Engine(pool)
        assert [s for s, _, _ in pool.slots()] == sorted(model)
        assert pool.truncated_upto == truncated
        if model:
            slot = rng.choice(sorted(model))
            found = pool.read(slot)
            assert found is not None and (found[0], found[3].digest) == model[slot]
    assert laps > 10 * (64 << 10)


def test_what_log_room_promises_always_fits(path: Path) -> None:
    make(path, log_size=64 << 10)
    rng = random.Random(3)
    pool = reopen(path)
    engine = Engine(pool)
    slot = 0
    for _ in range(400):
        room, records = pool.log_room, []
        while True:
            record = batch(rng.randrange(0, 3000), slot + 1)
            size = (record.length + 63) // 64 * 64 + 64
            if size > room:
                break
            room -= size
            slot += 1
            records.append((slot, 1, 0, 0, record))
        pool.write(None, records, 0)
        apply_upto(engine, slot)
        pool.write(None, [], rng.randrange(pool.truncated_upto, slot + 1))


def test_no_room_writes_nothing(path: Path) -> None:
    make(path, log_size=64 << 10)
    pool = reopen(path)
    with pytest.raises(StorageFull, match="no room"):
        pool.write((5, 1), [(1, 5, 1, 0, batch(70_000))], 0)
    assert pool.promised == (0, 0) and pool.slots() == []


def test_writes_that_must_never_happen_stop_the_replica(path: Path) -> None:
    make(path)
    pool = reopen(path)
    pool.write((5, 1), [(1, 5, 1, 0, batch(10))], 0)
    with pytest.raises(InvariantViolated, match="below the present"):
        pool.write((4, 2), [], 0)
    with pytest.raises(InvariantViolated, match="below the promise"):
        pool.write(None, [(1, 4, 2, 0, batch(10))], 0)
    with pytest.raises(InvariantViolated, match="beyond the applied"):
        pool.write(None, [], 1)


# ------------------------------------------------------------------ damage

CHECK = """
import os, sys
from tests.unit import pools
from mpaxos._native import Engine
from mpaxos.errors import StorageCorrupt, StorageError
path, *places = sys.argv[1:]
image = open(path, "rb").read()
for at in map(int, places):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([image[at] ^ 0x20]))
    outcome = "opened"
    try:
        pool = pools.reopen(path, size=24 << 20)
        engine = Engine(pool)
    except StorageError as error:
        outcome = type(error).__name__
    else:
        del engine
        pool.close()
        del pool
    print(at, outcome, flush=True)
    with open(path, "r+b") as file:
        file.write(image[: 1 << 20])
        file.seek(at)
        file.write(image[at : at + 1])
"""


def outcomes(path: Path, places: list[int]) -> dict[int, str]:
    """Flip a bit at each place in turn and open the pool, in another process."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(path), *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-200:], done.stderr[-500:])
    return {int(at): outcome for at, outcome in map(str.split, done.stdout.splitlines())}


def locate(image: bytes, needle: bytes) -> int:
    at = image.find(needle)
    assert at >= 0 and image.find(needle, at + 1) < 0
    return at


def test_a_flipped_byte_anywhere_that_counts_is_refused(path: Path) -> None:
    make(path)
    pool = reopen(path)
    records = [(slot, 9, 1, 5, batch(200, slot)) for slot in (1, 2, 3)]
    pool.write((9, 1), records, 0)
    engine = Engine(pool)
    apply_upto(engine, 1)
    pool.write(None, [], 1)
    del engine
    pool.close()
    image = path.read_bytes()
    root = locate(image, b"mPaxPool")
    size = 24 << 20
    header = range(root, root + 348, 7)
    # Behind the header, each on a cache line: two promise cells, their selector, tail, head,
    # truncation point, and the applied position. (9, 1) is in the second cell.
    lines = root + 384
    promise = [*range(lines + 64, lines + 64 + 24, 3)]
    words = [lines + 128 + 64 * word + byte for word in range(4) for byte in (0, 3, 7)]
    applied = [*range(lines + 384, lines + 384 + 64, 9)]
    ring = [at for slot in (2, 3) for at in record_bytes(image, slot)]
    # libpmemobj's own header, without the field it keeps for itself at its end
    pmdk = [0, 4, 8, 20, 100, 2048, 3000]
    places = [*header, *promise, *words, *applied, *ring, *pmdk]
    assert max(places) < size
    found = outcomes(path, places)
    accepted = [at - root for at, outcome in found.items() if outcome == "opened"]
    assert not accepted, accepted
    assert set(found.values()) <= {
        "StorageCorrupt",
        "StorageForeign",
        "StorageVersion",
        "StorageMissing",
    }


def record_bytes(image: bytes, slot: int) -> list[int]:
    """Some places in the header and the batch of a record that is in the log."""
    data = batch(200, slot).data()
    start = locate(image, data) - 64
    return [*range(start, start + 64, 5), *range(start + 64, start + 64 + len(data), 31)]


def test_a_flipped_byte_in_the_state_is_found_when_it_is_read(path: Path) -> None:
    make(path)
    pool = reopen(path)
    engine = Engine(pool)
    number = engine.container("data")
    engine.begin(1, 0, Batch.noop())
    engine.finish([], [(number, b"key", b"a value that is easily found")])
    assert engine.get(number, b"key") is not None
    del engine
    pool.close()
    at = locate(path.read_bytes(), b"a value that is easily found")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"A")
    engine = Engine(reopen(path))
    with pytest.raises(StorageCorrupt, match="checksum"):
        engine.get(number, b"key")
    with pytest.raises(StorageCorrupt, match="checksum"):
        engine.state_digest()


# ------------------------------------------------------------------ who may open it


def test_missing_foreign_locked_truncated(path: Path) -> None:
    with pytest.raises(StorageMissing):
        reopen(path)
    make(path)
    with pytest.raises(StorageForeign, match="exists already"):
        make(path)
    pool = reopen(path)
    with pytest.raises(StorageLocked):
        reopen(path)
    pool.close()
    with pytest.raises(StorageForeign, match="replica 1, not to 2"):
        pools.reopen(path, size=SMALL, replica=2)
    with pytest.raises(StorageForeign, match="another cluster"):
        Pool(str(path), cluster=b"x" * 16, replica=1, size=SMALL)
    os.truncate(path, SMALL - 4096)
    with pytest.raises(StorageCorrupt, match="truncated"):
        reopen(path)


def test_a_newer_format_is_refused_as_such(path: Path) -> None:
    make(path)
    image = path.read_bytes()
    at = locate(image, b"mPaxPool") + 8
    assert image[at] == 3
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\4")
    with pytest.raises(StorageVersion, match="format 4"):
        reopen(path)


def test_something_else_is_not_taken_for_a_pool(path: Path) -> None:
    path.write_bytes(b"not a pool" + bytes(SMALL - 10))
    with pytest.raises(StorageError):
        reopen(path)


def test_no_room_on_the_device_leaves_nothing_behind(path: Path) -> None:
    with pytest.raises(StorageFull, match="no room for a pool of"):
        pools.make(path, size=1 << 50)
    assert list(path.parent.iterdir()) == []


# ------------------------------------------------------------------ kill -9

WRITER = """
import sys
from mpaxos._native import Batch
from tests.unit import pools
pool = pools.reopen(sys.argv[1], size=24 << 20)
for slot in range(1, 1000000):
    entry = (1, slot, 0, 0, slot.to_bytes(8, "big") * 30)
    pool.write((slot, 1), [(slot, slot, 1, 0, Batch.build(0, 1, slot, [entry]))], 0)
    print(slot, flush=True)
"""


@pytest.mark.parametrize("stop_after", [1, 40, 700])
def test_kill_9_loses_no_acknowledged_record(path: Path, stop_after: int) -> None:
    make(path, log_size=8 << 20)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= stop_after:
                child.send_signal(signal.SIGKILL)
                break
        acknowledged = max([stop_after, *[int(line) for line in child.stdout if line.strip()]])
    pool = reopen(path)
    slots = [slot for slot, _, _ in pool.slots()]
    assert slots[:acknowledged] == list(range(1, acknowledged + 1))
    assert len(slots) <= acknowledged + 1  # one may have been written and not told
    assert pool.promised[0] >= acknowledged
    for slot in slots:
        found = pool.read(slot)
        assert found is not None and found[3].entries()[0][4] == slot.to_bytes(8, "big") * 30

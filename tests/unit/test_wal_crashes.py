"""The write-ahead log after power cuts and kills: what was acknowledged is there, what was not is
a prefix of what was asked for, and neither is ever taken for damage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos._native import Wal
from mpaxos.errors import StorageCorrupt, StorageError, StorageFull
from tests.unit import logs, pools
from tests.unit.logs import Call, Image, Item, State


@pytest.fixture
def path() -> Iterator[Path]:
    with pools.scratch() as directory:
        yield directory / "wal"


class Lives:
    """One log through many lives, and what it must hold: `states[n]` after n writes, of which
    `acknowledged` were acknowledged."""

    def __init__(self, path: Path, seed: int, sector: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.sector = sector
        logs.make(path)
        self.base: Image = logs.load(path)
        self.calls: list[Call] = []
        self.states: list[State] = [logs.EMPTY]
        self.history: list[tuple[int, int]] = [(0, 0)]
        """(calls, writes acknowledged by then), ascending."""
        self.wal: Wal | None = None
        self.cuts = 0

    def live(self, turns: int, submitted: bool) -> None:
        """Open the log, find one of the allowed states, and write."""
        self.wal = None  # a process that is killed closes nothing
        wal = logs.reopen(self.path, traced=True)
        self.check(wal, self.history[-1][1])
        self.take(wal)
        self.acknowledge(len(self.states) - 1)  # whoever started acts on what was found
        for _ in range(turns):
            items = logs.random_turn(self.rng, self.states[-1], wal.log_room)
            self.expect(items)
            if submitted:
                ticket = wal.submit(items)
                if self.rng.random() < 0.3:
                    wal.wait(ticket)
                    self.take(wal)
                    self.acknowledge(len(self.states) - 1)
            else:
                wal.write(items)
                self.take(wal)
                self.acknowledge(len(self.states) - 1)
        if submitted:
            wal.wait(wal.submit([]))
            self.take(wal)
        self.wal = wal

    def write(self, *items: Item) -> None:
        """One turn of the present life."""
        assert self.wal is not None
        self.expect(list(items))
        self.wal.write(list(items))
        self.take(self.wal)
        self.acknowledge(len(self.states) - 1)

    def expect(self, items: list[Item]) -> None:
        for item in items:
            self.states.append(logs.after(self.states[-1], item))

    def take(self, wal: Wal) -> None:
        self.calls += wal.calls()

    def acknowledge(self, writes: int) -> None:
        self.history.append((len(self.calls), writes))

    def cut(self, at: int) -> Image:
        """What the device may hold when the power goes after `at` calls; checked."""
        self.cuts += 1
        acknowledged = max(writes for calls, writes in self.history if calls <= at)
        image = logs.power_cut(self.base, self.calls[:at], self.rng, self.sector)
        logs.store(image, self.path)
        kept = self.states
        self.check(logs.reopen(self.path), acknowledged)
        self.states = kept
        return image

    def check(self, wal: Wal, acknowledged: int) -> None:
        """The log must be in one of the states that began with everything acknowledged."""
        found = logs.state_of(wal)
        for number in range(len(self.states) - 1, acknowledged - 1, -1):
            if self.states[number] == found:
                self.states = self.states[: number + 1]
                return
        raise AssertionError(
            f"found {found}, which is none of the states from {acknowledged} to "
            f"{len(self.states) - 1}; last acknowledged: {self.states[acknowledged]}"
        )

    def begin_from(self, image: Image, at: int) -> None:
        """The power went after `at` calls and left `image`."""
        acknowledged = max(writes for calls, writes in self.history if calls <= at)
        logs.store(image, self.path)
        self.base = image
        self.calls = []
        self.history = [(0, acknowledged)]

    def kill(self, at: int) -> None:
        """The process dies after `at` calls, perhaps in the middle of a write. The page cache
        stays: the next life finds what was written, and the device may get it or not."""
        acknowledged = max(writes for calls, writes in self.history if calls <= at)
        self.calls = self.calls[:at]
        if self.calls and self.calls[-1][0] == "w":
            what, file, offset, data = self.calls[-1]
            pages = self.rng.randint(0, len(data) // logs.BLOCK)
            self.calls[-1] = (what, file, offset, data[: pages * logs.BLOCK])
        self.history = [entry for entry in self.history if entry[0] <= at]
        self.history.append((at, acknowledged))
        cache = {number: bytearray(data) for number, data in self.base.items()}
        for what, file, offset, data in self.calls:
            if what == "w":
                cache[file][offset : offset + len(data)] = data
        logs.store(cache, self.path)


@pytest.mark.parametrize("submitted", [False, True], ids=["write", "submit"])
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("seed", range(4))
def test_power_cuts(path: Path, seed: int, sector: int, submitted: bool) -> None:
    """Lives that end by kills and power cuts, at every kind of moment, several laps long."""
    lives = Lives(path, seed, sector)
    for _ in range(16):
        start = len(lives.calls)
        lives.live(lives.rng.choice((0, 1, 5, 25)), submitted)
        for _ in range(12):
            at = lives.rng.randint(start, len(lives.calls))
            image = lives.cut(at)
        if lives.rng.random() < 0.5:
            lives.begin_from(image, at)
        else:
            lives.kill(lives.rng.randint(start, len(lives.calls)))
    assert lives.wal is not None and lives.cuts > 40


def test_a_power_cut_at_every_call(path: Path) -> None:
    """One life over several segments, cut after each call, many ways each."""
    lives = Lives(path, 99, 512)
    lives.live(60, False)
    assert lives.wal is not None and lives.wal.info()["segment"] > 3
    for at in range(len(lives.calls) + 1):
        for _ in range(6):
            lives.cut(at)


def test_power_cuts_around_the_use_of_the_reserve(path: Path) -> None:
    """A promise opens the last free segment, whose header then names the one after it in the
    ring as the oldest needed; what is there is overwritten only when no header says so any more."""
    lives = Lives(path, 5, 512)
    lives.live(0, False)
    assert lives.wal is not None
    lives.write(logs.promise(1))
    slot = 0
    with pytest.raises(StorageFull):
        while True:
            lives.wal.write([logs.record(slot + 1, 1, logs.batch(3900, slot))])
            slot += 1
            lives.expect([logs.record(slot, 1, logs.batch(3900, slot))])
            lives.take(lives.wal)
            lives.acknowledge(slot + 1)
    round_ = 1
    while lives.wal.info()["free_segments"] > 0:
        round_ += 1
        lives.write(logs.promise(round_))
    lives.write(logs.truncate(slot))
    start = len(lives.calls)
    while lives.wal.info()["segment"] < 6:
        slot += 1
        lives.write(logs.record(slot, round_, logs.batch(3900, slot)))
        if lives.wal.log_room < logs.SEGMENT // 2:
            lives.write(logs.truncate(slot))
    for at in range(start, len(lives.calls) + 1):
        for _ in range(10):
            lives.cut(at)


def test_damage_before_a_segment_that_is_still_empty(path: Path) -> None:
    """The crash came right after the header of a new segment: that header alone says that the
    segment before was durable to its end."""
    lives = Lives(path, 6, 512)
    lives.live(0, False)
    assert lives.wal is not None
    lives.write(logs.promise(1))
    slot = 0
    while lives.wal.info()["segment"] == 1:
        slot += 1
        lives.write(logs.record(slot, 1, logs.batch(3000, slot)))
    header = max(n for n, call in enumerate(lives.calls) if call[0] == "w" and call[2] == 0)
    lives.kill(header + 2)  # written and synced
    assert [known for known, _, _ in logs.reopen(path).slots()] == list(range(1, slot))
    lives.kill(header + 2)
    image = logs.load(path)
    last = max(call[2] for call in lives.calls if call[:2] == ("w", 0))
    image[0][last + 100] ^= 1
    logs.store(image, path)
    with pytest.raises(StorageCorrupt, match="the next segment begins with record"):
        logs.reopen(path)


def test_two_sectors_of_one_write_in_any_order(path: Path) -> None:
    """A group of two records of which only the second reached the disk is a torn tail, and the
    second one does not come to life when another record takes the place of the first."""
    logs.make(path)
    wal = logs.reopen(path, traced=True)
    wal.write([logs.promise(1)])
    wal.calls()
    base = logs.load(path)
    one, two = logs.batch(448 - 64, 1), logs.batch(300, 2)
    assert one.length == 448  # with its header exactly one sector
    wal.write([logs.record(1, 1, one), logs.record(2, 1, two)])
    (_, file, offset, data), _ = wal.calls()
    del wal
    base[file][offset + 512 : offset + len(data)] = data[512:]
    logs.store(base, path)
    wal = logs.reopen(path)
    assert wal.slots() == [] and wal.info()["torn"] > 0
    # The record of the start has taken the place of the first; now one more group.
    wal.write([logs.record(5, 1, logs.batch(10, 3))])
    del wal
    assert [slot for slot, _, _ in logs.reopen(path).slots()] == [5]


WRITER = """
import sys
from pathlib import Path
from tests.unit import logs
wal = logs.reopen(Path(sys.argv[1]))
promised, truncated, slots = logs.state_of(wal)
if promised == (0, 0):
    wal.write([logs.promise(1)])
last = max([slot for slot, _ in slots], default=truncated)
while True:
    turn = [logs.record(last + n, 1, logs.batch(37 * (last + n) % 3000, last + n))
            for n in range(1, 1 + last % 4 + 1)]
    last += len(turn)
    if wal.log_room < logs.SEGMENT // 2:
        turn.append(logs.truncate(last - 8))
    wal.write(turn)
    print(last, flush=True)
"""


def test_kill_9_in_a_loop(path: Path) -> None:
    logs.make(path)
    rng = random.Random(3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    last = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment
        )
        try:
            assert process.stdout is not None
            acknowledged = 0
            for _ in range(rng.randint(1, 60)):
                line = process.stdout.readline()
                assert line, "the writer ended by itself"
                acknowledged = int(line)
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines(keepends=True)
            if rest and rest[-1].endswith(b"\n"):
                acknowledged = int(rest[-1])
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        wal = logs.reopen(path)
        promised, truncated, slots = logs.state_of(wal)
        last = max([slot for slot, _ in slots], default=truncated)
        assert promised == (1, 1) and last >= acknowledged
        assert [slot for slot, _ in slots] == list(range(truncated + 1, last + 1))
        for slot, (round_, leader, time, digest) in slots:
            value = logs.batch(37 * slot % 3000, slot)
            assert (round_, leader, time, digest) == (1, 1, 7 * slot + 1, value.digest)
    assert last > 6


@pytest.mark.parametrize("submitted", [False, True], ids=["write", "submit"])
def test_after_a_failure_nothing_is_written(path: Path, submitted: bool) -> None:
    """The device fails at each call in turn. What was acknowledged before is there, whatever became
    of the rest; and nothing follows, least of all another sync of the same data."""
    for failing in range(60):
        directory = path.with_name(f"wal{failing}")
        logs.make(directory)
        rng = random.Random(failing)
        wal = logs.reopen(directory, traced=True)
        wal.calls()
        states: list[State] = [logs.EMPTY]
        acknowledged = 0
        wal.fail_after(failing)
        with pytest.raises(StorageError, match=r"cannot (write|sync)"):
            while True:
                items: list[Item] = logs.random_turn(rng, states[-1], wal.log_room)
                for item in items:
                    states.append(logs.after(states[-1], item))
                if not submitted:
                    wal.write(items)
                elif wal.submit(items) > wal.durable_upto() and rng.random() < 0.7:
                    continue  # perhaps it has failed already when the next one comes
                else:
                    wal.wait(wal.submit([]))
                acknowledged = len(states) - 1
        assert len(wal.calls()) == failing
        for again in (wal.write, wal.submit):
            with pytest.raises(StorageError, match=r"cannot (write|sync)"):
                again([logs.promise(99)])
        with pytest.raises(StorageError, match=r"cannot (write|sync)"):
            wal.durable_upto()
        wal.close()
        assert wal.calls() == []
        found = logs.state_of(logs.reopen(directory))
        assert found in states[acknowledged:]

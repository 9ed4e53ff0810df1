"""The native engine: against its twin in Python, against itself after restarts."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos import _native as n
from mpaxos._native import Batch, Engine, Pool, digest64
from mpaxos.errors import InvariantViolated
from mpaxos.machine.host import MachineHost
from mpaxos.services import kv
from tests.unit import pools

Entry = tuple[int, int, int, int, bytes]


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


def open_entry(token: int, window: int) -> Entry:
    return (0, token, 0, n.ENTRY_OPEN, struct.pack("<I", window))


class Traffic:
    """Random batches of clients that retry, skip, close and misbehave."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sessions: dict[int, list[int]] = {}  # id -> [next sequence, lowest, window]
        self.keys = [b"", b"a", b"a\0", b"ab", b"abc", b"b" * 300] + [
            bytes(self.rng.randbytes(self.rng.randrange(1, 12))) for _ in range(60)
        ]
        self.tokens = 0

    def opened(self, replies: list[tuple[int, int, int, bytes]], windows: dict[int, int]) -> None:
        for _, token, status, payload in replies:
            if status == n.STATUS_OPENED:
                (session,) = struct.unpack("<Q", payload)
                self.sessions[session] = [1, 0, windows[token]]

    def batch(self, number: int) -> tuple[Batch, dict[int, int]]:
        rng, entries, windows = self.rng, list[Entry](), dict[int, int]()
        for _ in range(rng.randrange(0, 12)):
            what = rng.random()
            if what < 0.08 or not self.sessions:
                self.tokens += 1
                windows[self.tokens] = rng.choice([0, 1, 2, 8, 40, 2000])
                if rng.random() < 0.1:
                    entries.append((0, self.tokens, 0, n.ENTRY_OPEN, b"bad"))
                else:
                    entries.append(open_entry(self.tokens, windows[self.tokens]))
                continue
            session = rng.choice(sorted(self.sessions))
            state = self.sessions[session]
            if what < 0.10:
                entries.append((session, 1, 0, n.ENTRY_CLOSE, b""))
            elif what < 0.12:
                entries.append((session, 1, 0, n.ENTRY_QUERY, b"n"))
            elif what < 0.16:
                entries.append((session + 7, 1, 0, n.ENTRY_COMMAND, b"n"))
            else:
                sequence = state[0]
                state[0] += 1
                if rng.random() < 0.25:
                    sequence = max(0, sequence - rng.randrange(0, 6))
                if rng.random() < 0.3:
                    state[1] = max(state[1], sequence - rng.randrange(0, 4))
                lowest = state[1] if rng.random() < 0.97 else sequence + 1
                entries.append((session, sequence, lowest, n.ENTRY_COMMAND, self.request()))
                if rng.random() < 0.1:
                    entries.append(entries[-1])
        return Batch.build(0, 1, number, entries), windows

    def queries(self, number: int) -> Batch:
        count = self.rng.randrange(0, 12)
        entries = [(1, i, 0, n.ENTRY_QUERY, self.request()) for i in range(count)]
        return Batch.build(0, 1, number, entries)

    def request(self) -> bytes:
        rng = self.rng
        key, value = rng.choice(self.keys), rng.randbytes(rng.choice([0, 1, 30, 31, 130, 5000]))
        text = struct.pack(">I", len(key)) + key
        made = rng.choice(
            [
                kv.put_request(key, value),
                kv.put_request(key, value),
                kv.get_request(key),
                kv.get_request(rng.choice(self.keys)),
                kv.delete_request(key),
                kv.compare_and_set_request(
                    key, rng.choice([None, value]), rng.choice([None, b"x"])
                ),
                kv.scan_request(key[:1], rng.choice([None, key]), rng.randrange(0, 70)),
                b"n",
                b"G" + text,
                b"P" + text + value,
            ]
        )
        if rng.random() < 0.05:
            made = rng.choice(
                [
                    b"",
                    b"?",
                    made[: len(made) // 2],
                    made + b"!",
                    b"g\xff\xff\xff\xff",
                    kv.put_request(bytes(65537), b""),
                ]
            )
        return made


@pytest.mark.parametrize("seed", range(12))
def test_native_and_python_machines_and_a_restarted_one_agree(directory: Path, seed: int) -> None:
    """Three replicas of the same batches: native, in Python over the same engine, and native but
    closed and opened (or crashed, as a copy of the open file) after every few slots."""
    for name in "abc":
        pools.make(directory / name, state_limit=60_000)
    one, two, three = (pools.reopen(directory / name) for name in "abc")
    native, other, restarted = Engine(one), Engine(two), Engine(three)
    host = MachineHost(other, kv.KeyValue, 60_000)
    traffic = Traffic(seed)
    for slot in range(1, 250):
        batch, windows = traffic.batch(slot)
        replies = native.apply_kv(slot, 1000 + slot, batch).entries()
        assert host.apply(slot, 1000 + slot, batch).entries() == replies
        assert restarted.apply_kv(slot, 1000 + slot, batch).entries() == replies
        assert native.mark == other.mark == restarted.mark
        traffic.opened(replies, windows)
        reads = traffic.queries(slot)
        answers = native.query_kv(reads).entries()
        assert host.query(reads).entries() == restarted.query_kv(reads).entries() == answers
        if slot % 7 == 0:
            if traffic.rng.random() < 0.5:
                crashed = directory / "copy"
                shutil.copy(directory / "c", crashed)
                restarted = Engine(three)  # forgets the old one before its pool is closed
                three.close()
                shutil.move(crashed, directory / "c")
            else:
                three.close()
            three = pools.reopen(directory / "c")
            restarted = Engine(three)
    assert native.state_used() == other.state_used() == restarted.state_used()
    assert native.state_digest() == other.state_digest() == restarted.state_digest()
    data = native.container("data")
    items = native.scan(data, b"", None, 10_000)
    assert items == sorted(items) == other.scan(other.container("data"), b"", None, 10_000)
    assert sum(64 + len(k) + len(v) for k, v in items) == native.state_used()


def start(pool: Pool, window: int = 8) -> tuple[Engine, int]:
    engine = Engine(pool)
    (reply,) = engine.apply_kv(1, 5, Batch.build(0, 1, 1, [open_entry(77, window)])).entries()
    assert reply[:3] == (0, 77, n.STATUS_OPENED)
    return engine, int.from_bytes(reply[3], "little")


def command(session: int, sequence: int, request: bytes, lowest: int = 0) -> Entry:
    return (session, sequence, lowest, n.ENTRY_COMMAND, request)


def test_the_running_digest_is_what_the_document_says(directory: Path) -> None:
    pools.make(directory / "p")
    engine, session = start(pools.reopen(directory / "p"))
    slot, digest = engine.mark
    assert (slot, session) == (1, 1 << 16)
    batch = Batch.build(0, 1, 2, [command(session, 1, b"P\0\0\0\1kv"), command(9, 1, b"n")])
    replies = engine.apply_kv(2, 6, batch).entries()
    parts = b"".join(struct.pack("<QQQQ", s, q, st, digest64(p)) for s, q, st, p in replies)
    expected = digest64(struct.pack("<QQQQQ", digest, 2, 6, batch.digest, digest64(parts)))
    assert engine.mark == (2, expected)


def test_a_duplicate_is_answered_and_not_run_even_after_a_restart(directory: Path) -> None:
    pools.make(directory / "p")
    pool = pools.reopen(directory / "p")
    engine, session = start(pool)
    first = command(session, 1, b"P\0\0\0\1k" + b"first" * 50)
    second = command(session, 2, b"P\0\0\0\1k" + b"second")
    replies = engine.apply_kv(2, 0, Batch.build(0, 1, 2, [first, second, second])).entries()
    assert [r[3] for r in replies] == [b"", b"first" * 50, b"first" * 50]
    pool.close()
    pool = pools.reopen(directory / "p")
    engine = Engine(pool)
    (again,) = engine.apply_kv(3, 0, Batch.build(0, 1, 3, [second])).entries()
    assert again[3] == b"first" * 50
    (now,) = engine.apply_kv(
        4, 0, Batch.build(0, 1, 4, [command(session, 3, b"g\0\0\0\1k")])
    ).entries()
    assert now[3] == b"\1second"


def test_the_least_recently_used_session_expires(directory: Path) -> None:
    pools.make(directory / "p", max_sessions=3)
    engine = Engine(pools.reopen(directory / "p"))
    opens = Batch.build(0, 1, 1, [open_entry(t, 1) for t in (1, 2, 3)])
    a, b, c = (int.from_bytes(r[3], "little") for r in engine.apply_kv(1, 0, opens).entries())
    engine.apply_kv(2, 0, Batch.build(0, 1, 2, [command(a, 1, b"n")]))
    engine.apply_kv(3, 0, Batch.build(0, 1, 3, [open_entry(4, 1)]))
    asked = [command(s, 2, b"n", lowest=2) for s in (a, b, c)]
    statuses = [r[2] for r in engine.apply_kv(4, 0, Batch.build(0, 1, 4, asked)).entries()]
    assert statuses == [n.STATUS_OK, n.STATUS_EXPIRED, n.STATUS_OK]


def test_no_space_is_an_answer_and_deletes_make_room(directory: Path) -> None:
    pools.make(directory / "p", state_limit=1000)
    engine, session = start(pools.reopen(directory / "p"))
    requests = [
        kv.put_request("a", bytes(500)),
        kv.put_request("b", bytes(500)),
        kv.put_request("a", bytes(400)),
        kv.get_request("a"),
        kv.delete_request("a"),
        kv.put_request("b", bytes(500)),
    ]
    entries = [command(session, i, r) for i, r in enumerate(requests)]
    statuses = [r[2] for r in engine.apply_kv(2, 0, Batch.build(0, 1, 2, entries)).entries()]
    assert statuses == [0, n.STATUS_NOSPACE, 0, 0, 0, 0]
    assert engine.state_used() == 64 + 1 + 500


def test_slots_out_of_order_and_calls_out_of_order_stop_the_engine(directory: Path) -> None:
    pools.make(directory / "p")
    engine, _ = start(pools.reopen(directory / "p"))
    with pytest.raises(InvariantViolated, match="out of order"):
        engine.apply_kv(3, 0, Batch.noop())
    with pytest.raises(InvariantViolated, match="stopped"):
        engine.apply_kv(2, 0, Batch.noop())


def test_begin_and_finish_in_pairs(directory: Path) -> None:
    pools.make(directory / "p")
    engine, session = start(pools.reopen(directory / "p"))
    batch = Batch.build(0, 1, 2, [command(session, 1, b"x"), command(session, 1, b"x")])
    assert engine.begin(2, 0, batch) == [(0, session, 1, b"x")]
    with pytest.raises(InvariantViolated, match="not finished"):
        engine.begin(3, 0, Batch.noop())
    number = engine.container("data")
    replies = engine.finish([(0, b"done")], [(number, b"k", b"v"), (number, b"none", None)])
    assert [r[3] for r in replies.entries()] == [b"done", b"done"]
    assert engine.get(number, b"k") == b"v" and engine.size(number) == 1


def test_memory_of_small_items_is_used_again_after_restarts(directory: Path) -> None:
    """Items come and go in each life: what one life allocated, with the classes of allocations
    that it had defined, another one allocates again. Otherwise the pool would become full."""
    path, size = directory / "pool", 16 << 20
    pools.make(path, size=size)
    pool = pools.reopen(path, size=size)
    _, session = start(pool)
    pool.close()
    sequence = 0
    for life in range(16):
        pool = pools.reopen(path, size=size)
        engine = Engine(pool)
        for put in (True, False):
            for first in range(0, 20_000, 500):
                entries = []
                for number in range(first, first + 500):
                    sequence += 1
                    key = b"%d/%d" % (life, number)
                    request = kv.put_request(key, b"v") if put else kv.delete_request(key)
                    entries.append(command(session, sequence, request, sequence))
                slot = engine.mark[0] + 1
                engine.apply_kv(slot, 0, Batch.build(0, 1, slot, entries))
            expected = 20_000 if put else 0
            assert engine.size(engine.container("data")) == expected, f"in life {life}"
        pool.close()

"""The two session tables, native and in Python, mean the same: every slot has the same mark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos import _native as n
from mpaxos._native import Engine, ReplySet
from mpaxos.core.sessions import BAD, EXPIRED, OK, OPENED, SessionTable
from mpaxos.machine.host import MachineHost
from mpaxos.machine.memory import MemoryEngine
from mpaxos.services.kv import KeyValue
from tests.unit import pools
from tests.unit.test_engine import Traffic


@pytest.fixture
def directory() -> Iterator[Path]:
    with pools.scratch() as path:
        yield path


@pytest.mark.parametrize("seed", range(20, 32))
def test_native_and_python_agree_on_every_reply_and_digest(directory: Path, seed: int) -> None:
    pools.make(directory / "p", state_limit=60_000, max_sessions=5, max_reply_slots=1100)
    native = Engine(pools.reopen(directory / "p"))
    memory = MemoryEngine(ReplySet, max_sessions=5, max_reply_slots=1100, digest=n.digest64)
    host = MachineHost(memory, KeyValue, 60_000)
    traffic = Traffic(seed)
    for slot in range(1, 400):
        batch, windows = traffic.batch(slot)
        replies = native.apply_kv(slot, 5000 - slot, batch).entries()
        assert host.apply(slot, 5000 - slot, batch).entries() == replies
        assert memory.mark == native.mark
        traffic.opened(replies, windows)
    assert memory.state_used() == native.state_used()
    assert memory.scan(memory.container("data"), b"", None, 9999) == native.scan(
        native.container("data"), b"", None, 9999
    )


def test_constants_are_those_of_the_extension() -> None:
    assert (n.STATUS_OK, n.STATUS_EXPIRED, n.STATUS_BAD, n.STATUS_OPENED) == (
        OK,
        EXPIRED,
        BAD,
        OPENED,
    )


def opened(table: SessionTable, slot: int, window: int) -> int:
    entry = (0, 99, 0, n.ENTRY_OPEN, window.to_bytes(4, "little"))
    (reply,) = table.apply(slot, [entry]).finish([])
    return int.from_bytes(reply.payload, "little")


def test_a_request_is_run_once_and_a_late_copy_of_an_abandoned_one_never() -> None:
    table = SessionTable(10, 100)
    session = opened(table, 1, 4)
    planned = table.apply(2, [(session, 1, 1, 0, b"a"), (session, 1, 1, 0, b"a")])
    assert len(planned.to_run) == 1
    assert [r.payload for r in planned.finish([(OK, b"one")])] == [b"one", b"one"]
    # The client gave up sequence 2 and goes on with 3: when 2 arrives late, it is not run.
    planned = table.apply(3, [(session, 3, 3, 0, b"c"), (session, 2, 2, 0, b"b")])
    assert [r.sequence for r in planned.to_run] == [3]
    assert [r.sequence for r in planned.finish([(OK, b"three")])] == [3]

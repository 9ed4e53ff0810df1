"""Replicas' directories for tests of what they remember, without a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit import pools

# ruff: isort: split
from mpaxos._native import Batch, Engine
from mpaxos.config import ClusterConfig, from_dict
from mpaxos.core.output import Write, WritePromise, WriteRecord
from mpaxos.core.types import Ballot, Record, Value
from mpaxos.storage.directory import initialise, open_directory
from mpaxos.storage.memory import Memory, open_memory
from mpaxos.storage.snapshots import Snapshot

LIMITS = {
    "max_request": "4 KiB",
    "max_batch": "4 KiB",
    "max_sessions": 16,
    "max_reply_slots": 512,
    "state_limit": "4 MiB",
}

FIRST = Ballot(1, 0)


def config(path: Path, durability: str, machine: str | None = None, **more: Any) -> ClusterConfig:
    """A small cluster file; scratch pools and data are below `path`."""
    (path / "scratch").mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "name": "t",
        "id": pools.CLUSTER.hex(),
        "durability": durability,
        "pool": {"size": "24 MiB", "log_size": "4 MiB", "scratch": str(path / "scratch")},
        "limits": LIMITS,
        "protocol": {"window": 4},
        "replicas": [{"id": 0, "peer": "h:4001", "client": "h:3001", "directory": "data"}],
        **more,
    }
    if machine is not None:
        raw["machine"] = machine
    return from_dict(raw, base=str(path))


@contextmanager
def opened(config: ClusterConfig) -> Iterator[Memory]:
    """The memory of replica 0, as a process that is about to take part opens it."""
    path = config.directory(0)
    with open_directory(path, config.cluster_id, 0, config) as directory:
        memory = open_memory(directory, config)
        try:
            memory.lives.begin(config.durability)
            yield memory
        finally:
            memory.close()


def made(path: Path, durability: str, machine: str | None = None, **more: Any) -> ClusterConfig:
    """An initialised replica."""
    cluster = config(path, durability, machine, **more)
    initialise(cluster, 0)
    return cluster


def put(slot: int, size: int = 100) -> Batch:
    """A batch that opens a session in slot 1 and puts a key in any later one; `slot` tells it from
    others."""
    if slot == 1:
        return Batch.build(0, 7, slot, [(0, 1, 0, 1, (8).to_bytes(4, "little"))])
    key = f"key {slot % 50}".encode()
    payload = b"p" + len(key).to_bytes(4, "big") + key + bytes([slot % 251]) * size
    session = 1 << 16  # of the request at slot 1, index 0
    return Batch.build(0, 7, slot, [(session, slot - 1, slot - 1, 0, payload)])


def value(slot: int) -> Value:
    return Value(put(slot), 1000 + slot)


def writes(first: int, last: int, ballot: Ballot = FIRST) -> list[Write]:
    """A promise, and a record for each slot."""
    found: list[Write] = [WritePromise(ballot)] if first == 1 else []
    for slot in range(first, last + 1):
        found.append(WriteRecord(Record(slot, ballot, value(slot))))
    return found


def run(memory: Memory, engine: Engine, last: int) -> None:
    """Write and apply all slots up to `last`, and remember that they are decided."""
    first = engine.mark[0] + 1
    memory.store.write(writes(first, last, max(FIRST, memory.store.recovered().promised)))
    for slot in range(first, last + 1):
        engine.apply_kv(slot, 1000 + slot, put(slot))
    if memory.kept is not None:
        memory.kept.decided(last)


def snapshot(memory: Memory, engine: Engine) -> Snapshot:
    """Take a snapshot of the present state, all at once."""
    from mpaxos._native import ImageSource

    assert memory.snapshots is not None
    writer = memory.snapshots.begin()
    source = ImageSource(engine)
    while (chunk := source.next(4096)) is not None:
        writer.add(chunk)
    found = writer.finish(*memory.position())
    memory.took(found)
    return found

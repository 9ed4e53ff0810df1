"""A replica's memory under test: operations on it, and what can be seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from mpaxos._native import Batch, Engine, ImageSource, ImageTarget, Pool

Entry = tuple[int, int, int, int, bytes]
Replies = list[tuple[int, int, int, bytes]]

SIZE = 12 << 20
"""Bytes of a pool: little, so that comparing all of it takes less than a millisecond, and a block
for each class of allocations (native/src/pool.hpp) that the workloads use."""

CLUSTER = b"crash points 016"
STATE_LIMIT = 60_000
"""Bytes; a machine in Python is not held to it here."""
MAX_SESSIONS = 4
MAX_REPLY_SLOTS = 16


@dataclass(frozen=True)
class Value:
    """A batch that is not built yet."""

    entries: tuple[Entry, ...]
    number: int

    def batch(self) -> Batch:
        """The batch; the same one each time."""
        return Batch.build(0, 1, self.number, list(self.entries))


@dataclass(frozen=True)
class Write:
    """What a turn of the loop writes: promise, records (slot, round, leader, value), truncation."""

    promise: tuple[int, int] | None = None
    records: tuple[tuple[int, int, int, Value], ...] = ()
    truncate: int = 0


@dataclass(frozen=True)
class Apply:
    """A decided slot, applied by the native key-value machine."""

    slot: int
    value: Value


@dataclass(frozen=True)
class Run:
    """A decided slot, applied by a machine in Python that made `changes` and answered `replies`."""

    slot: int
    value: Value
    replies: tuple[tuple[int, bytes], ...]
    changes: tuple[tuple[str, bytes, bytes | None], ...]


@dataclass(frozen=True)
class Reopen:
    """A stop and a start."""


@dataclass(frozen=True)
class Create:
    """The pool is made; only ever the first operation."""


@dataclass(frozen=True)
class Install:
    """A chunk of an image; only in a pool that was made for one."""

    chunk: bytes


@dataclass(frozen=True)
class Pack:
    """The state is packed: blocks filled to less than `percent` are emptied."""

    percent: int


Operation = Write | Apply | Run | Reopen | Create | Install | Pack


@dataclass(frozen=True)
class View:
    """All that can be seen of a pool."""

    promised: tuple[int, int] = (0, 0)
    records: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """slot: (round, leader, time, digest of the batch), read back and verified."""

    truncated: int = 0
    applied: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    """slot, running digest, time, bytes of the state, digest of state and session table; while an
    image is being installed: -1, chunks, records and bytes installed, 0."""

    def difference(self, other: View) -> str:
        """What of `self` is not as in `other`; empty when they are equal."""
        found = []
        for name in ("promised", "records", "truncated", "applied"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name} {mine} instead of {theirs}")
        return "; ".join(found)


def record_time(slot: int) -> int:
    """The time stamp of a slot: it travels through log and engine."""
    return 1_000_000 + slot


def log_steps(before: View, write: Write) -> list[View]:
    """The states through which a write leads, computed by a model; the first is `before`."""
    steps = [before]
    if write.promise is not None:
        steps.append(replace(steps[-1], promised=write.promise))
    if write.records:
        records = dict(steps[-1].records)
        for slot, round_, leader, value in write.records:
            records[slot] = (round_, leader, record_time(slot), value.batch().digest)
        steps.append(replace(steps[-1], records=records))
    if write.truncate > steps[-1].truncated:
        kept = {slot: r for slot, r in steps[-1].records.items() if slot > write.truncate}
        steps.append(replace(steps[-1], records=kept, truncated=write.truncate))
    return steps


class Replica:
    """The pool at `path` and its engine, open between open() and close()."""

    def __init__(self, path: Path, log_size: int, installing: bool = False) -> None:
        """`installing`: the pool is made to install an image in it."""
        self.path = path
        self.log_size = log_size
        self.installing = installing
        self._target: ImageTarget | None = None
        self._pool: Pool | None = None
        self._engine: Engine | None = None

    def create(self) -> None:
        """Make the pool."""
        Pool.create(
            str(self.path),
            size=SIZE,
            log_size=self.log_size,
            cluster=CLUSTER,
            replica=1,
            replicas=3,
            machine="test",
            state_limit=STATE_LIMIT,
            max_sessions=MAX_SESSIONS,
            max_reply_slots=MAX_REPLY_SLOTS,
            installing=self.installing,
        )

    def open(self) -> None:
        """Open as a starting replica does: everything is verified that is verified then."""
        self._pool = Pool(
            str(self.path), cluster=CLUSTER, replica=1, size=SIZE, installing=self.installing
        )
        if self._pool.installing:
            self._target = ImageTarget(self._pool)
        else:
            self._engine = Engine(self._pool)

    def close(self) -> None:
        """Close; does nothing when it is closed."""
        self._engine = self._target = None
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def image(self) -> ImageSource:
        """Begin to take an image of the state."""
        assert self._engine is not None
        return ImageSource(self._engine)

    def view(self) -> View:
        """Read everything. Raises StorageError when something is damaged."""
        assert self._pool is not None
        if self._target is not None:
            progress = self._target.progress()
            shown = (-1, progress["next"], progress["records"], progress["bytes"], 0)
            return View(promised=self._pool.promised, applied=shown)
        assert self._engine is not None
        pool, engine = self._pool, self._engine
        records = {}
        for slot, round_, leader in pool.slots():
            found = pool.read(slot)
            assert found is not None and found[:2] == (round_, leader), f"record of slot {slot}"
            records[slot] = (round_, leader, found[2], found[3].digest)
        slot, digest = engine.mark
        assert (slot, digest) == (pool.applied_upto, pool.applied_digest)
        return View(
            promised=pool.promised,
            records=records,
            truncated=pool.truncated_upto,
            applied=(slot, digest, pool.applied_time, engine.state_used(), engine.state_digest()),
        )

    def run(self, operation: Operation) -> Replies:
        """Do it; returns the replies that it gave."""
        if isinstance(operation, Create):
            self.create()
            self.open()
            return []
        if isinstance(operation, Reopen):
            self.close()
            self.open()
            return []
        assert self._pool is not None
        if isinstance(operation, Install):
            assert self._target is not None
            if self._target.install(operation.chunk):
                self._target = None
                self._engine = Engine(self._pool)
            return []
        assert self._engine is not None
        if isinstance(operation, Pack):
            assert self._engine.pack(operation.percent) > 0
            return []
        if isinstance(operation, Write):
            records = [
                (slot, round_, leader, record_time(slot), value.batch())
                for slot, round_, leader, value in operation.records
            ]
            self._pool.write(operation.promise, records, operation.truncate)
            return []
        slot, batch = operation.slot, operation.value.batch()
        if isinstance(operation, Apply):
            return self._engine.apply_kv(slot, record_time(slot), batch).entries()
        self._engine.begin(slot, record_time(slot), batch)
        changes = [(self._engine.container(name), key, v) for name, key, v in operation.changes]
        return self._engine.finish(list(operation.replies), changes).entries()

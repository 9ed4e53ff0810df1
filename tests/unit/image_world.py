"""A source of images under random load, and what receives them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from mpaxos._native import Batch, Engine, ImageSource, ImageTarget, Pool
from tests.unit import pools
from tests.unit.test_engine import Traffic

SIZE = 48 << 20
LIMIT = 1 << 20

Replies = list[tuple[int, int, int, bytes]]


def make(
    path: Path, *, installing: bool = False, size: int = SIZE, state_limit: int = LIMIT
) -> Pool:
    Pool.create(
        str(path),
        size=size,
        log_size=pools.LOG,
        cluster=pools.CLUSTER,
        replica=1,
        replicas=3,
        machine="test",
        state_limit=state_limit,
        max_sessions=64,
        max_reply_slots=6000,
        installing=installing,
    )
    return pools.reopen(path, size=size, installing=installing)


def apply_native(engine: Engine, slot: int, batch: Batch) -> Replies:
    return engine.apply_kv(slot, 1000 + slot, batch).entries()


NAMES = ["accounts", "b", "c" * 63, "data"]


def apply_python(engine: Engine, slot: int, batch: Batch) -> Replies:
    """A machine outside the engine, with several containers that come into being one by one. What
    it does depends on the slot alone."""
    rng = random.Random(slot)
    run = engine.begin(slot, 1000 + slot, batch)
    replies = [(rng.choice([0, 1, 3]), rng.randbytes(rng.choice([0, 5, 20, 21, 700]))) for _ in run]
    changes: dict[tuple[int, bytes], bytes | None] = {}
    for _ in range(rng.randrange(0, 10)):
        number = engine.container(NAMES[rng.randrange(0, 1 + min(slot // 10, 3))])
        key = bytes(rng.randrange(97, 101) for _ in range(rng.randrange(0, 5)))
        value = None if rng.random() < 0.3 else rng.randbytes(rng.choice([0, 3, 40, 900]))
        changes[number, key] = value
    return engine.finish(replies, [(c, k, v) for (c, k), v in changes.items()]).entries()


APPLY = {"native": apply_native, "python": apply_python}


class World:
    """A replica under load. `run` applies slots; `take` one chunk of an image of it."""

    def __init__(self, path: Path, seed: int, kind: str = "native") -> None:
        self.pool = make(path)
        self.engine = Engine(self.pool)
        self.traffic = Traffic(seed)
        self.apply = APPLY[kind]
        self.batches: list[Batch] = []

    def run(self, slots: int = 1) -> None:
        for _ in range(slots):
            slot = self.engine.mark[0] + 1
            batch, windows = self.traffic.batch(slot)
            self.batches.append(batch)
            self.traffic.opened(self.apply(self.engine, slot, batch), windows)

    def take_all(self, rng: random.Random, *, slots: int = 3, low: int = 256) -> list[bytes]:
        """A whole image; up to `slots` slots are applied between two chunks."""
        source = ImageSource(self.engine)
        chunks = []
        while (chunk := source.next(rng.choice([low, 256, 350, 1500, 6000]))) is not None:
            chunks.append(chunk)
            if not source.cut or rng.random() < 0.5:
                self.run(rng.randrange(0, slots + 1))
        return chunks

    def same_again(self, pool: Pool) -> None:
        """The installed pool is this replica as it was at its slot: it becomes equal by applying
        the same slots, with the same replies."""
        engine = Engine(pool)
        for slot in range(engine.mark[0] + 1, len(self.batches) + 1):
            self.apply(engine, slot, self.batches[slot - 1])
        assert engine.mark == self.engine.mark
        assert engine.state_digest() == self.engine.state_digest()
        assert engine.state_used() == self.engine.state_used()
        assert pool.applied_time == self.pool.applied_time
        for _ in range(30):
            slot = self.engine.mark[0] + 1
            batch, windows = self.traffic.batch(slot)
            self.batches.append(batch)
            replies = self.apply(self.engine, slot, batch)
            assert self.apply(engine, slot, batch) == replies
            assert engine.mark == self.engine.mark
            self.traffic.opened(replies, windows)
        assert engine.state_digest() == self.engine.state_digest()


class Receiver:
    """A pool that an image is installed in, and that may crash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pool = make(path, installing=True)
        self.target = ImageTarget(self.pool)

    def reopen(self) -> None:
        self.pool.close()
        self.pool = pools.reopen(self.path, size=SIZE, installing=True)
        if self.pool.installing:
            self.target = ImageTarget(self.pool)

    def crash(self) -> None:
        """Go on from what a killed process leaves."""
        copy = self.path.with_name("crashed")
        shutil.copy(self.path, copy)
        self.pool.close()
        shutil.move(copy, self.path)
        self.reopen()

    def install(self, chunks: list[bytes]) -> Pool:
        for number, chunk in enumerate(chunks):
            assert self.target.progress()["next"] == number
            assert self.target.install(chunk) == (number == len(chunks) - 1)
        assert self.target.complete and not self.pool.installing
        return self.pool

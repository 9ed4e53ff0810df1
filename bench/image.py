"""How fast images of the state are taken and installed, and how long a slot waits meanwhile.

    python bench/image.py [--value BYTES] [--items N] [--chunk BYTES] [--load N] [--json]

Fills a pool in random order, takes an image of it with N puts to random items between two chunks,
installs it in another pool, and compares. Speeds are per second of processor time, pauses are
wall time: on a busy machine they contain what the scheduler gives to others.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import struct
import tempfile
import time
from pathlib import Path

os.environ.setdefault("PMEM_IS_PMEM_FORCE", "1")

from mpaxos import _native as n
from mpaxos.services import kv

WINDOW = 1024
CLUSTER = bytes(16)


class Source:
    """A pool full of items and one client that puts more."""

    def __init__(self, path: Path, size: int, items: int, value: int) -> None:
        make(path, size, installing=False)
        self.pool = n.Pool(str(path), cluster=CLUSTER, replica=0, size=size)
        self.engine = n.Engine(self.pool)
        opening = (0, 1, 0, n.ENTRY_OPEN, struct.pack("<I", WINDOW))
        self.engine.apply_kv(1, 0, n.Batch.build(0, 1, 1, [opening]))
        self.sequence = 0
        self.rng = random.Random(1)
        self.keys = [b"key%012d" % i for i in range(items)]
        self.value = self.rng.randbytes(value)
        keys = self.rng.sample(self.keys, items)
        for start in range(0, items, WINDOW // 2):
            self.put(keys[start : start + WINDOW // 2])

    def put(self, keys: list[bytes]) -> float:
        """One slot; returns the processor time of applying it."""
        entries = []
        for key in keys:
            self.sequence += 1
            lowest = max(0, self.sequence - WINDOW // 2)
            request = kv.put_request(key, self.value)
            entries.append((1 << 16, self.sequence, lowest, n.ENTRY_COMMAND, request))
        slot = self.engine.mark[0] + 1
        batch = n.Batch.build(0, 1, slot, entries)
        start = time.thread_time()
        self.engine.apply_kv(slot, 0, batch)
        return time.thread_time() - start

    def load(self, count: int) -> float:
        return self.put([self.rng.choice(self.keys) for _ in range(count)]) if count else 0.0


def make(path: Path, size: int, *, installing: bool) -> None:
    n.Pool.create(
        str(path),
        size=size,
        log_size=1 << 20,
        cluster=CLUSTER,
        replica=0,
        replicas=3,
        machine="kv",
        state_limit=size,
        max_sessions=16_384,
        max_reply_slots=262_144,
        installing=installing,
    )


def take(source: Source, chunk: int, load: int) -> tuple[list[bytes], dict[str, float]]:
    """All chunks, and what they cost."""
    alone = sum(source.load(load) for _ in range(100))
    image = n.ImageSource(source.engine)
    chunks: list[bytes] = []
    pauses: list[float] = []
    cpu, busy, slots = 0.0, 0.0, 0
    while True:
        wall, start = time.perf_counter(), time.thread_time()
        made = image.next(chunk)
        cpu += time.thread_time() - start
        if made is None:
            break
        pauses.append(time.perf_counter() - wall)
        chunks.append(made)
        if not image.cut:
            busy += source.load(load)
            slots += 1
    size = sum(map(len, chunks))
    ordered = sorted(pauses)
    return chunks, {
        "image_mib": size / 2**20,
        "chunks": len(chunks),
        "take_mb_per_s": size / cpu / 1e6,
        "take_items_per_s": len(source.keys) / cpu,
        "pause_p50_ms": ordered[len(ordered) // 2] * 1e3,
        "pause_p99_ms": ordered[len(ordered) * 99 // 100] * 1e3,
        "pause_max_ms": ordered[-1] * 1e3,
        "sent_again": image.progress()["again"],
        "put_alone_us": alone / max(1, 100 * load) * 1e6,
        "put_meanwhile_us": busy / max(1, slots * load) * 1e6,
    }


def install(path: Path, size: int, chunks: list[bytes], items: int) -> dict[str, float]:
    make(path, size, installing=True)
    pool = n.Pool(str(path), cluster=CLUSTER, replica=0, size=size, installing=True)
    target = n.ImageTarget(pool)
    start = time.thread_time()
    for chunk in chunks[:-1]:
        target.install(chunk)
    before_final = time.thread_time()
    target.install(chunks[-1])
    cpu, final = time.thread_time() - start, time.thread_time() - before_final
    return {
        "install_mb_per_s": sum(map(len, chunks)) / cpu / 1e6,
        "install_items_per_s": items / cpu,
        "install_verify_s": final,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--value", type=int, default=1024, help="bytes of a value (1024)")
    parser.add_argument("--items", type=int, default=100_000, help="number of items (100000)")
    parser.add_argument("--chunk", type=int, default=256 << 10, help="bytes of a chunk (262144)")
    parser.add_argument("--load", type=int, default=0, help="puts between two chunks (0)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    size = int(options.items * (options.value + 300) * 1.3) + (96 << 20)
    shm = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="mpaxos-bench-", dir=shm if shm.is_dir() else None))
    try:
        source = Source(directory / "a", size, options.items, options.value)
        chunks, found = take(source, options.chunk, options.load)
        found |= install(directory / "b", size, chunks, options.items)
    finally:
        shutil.rmtree(directory)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:20} {value:14,.2f}")


if __name__ == "__main__":
    main()

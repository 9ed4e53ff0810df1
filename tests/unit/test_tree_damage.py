"""A flipped bit in the tree: a key must never just seem to be absent."""

from __future__ import annotations

import struct
from contextlib import closing

import pytest

from mpaxos._native import Batch, Engine
from mpaxos.errors import InvariantViolated, StorageCorrupt
from tests.unit import pools

SIZE = 24 << 20
KEYS = [b"first", b"second"]
BRANCH, ROOT = 32, 88
"""Bytes of a branch, and of a container's root as far as they are used."""


def test_every_byte_of_a_branch_and_of_a_container_counts() -> None:
    with pools.scratch() as directory:
        path = directory / "pool"
        pools.make(path, size=SIZE)
        with closing(pools.reopen(path, size=SIZE)) as pool:
            engine = Engine(pool)
            container = engine.container("names")
            engine.begin(1, 1, Batch.build(0, 1, 1, [(0, 5, 0, 1, struct.pack("<I", 1))]))
            engine.finish([], [(container, key, b"value") for key in KEYS])
            found = [engine.get(container, key) for key in KEYS]
            del engine
        assert found == [b"value"] * 2
        clean = path.read_bytes()
        root = clean.index(b"names" + bytes(59))
        tree = int.from_bytes(clean[root + 64 : root + 72], "little")
        assert tree % 2 == 1, "two items hang below a branch"
        for place in [*range(root, root + ROOT), *range(tree - 1, tree - 1 + BRANCH)]:
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(bytes([clean[place] ^ 1 << place % 8]))
            with closing(pools.reopen(path, size=SIZE)) as pool:
                engine = Engine(pool)
                with pytest.raises((StorageCorrupt, InvariantViolated)):
                    engine.get(engine.container("names"), KEYS[place % 2])
                    pytest.fail(f"the flipped byte at {place - root} of the root went unnoticed")
                del engine
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(clean[place : place + 1])

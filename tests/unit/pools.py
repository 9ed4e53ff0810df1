"""Pools for tests, on tmpfs where there is one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# libpmem reads it when it is loaded, which is at the first import of the extension.
os.environ.setdefault("PMEM_IS_PMEM_FORCE", "1")

from mpaxos._native import Pool

CLUSTER = b"test cluster 016"
SIZE = 48 << 20
LOG = 1 << 20


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="mpaxos-test-", dir=shm if shm.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def make(
    path: Path,
    *,
    size: int = SIZE,
    log_size: int = LOG,
    replica: int = 1,
    state_limit: int = 8 << 20,
    max_sessions: int = 64,
    max_reply_slots: int = 512,
    installing: bool = False,
    brief: bool = False,
) -> None:
    Pool.create(
        str(path),
        size=size,
        log_size=log_size,
        cluster=CLUSTER,
        replica=replica,
        replicas=3,
        machine="test",
        state_limit=state_limit,
        max_sessions=max_sessions,
        max_reply_slots=max_reply_slots,
        installing=installing,
        brief=brief,
    )


def reopen(path: Path, *, size: int = SIZE, replica: int = 1, installing: bool = False) -> Pool:
    return Pool(str(path), cluster=CLUSTER, replica=replica, size=size, installing=installing)

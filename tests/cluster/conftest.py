"""Clusters of real processes for tests; their logs are shown when a test fails."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpaxos.local import LocalCluster

TESTS = Path(__file__).parent.parent

SMALL = {"pool.size": "64 MiB", "pool.log_size": "16 MiB", "limits.max_reply_slots": "32768"}
"""Enough for any test here, and quick to make."""

MakeCluster = Callable[..., LocalCluster]


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Programs that are started here can be interrupted, even when the tests themselves were
    started in the background of a shell that ignores SIGINT for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A fresh directory on tmpfs where there is one: pools on a disk are slow."""
    shared = Path("/dev/shm")
    parent = shared if os.access(shared, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="mpaxos-test-", dir=parent))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_cluster(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[MakeCluster]:
    """Makes clusters that are stopped at the end: make_cluster(replicas=3, service=...)."""
    # Replicas import the state machines of these tests.
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}:{os.environ.get('PYTHONPATH', '')}")
    made: list[LocalCluster] = []

    def make(*, started: bool = True, **options: Any) -> LocalCluster:
        settings = SMALL | options.pop("settings", {})
        directory = memory_path / str(len(made))
        cluster = LocalCluster(directory, settings=settings, **options)
        made.append(cluster)
        cluster.initialise()
        if started:
            cluster.start()
            cluster.wait_in_step()
        return cluster

    yield make
    for cluster in made:
        for number in cluster.numbers:
            # Shown by pytest for failed tests only.
            print(f"---- log of replica {number}\n{cluster.log(number)}")
        cluster.close()


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> LocalCluster:
    """Three replicas of the key-value service, in step."""
    return make_cluster()

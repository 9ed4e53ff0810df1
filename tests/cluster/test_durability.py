"""What concerns one durability or machine alone; every combination: test_matrix."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient
from tests.cluster.conftest import MakeCluster

SMALL = {
    "pool.log_size": "24 MiB",
    "limits.max_request": "64 KiB",
    "limits.max_batch": "64 KiB",
    "snapshots.minimum": "256 KiB",
}
"""Snapshots often, and segments of 2 MiB on disk."""


def make(
    make_cluster: MakeCluster, durability: str, machine: str = "volatile", **options: Any
) -> LocalCluster:
    settings = SMALL | options.pop("settings", {})
    return make_cluster(durability=durability, machine=machine, settings=settings, **options)


def snapshots(cluster: LocalCluster, number: int) -> list[int]:
    """Slots of a replica's snapshots."""
    found = cluster.config.directory(number).glob("snapshot-*")
    return sorted(int(path.name.partition("-")[2]) for path in found)


@pytest.mark.parametrize("durability", ["pmem", "disk"])
def test_a_machine_in_python_is_restored(make_cluster: MakeCluster, durability: str) -> None:
    from mpaxos import connect_blocking
    from tests.cluster.services import Trouble

    cluster = make(
        make_cluster,
        durability,
        service="tests.cluster.services:Trouble",
        settings={"snapshots.minimum": "64 KiB"},
    )
    with connect_blocking(cluster.addresses, Trouble) as trouble:
        for number in range(1500):
            trouble.add(f"key {number % 40}", 1)

        def taken() -> bool | None:
            trouble.add("more", 1)
            return True if all(snapshots(cluster, n) for n in cluster.numbers) else None

        cluster.wait(taken, "a snapshot of each")
        more = trouble.get("more")
        cluster.kill(*cluster.numbers)
        cluster.start()
        cluster.wait_in_step()
        assert trouble.get("more") == more
        assert sum(trouble.get(f"key {n}") for n in range(40)) == 1500
    assert len(set(cluster.digests()[1].values())) == 1


@pytest.mark.parametrize("durability", ["pmem", "disk"])
def test_a_peer_that_is_away_does_not_fill_the_logs(
    make_cluster: MakeCluster, durability: str
) -> None:
    # Small enough to be written several times: 6 MiB of log.
    cluster = make(make_cluster, durability, settings={"pool.log_size": "6 MiB"})
    cluster.kill(2)
    with KeyValueClient(cluster.addresses) as kv:
        for number in range(40):
            kv.put(f"key {number % 5}".encode(), os.urandom(60_000))
        first = cluster.status(0)
        for number in range(240):
            kv.put(f"key {number % 5}".encode(), os.urandom(60_000))
    last = cluster.status(0)
    assert first is not None and last is not None
    assert last["truncated"] > first["truncated"]
    assert last["truncated"] <= last["snapshot"]["slot"] <= last["applied"]


def test_a_directory_made_for_something_else(make_cluster: MakeCluster) -> None:
    cluster = make(make_cluster, "disk", started=False)
    cluster.overrides["durability"] = "epoch"
    done = subprocess.run(
        cluster.command(0),
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert 'made for durability = "disk"' in done.stderr

"""Every durability and machine on real processes: what it promises, and what it refuses."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from mpaxos.errors import ClientError
from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient
from tests.cluster.conftest import MakeCluster
from tests.cluster.workload import Workload

SMALL = {
    "pool.log_size": "24 MiB",
    "limits.max_request": "64 KiB",
    "limits.max_batch": "64 KiB",
    "snapshots.minimum": "256 KiB",
}
"""Snapshots often, and segments of 2 MiB on disk."""

COMBINATIONS = [
    ("pmem", "persistent"),
    ("pmem", "volatile"),
    ("disk", "volatile"),
    ("view", "volatile"),
    ("epoch", "volatile"),
]
KEEPING = COMBINATIONS[:3]
FORGETTING = COMBINATIONS[3:]


def make(
    make_cluster: MakeCluster, durability: str, machine: str = "volatile", **options: Any
) -> LocalCluster:
    settings = SMALL | options.pop("settings", {})
    return make_cluster(durability=durability, machine=machine, settings=settings, **options)


def snapshots(cluster: LocalCluster, number: int) -> list[int]:
    """Slots of a replica's snapshots."""
    found = cluster.config.directory(number).glob("snapshot-*")
    return sorted(int(path.name.partition("-")[2]) for path in found)


@pytest.mark.parametrize(("durability", "machine"), COMBINATIONS)
def test_one_after_the_other_is_killed(
    make_cluster: MakeCluster, durability: str, machine: str
) -> None:
    cluster = make(make_cluster, durability, machine)
    load = Workload(cluster.addresses)
    load.wait_for(1000)
    for victim in (cluster.leader(), 0, 1, 2):
        cluster.kill(victim)
        load.wait_for(300)  # the other two go on
        cluster.start([victim])
        cluster.wait_in_step(victim)
        cluster.wait(lambda: recovered(cluster), "all having recovered")
    load.stop()
    load.verify(cluster)
    status = cluster.status(0)
    assert status is not None
    assert (status["durability"], status["machine"]) == (durability, machine)
    if machine == "volatile":
        assert snapshots(cluster, 0), "no snapshot was taken: nothing was tested"
    # Each start but the first began a life, where something was forgotten.
    assert (status["life"] > 1) == (durability in ("view", "epoch"))


def recovered(cluster: LocalCluster) -> bool | None:
    """All take part: before that, the next one must not be killed where a majority must stay."""
    statuses = [cluster.status(number) for number in cluster.numbers]
    return True if all(s and s["role"] != "recovering" and s["in_step"] for s in statuses) else None


@pytest.mark.parametrize(("durability", "machine"), KEEPING)
def test_all_are_killed_at_once(make_cluster: MakeCluster, durability: str, machine: str) -> None:
    cluster = make(make_cluster, durability, machine)
    load = Workload(cluster.addresses)
    for _ in range(2):
        load.wait_for(800)
        cluster.kill(*cluster.numbers)
        cluster.start()
        cluster.wait_in_step()
    load.wait_for(100)
    load.stop()
    load.verify(cluster)


@pytest.mark.parametrize(("durability", "machine"), FORGETTING)
def test_all_at_once_is_more_than_these_survive(
    make_cluster: MakeCluster, durability: str, machine: str
) -> None:
    cluster = make(make_cluster, durability, machine)
    with KeyValueClient(cluster.addresses) as kv:
        kv.put(b"key", b"value")
    cluster.kill(*cluster.numbers)
    cluster.start()

    def all_recovering() -> bool | None:
        statuses = [cluster.status(number) for number in cluster.numbers]
        return True if all(s and s["role"] == "recovering" for s in statuses) else None

    # They take no part, and say what they wait for; none makes up a state.
    cluster.wait(all_recovering, "all of them recovering")
    with pytest.raises(ClientError), KeyValueClient(cluster.addresses, deadline(1.0)) as kv:
        kv.get(b"key")
    assert all_recovering()


def deadline(seconds: float) -> Any:
    from mpaxos.client.options import Options

    return Options(deadline=seconds)


def test_without_durability_a_crashed_replica_is_refused(make_cluster: MakeCluster) -> None:
    cluster = make(make_cluster, "none")
    load = Workload(cluster.addresses)
    load.wait_for(300)
    victim = cluster.leader()
    cluster.kill(victim)
    load.wait_for(300)  # the others go on, for good
    done = subprocess.run(
        cluster.command(victim),
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "started before" in done.stderr and "replaced" in done.stderr
    load.wait_for(100)
    load.stop()
    assert load.reconnects > 0


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

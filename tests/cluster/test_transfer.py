"""A replica that is beyond the reach of all logs gets the state itself, while the others serve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient
from tests.cluster.conftest import MakeCluster
from tests.cluster.workload import Workload

SHORT_LOG = {"pool.log_size": "2 MiB", "limits.max_batch": "32 KiB", "limits.max_request": "64 KiB"}
"""Soon truncated beyond a replica that is away."""


@contextmanager
def load(cluster: LocalCluster) -> Iterator[Workload]:
    """Writers that know what was acknowledged, and at the end look for it everywhere."""
    work = Workload(cluster.addresses)
    yield work
    work.stop()
    work.verify(cluster)


def fill(cluster: LocalCluster, number: int, mebibytes: int) -> dict[bytes, bytes]:
    """Put values of 16 KiB through replica `number`; what was put."""
    items = {b"filled/%06d" % i: i.to_bytes(4, "big") * 4096 for i in range(64 * mebibytes)}
    with KeyValueClient(cluster.client_address(number)) as kv:
        for key, value in items.items():
            kv.put(key, value)
    return items


def leave_behind(cluster: LocalCluster, victim: int, mebibytes: int = 6) -> dict[bytes, bytes]:
    """Write until the others' logs begin after what `victim`, which is down, has applied; what
    was put."""
    other = next(n for n in cluster.numbers if n != victim)
    before = cluster.status(other)
    assert before is not None
    items = fill(cluster, other, mebibytes)

    def truncated() -> bool | None:
        statuses = [cluster.status(n) for n in cluster.numbers if n != victim]
        gone = [s is not None and s["truncated"] > before["applied"] for s in statuses]
        return True if all(gone) else None

    cluster.wait(truncated, "logs to be truncated beyond the replica that is away")
    return items


@pytest.mark.parametrize("replicas", [3, 5])
def test_a_replica_far_behind_gets_the_state(make_cluster: MakeCluster, replicas: int) -> None:
    cluster = make_cluster(replicas=replicas, settings=SHORT_LOG)
    victim = (cluster.leader() + 1) % replicas
    cluster.kill(victim)
    with load(cluster) as work:
        work.puts |= leave_behind(cluster, victim)
        cluster.start([victim])
        cluster.wait_in_step(victim)
        work.wait_for(200)
    status = cluster.status(victim)
    assert status is not None and not status["too_far_behind"]
    assert "switched to it" in cluster.log(victim, 1 << 20)
    assert not list((cluster.config.directory(victim)).glob("pool.*"))

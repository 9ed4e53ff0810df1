"""kill -9 under load: no acknowledged command is lost or doubled, all replicas are equal."""

from __future__ import annotations

import signal

import pytest

from mpaxos.local import LocalCluster
from tests.cluster.conftest import MakeCluster
from tests.cluster.workload import Workload


def test_each_replica_in_turn(cluster: LocalCluster) -> None:
    load = Workload(cluster.addresses)
    load.wait_for(500)
    for victim in cluster.numbers:
        cluster.kill(victim)
        load.wait_for(500)  # the other two go on
        cluster.start([victim])
        cluster.wait_in_step(victim)
        load.wait_for(100)
    load.stop()
    assert load.reconnects > 0, "no client was disturbed: nothing was tested"
    load.verify(cluster)


def test_the_leader_again_and_again(cluster: LocalCluster) -> None:
    load = Workload(cluster.addresses)
    for _ in range(4):
        load.wait_for(200)
        victim = cluster.leader()
        cluster.kill(victim)
        load.wait_for(200)
        cluster.start([victim])
        cluster.wait_in_step(victim)
    load.stop()
    load.verify(cluster)


@pytest.mark.parametrize("replicas", [3, 5])
def test_all_at_once(make_cluster: MakeCluster, replicas: int) -> None:
    cluster = make_cluster(replicas=replicas)
    load = Workload(cluster.addresses)
    for _ in range(2):
        load.wait_for(500)
        cluster.kill(*cluster.numbers)
        cluster.start()
        cluster.wait_in_step()
        load.wait_for(100)
    load.stop()
    load.verify(cluster)


def test_a_majority_down_and_back(cluster: LocalCluster) -> None:
    load = Workload(cluster.addresses)
    load.wait_for(300)
    leader = cluster.leader()
    others = [n for n in cluster.numbers if n != leader]
    cluster.kill(leader, others[0])
    cluster.start([leader, others[0]])
    cluster.wait_in_step()
    load.wait_for(300)
    load.stop()
    load.verify(cluster)


def test_a_leader_that_is_frozen_is_replaced(cluster: LocalCluster) -> None:
    load = Workload(cluster.addresses)
    load.wait_for(300)
    frozen = cluster.leader()
    before = cluster.status(frozen)
    assert before is not None
    cluster.kill(frozen, sign=signal.SIGSTOP)
    try:
        others = [n for n in cluster.numbers if n != frozen]

        def replaced() -> bool | None:
            found = [cluster.status(n) for n in others]
            return True if any(s and s["role"] == "leader" for s in found) else None

        cluster.wait(replaced, "another leader")
        load.wait_for(300)
    finally:
        cluster.kill(frozen, sign=signal.SIGCONT)
    cluster.wait_in_step()
    load.stop()
    load.verify(cluster)


def test_a_restart_by_sigterm_is_clean(cluster: LocalCluster) -> None:
    load = Workload(cluster.addresses)
    load.wait_for(200)
    cluster.kill(1, sign=signal.SIGTERM)
    assert cluster.process(1).returncode == 0
    load.wait_for(200)
    cluster.start([1])
    cluster.wait_in_step(1)
    load.stop()
    load.verify(cluster)


def test_a_replica_that_was_long_away_catches_up(cluster: LocalCluster) -> None:
    cluster.kill(2)
    load = Workload(cluster.addresses)
    load.wait_for(5000)
    cluster.start([2])
    cluster.wait_in_step(2)
    load.stop()
    load.verify(cluster)

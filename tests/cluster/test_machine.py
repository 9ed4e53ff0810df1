"""Methods that raise, answer nonsense or run for seconds must not harm the cluster."""

from __future__ import annotations

import signal
import threading

import pytest

import mpaxos
from mpaxos.errors import ClientError, CommandFailed
from mpaxos.local import LocalCluster
from tests.cluster.conftest import MakeCluster
from tests.cluster.services import Trouble

SLOW = 3.0
"""Seconds; several times the silence after which a leader is replaced."""


@pytest.fixture
def troubled(make_cluster: MakeCluster) -> LocalCluster:
    return make_cluster(service="tests.cluster.services:Trouble")


def test_an_error_is_the_clients_and_nothing_else(troubled: LocalCluster) -> None:
    with mpaxos.connect_blocking(troubled.addresses, Trouble) as machine:
        assert machine.invoke(Trouble.add, "a", 1) == 1
        for _ in range(20):
            with pytest.raises(CommandFailed) as caught:
                machine.invoke(Trouble.fail, "a", "not today")
            assert (caught.value.type, caught.value.message) == ("ValueError", "not today")
        with pytest.raises(ClientError):
            machine.invoke(Trouble.nonsense, "a")
        assert machine.invoke(Trouble.add, "a", 1) == 2
    for number in troubled.numbers:
        with mpaxos.connect_blocking(troubled.client_address(number), Trouble) as machine:
            assert machine.invoke(Trouble.get, "a") == 2
    assert len(set(troubled.digests()[1].values())) == 1


def test_a_failed_command_is_not_run_again_after_a_crash(troubled: LocalCluster) -> None:
    with mpaxos.connect_blocking(troubled.addresses, Trouble, deadline=60) as machine:
        with pytest.raises(CommandFailed):
            machine.invoke(Trouble.fail, "a", "once")
        troubled.kill(*troubled.numbers)
        troubled.start()
        troubled.wait_in_step()
        assert machine.invoke(Trouble.get, "a") == 0
        assert machine.invoke(Trouble.add, "a", 5) == 5


def test_a_slow_method_costs_no_leader_and_is_named(troubled: LocalCluster) -> None:
    leader = troubled.leader()
    before = troubled.status(leader)
    assert before is not None
    results: list[int] = []

    def call() -> None:
        with mpaxos.connect_blocking(troubled.addresses, Trouble, deadline=60) as machine:
            results.append(machine.invoke(Trouble.slow, SLOW))

    caller = threading.Thread(target=call)
    caller.start()

    def named() -> bool | None:
        found = [troubled.status(n) for n in troubled.numbers]
        running = [s["running"] for s in found if s is not None and s["running"] is not None]
        return True if any("slow" in r["command"] for r in running) else None

    troubled.wait(named, "a status that names the running command")
    while caller.is_alive():
        for number in troubled.numbers:
            status = troubled.status(number)
            assert status is not None, f"replica {number} does not answer"
            assert (status["leader"], status["ballot"]) == (leader, before["ballot"])
        caller.join(timeout=0.05)
    assert results == [1]
    with mpaxos.connect_blocking(troubled.addresses, Trouble) as machine:
        assert machine.invoke(Trouble.add, "after", 1) == 1


def test_killed_within_a_slow_method_it_is_run_once(troubled: LocalCluster) -> None:
    with mpaxos.connect_blocking(troubled.addresses, Trouble, deadline=60) as machine:
        future = machine.submit(Trouble.slow, 1.0)

        def running() -> bool | None:
            found = [troubled.status(n) for n in troubled.numbers]
            return True if all(s is not None and s["running"] is not None for s in found) else None

        troubled.wait(running, "the method to run everywhere")
        troubled.kill(*troubled.numbers)
        troubled.start()
        assert future.result(timeout=60) == 1
        assert machine.invoke(Trouble.get, "slow") == 1
    assert len(set(troubled.digests()[1].values())) == 1


def test_asked_to_stop_within_a_slow_method_it_leaves_and_runs_it_once(
    troubled: LocalCluster,
) -> None:
    with mpaxos.connect_blocking(troubled.addresses, Trouble, deadline=120) as machine:
        future = machine.submit(Trouble.slow, 9.0)

        def running() -> bool | None:
            found = [troubled.status(n) for n in troubled.numbers]
            return True if all(s is not None and s["running"] is not None for s in found) else None

        troubled.wait(running, "the method to run everywhere")
        number = troubled.leader()
        process = troubled.process(number)
        troubled.kill(number, sign=signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "a command still runs" in troubled.log(number)
        troubled.start([number])
        assert future.result(timeout=120) == 1
        with mpaxos.connect_blocking(troubled.client_address(number), Trouble) as direct:
            assert direct.invoke(Trouble.get, "slow") == 1
    assert len(set(troubled.digests()[1].values())) == 1


def test_a_query_right_after_a_restart_sees_the_time_of_the_state(troubled: LocalCluster) -> None:
    with mpaxos.connect_blocking(troubled.addresses, Trouble, deadline=60) as machine:
        written = machine.invoke(Trouble.note_time)
        troubled.kill(*troubled.numbers)
        troubled.start()
        troubled.wait_in_step()
        assert machine.invoke(Trouble.now) >= written > 0

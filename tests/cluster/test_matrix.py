"""Every combination of durability and machine on real processes: what it promises is kept through
every kind of trouble, and what it does not promise is refused.

A combination is one cluster that lives through all the cases in turn, under load; what each does
is in its own function. At the end all that was acknowledged is looked for on every replica.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaxos.errors import ClientError, ConfigError
from mpaxos.local import LocalCluster
from mpaxos.proxy import Proxy
from mpaxos.services.kv import KeyValueClient
from tests.cluster.matrix import KEEPING, LITTLE, Cell, mpaxos, status_of
from tests.cluster.workload import Workload

COMBINATIONS = [
    ("pmem", "persistent", 5),
    ("pmem", "volatile", 3),
    ("disk", "volatile", 3),
    ("view", "volatile", 3),
    ("epoch", "volatile", 5),
    ("none", "volatile", 3),
]
REFUSED = [(durability, "persistent") for durability in ("disk", "view", "epoch", "none")]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("durability", "machine", "replicas"),
    COMBINATIONS,
    ids=[f"{d}-{m}" for d, m, _ in COMBINATIONS],
)
def test_a_combination(
    memory_path: Path, proxy: Proxy, durability: str, machine: str, replicas: int
) -> None:
    with Cell(memory_path, proxy, durability, machine, replicas) as cell:
        try:
            live_through(cell, machine)
        except BaseException:
            for number in cell.numbers:
                print(f"---- log of replica {number}\n{cell.log(number, 8000)}")
            raise


def live_through(cell: Cell, machine: str) -> None:
    cell.initialise()
    cell.start()
    cell.wait_in_step()
    load = Workload(cell.addresses)
    under_load(cell, load, machine)
    a_follower_is_killed(cell, load)
    the_leader_is_killed(cell, load)
    the_leader_is_cut_off(cell, load)
    a_replica_lags(cell, load)
    a_replica_is_wiped(cell, load)
    if cell.durability in KEEPING:
        all_are_killed_and_nothing_is_lost(cell, load)
        load.stop()
        load.verify(cell)
    else:
        load.stop()
        load.verify(cell)
        all_are_killed_and_none_pretends(cell)


def under_load(cell: Cell, load: Workload, machine: str) -> None:
    load.wait_for(500)
    status = status_of(cell, 0)
    assert (status["durability"], status["machine"]) == (cell.durability, machine)
    if machine == "volatile" and cell.durability != "none":
        # Before anything happens, so that what comes back has something to be restored from.
        cell.wait(cell.all_have_snapshots, "a snapshot of each")


def a_follower_is_killed(cell: Cell, load: Workload) -> None:
    victim = (cell.leader() + 1) % len(cell.numbers)
    life = status_of(cell, victim)["life"]
    cell.kill(victim)
    load.wait_for(200)
    cell.come_back(victim)
    # A new life begins where something was forgotten.
    assert (status_of(cell, victim)["life"] > life) == (cell.durability not in KEEPING)


def the_leader_is_killed(cell: Cell, load: Workload) -> None:
    victim = cell.leader()
    cell.kill(victim)
    cell.new_leader(victim)
    load.wait_for(200)
    cell.come_back(victim)


def the_leader_is_cut_off(cell: Cell, load: Workload) -> None:
    """With five replicas it is not alone, but its side is still a minority."""
    leader, count = cell.leader(), len(cell.numbers)
    minority = [(leader + further) % count for further in range((count - 1) // 2)]
    cell.cut_off(*minority)
    cell.new_leader(*minority)
    for number in minority:
        cell.acknowledges_nothing(number)
    load.wait_for(200)  # clients go elsewhere
    cell.heal()
    cell.wait_all_take_part()


def a_replica_lags(cell: Cell, load: Workload) -> None:
    victim = (cell.leader() + 1) % len(cell.numbers)
    switches = cell.switches(victim)
    cell.cut_off(victim)
    cell.leave_behind(victim, load)
    cell.heal()
    # It may not have noticed yet that it was away. More than one, when the load has overtaken an
    # image.
    cell.wait(lambda: cell.switches(victim) > switches or None, "a state transfer")
    cell.wait_all_take_part()


def a_replica_is_wiped(cell: Cell, load: Workload) -> None:
    victim = (cell.leader() + 1) % len(cell.numbers)
    other = next(n for n in cell.numbers if n not in (victim, cell.leader()))
    life = status_of(cell, victim)["life"]
    # As long as its data is there, it cannot be replaced by mistake.
    cell.kill(victim)
    refused = cell.run("init", "--replica", str(victim), "--replace")
    assert refused.returncode == 3 and "was initialised before" in refused.stderr
    cell.leave_behind(victim, load)
    switches = cell.switches(victim)
    cell.made_anew_is_refused(victim)
    cell.replace(victim)
    cell.start([victim])
    cell.wait_all_take_part()
    assert cell.switches(victim) > switches, "it came back without a state transfer"
    assert status_of(cell, victim)["life"] > life, "it took itself for the one that was lost"
    # It votes again: with it, others may be away.
    cell.cut_off(other)
    load.wait_for(100)
    cell.heal()
    cell.wait_all_take_part()


def all_are_killed_and_nothing_is_lost(cell: Cell, load: Workload) -> None:
    load.wait_for(200)
    cell.kill(*cell.numbers)
    cell.start()
    cell.wait_all_take_part()
    load.wait_for(100)


def all_are_killed_and_none_pretends(cell: Cell) -> None:
    cell.kill(*cell.numbers)
    if cell.durability == "none":
        for number in cell.numbers:
            said = cell.refusal(number)
            assert "started before" in said and "begin a new cluster" in said
        return
    cell.start()

    def all_recovering() -> bool | None:
        statuses = [cell.status(number) for number in cell.numbers]
        return True if all(s and s["role"] == "recovering" for s in statuses) else None

    cell.wait(all_recovering, "all of them recovering")
    with pytest.raises(ClientError), KeyValueClient(cell.client_address(0), LITTLE) as kv:
        kv.get(b"shared")
    assert all_recovering()
    # Whoever looks is told what it would take.
    for number in cell.numbers:
        told = status_of(cell, number)["waits_for"]
        assert "others must be up and must not be recovering themselves" in told
    cell.wait(
        lambda: True if "takes no part yet: waits for answers" in cell.log(0, 1 << 22) else None,
        "what is waited for in the log",
    )


@pytest.mark.parametrize(
    ("durability", "machine"), REFUSED, ids=["-".join(axes) for axes in REFUSED]
)
def test_a_combination_that_makes_no_sense_is_refused(
    tmp_path: Path, durability: str, machine: str
) -> None:
    axes = {"durability": durability, "machine": machine}
    with pytest.raises(ConfigError, match=r"or machine = .volatile."):
        LocalCluster(tmp_path, settings=axes)
    # By the commands as well, and nothing is made.
    for command in (["init"], ["serve"]):
        words = [*command, "-c", str(tmp_path / "cluster.toml"), "--replica", "0"]
        for key, value in axes.items():
            words += ["--set", f"{key}={value}"]
        done = mpaxos(words, dict(os.environ))
        assert (
            done.returncode == 2 and f"does not go with durability = {durability!r}" in done.stderr
        )
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.toml"]

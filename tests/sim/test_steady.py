"""Ordinary turns under a mandate: the same as those of the protocol, at every step of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaxos.sim.world import World
from tests.sim.steady_mutants import MUTANTS, SteadyMutant, noticed
from tests.sim.twin import Twin, make_twin


@pytest.mark.parametrize("replicas", [3, 5, 7])
@pytest.mark.parametrize("first", [0, 1000])
def test_they_ask_for_the_same_and_lead_to_the_same(replicas: int, first: int) -> None:
    compared, handed_back = Twin.turns, Twin.handed_back
    for seed in range(first, first + 30):
        report = World(seed, replicas, make_replica=make_twin, steady=False).run()
        assert report.failure is None, f"seed {seed}: {report.failure}"
    assert Twin.turns > compared + 1000
    assert Twin.handed_back > handed_back + 100


def test_runs_are_full_of_them() -> None:
    ordinary = decided = 0
    for seed in range(40):
        report = World(seed, 3, durability="pmem").run()
        assert report.failure is None, f"seed {seed}: {report.failure}"
        ordinary += report.ordinary_turns
        decided += report.decided
    assert ordinary > decided


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_noticed(mutant: SteadyMutant, tmp_path: Path) -> None:
    assert noticed(mutant, tmp_path)

"""The simulated world: many seeds, and exact replay. That its checks can fail: test_mutants."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from mpaxos.compiled import PURE, RUNS
from mpaxos.sim import DURABILITIES, Report, replay, run

SEEDS = int(os.environ.get("MPAXOS_SIM_SEEDS", "5000"))
FIRST = 500_000
CHUNK = 50


def run_chunk(first: int) -> list[Report]:
    assert RUNS == "compiled", RUNS
    return [run(seed, 5 if seed % 3 == 0 else 3) for seed in range(first, first + CHUNK)]


@pytest.mark.timeout(1200)
def test_many_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seed violates safety, every healed cluster comes back, and the faults did happen. Run as
    users run it, compiled; that the source does the same is what the next test sees."""
    monkeypatch.delenv(PURE)  # for the processes started below
    starts = range(FIRST, FIRST + SEEDS, CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        reports = [report for chunk in pool.map(run_chunk, starts) for report in chunk]
    failed = [f"{replay(r)}: {r.failure}" for r in reports if r.failure is not None]
    assert not failed, "\n".join(failed)
    assert len(reports) == SEEDS
    struck: dict[str, int] = {}
    for report in reports:
        for fault, times in report.faults.items():
            struck[fault] = struck.get(fault, 0) + times
    assert len(struck) >= 19 and min(struck.values()) > SEEDS // 100, struck
    for durability in DURABILITIES:
        some = [r for r in reports if r.durability == durability]
        assert len(some) > SEEDS // 6, f"{durability} is seldom drawn"
        assert (sum(r.recoveries for r in some) > len(some) // 20) == (durability != "none")
    assert sum(r.acknowledged for r in reports) > 8 * SEEDS
    still = [r for r in reports if r.stood_still]
    assert len(still) > SEEDS // 200 and {r.durability for r in still} == {"view", "epoch"}
    print(
        f"{SEEDS} schedules, {sum(r.decided for r in reports)} slots decided, "
        f"{sum(r.recoveries for r in reports)} recoveries of lost memory, faults: {struck}"
    )


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_replays_exactly_compiled_and_under_another_hash_seed(
    hash_seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed in a hundred of those above: here the source, there what mypyc made of it."""
    assert RUNS.startswith("source")
    monkeypatch.delenv(PURE)
    seeds = list(range(FIRST, FIRST + SEEDS, 100))
    code = f"from tests.sim.test_sim import compiled_trace as t\nfor s in {seeds}: print(t(s))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.splitlines() == [trace(seed) for seed in seeds]


def compiled_trace(seed: int) -> str:
    assert RUNS == "compiled", RUNS
    return trace(seed)


def trace(seed: int) -> str:
    """What tells one run from another."""
    report = run(seed, 5 if seed % 3 == 0 else 3)
    return f"{seed} {report.events} {report.decided} {report.trace_digest:08x}"

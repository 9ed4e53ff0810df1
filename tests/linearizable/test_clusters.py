"""Real clusters under faults: what their clients saw must be linearizable."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.linearizable.__main__ import judge, load, report, run_kept
from tests.linearizable.rig import Plan

FAULTS = 11


@pytest.mark.parametrize("seed", range(1, 6))
def test_histories_are_linearizable(seed: int, tmp_path: Path) -> None:
    plan = Plan(seed=seed, replicas=5 if seed == 3 else 3)
    result = run_kept(plan, tmp_path)
    print(report(result))
    again = f"python -m tests.linearizable --runs 1 --seed {seed} --replicas {plan.replicas}"
    assert result.verdict.ok, f"{result.verdict.text}; see {tmp_path}; again: {again}"
    assert len(result.history) > 9_000
    assert result.answered > 0.9, f"only {result.answered:.0%} of the operations were answered"
    assert len(result.faults) == FAULTS, f"faults that did not strike: {result.faults}"
    assert judge(load(tmp_path / "history.jsonl")).ok


def test_a_cluster_with_stale_reads_is_noticed(tmp_path: Path) -> None:
    for seed in range(4):
        service = "tests.linearizable.services:StaleReads"
        plan = Plan(seed=seed, operations=4_000, service=service)
        result = run_kept(plan, tmp_path)
        if not result.verdict.ok:
            picture = (tmp_path / "timeline.html").read_text()
            assert "stuck" in picture and "not linearizable" in picture.lower()
            assert not judge(load(tmp_path / "history.jsonl")).ok
            return
    pytest.fail("four runs with stale reads were found linearizable")

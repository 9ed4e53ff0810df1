"""The benchmark of recovery, in its smallest form: what it says, not how fast anything is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.recovery import cases, report
from bench.recovery.cases import CASES, Run, Setting


def test_a_leader_is_killed_and_a_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BEFORE", "AWAY", "AFTER"):
        monkeypatch.setattr(cases, name, 0.4)
    case = CASES[1]
    with cases.filled(Setting("pmem", "persistent"), 1 << 20, None) as cluster:
        before = cluster.leader()
        outcome = cases.run(cluster, case, 10)
        cluster.wait_in_step()
        assert cluster.digests()[0] > 1000  # the state was filled
    assert [text for _, text in outcome.events] == ["KILL", "back", "in step"]
    assert outcome.in_step > 0 and outcome.before > 0 and before in range(3)
    assert outcome.curve[-1][0] >= 1.0
    report.write([Run(setting="pmem + persistent", size=1 << 20, outcomes=[outcome])], 10, tmp_path)
    page = (tmp_path / "RECOVERY.md").read_text()
    assert case.name in page and "| stall, leader killed | 0.15 |" in page
    assert (tmp_path / "plots" / "recovery-pmem-persistent-1.svg").read_text().startswith("<?xml")
    (run,) = msgspec.json.decode((tmp_path / "recovery.json").read_bytes(), type=list[Run])
    assert run.outcomes == [outcome]


def test_means_are_weighted_by_time() -> None:
    curve = [(1.0, 10.0), (1.5, 30.0), (2.0, 0.0)]
    assert cases._mean(curve, 1.2, 2.0) == pytest.approx(15.0)
    assert cases._mean(curve, 0.0, 1.5) == pytest.approx((10.0 + 15.0) / 1.5)
    assert cases._mean([], 0.0, 1.0) == 0.0

"""`python -m bench.recovery` with tiny states and no waits; what is checked is what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.recovery import __main__ as program
from bench.recovery import faults, steady, transfer


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "AWAY", 0.2)
    monkeypatch.setattr(faults, "SETTLE", 0.2)
    monkeypatch.setattr(transfer, "UNDISTURBED", 0.3)


def run(output: Path, capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run the program; its JSON."""
    assert program.main([*words, "--json", "--output", str(output), "--sizes", "128KiB"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    assert found == json.loads((output / "recovery.json").read_text())
    return found


@pytest.mark.parametrize("setting", ["pmem+persistent", "view+volatile"])
def test_all_faults_are_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], setting: str
) -> None:
    found = run(tmp_path, capfd, "--settings", setting, "--connections", "10")
    ((outcome, origin),) = [(part["found"], part["origin"]) for part in found["runs"]]
    assert origin["command"].startswith("python -m bench.recovery")
    names = [faults.IDLE, *(f.name for f in faults.FAULTS)]
    expected = names if setting.startswith("pmem") else names[:-1]  # view does not survive the last
    assert [o["fault"] for o in outcome["outcomes"]] == expected
    for measured in outcome["outcomes"]:
        assert measured["in_step"] > 0
        assert measured["fault"] == faults.IDLE or measured["before"] > 0
    assert sum(outcome["series"]) > 0
    length = len(outcome["series"]) * outcome["interval"]
    assert all(0 <= event["at"] <= length + 0.1 for event in outcome["events"])
    assert len(outcome["events"]) == 3 * (len(expected) - 1)
    page = (tmp_path / "RECOVERY.md").read_text()
    assert all(f"| {name} |" in page for name in expected)
    assert "mPaxosSM" in page
    assert (
        "leader frozen"
        in (tmp_path / f"plots/recovery-{setting.replace('+', '-')}.svg").read_text()
    )


def test_a_transfer_and_a_steady_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "CONNECTIONS", 20)
    found = run(tmp_path, capfd, "--settings", "", "--transfer", "1MiB", "--steady", "0.01")
    moved, busy = found["transfer"]["found"], found["steady"]["found"]
    assert isinstance(moved, dict) and isinstance(busy, dict)
    assert moved["copy"] > 0 and moved["carried"] > 0
    assert len(moved["rounds"]) == transfer.ROUNDS
    for each in moved["rounds"]:
        assert each["in_step"] > 0 and each["before"] > 0 and each["during"] > 0
    assert moved["state"] > 1 << 20
    assert busy["throughput"] > 0 and busy["changes"] >= 0
    assert "replaced" in (tmp_path / "RECOVERY.md").read_text()


@pytest.mark.parametrize(
    "words", [["--settings", "none+volatile"], ["--sizes", "1KiB"], ["--steady", "0"]]
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert program.main([*words, "--output", str(tmp_path)]) != 0
    assert words[0] in capfd.readouterr().err
    assert not list(tmp_path.iterdir())

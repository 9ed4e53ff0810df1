"""Every image that a crash could leave, within the budget of `make test`; the whole command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.__main__ import summary
from tests.crash.images import LIMIT
from tests.crash.runner import Options, depth_for, examine, points, record, scratch
from tests.crash.runner import Outcome as Workload
from tests.crash.shim import ROOT, Kind, read_trace
from tests.crash.workloads import SCRIPTS

DISTINCT = 20_000
"""Images that `make test` examines at least."""

OPTIONS = Options(budget=20_000, jobs=min(2, os.cpu_count() or 1), length=0.5)
"""The recoveries that are crashed again come on top."""


@pytest.mark.timeout(1200)
def test_every_image_is_recovered(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = examine(list(SCRIPTS), 0, OPTIONS)
    with capsys.disabled():
        print("\n" + summary(outcomes, sum(outcome.seconds for outcome in outcomes)))
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    assert not failures, "\n".join(f"{each.text}\n{each.command}" for each in failures)
    assert sum(outcome.distinct for outcome in outcomes) >= DISTINCT
    assert sum(outcome.again for outcome in outcomes) >= 3000
    assert all(outcome.damaged > 0 for outcome in outcomes)
    total = sum(outcome.points for outcome in outcomes)
    assert sum(outcome.exhausted for outcome in outcomes) > 0.85 * total


def test_a_recording_is_the_same_each_time() -> None:
    """Otherwise a command that reproduces an image would show another one."""
    with scratch() as directory:
        shapes = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            assert record(directory / name, Workload("sessions", 3, 0.2), None) is None
            events = read_trace(directory / name / "trace")
            lines = [[(x.offset, len(x.versions), x.flushed) for x in e.lines] for e in events]
            shapes.append(
                [(e.kind, e.mark, offsets) for e, offsets in zip(events, lines, strict=True)]
            )
        assert shapes[0] == shapes[1]
        assert {kind for kind, _, _ in shapes[0]} == {Kind.FENCE, Kind.MARK}
        found = points(events)
        assert depth_for(found, 0) == 2 * LIMIT
        assert 4 <= depth_for(found, 500) <= depth_for(found, 5000) <= 2 * LIMIT


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.crash", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        check=False,
    )


def test_one_image_again_and_kept(tmp_path: Path) -> None:
    words = ("reproduce", "promises", "20 -", "--length", "0.1", "--keep", str(tmp_path))
    done = command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is recovered as it must be" in done.stdout
    assert (tmp_path / "promises.image").stat().st_size == 12 << 20
    last = 12 * 1024 * 1024 - 1  # a byte that nobody uses: the canary of `reproduce`
    done = command("reproduce", "promises", f"20 - flip {last}.0", "--length", "0.1")
    assert done.returncode == 1 and "a flipped bit was not noticed" in done.stdout


def test_the_command_tells_what_it_did() -> None:
    done = command("run", "promises", "--images", "40", "--length", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    assert '"workload":"promises"' in done.stdout and '"failures":[]' in done.stdout
    assert command("run", "no-such-workload").returncode == 2

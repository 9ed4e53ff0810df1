"""The page of recovery (bench/recovery): what a run does not measure stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.recovery import report
from bench.recovery.faults import IDLE, Outcome, Run
from bench.recovery.report import Findings, RunPart, SteadyPart, TransferPart
from bench.recovery.steady import Steady
from bench.recovery.transfer import Round, Transfer
from bench.results import Origin
from mpaxos.config.values import MIB
from mpaxos.errors import ConfigError


def origin(command: str) -> Origin:
    return Origin(machine="m", date=f"date of {command}", command=command, version="v")


def faults(command: str, setting: str, size: int, in_step: float) -> RunPart:
    outcome = Outcome(fault=IDLE, in_step=in_step, missed=0, stall=0.0, before=0.0, after=0.0)
    run = Run(
        setting=setting,
        size=size,
        connections=1,
        outcomes=[outcome],
        events=[],
        interval=0.1,
        series=[1, 2],
    )
    return RunPart(origin=origin(command), found=run)


def moved(command: str, in_step: float, carried: float = 1.0) -> TransferPart:
    found = Transfer(
        size=MIB,
        state=MIB,
        connections=1,
        rounds=[
            Round(in_step=in_step, stall=0.01, before=10.0, during=2.0),
            Round(in_step=9 * in_step, stall=0.03, before=10.0, during=6.0),
            Round(in_step=in_step / 2, stall=0.02, before=5.0, during=5.0),
        ],
        copy=0.5,
        carried=carried,
        fresh=0.7,
    )
    return TransferPart(origin=origin(command), found=found)


def busy(command: str) -> SteadyPart:
    found = Steady(minutes=1.0, connections=1, changes=0, throughput=5.0, stall=0.0)
    return SteadyPart(origin=origin(command), found=found)


def test_parts_that_were_not_measured_are_kept(tmp_path: Path) -> None:
    first = Findings(
        runs=[
            faults("one", "pmem+persistent", MIB, 0.1),
            faults("one", "pmem+persistent", 10 * MIB, 0.2),
            faults("one", "disk+volatile", MIB, 0.3),
        ],
        steady=busy("one"),
    )
    report.write(report.merged(report.load(tmp_path), first), tmp_path)
    assert report.load(tmp_path) == first

    second = Findings(
        runs=[faults("two", "pmem+persistent", 10 * MIB, 0.9)], transfer=moved("two", 2.0)
    )
    report.write(report.merged(report.load(tmp_path), second), tmp_path)
    both = report.load(tmp_path)
    assert both.runs == [first.runs[0], second.runs[0], first.runs[2]]
    assert both.steady == first.steady and both.transfer == second.transfer

    third = Findings(transfer=moved("three", 3.5))
    report.write(report.merged(both, third), tmp_path)
    last = report.load(tmp_path)
    assert last.runs == both.runs and last.steady == first.steady
    assert last.transfer == third.transfer
    page = (tmp_path / "RECOVERY.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("- ")]
    assert [line.split(": ")[0] for line in lines] == [
        "- pmem+persistent 1.0 MiB, disk+volatile 1.0 MiB, steady",
        "- pmem+persistent 10.0 MiB",
        "- transfer",
    ]
    for command, line in zip(("one", "two", "three"), lines, strict=True):
        assert f"`{command}`" in line
    assert "| 900 ms |" in page and "| 200 ms |" not in page


def test_nothing_is_kept_where_nothing_is(tmp_path: Path) -> None:
    assert report.load(tmp_path) == Findings()
    (tmp_path / "recovery.json").write_text('{"runs":[{"setting":"none"}]}')
    with pytest.raises(ConfigError, match="remove it"):
        report.load(tmp_path)


@pytest.mark.parametrize(("carried", "met"), [(1.0, True), (0.5, False), (0.0, None)])
def test_a_transfer_is_measured_against_the_copy_into_new_memory(
    carried: float, met: bool | None
) -> None:
    found = Findings(transfer=moved("one", 2.0, carried))
    aim = next(aim for aim in report.aims(found) if "of a copy" in aim.text)
    assert aim.met is met
    text = report.transfer_text(moved("one", 2.0, carried).found)
    assert "0.50 s (in step after 4.0 of these)" in text  # the plain one is told all the same


def test_of_several_transfers_the_medians_count_and_the_longest_stall() -> None:
    found = Findings(transfer=moved("one", 2.0))
    measured = {aim.text.split(": ")[1]: aim.measured for aim in report.aims(found)}
    assert measured == {"longest stall": 0.03, "throughput": 0.6, "in step, of a copy": 2.0}

"""The comparison's arithmetic: medians, ratios to the limit beside it, aims, what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import results as files
from bench.aims import aims_of
from bench.systems import COMMANDS, GETS, LIMIT, PUTS, build_limits
from bench.table import COLUMNS, Breakdown, Cell, Comparison, cell_of, of_limit, ratio
from mpaxos.bench import grow, hotspots, percentiles
from mpaxos.bench.load import RawHistogram, Workload
from mpaxos.bench.measure import Measurement, ServerUse
from mpaxos.errors import ConfigError


def measured(rate: float, p50: int = 100_000) -> Measurement:
    latency = percentiles.summarise(RawHistogram(1, p50, p50, [(p50, 1)]))
    roles = ("leader", "follower", "follower")
    return Measurement(
        target="t",
        workload=Workload(),
        seconds=1.0,
        requests=int(rate),
        throughput=rate,
        latency=latency,
        reads=None,
        writes=latency,
        client_per_request=5.0,
        client_share=0.5,
        servers=[
            ServerUse(
                name=role,
                role=role,
                share=0.5,
                per_request=4.0,
                minor_faults=0,
                major_faults=0,
                preemptions=0,
            )
            for role in roles
        ],
        stalls=[(0.5, 20.0)],
    )


def cell(*rates: float, limits: tuple[float, ...] = ()) -> Cell:
    return cell_of([measured(rate) for rate in rates], list(limits))


def comparison(cells: dict[str, dict[str, Cell]]) -> Comparison:
    return Comparison(
        rounds=3,
        duration=1.0,
        columns=[(column.key, column.title) for column in COLUMNS],
        cells=cells,
        missing={"absent": "not installed"},
        breakdowns=[
            Breakdown(
                title="puts",
                per_request=10.0,
                found=hotspots.Hotspots(
                    samples=4, groups={"apply": 0.25}, functions=[("apply", "f", 0.25)]
                ),
            )
        ],
    )


def test_a_cell_is_the_median_without_its_histogram() -> None:
    found = cell(30.0, 10.0, 20.0)
    assert found.median.throughput == 20.0
    assert found.throughputs == [30.0, 10.0, 20.0]
    assert found.median.latency is not None and found.median.latency.histogram == ""


def test_ratios_are_those_of_what_ran_side_by_side() -> None:
    """The machine was half as fast in the second round: the ratio is not impressed."""
    assert ratio(cell(50.0, 25.0, 50.0), cell(100.0, 50.0, 100.0)) == 0.5
    assert ratio(cell(50.0), cell(100.0, 200.0)) == 0.5  # by medians: the lower of two
    assert ratio(None, cell(1.0)) is None
    cells = {
        PUTS: {"c100": cell(50.0, 25.0, 60.0, limits=(100.0, 50.0, 100.0))},
        LIMIT: {"c100": cell(1.0, 1.0, 1.0)},
    }
    assert of_limit(cells, PUTS, "c100") == 0.5
    assert of_limit(cells, LIMIT, "c100") == 1.0
    assert of_limit(cells, PUTS, "c500") is None


def test_aims() -> None:
    cells = {
        PUTS: {"c100": cell(70.0, limits=(100.0,)), "c500": cell(50.0, limits=(100.0,))},
        COMMANDS: {"c100": cell(20.0, limits=(50.0,))},
        GETS: {"c100": cell(30.0, limits=(25.0,)), "deep": cell(30.0, limits=(25.0,))},
        LIMIT: {"c500": cell(100.0)},
    }
    found = {aim.text: aim for aim in aims_of(comparison(cells))}
    assert found["puts of the limit, 100 connections"].met is True
    assert found["puts of the limit, 500 connections"].met is False
    assert found["puts of the limit, 1 KiB"].met is None
    assert found["Python @command, of native puts"].measured == "0.57"
    assert found["processor time per put of all servers, 500 connections"].measured == "12.00 us"
    assert found["the same, of the limit's (14 us where that takes 7)"].measured == "1.00"
    assert found["gets, of puts, 100 connections"].measured == "1.71"
    assert found["gets, of puts, pipelined"].measured == "not measured"


def test_results_are_kept_part_by_part(tmp_path: Path) -> None:
    origin = files.Origin(machine="m", date="d", command="c", version="v")
    table = files.Table(origin=origin, comparison=comparison({PUTS: {"c100": cell(70.0)}}))
    files.save(files.Results(table=table), tmp_path)
    point = grow.Point(x=1, label="one", workload=Workload())
    growth = files.Growth(
        origin=origin, name="connections", rows=[grow.Row(point=point, outcome=measured(5.0))]
    )
    before = files.load(tmp_path / "results.json")
    files.save(files.Results(table=before.table, growth={"connections": growth}), tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    for part in (PUTS, "not installed", "apply | 25.0 %, 2.50 us", "plots/connections.svg"):
        assert part in text
    assert "pauses over 10 ms: 1, the longest 20 ms" in text
    assert (tmp_path / "plots" / "connections.svg").exists()
    assert files.load(tmp_path / "none.json") == files.Results()
    (tmp_path / "results.json").write_text("{}]")
    with pytest.raises(ConfigError, match="remove it"):
        files.load(tmp_path / "results.json")


def test_the_limit_programs_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.systems.BINARIES", tmp_path)
    build_limits()
    assert {path.name for path in tmp_path.iterdir()} == {"echo", "forward"}

"""Keeps what was measured (bench/results.json) and writes it up (bench/RESULTS.md)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.aims import aims_of
from bench.table import Comparison, of_limit
from mpaxos.bench import grow
from mpaxos.bench.hotspots import GROUPS
from mpaxos.bench.plots import draw
from mpaxos.bench.show import markdown, microseconds, rate_text
from mpaxos.errors import ConfigError

HERE = Path(__file__).parent


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when a part was measured."""

    machine: str
    date: str
    command: str
    version: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison."""

    origin: Origin
    comparison: Comparison


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep."""

    origin: Origin
    name: str
    rows: list[grow.Row]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The latest of each part."""

    table: Table | None = None
    growth: dict[str, Growth] = {}


def load(path: Path) -> Results:
    """What earlier runs left; nothing when there is no such file. Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except FileNotFoundError:
        return Results()
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not what this program wrote ({error}): remove it") from None


def save(results: Results, directory: Path = HERE) -> None:
    """Write results.json, RESULTS.md and the plots."""
    encoded = msgspec.json.format(msgspec.json.encode(results), indent=1)
    (directory / "results.json").write_bytes(encoded + b"\n")
    for name, growth in results.growth.items():
        (directory / "plots").mkdir(exist_ok=True)
        plot = grow.plot_of(grow.find_sweep(name), growth.rows)
        draw(plot, directory / "plots" / f"{name}.svg")
    (directory / "RESULTS.md").write_text(render(results))


INTRODUCTION = """\
# How fast it is

Written by `make bench`; how to read and repeat it: [docs/performance.md](../docs/performance.md).
Everything runs on one machine, the clients too: the load generator takes its share of the same
cores. Numbers of different machines, or of different runs, do not compare; the ratios to the limit
of the same run do.
"""


def render(results: Results) -> str:
    """RESULTS.md."""
    parts = [INTRODUCTION]
    if results.table is not None:
        comparison = results.table.comparison
        parts += [
            "## Side by side\n",
            _origin(results.table.origin),
            f"Median of {comparison.rounds} rounds of {comparison.duration:g} s, the systems in "
            "turns. In brackets: of the limit, forward-and-await-one, measured just before "
            "(mpaxos) or in the same round.\n",
            _throughput(comparison),
            "### Aims\n",
            _aims(comparison),
            "### Latency\n",
            _latency(comparison),
            "### Processor time\n",
            "Microseconds per request; one core is used fully at 1,000,000 divided by this.\n",
            _processor(comparison),
            "### Where the leader's time goes\n",
            _breakdowns(comparison),
        ]
    if results.growth:
        parts.append("## How it grows\n")
        parts += [_growth(results.growth[name]) for name in grow.SWEEPS if name in results.growth]
    return "\n".join(parts)


def _origin(origin: Origin) -> str:
    return f"{origin.date}, mpaxos {origin.version}, `{origin.command}`\\\n{origin.machine}\n"


def _rows(comparison: Comparison) -> list[str]:
    return [*comparison.cells, *(row for row in comparison.missing if row not in comparison.cells)]


def _throughput(comparison: Comparison) -> str:
    head = ["requests/s", *(title for _, title in comparison.columns)]
    rows = []
    for row in _rows(comparison):
        texts = [row]
        for number, (key, _) in enumerate(comparison.columns):
            cell = comparison.cells.get(row, {}).get(key)
            if cell is None:
                texts.append(comparison.missing.get(row, "") if number == 0 else "")
                continue
            rate = cell.median.throughput
            share = of_limit(comparison.cells, row, key)
            texts.append(rate_text(rate) + ("" if share is None else f" ({share:.2f})"))
        rows.append(texts)
    return markdown(head, rows)


def _aims(comparison: Comparison) -> str:
    said = {True: "yes", False: "no", None: "-"}
    rows = [[aim.text, aim.aim, aim.measured, said[aim.met]] for aim in aims_of(comparison)]
    return markdown(["aim", "wanted", "measured", "met"], rows)


def _latency(comparison: Comparison) -> str:
    head = ["", "load", "p50", "p90", "p99", "p99.9", "maximum"]
    rows = []
    for row, cells in comparison.cells.items():
        for key, title in comparison.columns:
            latency = cells[key].median.latency if key in cells else None
            if latency is not None and key in ("one", "c100"):
                values = (latency.p50, latency.p90, latency.p99, latency.p999, latency.maximum)
                rows.append([row, title, *(microseconds(value) for value in values)])
    return markdown(head, rows)


def _processor(comparison: Comparison) -> str:
    head = ["", "load", "leader", "followers", "all servers", "client", "client, of a core"]
    rows = []
    for row, cells in comparison.cells.items():
        for key, title in comparison.columns:
            if key not in cells or key not in ("c100", "c500", "deep"):
                continue
            m = cells[key].median
            costs = (m.of_role("leader"), m.of_role("follower"), m.all_servers)
            shown = ["-" if cost is None else f"{cost:.2f}" for cost in costs]
            inside = not m.client_per_request  # the client lives in the leader
            client = "-" if inside else f"{m.client_per_request:.2f}"
            share = "-" if inside else f"{100 * m.client_share:.0f} %"
            rows.append([row, title, *shown, client, share])
    return markdown(head, rows)


def _breakdowns(comparison: Comparison) -> str:
    if not comparison.breakdowns:
        return f"Not measured: {comparison.no_breakdown or 'perf saw nothing'}.\n"
    head = ["part", *(breakdown.title for breakdown in comparison.breakdowns)]
    rows = []
    for group in GROUPS:
        shares = [breakdown.found.groups.get(group, 0.0) for breakdown in comparison.breakdowns]
        costs = [breakdown.per_request for breakdown in comparison.breakdowns]
        texts = [f"{100 * s:.1f} %, {s * c:.2f} us" for s, c in zip(shares, costs, strict=True)]
        rows.append([group, *texts])
    parts = [
        "Shares of samples of `perf`; kernel time by system call, the rest by function.\n",
        markdown(head, rows),
    ]
    for breakdown in comparison.breakdowns:
        top = "; ".join(
            f"{name.replace('|', ' ')} {100 * share:.1f} %"
            for _, name, share in breakdown.found.functions[:10]
        )
        parts.append(f"{breakdown.title}, {breakdown.found.samples:,} samples: {top}.\n")
    return "\n".join(parts)


def _growth(growth: Growth) -> str:
    sweep = grow.find_sweep(growth.name)
    return "\n".join(
        [
            f"### {sweep.title}\n",
            _origin(growth.origin),
            markdown([sweep.x, *grow.HEAD], grow.table_rows(growth.rows)),
            f"![{sweep.title}](plots/{growth.name}.svg)\n",
            _pauses(growth),
        ]
    )


def _pauses(growth: Growth) -> str:
    """What is known of times over 10 ms without any answer."""
    lines = []
    for row in growth.rows:
        outcome = row.outcome
        if outcome is None or not outcome.stalls:
            continue
        longest = max(length for _, length in outcome.stalls)
        leader = next((s for s in outcome.servers if s.role == "leader"), None)
        cause = ""
        if leader is not None:
            cause = (
                f"; the leader meanwhile: {leader.minor_faults:,} pages touched first, "
                f"{leader.major_faults:,} read, preempted {leader.preemptions:,} times, "
                f"without a free processor {100 * leader.waited:.0f} % of the time"
            )
        lines.append(
            f"- {row.point.label}: pauses over 10 ms: {len(outcome.stalls)}, the longest "
            f"{longest:.0f} ms{cause}"
        )
    return "\n".join(lines) + ("\n" if lines else "")

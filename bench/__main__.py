"""Runs the comparison and the growth experiments: python -m bench [table | NAME of a sweep ...]."""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import time
from pathlib import Path

import msgspec

from bench import results as files
from bench.systems import GROUPS
from bench.table import compare, without_histogram
from mpaxos.bench import grow, percentiles, plots
from mpaxos.bench.load import Workload, find_program
from mpaxos.bench.measure import Show
from mpaxos.bench.show import make_show
from mpaxos.bench.usage import machine_text
from mpaxos.cli.errors import OK, report
from mpaxos.errors import ConfigError, MpaxosError
from mpaxos.version import __version__

TABLE = "table"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures mpaxos beside the limits of the sockets and its peers, in turns, and "
        "how it grows. Updates results.json, RESULTS.md and plots/ in --output. "
        "Example: python -m bench table connections",
    )
    parser.add_argument(
        "parts", nargs="*", default=[TABLE], help=f"{TABLE}, {', '.join(grow.SWEEPS)}; or all"
    )
    parser.add_argument("--full", action="store_true", help="longer: 5 rounds of 5 s, all parts")
    parser.add_argument("--rounds", type=int, help="of the table (default 3)")
    parser.add_argument("--duration", type=float, help="seconds of each measurement (default 1)")
    parser.add_argument(
        "--only", default=",".join(GROUPS), help=f"systems of the table, of {','.join(GROUPS)}"
    )
    parser.add_argument(
        "--pool-dir", type=Path, help="where the pools of a sweep go (default /dev/shm)"
    )
    parser.add_argument("--output", type=Path, default=files.HERE, help="default: bench/")
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The parts and systems that are meant. Raises ConfigError before anything runs."""
    known = [TABLE, *grow.SWEEPS]
    parts = known if arguments.full or "all" in arguments.parts else arguments.parts
    for part in parts:
        if part not in known:
            raise ConfigError(f"{part}: one of {', '.join(known)}, all")
    if arguments.pool_dir is not None and TABLE in parts:
        raise ConfigError(f"--pool-dir is for sweeps, not for {TABLE}: its pools are in memory")
    systems = arguments.only.split(",")
    for system in systems:
        if system not in GROUPS:
            raise ConfigError(f"--only {system}: of {', '.join(GROUPS)}")
    find_program()
    percentiles.library()
    plots.check_library()
    return parts, systems


def _origin() -> files.Origin:
    words = " ".join(sys.argv[1:])
    return files.Origin(
        machine=machine_text(),
        date=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=f"python -m bench {words}".strip(),
        version=__version__,
    )


def _sweep(name: str, duration: float, parent: Path | None, show: Show) -> files.Growth:
    base = Workload(duration=duration, warm_up=max(0.5, duration / 5))
    rows = [
        row
        if row.outcome is None
        else msgspec.structs.replace(row, outcome=without_histogram(row.outcome))
        for row in grow.run_sweep(grow.find_sweep(name), base, parent=parent, show=show)
    ]
    return files.Growth(origin=_origin(), name=name, rows=rows)


def _bench(arguments: argparse.Namespace) -> int:
    parts, systems = _check(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = files.load(arguments.output / "results.json")
    duration = arguments.duration or (5.0 if arguments.full else 1.0)
    rounds = arguments.rounds or (5 if arguments.full else 3)
    began = time.monotonic()
    with make_show() as show:
        for part in parts:
            if part == TABLE:
                comparison = compare(
                    systems, rounds=rounds, duration=duration, warm_up=duration / 4, show=show
                )
                table = files.Table(origin=_origin(), comparison=comparison)
                found = msgspec.structs.replace(found, table=table)
            else:
                growth = _sweep(part, duration, arguments.pool_dir, show)
                growths = found.growth | {part: growth}
                found = msgspec.structs.replace(found, growth=growths)
            # After each part: what took long is not lost when a later one fails.
            files.save(found, arguments.output)
    spent = time.monotonic() - began
    print(f"{', '.join(parts)}: measured in {spent:.0f} s, see {arguments.output / 'RESULTS.md'}")
    return OK


def _interrupt(sign: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit status is 0 when all parts were measured."""
    arguments = _arguments()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _interrupt)
    try:
        return _bench(arguments)
    except MpaxosError as error:
        return report(error)
    except KeyboardInterrupt:
        print("mpaxos: interrupted; all servers are stopped", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())

"""Kills and freezes replicas under load: python -m bench.recovery [--quick]."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.recovery import report as pages
from bench.recovery.faults import Say, run
from bench.recovery.settings import QUICK, SETTINGS, Setting
from bench.recovery.steady import steady
from bench.recovery.transfer import transfer
from bench.results import HERE
from mpaxos.bench.load import find_program
from mpaxos.bench.plots import check_library
from mpaxos.cli.errors import OK, report
from mpaxos.config import format_size
from mpaxos.config.values import MIB, parse_size
from mpaxos.errors import ConfigError, MpaxosError


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recovery",
        description="Kills, restarts, freezes and thaws replicas under load; measures how long it "
        "takes until they are in step and how long clients get no answer. Writes RECOVERY.md, "
        "recovery.json and plots/recovery-*.svg to --output; parts that this run does not measure "
        "stay as they are there.",
        epilog="Examples: python -m bench.recovery --quick;  "
        "python -m bench.recovery --settings disk+volatile --sizes 10MiB,100MiB;  "
        "python -m bench.recovery --settings '' --transfer 1GiB;  "
        "python -m bench.recovery --settings '' --steady 60",
    )
    parser.add_argument(
        "--settings", default=",".join(SETTINGS), help="of these, or '' for none (%(default)s)"
    )
    parser.add_argument("--sizes", default="10MiB,100MiB,1GiB", help="of the state (%(default)s)")
    parser.add_argument("--connections", type=int, default=100, help="clients (%(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} with 10 MiB")
    parser.add_argument("--steady", type=float, metavar="MINUTES", help="full load beside a hog")
    parser.add_argument("--transfer", metavar="SIZE", help="replace a replica with such a state")
    parser.add_argument(
        "--pool-dir",
        type=Path,
        help="where data goes (memory; for disk the directory for temporary files)",
    )
    parser.add_argument("--json", action="store_true", help="what was measured, on standard output")
    parser.add_argument("--output", type=Path, default=HERE, help="default: bench/")
    return parser.parse_args(words)


def _check(arguments: argparse.Namespace) -> tuple[list[Setting], list[int]]:
    """What to run. Raises ConfigError, before anything runs."""
    names = ",".join(QUICK) if arguments.quick else arguments.settings
    sizes = "10MiB" if arguments.quick else arguments.sizes
    words = [word for word in names.split(",") if word]
    for word in words:
        if word not in SETTINGS:
            raise ConfigError(f"--settings {word}: of {', '.join(SETTINGS)}")
    if not 1 <= arguments.connections <= 10_000:
        raise ConfigError(f"--connections {arguments.connections}: from 1 to 10000")
    if arguments.steady is not None and arguments.steady <= 0:
        raise ConfigError("--steady: minutes, above 0")
    find_program()
    check_library()
    asked = sorted(parse_size(size, "--sizes") for size in sizes.split(","))
    if asked[0] < MIB // 16:
        raise ConfigError("--sizes: at least 64 KiB")
    return [SETTINGS[word] for word in words], asked


def _bench(arguments: argparse.Namespace) -> int:
    settings, sizes = _check(arguments)
    replaced = arguments.transfer and parse_size(arguments.transfer, "--transfer")
    began = time.monotonic()
    kept = pages.load(arguments.output)
    found, origin = pages.Findings(), pages.origin()
    parent: Path | None = arguments.pool_dir
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    total = len(settings) * len(sizes) + (replaced is not None) + (arguments.steady is not None)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("recovery", total=total)

        def say(head: str) -> Say:
            bar.update(task, description=head)
            return lambda text: console.print(
                f"{time.monotonic() - began:6.1f} s  {head}: {text}", highlight=False
            )

        def done() -> None:
            bar.advance(task)
            # After each: what took long is not lost when a later one fails.
            pages.write(pages.merged(kept, found), arguments.output)

        for setting in settings:
            for size in sizes:
                tell = say(f"{setting.name}, {format_size(size)}")
                faults = run(setting, size, arguments.connections, parent, tell)
                found.runs.append(pages.RunPart(origin=origin, found=faults))
                done()
        if replaced is not None:
            tell = say(f"transfer, {format_size(replaced)}")
            moved = transfer(replaced, parent, tell)
            found.transfer = pages.TransferPart(origin=origin, found=moved)
            done()
        if arguments.steady is not None:
            lasted = steady(arguments.steady, parent, say("steady"))
            found.steady = pages.SteadyPart(origin=origin, found=lasted)
            done()
    _show(found, as_json=arguments.json)
    spent = time.monotonic() - began
    console.print(f"measured in {spent:.0f} s, see {arguments.output / 'RECOVERY.md'}")
    return OK


def _show(found: pages.Findings, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    console = Console()
    for head, lines in (
        (pages.HEAD, pages.rows(found)),
        (("aim", "wanted", "measured", "met"), pages.aim_rows(found)),
    ):
        table = Table()
        for word in head:
            table.add_column(word)
        for cells in lines:
            table.add_row(*cells)
        if lines:
            console.print(table)
    if found.transfer is not None:
        console.print(pages.transfer_text(found.transfer.found))
    if found.steady is not None:
        console.print(pages.steady_text(found.steady.found))


def _interrupt(sign: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(words: list[str] | None = None) -> int:
    """Run with these arguments, or those of the process; 0 when everything was measured."""
    arguments = _arguments(words)
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _interrupt)
    try:
        return _bench(arguments)
    except MpaxosError as error:
        return report(error)
    except KeyboardInterrupt:
        print("mpaxos: interrupted; all replicas are stopped", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())

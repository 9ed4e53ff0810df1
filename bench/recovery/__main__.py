"""Kills and freezes replicas under load: python -m bench.recovery [--quick]."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import msgspec

from bench.recovery import report as pages
from bench.recovery.cases import CASES, SURVIVES_ALL, Run, Setting, filled, run
from bench.results import HERE
from mpaxos.bench import plots
from mpaxos.bench.load import find_program
from mpaxos.cli.errors import OK, report
from mpaxos.config import format_size
from mpaxos.config.values import parse_size
from mpaxos.errors import ConfigError, MpaxosError

SETTINGS = {
    "pmem+persistent": Setting("pmem", "persistent"),
    "pmem+volatile": Setting("pmem", "volatile"),
    "disk+volatile": Setting("disk", "volatile"),
    "view+volatile": Setting("view", "volatile"),
    "epoch+volatile": Setting("epoch", "volatile"),
}
"""`none` is not among them: its replicas do not come back."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recovery",
        description="Kills, freezes, restarts and thaws replicas under load, and measures how long "
        "clients got no answer and replicas needed to be in step. Writes RECOVERY.md, "
        "recovery.json and plots/ to --output. Example: python -m bench.recovery --quick",
    )
    parser.add_argument("--settings", default=",".join(SETTINGS), help="of %(default)s")
    parser.add_argument("--sizes", default="10MiB,100MiB,1GiB", help="of the state (%(default)s)")
    parser.add_argument("--connections", type=int, default=100, help="clients (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="pmem+persistent and disk, 10 MiB")
    parser.add_argument("--pool-dir", type=Path, help="where data goes (default: /dev/shm)")
    parser.add_argument("--json", action="store_true", help="the outcomes on standard output")
    parser.add_argument("--output", type=Path, default=HERE, help="default: bench/")
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> tuple[list[Setting], list[int]]:
    """Raises ConfigError before anything runs."""
    words = "pmem+persistent,disk+volatile" if arguments.quick else arguments.settings
    sizes = "10MiB" if arguments.quick else arguments.sizes
    for word in words.split(","):
        if word not in SETTINGS:
            raise ConfigError(f"--settings {word}: of {', '.join(SETTINGS)}")
    if not 1 <= arguments.connections <= 10_000:
        raise ConfigError(f"--connections {arguments.connections}: from 1 to 10000")
    find_program()
    plots.check_library()
    chosen = [SETTINGS[word] for word in words.split(",")]
    return chosen, sorted(parse_size(size, "--sizes") for size in sizes.split(","))


def _measure(setting: Setting, size: int, arguments: argparse.Namespace) -> Run:
    say = _Say(f"{setting.name}, {format_size(size)}")
    say("filling")
    outcomes = []
    with filled(setting, size, arguments.pool_dir) as cluster:
        for case in CASES:
            if case.whom == "all" and setting.durability not in SURVIVES_ALL:
                continue
            outcome = run(cluster, case, arguments.connections)
            outcomes.append(outcome)
            say(
                f"{case.name}: in step after {1000 * outcome.in_step:.0f} ms, longest stall "
                f"{1000 * outcome.stall:.0f} ms"
            )
    return Run(setting=setting.name, size=size, outcomes=outcomes)


class _Say:
    """Progress, on standard error."""

    def __init__(self, head: str) -> None:
        self._head = head
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        spent = time.monotonic() - self._began
        print(f"{spent:6.1f} s  {self._head}: {text}", file=sys.stderr, flush=True)


def _bench(arguments: argparse.Namespace) -> int:
    settings, sizes = _check(arguments)
    began = time.monotonic()
    runs = []
    for setting in settings:
        for size in sizes:
            runs.append(_measure(setting, size, arguments))
            # After each: what took long is not lost when a later one fails.
            pages.write(runs, arguments.connections, arguments.output)
    if arguments.json:
        print(msgspec.json.encode(runs).decode())
    else:
        print(pages.table(runs))
        for aim in pages.aims(runs):
            print(f"{aim.text}: at most {aim.wanted}, measured {aim.measured}")
    spent = time.monotonic() - began
    print(f"measured in {spent:.0f} s, see {arguments.output / 'RECOVERY.md'}", file=sys.stderr)
    return OK


def _interrupt(sign: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit status is 0 when all was measured."""
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

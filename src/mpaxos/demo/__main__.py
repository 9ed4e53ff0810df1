"""Runs the demo: python -m mpaxos.demo [FILE]."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mpaxos.cli.errors import FAILED, OK, report
from mpaxos.config import format_size
from mpaxos.config.files import describe
from mpaxos.config.values import MIB
from mpaxos.demo.records import Records, read_records
from mpaxos.demo.report import make_show, print_table
from mpaxos.demo.scenario import run
from mpaxos.errors import ConfigError, MpaxosError
from mpaxos.local import LocalCluster

REPLICAS = 3
PREFIX = "mpaxos-demo-"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mpaxos.demo",
        description="Loads Debian's package index into three replicas while they are killed.",
    )
    parser.add_argument("file", nargs="?", type=Path, help="RFC 822 stanzas to load instead")
    parser.add_argument("--records", type=int, help="load only the first so many")
    parser.add_argument(
        "--pool-dir",
        type=Path,
        default=Path(os.environ.get("POOL_DIR") or "/dev/shm"),
        help="where the pools go (POOL_DIR; default /dev/shm)",
    )
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on stdout")
    return parser.parse_args()


def pool_sizes(records: Records) -> tuple[int, int]:
    """(pool, log) bytes that hold the records with room for the tree and for copies."""
    largest = max(len(key) + len(value) for key, value in records.records)
    log = max(128 * MIB if records.size > 16 * MIB else 32 * MIB, 8 * largest)
    return log + 128 * MIB + 4 * records.size, log


def _remove_leftovers(parent: Path) -> None:
    """Remove the pools of demos that were killed themselves: their lock is free."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _pool_directory(parent: Path, needed: int) -> Iterator[Path]:
    """A fresh directory with room for `needed` bytes, removed in the end. Raises ConfigError."""
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"{parent} is no directory one can write to; give --pool-dir DIR")
    _remove_leftovers(parent)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ConfigError(
            f"{parent} has {format_size(free)} free, the pools need {format_size(needed)}; give "
            "--pool-dir DIR (POOL_DIR=DIR with make), or fewer records with --records N"
        )
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _interrupt(sign: int, frame: object) -> None:
    raise KeyboardInterrupt


def _demo(arguments: argparse.Namespace) -> int:
    records = read_records(arguments.file, arguments.records)
    pool, log = pool_sizes(records)
    with _pool_directory(arguments.pool_dir, REPLICAS * pool) as directory:
        settings = {"pool.size": str(pool), "pool.log_size": str(log)}
        with (
            make_show(arguments.json) as show,
            LocalCluster(directory, replicas=REPLICAS, name="demo", settings=settings) as cluster,
        ):
            show.say(f"input: {records.source}, {len(records.records):,} records")
            show.say(f"pools: {arguments.pool_dir}, {describe(directory)}")
            found = run(cluster, records, show)
    if arguments.json:
        sys.stdout.buffer.write(
            msgspec.json.encode({"good": found.good, **msgspec.to_builtins(found)})
        )
        sys.stdout.write("\n")
    else:
        print_table(found)
    return OK if found.good else FAILED


def main() -> int:
    """Run the demo; the exit status is 0 only when nothing was lost."""
    arguments = _arguments()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _interrupt)
    try:
        return _demo(arguments)
    except MpaxosError as error:
        return report(error)
    except KeyboardInterrupt:
        print("mpaxos: interrupted; all replicas are stopped, their pools removed", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())

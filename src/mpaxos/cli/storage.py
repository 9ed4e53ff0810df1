"""`mpaxos init` and `mpaxos grow`: storage of a replica that does not run."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from mpaxos.config import ClusterConfig, format_size
from mpaxos.errors import ConfigError
from mpaxos.runtime import grow as runtime
from mpaxos.runtime.sinks import prepare
from mpaxos.storage import directory as directories
from mpaxos.storage.directory import open_directory
from mpaxos.storage.lives import Lives


@contextlib.contextmanager
def reserving(directory: Path, size: int) -> Iterator[None]:
    """While it is entered, show on a terminal how much memory the files in `directory` have, which
    is to become `size` bytes: a large pool takes seconds."""
    if not sys.stderr.isatty():
        yield
        return
    bar = Progress(
        TextColumn("reserving memory"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        console=Console(stderr=True),
        transient=True,
    )
    ended = threading.Event()

    def watch(task: TaskID) -> None:
        while not ended.wait(0.1):
            used = 0
            for path in directory.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    used += path.stat().st_blocks * 512
            bar.update(task, completed=min(used, size))

    with bar:
        watcher = threading.Thread(target=watch, args=[bar.add_task("reserving", total=size)])
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def initialise(config: ClusterConfig, replica: int) -> None:
    """Make the directory of a new replica. Raises ConfigError, StorageForeign, StorageFull."""
    with reserving(config.directory(replica), _durable_size(config)):
        directories.initialise(config, replica)


def replace(config: ClusterConfig, replica: int) -> None:
    """Make the directory of a replica that takes the place of one whose data is lost.

    Its life number is the wall clock in nanoseconds: above that of any life before. It recovers
    before it votes. Raises StorageForeign (there is data), StorageFull.
    """
    if len(config.replicas) < 3:
        raise ConfigError(
            "init --replace: with one replica there is nobody to get the state from; restore its "
            "data from a good copy"
        )
    directory = config.directory(replica)
    pools = 1 if config.volatile else 2  # one is for the image it gets
    with reserving(directory, pools * _durable_size(config)):
        directories.initialise(config, replica, Lives(life=time.time_ns(), recovering=True))
        with open_directory(directory, config.cluster_id, replica, config) as opened:
            prepare(opened)


def _durable_size(config: ClusterConfig) -> int:
    """Bytes of the pool, or of the log where it is all that is durable."""
    return config.pool.log_size if config.volatile else config.pool.size


def grow(
    config: ClusterConfig, replica: int, size: int, state_limit: int | None, *, as_json: bool
) -> None:
    """Grow a pool with a progress bar, and print what was done. Raises ConfigError,
    StorageError."""
    bar = Progress(
        TextColumn("copying"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=as_json or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("copying", total=None)
        grown = runtime.grow(
            config,
            replica,
            size,
            state_limit,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    _show(grown, as_json=as_json)


def _show(grown: runtime.Grown, *, as_json: bool) -> None:
    """Print what was done, or one JSON document."""
    if as_json:
        print(json.dumps(msgspec.to_builtins(grown)))
        return
    print(
        f"replica {grown.replica}: the pool grew from {format_size(grown.old_size)} to "
        f"{format_size(grown.new_size)} ({grown.bytes >> 20} MiB copied and verified in "
        f"{grown.seconds:.1f} s); state limit {format_size(grown.state_limit)}, applied up to "
        f"slot {grown.applied}"
    )

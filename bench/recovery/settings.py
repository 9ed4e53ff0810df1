"""The ways to run mpaxos that are compared, and clusters in them whose state has a given size."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mpaxos.bench.cluster import NoRoom, pool_directory, settings_for
from mpaxos.bench.load import Workload, drive
from mpaxos.bench.usage import available_memory
from mpaxos.config import format_size
from mpaxos.config.values import KIB, MIB, parse_size
from mpaxos.local import LocalCluster

VALUE = KIB
"""Bytes of each value: 1 KiB."""

LOG = 512 * MIB
"""Of each replica: half of it, which is what is kept when it runs full, reaches back for what is
missed in two seconds at 100,000 commands per second, and a while longer."""


class Setting(msgspec.Struct, frozen=True):
    """One way to run mpaxos, by two keys of the cluster file."""

    durability: str
    machine: str

    @property
    def name(self) -> str:
        """As it is called in tables and on the command line."""
        return f"{self.durability}+{self.machine}"

    @property
    def survives_all(self) -> bool:
        """Whether all replicas may be killed at once."""
        return self.durability in ("pmem", "disk")


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("pmem", "persistent"),
        Setting("pmem", "volatile"),
        Setting("disk", "volatile"),
        Setting("view", "volatile"),
        Setting("epoch", "volatile"),
    )
}
"""All whose replicas come back; those of `none` are refused."""

QUICK = ("pmem+persistent", "disk+volatile")


def workload(size: int, connections: int) -> Workload:
    """Puts all over a state of `size` bytes, which they leave as large as it is."""
    keys = max(1, size // VALUE)
    return Workload(size=VALUE, keys=keys, connections=connections, warm_up=0.5)


@contextlib.contextmanager
def filled(setting: Setting, load: Workload, parent: Path | None) -> Iterator[LocalCluster]:
    """A cluster of three with all the keys of `load`, in step; gone in the end.

    Data goes below `parent`, by default to memory, but for `disk` to the disk. Raises NoRoom,
    ClusterFailed, LoadFailed.
    """
    settings = settings_for(load, {"pool.log_size": str(LOG)})
    pool = max(2 * LOG, parse_size(settings["pool.size"], "pool.size"))
    settings["pool.size"] = str(pool)
    needed = 4 * pool  # three, and the new one of a replica that receives a state
    if setting.machine == "volatile":
        if available_memory() < 4 * pool:
            raise NoRoom(f"scratch pools need {format_size(4 * pool)} of memory; give --sizes")
        state = load.keys * (load.size + 208)
        needed = 3 * (2 * LOG + 3 * state)  # two snapshots, and one that is being written
    if parent is None and setting.durability == "disk":
        parent = Path(tempfile.gettempdir())
    with (
        pool_directory(parent, needed) as directory,
        LocalCluster(
            directory,
            durability=setting.durability,
            machine=setting.machine,
            settings=settings,
            name="recovery",
        ) as cluster,
    ):
        cluster.initialise()
        cluster.start()
        cluster.wait_in_step()
        fill(cluster, load)
        yield cluster


def fill(cluster: LocalCluster, load: Workload) -> None:
    """Put each key once."""
    changes = {"connections": 20, "depth": 16, "distribution": "sequential", "count": load.keys}
    filling = msgspec.structs.replace(load, warm_up=0.0, **changes)
    drive(filling, cluster.config.client_addresses())
    cluster.wait_in_step()

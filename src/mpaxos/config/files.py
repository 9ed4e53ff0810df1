"""What kind of memory a directory lies in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MEMORY_TYPES = ("tmpfs", "ramfs")

LARGE_POOL = 1 << 30
"""From this size of a pool on, the size of pages shows (docs/performance.md)."""


def _mount_of(path: Path) -> tuple[str, str]:
    """(type, options) of the file system a path is on; the path itself need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    real = os.path.realpath(path)
    best, found = "", ("unknown", "")
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        # proc(5): fields of the mount, " - ", type, source, options of the file system
        mount, _, system = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            words = system.split()
            options = ",".join((mount.split()[5], words[2] if len(words) > 2 else ""))
            best, found = point, (words[0], options)
    return found


def is_memory(path: Path) -> bool:
    """True for tmpfs: emulated persistent memory, which lasts as long as the machine is up."""
    return _mount_of(path)[0] in MEMORY_TYPES


def process_variables(durability: str, directory: Path) -> dict[str, str]:
    """Variables that a replica's process needs from its very start.

    With PYTHONHASHSEED fixed, sets and dicts of strings iterate alike on all replicas: a state
    machine that depends on the order is wrong, but does not diverge at once. libpmem reads
    PMEM_IS_PMEM_FORCE when it is loaded; on tmpfs a cache flush is all there is to do, and msync,
    which it would otherwise use, costs hundreds of times more for the same effect. A scratch
    pool is never trusted after a crash, wherever it lies, so there it does no harm; but the
    variable is of the whole process, and beside a log that msync keeps it must not be set.
    """
    variables = {"PYTHONHASHSEED": "0"}
    if durability != "pmem" or is_memory(directory):
        variables["PMEM_IS_PMEM_FORCE"] = "1"
    return variables


def describe(path: Path, durability: str = "pmem") -> str:
    """What a directory's memory means for durability and speed, for people."""
    kind, options = _mount_of(path)
    if kind in MEMORY_TYPES:
        what = "emulated persistent memory" if durability == "pmem" else "memory"
        return f"{what} ({kind}): survives crashes of processes, not of machines"
    if durability != "pmem":
        return f"a file system ({kind})"
    if "dax" in options.split(",") or "dax=always" in options.split(","):
        return f"persistent memory ({kind}, DAX)"
    return (
        f"an ordinary file system ({kind}): durable through msync, correct but slow; "
        'durability = "disk" is what to use there'
    )


def small_pages(path: Path, size: int) -> str | None:
    """What to say of a pool of `size` bytes where the kernel gives no pages of 2 MiB when asked:
    they are to be had of the mount, if not below it already."""
    kind, options = _mount_of(path)
    huge = any(word.startswith("huge=") and word != "huge=never" for word in options.split(","))
    if kind != "tmpfs" or huge or size < LARGE_POOL:
        return None
    return (
        f"{path} is on a tmpfs with pages of 4 KiB, and the kernel gives no larger ones when asked "
        "(Linux 6.1 does, unless it is told not to). With millions of items a replica is faster by "
        "a tenth or more with them: mount -t tmpfs -o huge=always tmpfs DIRECTORY"
    )


def unsafe_variable(durability: str, directory: Path, environ: Mapping[str, str]) -> str | None:
    """What to say when a variable of the environment takes durability away, else None."""
    if environ.get("PMEM_IS_PMEM_FORCE") != "1" or "PMEM_IS_PMEM_FORCE" in process_variables(
        durability, directory
    ):
        return None
    kind, options = _mount_of(directory)
    if "dax" in options:
        return None
    return (
        f"PMEM_IS_PMEM_FORCE=1 is set and {directory} is on an ordinary file system ({kind}): "
        "nothing is synced, and what was acknowledged does not survive a power cut; unset it"
    )

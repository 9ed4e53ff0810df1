"""What processes use of the machine, from /proc: Linux tells without being asked twice."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

PROC = Path("/proc")


class Sample(msgspec.Struct, frozen=True):
    """Of one process, all threads, since its start."""

    processor: float
    """Seconds, in steps of the kernel's clock tick (10 ms as a rule)."""
    minor_faults: int
    """Pages that were mapped at first touch."""
    major_faults: int
    """Pages that were read from a disk."""
    preemptions: int
    """Times the scheduler took the processor away."""
    waited: float = 0.0
    """Seconds in which threads could have run and no processor was free."""

    def since(self, before: Sample) -> Sample:
        """What was used after `before`."""
        return Sample(
            self.processor - before.processor,
            self.minor_faults - before.minor_faults,
            self.major_faults - before.major_faults,
            self.preemptions - before.preemptions,
            self.waited - before.waited,
        )


def parse_stat(text: str, ticks: int) -> tuple[float, int, int]:
    """(processor seconds, minor, major faults) from /proc/PID/stat, see proc(5)."""
    # The second field, the name, is in parentheses and may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks, int(fields[7]), int(fields[9])


def sample(pid: int) -> Sample | None:
    """What a process has used so far; None when there is no such process."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        tasks = list((PROC / str(pid) / "task").iterdir())
        switches = sum(_preemptions(task / "status") for task in tasks)
        waited = sum(_waited(task / "schedstat") for task in tasks)
    except OSError:
        return None
    seconds, minor, major = parse_stat(stat, os.sysconf("SC_CLK_TCK"))
    return Sample(seconds, minor, major, switches, waited)


def _preemptions(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("nonvoluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def _waited(path: Path) -> float:
    """From a thread's schedstat; 0 where the kernel keeps none."""
    fields = "".join(_lines(path)).split()
    return int(fields[1]) / 1e9 if len(fields) == 3 else 0.0


def listening_pid(port: int) -> int | None:
    """The process on this machine that listens on a TCP port; None when there is none or it
    belongs to another user."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{inode}]")
    return _owner(inodes) if inodes else None


def _owner(inodes: set[str]) -> int | None:
    for process in PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for link in (process / "fd").iterdir():
                if os.readlink(link) in inodes:
                    return int(process.name)
        except OSError:  # of another user, or gone
            continue
    return None


def available_memory() -> int:
    """Bytes that can be used before the machine runs out of memory."""
    for line in _lines(PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def machine_text() -> str:
    """This machine in a line: processor, cores, memory, kernel."""
    model = "unknown processor"
    for line in _lines(PROC / "cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = 0.0
    for line in _lines(PROC / "meminfo"):
        if line.startswith("MemTotal:"):
            memory = int(line.split()[1]) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    uname = os.uname()
    return f"{model}, {cores} cores, {memory:.0f} GiB, {uname.sysname} {uname.release}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

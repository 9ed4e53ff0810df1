"""One cluster of a combination of settings, behind a proxy, and what can happen to it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpaxos.client.options import Options
from mpaxos.errors import NoQuorum
from mpaxos.local import LocalCluster
from mpaxos.proxy import Link, Proxy
from mpaxos.services.kv import KeyValueClient
from tests.cluster.workload import Workload

KEEPING = ("pmem", "disk")
"""Durabilities that survive the crash of all."""

REFUSED = 3
"""Exit status of a command that does not touch what is there."""

SETTINGS = {
    "pool.size": "64 MiB",
    "pool.log_size": "2 MiB",
    "limits.max_reply_slots": "32768",
    "limits.max_batch": "32 KiB",
    "limits.max_request": "64 KiB",
    "snapshots.minimum": "256 KiB",
}
"""A log that is soon truncated beyond a replica that is away, snapshots often."""

DISK = {"pool.log_size": "8 MiB"}
"""A log on disk consists of segments."""


LITTLE = Options(deadline=0.7)
"""Patience of a client that is to get no answer."""


def mpaxos(words: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """An `mpaxos` command, run to its end."""
    line = [sys.executable, "-m", "mpaxos.cli.main", *words]
    return subprocess.run(
        line, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


class Cell(LocalCluster):
    """A cluster of one combination. Every connection between two replicas is a link."""

    def __init__(
        self, directory: Path, proxy: Proxy, durability: str, machine: str, replicas: int
    ) -> None:
        axes = {"durability": durability, "machine": machine}
        super().__init__(
            directory,
            replicas=replicas,
            settings=SETTINGS | (DISK if durability == "disk" else {}) | axes,
        )
        self.durability = durability
        self.links: dict[tuple[int, int], Link] = {
            (dialling, accepting): proxy.link(self.config.replica(accepting).peer)
            for dialling in self.numbers
            for accepting in range(dialling)
        }

    def command(self, number: int) -> list[str]:
        words = super().command(number)
        for (dialling, accepting), link in self.links.items():
            if dialling == number:
                words += ["--set", f"replicas.{accepting}.peer={link.address}"]
        return words

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """An `mpaxos` command on the cluster's file."""
        line = [*words, "-c", str(self.path)]
        for key, value in self.overrides.items():
            line += ["--set", f"{key}={value}"]
        return mpaxos(line, self.environment())

    def refusal(self, number: int) -> str:
        """Start a replica that must be refused; what it says."""
        done = mpaxos(self.command(number)[3:], self.environment())
        assert done.returncode == REFUSED, f"status {done.returncode}: {done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stderr

    # -------------------------------------------------------------- what happens to it

    def come_back(self, victim: int) -> None:
        """Start a replica that crashed; where nothing was kept, a new one takes its place."""
        if self.durability == "none":
            said = self.refusal(victim)
            assert "started before" in said and "replaced" in said
            self.replace(victim)
        self.start([victim])
        self.wait_all_take_part()

    def replace(self, victim: int) -> None:
        """A replica lost all it had, and an operator lets an empty one begin under its id."""
        shutil.rmtree(self.config.directory(victim))
        said = self.refusal(victim)
        assert "is not initialised" in said and "mpaxos init --replace" in said
        done = self.run("init", "--replica", str(victim), "--replace")
        assert done.returncode == 0, done.stderr

    def made_anew_is_refused(self, victim: int) -> None:
        """A replica lost all it had, and an operator makes a first one where `--replace` is due:
        the others, who have met the one that was lost, do not let it vote."""
        shutil.rmtree(self.config.directory(victim))
        done = self.run("init", "--replica", str(victim))
        assert done.returncode == 0, done.stderr
        said = self.refusal(victim)
        assert "has met this replica before" in said and "mpaxos init --replace" in said

    def cut_off(self, *victims: int) -> None:
        """These hear each other, and nobody else."""
        for ends, link in self.links.items():
            if len(set(victims).intersection(ends)) == 1:
                link.cut()

    def heal(self) -> None:
        for link in self.links.values():
            link.heal()

    # -------------------------------------------------------------- what must be true then

    def wait_all_take_part(self) -> None:
        """All are in step and vote: before that, where a majority must stay up, no other one may
        go."""

        def voting() -> bool | None:
            statuses = [self.status(number) for number in self.numbers]
            ready = [s and s["in_step"] and s["role"] in ("leader", "follower") for s in statuses]
            return True if all(ready) else None

        self.wait_in_step()
        self.wait(voting, "all taking part")

    def acknowledges_nothing(self, number: int) -> None:
        """A client that reaches this replica only is told that there is no majority."""
        with (
            pytest.raises(NoQuorum, match="majority"),
            KeyValueClient(self.client_address(number), LITTLE) as kv,
        ):
            kv.put(b"put to one that is alone", b"")

    def new_leader(self, *old: int) -> int:
        """Wait until another one than `old` leads."""

        def leading() -> int | None:
            for number in self.numbers:
                status = self.status(number) if number not in old else None
                if status is not None and status["role"] == "leader":
                    return number
            return None

        return self.wait(leading, f"another leader than of {old}")

    def leave_behind(self, victim: int, load: Workload) -> None:
        """Write until the logs of the others begin after what `victim`, which is away, has."""
        others = [number for number in self.numbers if number != victim]
        # One of the others may lag itself: what the victim has is not more than what any has.
        known = max(status["applied"] for number in self.numbers if (status := self.status(number)))

        def truncated() -> bool | None:
            # Through one that is not cut off, and what is overwritten need not be verified.
            with KeyValueClient(self.client_address(others[0])) as kv:
                for number in range(24):
                    load.puts[b"large/%d" % number] = value = number.to_bytes(2, "big") * 8192
                    kv.put(b"large/%d" % number, value)
            statuses = [self.status(number) for number in others]
            gone = [s is not None and s["truncated"] > known for s in statuses]
            return True if all(gone) else None

        self.wait(truncated, "logs to be truncated beyond the replica that is away")

    def all_have_snapshots(self) -> bool | None:
        """True when each replica has a snapshot on its device, None as long as one has none."""
        held = [any(self.config.directory(n).glob("snapshot-[0-9]*")) for n in self.numbers]
        return True if all(held) else None

    def switches(self, number: int) -> int:
        """How often a replica has switched to a state that it received."""
        return self.log(number, 1 << 22).count("switched to")


def status_of(cluster: LocalCluster, number: int) -> dict[str, Any]:
    status = cluster.status(number)
    assert status is not None, f"replica {number} does not answer"
    return status

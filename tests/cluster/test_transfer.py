"""Trouble in the middle of a state transfer, and pools that grow. That a replica which lags or was
wiped gets the state, whatever the durability: test_matrix."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient
from tests.cluster.conftest import MakeCluster
from tests.cluster.workload import Workload

SHORT_LOG = {"pool.log_size": "2 MiB", "limits.max_batch": "32 KiB", "limits.max_request": "64 KiB"}
"""Soon truncated beyond a replica that is away."""


@contextmanager
def load(cluster: LocalCluster) -> Iterator[Workload]:
    """Writers that know what was acknowledged, and at the end look for it everywhere."""
    work = Workload(cluster.addresses)
    yield work
    work.stop()
    work.verify(cluster)


def fill(cluster: LocalCluster, number: int, mebibytes: int) -> dict[bytes, bytes]:
    """Put values of 16 KiB through replica `number`; what was put."""
    items = {b"filled/%06d" % i: i.to_bytes(4, "big") * 4096 for i in range(64 * mebibytes)}
    with KeyValueClient(cluster.client_address(number)) as kv:
        for key, value in items.items():
            kv.put(key, value)
    return items


def leave_behind(cluster: LocalCluster, victim: int, mebibytes: int = 6) -> dict[bytes, bytes]:
    """Write until the others' logs begin after what `victim`, which is down, has applied; what
    was put."""
    other = next(n for n in cluster.numbers if n != victim)
    before = cluster.status(other)
    assert before is not None
    items = fill(cluster, other, mebibytes)

    def truncated() -> bool | None:
        statuses = [cluster.status(n) for n in cluster.numbers if n != victim]
        gone = [s is not None and s["truncated"] > before["applied"] for s in statuses]
        return True if all(gone) else None

    cluster.wait(truncated, "logs to be truncated beyond the replica that is away")
    return items


def command(cluster: LocalCluster, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an `mpaxos` command on the cluster's file."""
    line = [sys.executable, "-m", "mpaxos.cli.main", *words, "-c", str(cluster.path)]
    for key, value in cluster.overrides.items():
        line += ["--set", f"{key}={value}"]
    return subprocess.run(
        line, env=cluster.environment(), capture_output=True, text=True, timeout=120, check=False
    )


def test_a_replaced_replica_must_have_lost_its_data(cluster: LocalCluster) -> None:
    cluster.kill(1)
    done = command(cluster, "init", "--replica", "1", "--replace")
    assert done.returncode == 3 and "was initialised before" in done.stderr
    assert command(cluster, "init", "--all", "--replace").returncode == 2


BIG = SHORT_LOG | {"pool.size": "112 MiB", "limits.max_sessions": "4096"}


def receiving(cluster: LocalCluster, number: int) -> dict[str, Any] | None:
    """What a replica says of the state it receives, None when it receives none."""
    status = cluster.status(number)
    found = None if status is None else status["transfer"]["receiving"]
    return found if isinstance(found, dict) else None


def in_the_middle(cluster: LocalCluster, number: int) -> int:
    """Wait until a replica has received a part of a state; its source. Or until it has all."""

    def part() -> int | None:
        status = cluster.status(number)
        if status is not None and status["in_step"]:
            return -1
        now = receiving(cluster, number)
        begun = now is not None and now["installed"] > 1 << 20 and now["source"] is not None
        return int(now["source"]) if begun and now is not None else None

    return cluster.wait(part, "a part of the state to be installed")


def test_source_and_target_crash_in_the_middle(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(replicas=5, settings=BIG)
    victim = (cluster.leader() + 1) % 5
    items = fill(cluster, 0, 8)
    cluster.kill(victim)
    items |= leave_behind(cluster, victim, 40)
    with load(cluster) as work:
        work.puts |= items
        work.wait_for(100)
        cluster.start([victim])
        in_the_middle(cluster, victim)
        cluster.kill(victim)
        cluster.start([victim])
        source = in_the_middle(cluster, victim)
        if source >= 0:
            cluster.kill(source)
        cluster.wait_in_step(victim)
        cluster.start()
        cluster.wait_in_step()
        work.wait_for(100)
    assert "switched to" in cluster.log(victim, 1 << 20)


def test_a_pool_grows_while_the_others_serve(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(settings={"limits.state_limit": "20 MiB"})
    with load(cluster) as work:
        work.puts |= fill(cluster, 0, 4)
        for number in cluster.numbers:
            refused = command(cluster, "grow", "--replica", str(number), "--size", "256MiB")
            assert refused.returncode == 3 and "in use" in refused.stderr
            cluster.kill(number, sign=signal.SIGTERM)
            done = command(cluster, "grow", "--replica", str(number), "--size", "192MiB", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["new_size"] == 192 << 20
            cluster.start([number])
            cluster.wait_in_step(number)
            status = cluster.status(number)
            assert status is not None and status["pool"]["size"] == 192 << 20
            work.wait_for(50)
    cluster.kill(0)
    smaller = command(cluster, "grow", "--replica", "0", "--size", "64MiB")
    assert smaller.returncode == 2 and "must be at least" in smaller.stderr

"""What a replica refuses to start with: one clear line, the right exit status, data untouched."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from mpaxos.cli.errors import STORAGE, USAGE
from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient
from tests.cluster.conftest import MakeCluster


def refused(cluster: LocalCluster, number: int, status: int, *words: str) -> str:
    """Run a replica that must end by itself; returns its last line, which has all the words."""
    done = subprocess.run(
        cluster.command(number),
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("mpaxos: ")
    for word in words:
        assert word in line, line
    return line


def pool_file(cluster: LocalCluster, number: int) -> Path:
    """The pool of a replica: by far its largest file."""
    files = [f for f in cluster.config.directory(number).rglob("*") if f.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x20]))


@pytest.fixture
def idle(make_cluster: MakeCluster) -> LocalCluster:
    """Initialised, not started."""
    return make_cluster(started=False)


def test_a_second_replica_on_the_same_pool(cluster: LocalCluster) -> None:
    # Its own ports, so that the pool is what it fails on.
    for port in ("peer", "client", "jpaxos"):
        cluster.overrides[f"replicas.0.listen_{port}"] = "127.0.0.1:0"
    refused(cluster, 0, STORAGE)
    with KeyValueClient(cluster.addresses) as kv:
        kv.put(b"still", b"serving")


def test_a_port_in_use(idle: LocalCluster) -> None:
    host, _, port = idle.client_address(0).rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        refused(idle, 0, USAGE, port)
    idle.start()
    idle.wait_in_step()


def test_a_bad_setting(idle: LocalCluster) -> None:
    idle.overrides["protocol.widow"] = "3"
    refused(idle, 0, USAGE, "protocol.widow", "protocol.window")


def test_an_unknown_replica(idle: LocalCluster) -> None:
    refused(idle, 3, USAGE, "no replica 3")


def test_a_missing_service(idle: LocalCluster) -> None:
    idle.overrides["service"] = "no_such_module:Machine"
    refused(idle, 0, USAGE, "no_such_module")


def test_a_missing_pool_is_not_replaced_by_an_empty_one(idle: LocalCluster) -> None:
    pool = pool_file(idle, 0)
    pool.unlink()
    refused(idle, 0, STORAGE, str(pool.name))
    assert not pool.exists()


def test_a_missing_directory(idle: LocalCluster) -> None:
    directory = idle.config.directory(0)
    directory.rename(directory.with_name("moved"))
    refused(idle, 0, STORAGE, "mpaxos init")
    assert not directory.exists()


def test_the_pool_of_another_replica(idle: LocalCluster) -> None:
    idle.overrides["replicas.0.directory"] = str(idle.config.directory(1))
    idle.overrides["replicas.1.directory"] = "elsewhere"
    refused(idle, 0, STORAGE)


def test_the_pool_of_another_cluster(make_cluster: MakeCluster) -> None:
    one, other = make_cluster(started=False), make_cluster(started=False)
    one.overrides["replicas.0.directory"] = str(other.config.directory(0))
    refused(one, 0, STORAGE)


def test_a_truncated_pool(idle: LocalCluster) -> None:
    pool = pool_file(idle, 0)
    size = pool.stat().st_size
    os.truncate(pool, size // 2)
    refused(idle, 0, STORAGE)
    assert pool.stat().st_size == size // 2


@pytest.mark.parametrize("at", [0x10, 0x800])
def test_a_flipped_byte_in_the_header(idle: LocalCluster, at: int) -> None:
    flip(pool_file(idle, 0), at)
    refused(idle, 0, STORAGE)


def test_init_does_not_touch_what_is_there(idle: LocalCluster) -> None:
    pool = pool_file(idle, 0)
    before = pool.stat()
    words = [*idle.command(0)[:3], "init", "--cluster", str(idle.path), "--replica", "0"]
    for key, value in idle.overrides.items():
        words += ["--set", f"{key}={value}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == STORAGE, done.stderr
    assert "Traceback" not in done.stderr
    after = pool.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)


def test_a_flipped_byte_in_the_log(cluster: LocalCluster) -> None:
    with KeyValueClient(cluster.addresses) as kv:
        kv.put(b"before", b"x")
        # While a replica is away the log keeps what it has not yet seen.
        cluster.kill(2)
        for number in range(50):
            kv.put(f"key {number}".encode(), os.urandom(16).hex().encode())
        marker = os.urandom(32).hex().encode()
        kv.put(b"marked", marker)
    cluster.kill(0, 1)
    pool = pool_file(cluster, 0)
    content = pool.read_bytes()
    # Alone in its batch: batch header, entry header, "p", key length, key, value (docs/wire.md).
    ahead = 32 + 32 + 1 + 4 + len(b"marked")
    at = content.find(marker)
    while at >= 0 and content[at - ahead : at - ahead + 4] != b"mPb1":
        at = content.find(marker, at + 1)
    assert at >= 0, "the batch is not in the pool: nothing was tested"
    flip(pool, at)
    cluster.start([1, 2])
    cluster.wait_in_step(1, 2)
    refused(cluster, 0, STORAGE)
    with KeyValueClient(cluster.addresses) as kv:
        assert kv.get(b"marked") == marker


def test_all_threads_are_scheduled_as_the_setting_says(make_cluster: MakeCluster) -> None:
    for how, policy in (("batch", os.SCHED_BATCH), ("inherited", os.SCHED_OTHER)):
        cluster = make_cluster(
            service="tests.cluster.services:Trouble", settings={"scheduling": how}
        )
        cluster.wait_in_step()
        threads = os.listdir(f"/proc/{cluster.process(0).pid}/task")
        assert len(threads) > 1  # the state machine has its own
        assert {os.sched_getscheduler(int(thread)) for thread in threads} == {policy}
        cluster.close()

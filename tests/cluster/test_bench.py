"""`mpaxos bench` against real clusters: short runs; what is checked is that all was answered."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from bench import results as files
from bench import systems
from bench.table import COLUMNS, compare
from mpaxos.bench import cluster as clusters
from mpaxos.bench import grow
from mpaxos.bench.load import Workload, drive
from mpaxos.bench.measure import Measurement, Show, measure
from mpaxos.bench.services import PYTHON
from mpaxos.local import LocalCluster
from mpaxos.services.kv import KeyValueClient

from .conftest import MakeCluster

SHORT = Workload(connections=8, size=32, keys=100, warm_up=0.0, count=2000)


def changed(**changes: object) -> Workload:
    return msgspec.structs.replace(SHORT, **changes)


def complete(outcome: Measurement) -> None:
    assert outcome.errors == {}
    assert outcome.unanswered == 0
    assert outcome.requests > 0
    assert len(outcome.servers) == 3


@pytest.mark.parametrize("target", ["leader", "spread", "0"])
def test_puts_and_gets(cluster: LocalCluster, target: str) -> None:
    workload = changed(depth=4, reads=0.5, distribution="zipfian")
    outcome = measure(clusters.find_in(cluster, workload, target), workload)
    complete(outcome)
    assert outcome.requests == 2000
    assert outcome.reads is not None and outcome.writes is not None
    assert {server.role for server in outcome.servers} == {"leader", "follower"}
    status = cluster.status(cluster.leader())
    assert status is not None and status["sessions"] == 0, "sessions are closed at the end"


def test_what_was_put_is_there(cluster: LocalCluster) -> None:
    workload = changed(distribution="sequential", keys=2000)
    measure(clusters.find_in(cluster, workload), workload)
    with KeyValueClient(cluster.addresses) as client:
        assert client.size() == 2000
        value = client.get(b"k%015d" % 1999)
        assert value is not None and len(value) == 32


def test_jpaxos_protocol(cluster: LocalCluster) -> None:
    workload = changed(protocol="jpaxos", reads=0.3)
    complete(measure(clusters.find_in(cluster, workload), workload))


def test_open_loop(cluster: LocalCluster) -> None:
    workload = changed(count=0, rate=500.0, duration=1.0, depth=4)
    outcome = measure(clusters.find_in(cluster, workload), workload)
    complete(outcome)
    assert outcome.requests == 500


def test_python_machine(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(service=PYTHON)
    workload = changed(machine="command", reads=0.2, size=300)
    complete(measure(clusters.find_in(cluster, workload), workload))


def test_a_run_outlives_the_leader(cluster: LocalCluster) -> None:
    """The leader is killed in the middle: the load goes on at the others, nothing is lost."""
    workload = changed(count=60_000, depth=4)
    leader = cluster.leader()
    killed = threading.Event()

    def kill(answers: int) -> None:
        if answers > 0 and not killed.is_set():
            killed.set()
            cluster.kill(leader)

    addresses = [cluster.client_address(leader)]
    addresses += [cluster.client_address(n) for n in cluster.numbers if n != leader]
    report = drive(workload, addresses, on_progress=kill)
    assert report.writes.total == 60_000
    assert report.errors == {} and report.unanswered == 0
    if killed.is_set():  # else it was over before the first word of progress
        assert report.reconnections > 0


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpaxos.cli.main", "bench", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command(cluster: LocalCluster, tmp_path: Path) -> None:
    quick = ("--duration", "0.3", "--warm-up", "0.1", "--connections", "5")
    plot = tmp_path / "plot.svg"
    done = bench("-a", cluster.addresses, *quick, "--json", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] > 0 and len(found["servers"]) == 3
    assert b"<svg" in plot.read_bytes()
    done = bench("-c", str(cluster.path), *quick, "--protocol", "jpaxos", "--target", "spread")
    assert done.returncode != 0, "the file on disk has other ports than this cluster"
    done = bench("-a", cluster.addresses, *quick, "--target", "spread", "--reads", "1")
    assert done.returncode == 0, done.stderr
    assert "requests/s" in done.stdout and "leader" in done.stdout
    for words, text in (
        (("--target", "9"), "--target"),
        (("--sweep", "nothing"), "--sweep"),
        (("--protocol", "http"), "--protocol"),
        (("--depth", "0"), "--depth"),
    ):
        done = bench("-a", cluster.addresses, *words)
        assert done.returncode == 2 and text in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_sweep_starts_and_removes_its_clusters(memory_path: Path) -> None:
    stages = [
        grow.Stage(
            fill=True,
            points=[
                grow.Point(x=1, label="one", workload=changed(keys=500)),
                grow.Point(
                    x=50, label="half", of_maximum=0.2, workload=changed(count=0, duration=0.3)
                ),
            ],
        ),
        grow.Stage(points=[grow.Point(x=2, label="two", workload=changed(keys=1 << 35))]),
    ]
    sweep = grow.Sweep(title="test", x="x", stages=lambda base: stages)
    rows = grow.run_sweep(sweep, SHORT, parent=memory_path)
    assert [row.outcome is not None for row in rows] == [True, True, False]
    assert "--keys" in rows[2].skipped
    assert rows[1].outcome is not None and rows[1].outcome.workload.rate > 0
    assert len(grow.table_rows(rows)) == 3
    assert list(memory_path.iterdir()) == []


def test_the_comparison(tmp_path: Path) -> None:
    missing = systems.Group(("absent",), lambda: "not installed", systems.GROUPS["echo"].started)
    names = ["echo", "forward", "mpaxos", "absent"]
    systems.GROUPS["absent"] = missing
    try:
        found = compare(names, rounds=1, duration=0.1, warm_up=0.05, show=Show())
    finally:
        del systems.GROUPS["absent"]
    assert found.missing == {"absent": "not installed"}
    assert set(found.cells[systems.PUTS]) == {column.key for column in COLUMNS}
    assert "deep" not in found.cells[systems.JPAXOS]
    origin = files.Origin(machine="m", date="d", command="c", version="v")
    results = files.Results(table=files.Table(origin=origin, comparison=found))
    files.save(results, tmp_path)
    assert msgspec.json.encode(files.load(tmp_path / "results.json")) == msgspec.json.encode(
        results
    )
    text = (tmp_path / "RESULTS.md").read_text()
    for part in ("(1.00)", systems.SPREAD, "not installed", "### Aims", "pipelined puts"):
        assert part in text


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(memory_path: Path, sign: signal.Signals) -> None:
    words = [sys.executable, "-m", "mpaxos.cli.main", "bench", "--duration", "60"]
    process = subprocess.Popen(
        [*words, "--pool-dir", str(memory_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert "the leader" in process.stderr.readline()  # told when the load begins
        process.send_signal(sign)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert list(memory_path.iterdir()) == []

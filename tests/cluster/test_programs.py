"""The programs a user runs, as processes: mpaxos status, kv, dev, and the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpaxos.config import example
from mpaxos.local import LocalCluster


def mpaxos(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mpaxos.cli.main", *words],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def until(condition: object, what: str) -> None:
    """Wait for a condition; fails after a minute."""
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def replicas_below(word: str) -> list[int]:
    """Processes of `mpaxos serve` whose command line has `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"serve" in words and any(word.encode() in w for w in words):
                found.append(int(entry.name))
    return found


def test_status(cluster: LocalCluster) -> None:
    done = mpaxos("status", "--address", cluster.addresses, "--json")
    assert done.returncode == 0, done.stderr
    replicas = json.loads(done.stdout)["replicas"]
    assert sorted(replicas) == ["0", "1", "2"]
    assert [r["role"] for r in replicas.values()].count("leader") == 1
    leader = cluster.leader()
    victim = (leader + 1) % 3
    cluster.kill(victim)
    done = mpaxos("status", "--address", cluster.addresses)
    assert done.returncode == 0
    assert b"no answer" in done.stdout
    cluster.kill(*cluster.numbers)
    assert mpaxos("status", "--address", cluster.addresses).returncode == 1


def test_kv(cluster: LocalCluster) -> None:
    at = ("--address", cluster.addresses)
    assert mpaxos("kv", "get", *at, "a").returncode == 1
    assert mpaxos("kv", "put", *at, "a", "hello").returncode == 0
    assert mpaxos("kv", "put", *at, "ab", "-", stdin=b"\0\xff").returncode == 0
    assert mpaxos("kv", "get", *at, "ab").stdout == b"\0\xff"
    assert mpaxos("kv", "size", *at).stdout == b"2\n"
    assert mpaxos("kv", "scan", *at, "a", "--keys").stdout == b"a\nab\n"
    assert mpaxos("kv", "cas", *at, "a", "--expected", "no", "--new", "x").returncode == 1
    assert mpaxos("kv", "cas", *at, "a", "--expected", "hello", "--new", "x").returncode == 0
    assert mpaxos("kv", "delete", *at, "a").returncode == 0
    assert mpaxos("kv", "delete", *at, "a").returncode == 1


def test_nobody_there() -> None:
    done = mpaxos("kv", "get", "--address", "127.0.0.1:1", "--deadline", "0.5", "a")
    assert done.returncode == 1
    assert done.stderr.startswith(b"mpaxos: ")
    assert b"Traceback" not in done.stderr


def test_init_shows_on_a_terminal_how_much_memory_is_there(memory_path: Path) -> None:
    (memory_path / "c.toml").write_text(example(directory=str(memory_path / "data")))
    ours, theirs = os.openpty()
    words = ["init", "--cluster", str(memory_path / "c.toml"), "--replica", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "mpaxos.cli.main", *words, "--set", "pool.size=300MiB"],
        env=os.environ | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode == 0, shown
    assert b"reserving memory" in shown and b"/300.0 MiB" in shown, shown
    assert b"replica 0: " in done.stdout and b"reserving" not in done.stdout
    quiet = mpaxos(*words[:-1], "1")
    assert quiet.returncode == 0 and quiet.stderr == b""


@contextmanager
def program(*words: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background, killed at the end."""
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def stanzas(path: Path, count: int) -> Path:
    """An input file; one in ten names occurs twice."""
    names = [f"package-{n if n % 10 else n // 2}" for n in range(count)]
    texts = [f"Package: {name}\nVersion: {n}\nSize: 1\n" for n, name in enumerate(names)]
    path.write_text("\n".join(texts))
    return path


def test_the_demo_on_a_small_file(tmp_path: Path, memory_path: Path) -> None:
    words = [sys.executable, "-m", "mpaxos.demo", str(stanzas(tmp_path / "in", 4000)), "--json"]
    done = subprocess.run(
        [*words, "--pool-dir", str(memory_path)], capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["good"] is True
    assert found["records"] == 4000
    assert [crash["who"] for crash in found["crashes"]] == ["follower", "leader", "all at once"]
    assert found["mismatches"] == {"0": 0, "1": 0, "2": 0}
    assert list(memory_path.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demo_leaves_no_process(
    tmp_path: Path, memory_path: Path, sign: signal.Signals
) -> None:
    source, log = stanzas(tmp_path / "in", 400_000), tmp_path / "log"
    words = ("mpaxos.demo", str(source), "--pool-dir", str(memory_path))
    with program(*words, output=log) as demo:
        until(lambda: b"loading: " in log.read_bytes() or demo.poll() is not None, "the load")
        assert demo.poll() is None, log.read_text()
        assert len(replicas_below(str(memory_path))) > 0
        os.kill(demo.pid, sign)
        demo.wait(timeout=60)
    until(lambda: not replicas_below(str(memory_path)), "the end of all replicas")
    if sign != signal.SIGKILL:
        assert demo.returncode == 130
        assert list(memory_path.iterdir()) == []


def test_dev(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with program("mpaxos.cli.main", "dev", "--pool-size", "64MiB", output=log) as dev:
        until(lambda: b"Ctrl-C ends it" in log.read_bytes() or dev.poll() is not None, "dev")
        assert dev.poll() is None, log.read_text()
        lines = log.read_text().splitlines()
        addresses = next(line.split()[-1] for line in lines if line.startswith("status:"))
        assert mpaxos("kv", "put", "-a", addresses, "greeting", "hello").returncode == 0
        assert mpaxos("kv", "get", "-a", addresses, "greeting").stdout == b"hello"
        running = replicas_below("mpaxos-dev-")
        assert running
        os.kill(dev.pid, signal.SIGINT)
        assert dev.wait(timeout=60) == 0
    ours = set(running)
    until(lambda: not ours & set(replicas_below("mpaxos-dev-")), "the end of all replicas")

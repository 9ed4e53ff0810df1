"""The command line as far as it goes without a cluster: arguments, complaints, exit statuses."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mpaxos.cli import errors
from mpaxos.cli.serve import parse_overrides
from mpaxos.cli.status import exit_status, table
from mpaxos.config import files, load
from mpaxos.config.files import (
    describe,
    is_memory,
    process_variables,
    small_pages,
    unsafe_variable,
)
from mpaxos.errors import (
    ConfigError,
    ConnectionFailed,
    InvariantViolated,
    StorageLocked,
)

Done = subprocess.CompletedProcess[str]


def mpaxos(*words: str, **variables: str) -> Done:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MPAXOS_")}
    return subprocess.run(
        [sys.executable, "-m", "mpaxos.cli.main", *words],
        env={**environ, "COLUMNS": "100", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(done: Done, status: int) -> str:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("mpaxos: ")
    return lines[0]


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    assert mpaxos("cluster", "new", str(path)).returncode == 0
    return path


def test_help_teaches() -> None:
    done = mpaxos("--help")
    assert done.returncode == 0
    for word in ("init", "serve", "dev", "status", "kv", "sim", "mpaxos kv put greeting hello"):
        assert word in done.stdout
    serve = mpaxos("serve", "--help")
    assert "MPAXOS_POOL_SIZE" in serve.stdout
    for command in ("init", "dev", "status"):
        assert f"mpaxos {command}" in mpaxos(command, "--help").stdout


def test_version() -> None:
    assert mpaxos("version").stdout.startswith("mpaxos ")


def test_usage_errors() -> None:
    assert mpaxos("servve").returncode == 2
    assert mpaxos("kv", "get").returncode == 2
    assert mpaxos("serve", "--replica", "x").returncode == 2
    assert "--cluster" in one_line(mpaxos("serve", "--replica", "0"), 2)


def test_a_new_cluster_file(cluster_file: Path) -> None:
    before = cluster_file.read_text()
    assert load(cluster_file).name == "demo"
    assert "exists already" in one_line(mpaxos("cluster", "new", str(cluster_file)), 2)
    assert cluster_file.read_text() == before
    other = cluster_file.with_name("other.toml")
    done = mpaxos("cluster", "new", str(other), "--replicas", "4")
    assert "1, 3, 5 or 7" in one_line(done, 2)
    assert not other.exists()


def test_serve_complains_in_one_line(cluster_file: Path) -> None:
    file = str(cluster_file)
    assert "no such file" in one_line(mpaxos("serve", "-c", "/none.toml", "-r", "0"), 2)
    assert "has no replica 7" in one_line(mpaxos("serve", "-c", file, "-r", "7"), 2)
    wrong = mpaxos("serve", "-c", file, "-r", "0", MPAXOS_POOL_SISE="1")
    assert "MPAXOS_POOL_SIZE" in one_line(wrong, 2)
    assert "key=value" in one_line(mpaxos("serve", "-c", file, "-r", "0", "--set", "x"), 2)
    set_wrong = mpaxos("serve", "-c", file, "-r", "0", "--set", "pool.size=tiny")
    assert "pool.size = 'tiny'" in one_line(set_wrong, 2)


def test_init_wants_one_or_all(cluster_file: Path) -> None:
    assert "--replica N or --all" in one_line(mpaxos("init", "-c", str(cluster_file)), 2)


def test_dev_names_a_missing_module() -> None:
    assert "no_such" in one_line(mpaxos("dev", "no_such:Machine"), 2)


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report(ConfigError("a")) == 2
    assert errors.report(StorageLocked("b")) == 3
    assert errors.report(ConnectionFailed("c")) == 1
    assert errors.report(InvariantViolated("d")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["mpaxos:"] * 4


def test_overrides() -> None:
    assert parse_overrides(["a.b=c=d", "x = 1"]) == {"a.b": "c=d", "x": "1"}
    with pytest.raises(ConfigError):
        parse_overrides(["=1"])


def answer(role: str, **other: Any) -> dict[str, Any]:
    pool = {"size": 100, "log_size": 50, "log_used": 5, "state_used": 1, "state_limit": 10}
    return {
        "replica": 0,
        "cluster": "demo",
        "role": role,
        "waits_for": None,
        "leader": 0,
        "ballot": "1.0",
        "decided": 12,
        "applied": 10,
        "digest": "0123456789abcdef",
        "in_step": True,
        "clients": 3,
        "sessions": 4,
        "pool": pool,
        "running": None,
        "durability": "disk",
        "machine": "volatile",
        "snapshot": {"slot": 3, "failure": None},
        "transfer": {"receiving": None, "sending": [], "problem": None},
        "peers": {"1": {"connected": True}},
        **other,
    }


def test_status_of_a_cluster() -> None:
    slow = {"command": "slow", "slot": 11, "seconds": 1.25}
    answers: dict[int, dict[str, Any]] = {
        0: answer("leader", decided=20, applied=20),
        1: answer("follower", running=slow, snapshot={"slot": 0, "failure": "No space left"}),
        2: {"error": "cannot be asked"},
    }
    answers[0]["transfer"] = {
        "receiving": None,
        "sending": [{"target": 1, "made": 5 << 20, "total": 9 << 20, "percent": 55, "rate": 0}],
        "problem": None,
    }
    answers[0]["pool"]["packings"] = 3
    answers[1]["transfer"] = {
        "receiving": {"source": 0, "installed": 4 << 20, "percent": 44, "rate": 3 << 20},
        "sending": [],
        "problem": None,
    }
    assert exit_status(answers) == 0
    assert exit_status({0: answers[1], 2: answers[2]}) == 1
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(answers))
    shown = console.export_text()
    assert "replica 0 sends its state to replica 1: 5 MiB, about 55 %" in shown
    assert "receives the state of replica 0: 4 MiB, about 44 %, 3 MiB/s" in shown
    for text in (
        "demo, disk + volatile",
        "leader",
        "no answer",
        "slow at slot 11 for 1.2 s",
        "cannot take a snapshot, and keeps its log: No space left",
        "cannot be asked",
        "packed its state 3 times since it started",
        "10",
    ):
        assert text in shown


def test_status_of_a_replica_that_recovers() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    waits_for = "answers of 2 more replicas: 2 of the 2 others must be up"
    console.print(table({0: answer("recovering", waits_for=waits_for)}))
    assert f"waits for {waits_for}" in console.export_text()


def test_kinds_of_memory() -> None:
    assert is_memory(Path("/dev/shm/not/there/yet"))
    assert "emulated" in describe(Path("/dev/shm"))
    assert not is_memory(Path("/proc"))
    assert "msync" in describe(Path("/proc"))
    assert "msync" not in describe(Path("/proc"), "disk")


@pytest.mark.parametrize(
    ("mount", "size", "told"),
    [
        (("tmpfs", "rw,size=64g"), 1 << 30, True),
        (("tmpfs", "rw,huge=never"), 1 << 30, True),
        (("tmpfs", "rw,huge=within_size"), 1 << 30, False),
        (("tmpfs", "rw"), 512 << 20, False),
        (("ext4", "rw,dax"), 1 << 30, False),
    ],
)
def test_small_pages_below_a_large_pool_are_told(
    mount: tuple[str, str], size: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_mount_of", lambda path: mount)
    advice = small_pages(Path("/data"), size)
    assert advice is None if not told else "huge=always" in str(advice)


def test_a_variable_that_takes_durability_away_is_told() -> None:
    forced = {"PMEM_IS_PMEM_FORCE": "1"}
    assert "does not survive a power cut" in str(unsafe_variable("pmem", Path("/proc"), forced))
    for durability, path in (("pmem", "/dev/shm"), ("disk", "/proc"), ("none", "/proc")):
        assert unsafe_variable(durability, Path(path), forced) is None
    assert unsafe_variable("pmem", Path("/proc"), {}) is None
    assert "PMEM_IS_PMEM_FORCE" not in process_variables("pmem", Path("/proc"))
    assert process_variables("disk", Path("/proc"))["PMEM_IS_PMEM_FORCE"] == "1"

"""The cluster file: precedence, complaints, derived values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpaxos import config
from mpaxos.config.checks import warnings
from mpaxos.core.settings import MILLISECOND
from mpaxos.errors import ConfigError


def plain(replicas: int = 3, **top: Any) -> dict[str, Any]:
    """What a small, correct cluster file contains."""
    entries = [
        {"id": n, "peer": f"h:{4001 + n}", "client": f"h:{3001 + n}", "directory": f"d/{n}"}
        for n in range(replicas)
    ]
    return {"name": "t", "id": "ab" * 16, "replicas": entries, **top}


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.from_dict(raw, where="c.toml")
    text = str(caught.value)
    assert text.startswith("c.toml: ")
    assert "\n" not in text
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(config.example())
    return path


def test_the_example_is_accepted_and_each_has_its_own_id(file: Path) -> None:
    first = config.load(file)
    assert [r.id for r in first.replicas] == [0, 1, 2]
    assert first.pool.size == 512 << 20
    assert first.directory(1) == file.parent / "data" / "1"
    assert first.id not in config.example()


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_odd_numbers_of_replicas(count: int) -> None:
    made = config.from_dict(plain(count))
    assert len(made.peers_of(0)) == count - 1
    assert bool(warnings(made)) == (count == 1)


@pytest.mark.parametrize("count", [2, 4, 6, 8])
def test_other_numbers_of_replicas_are_refused(count: int) -> None:
    assert "replicas" in refused(plain(count))


def test_arguments_over_environment_over_file_over_defaults(file: Path) -> None:
    environ = {"MPAXOS_PROTOCOL_WINDOW": "8", "MPAXOS_POOL_SIZE": "1 GiB", "HOME": "/x"}
    assert config.load(file).protocol.window == 16
    assert config.load(file, environ=environ).protocol.window == 8
    both = config.load(file, {"protocol.window": "4"}, environ)
    assert (both.protocol.window, both.pool.size) == (4, 1 << 30)
    moved = config.load(file, environ={"MPAXOS_REPLICAS_1_DIRECTORY": "/data"})
    assert moved.directory(1) == Path("/data")


def test_a_wrong_value_names_where_it_came_from(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"pool.size = 'much' .* set by the environment"):
        config.load(file, environ={"MPAXOS_POOL_SIZE": "much"})
    with pytest.raises(ConfigError, match=r"window = 'x'.* set by an argument"):
        config.load(file, {"protocol.window": "x"})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (plain(servce="a:B"), "unknown key servce; did you mean 'service'?"),
        (plain(pool={"sise": 1}), "unknown key pool.sise; did you mean 'size'?"),
        (plain(limits={"max_conections": 1}), "did you mean 'max_connections'?"),
        (plain(protocol={"zzz": 1}), "unknown key protocol.zzz; known are catchup_bytes"),
        (plain(pool=3), "[pool] must be a table"),
        (plain(name=""), "name = ''"),
        (plain(id="12"), "32 hexadecimal digits"),
        (plain(id="0" * 32), "not all 0"),
        (plain(service="bank"), "module:Class"),
        (plain(durability="disk", machine="persistent"), "does not go with durability = 'disk'"),
        (plain(durability="none", machine="persistent"), 'or machine = "volatile"'),
        (plain(durability="tape"), "pmem, disk, view, epoch, none"),
        (plain(scheduling="fifo"), "scheduling = 'fifo': must be one of batch, inherited"),
        (plain(machine="shared"), "machine = 'shared': must be one of persistent, volatile"),
        (plain(durability="disk", pool={"log_size": "48 MiB"}), "at least 3 segments, here of 17"),
        (plain(durability="disk", disk={"segment_size": "16 MiB"}), "16 times the largest batch"),
        (plain(durability="disk", disk={"segment_size": "17 MB"}), "is not a size"),
        (plain(durability="disk", disk={"segment_size": 17_000_001}), "multiple of 4 KiB"),
        (plain(durability="disk", limits={"max_request": "64 MiB", "max_pending": "64MiB"}), "fit"),
        (plain(snapshots={"ratio": 0}), "snapshots.ratio = 0"),
        (plain(snapshots={"minimum": "little"}), "is not a size"),
        (plain(pool={"size": "1 MiB"}), "pool.size = 1.0 MiB"),
        (plain(pool={"size": "12 parsecs"}), "is not a size"),
        (plain(pool={"size": -1}), "is not a size"),
        (plain(pool={"size": True}), "is not a size"),
        (plain(pool={"size": "64 MiB", "log_size": "33 MiB"}), "pool.log_size"),
        (plain(limits={"state_limit": "500 MiB"}), "at most 90 %"),
        (plain(limits={"max_request": "100 MiB"}), "limits.max_request"),
        (plain(limits={"max_connections": 0}), "limits.max_connections = 0"),
        (plain(limits={"max_sessions": 300_000}), "limits.max_sessions"),
        (plain(limits={"max_pending": 5}), "limits.max_pending"),
        (plain(limits={"max_request": "40MiB", "max_pending": "40MiB"}), "fit 4 times"),
        (plain(protocol={"window": 0}), "protocol.window = 0"),
        (plain(protocol={"window": 1000}), "window * limits.max_batch"),
        (plain(protocol={"election_ms": 100}), "three heartbeats"),
        (plain(protocol={"heartbeat_ms": "soon"}), "protocol.heartbeat_ms = 'soon'"),
        ({**plain(), "replicas": []}, "[[replicas]]"),
        ({"id": "ab" * 16, "replicas": plain()["replicas"]}, "name is missing"),
    ],
)
def test_complaints(raw: dict[str, Any], expected: str) -> None:
    assert expected in refused(raw)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": 0}, "each of 0 to 2 once"),
        ({"id": 9}, "replicas.2.id = 9"),
        ({"client": "h:3001"}, "is also replicas.0.client"),
        ({"client": "h"}, "is not an address"),
        ({"client": "::1:5"}, "is not an address"),
        ({"client": "h:0"}, "from 1 to 65535"),
        ({"client": "h:70000"}, "from 1 to 65535"),
        ({"directory": "d/0"}, "directory is also that of replicas.0"),
        ({"listen_jpaxos": "h:1"}, "listen_jpaxos is set but"),
        ({"listen_peer": "nowhere"}, "replicas.2.listen_peer"),
        ({"dirctory": "x"}, "did you mean 'directory'?"),
    ],
)
def test_complaints_about_a_replica(change: dict[str, Any], expected: str) -> None:
    raw = plain()
    raw["replicas"][2].update(change)
    assert expected in refused(raw)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "none.toml")
    broken = tmp_path / "b.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        config.load(broken)
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        config.load(tmp_path)


def test_unknown_variables_and_arguments(file: Path) -> None:
    with pytest.raises(ConfigError, match="MPAXOS_POOL_SISE; did you mean 'MPAXOS_POOL_SIZE'"):
        config.load(file, environ={"MPAXOS_POOL_SISE": "1"})
    with pytest.raises(ConfigError, match=r"did you mean 'pool\.size'"):
        config.load(file, {"pool.sise": "1"})
    config.load(file, environ={"MPAXOS_CLUSTER": "x", "MPAXOS_REPLICA": "1"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("512 MiB", 512 << 20), ("1GiB", 1 << 30), ("1.5 kib", 1536), (7, 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert config.parse_size(text) == size


def test_addresses() -> None:
    assert config.parse_address("host:1") == ("host", 1)
    assert config.parse_address("[::1]:65535") == ("::1", 65535)
    made = config.from_dict(plain())
    assert made.listen_peer(0) == ("h", 4001)
    assert made.listen_jpaxos(0) is None


@pytest.mark.parametrize("durability", ["disk", "view", "epoch", "none"])
def test_a_volatile_machine_is_the_default_beside_pmem(durability: str, tmp_path: Path) -> None:
    assert config.from_dict(plain(durability=durability)).volatile
    path = tmp_path / "c.toml"
    path.write_text(config.example(durability=durability))
    made = config.load(path)
    assert (made.durability, made.machine) == (durability, "volatile")


def test_pmem_has_both_machines(tmp_path: Path) -> None:
    assert config.from_dict(plain()).machine == "persistent"
    volatile = config.from_dict(plain(machine="volatile"))
    assert volatile.log_apart
    path = tmp_path / "c.toml"
    path.write_text(config.example(machine="volatile"))
    assert config.load(path).volatile


def test_a_log_apart_leaves_the_pool_to_the_state() -> None:
    inside = config.from_dict(plain(pool={"size": "256 MiB"}))
    apart = config.from_dict(plain(pool={"size": "256 MiB"}, durability="disk"))
    assert apart.state_limit > inside.state_limit
    # Beside the log, it may also be larger than half of the pool.
    config.from_dict(plain(pool={"size": "256 MiB", "log_size": "1GiB"}, machine="volatile"))


def test_a_segment_has_room_for_sixteen_of_the_largest_batch() -> None:
    made = config.from_dict(plain(durability="disk"))
    assert made.segment_size == 17 << 20
    assert made.segment_size >= 16 * made.largest_record > 16 << 20
    small = {"max_request": "64 KiB", "max_batch": "64 KiB"}
    made = config.from_dict(
        plain(durability="disk", limits=small, disk={"segment_size": "1040 KiB"})
    )
    assert made.segment_size == 1040 << 10


def test_settings_of_the_protocol() -> None:
    made = config.from_dict(plain(protocol={"heartbeat_ms": 7, "window": 3}))
    settings = made.settings(2)
    assert (settings.replica, settings.replicas) == (2, 3)
    assert (settings.heartbeat, settings.window) == (7 * MILLISECOND, 3)
    with pytest.raises(ConfigError, match="no replica 3; it has 0, 1, 2"):
        made.settings(3)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "cd" * 16},
        {"service": "a:B"},
        {"durability": "disk"},
        {"machine": "volatile"},
        {"limits": {"max_sessions": 99}},
        {"limits": {"max_request": 1000}},
        {"limits": {"state_limit": "10 MiB"}},
        {"pool": {"size": "1GiB"}},  # moves the default of state_limit
    ],
)
def test_agreement_changes_with_what_must_be_equal(change: dict[str, Any]) -> None:
    base = config.agreement(config.from_dict(plain()))
    assert 0 <= base < 1 << 64
    assert config.agreement(config.from_dict(plain(**change))) != base


def test_agreement_ignores_what_may_differ() -> None:
    base = config.agreement(config.from_dict(plain()))
    alike = ({"protocol": {"heartbeat_ms": 9}}, {"name": "other"}, {"scheduling": "inherited"})
    for change in alike:
        assert config.agreement(config.from_dict(plain(**change))) == base


@pytest.mark.parametrize("name", ["MPAXOS_CLUSTER", "MPAXOS_LOG", "MPAXOS_PURE"])
def test_a_variable_of_the_process_is_no_setting(file: Path, name: str) -> None:
    assert config.load(file, environ={name: "1"}) == config.load(file, environ={})

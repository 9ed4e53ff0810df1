"""Bytes that once raised something else than the error that is meant for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaxos import StateMachine, command
from mpaxos.client import admin, proxy
from mpaxos.config import load
from mpaxos.config.example import example
from mpaxos.config.values import parse_address, parse_size
from mpaxos.errors import ConfigError, StorageCorrupt, VersionMismatch, WireError
from mpaxos.machine.inspection import inspect_machine
from mpaxos.storage.directory import MARKER, open_directory
from tests.fuzz import targets
from tests.fuzz.seeds import seeds

NESTED = b"[" * 60_000
LONG = "9" * 5_000


@pytest.mark.parametrize("data", [b'{"op": "\xff"}', b'{"op": ' + NESTED, b"\xff", b""])
def test_an_admin_request_cannot_stop_a_replica(data: bytes) -> None:
    """Anybody who reaches the client port may send one, without a session."""
    assert targets.admin_request(data) is False


@pytest.mark.parametrize("data", [b'{"a": "\xff"}', b'{"a": ' + NESTED])
def test_an_admin_answer(data: bytes) -> None:
    with pytest.raises(WireError, match="not a JSON object"):
        admin._answer(("127.0.0.1", 1), 7, data)


class Named(StateMachine):
    @command
    def name(self) -> str:
        return "text"


def test_a_result_that_is_no_text() -> None:
    method = inspect_machine(Named).methods["name"]
    with pytest.raises(VersionMismatch, match="the reply of name is no str"):
        proxy._decoded(method, b"\xa1\xff")


@pytest.mark.parametrize(
    "change",
    [
        (b"16777216", b"-6777216"),
        (b"16777216", b"9" * 40),
        (b'"test"', b'"t\xffst"'),
        (b'"test"', NESTED),
    ],
    ids=["negative", "huge", "utf-8", "nested"],
)
def test_a_damaged_marker(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    (tmp_path / MARKER).write_bytes(seeds()["marker"][0].replace(*change))
    with pytest.raises(StorageCorrupt, match="is damaged"):
        open_directory(tmp_path, targets.CLUSTER, targets.REPLICA)


@pytest.mark.parametrize("text", ["a = " + "[" * 5_000, f"a = {LONG}"], ids=["nested", "long"])
def test_a_cluster_file_that_overwhelms_the_toml_parser(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(example() + text)
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load(path)


def test_numbers_of_thousands_of_digits() -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(LONG)
    with pytest.raises(ConfigError, match="a port is a number from 1 to 65535"):
        parse_address(f"host:{LONG}")

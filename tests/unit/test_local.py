"""Ports of local clusters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mpaxos import local
from mpaxos.errors import ConfigError
from mpaxos.local import free_ports

CLAIM = "from mpaxos.local import free_ports; print(*free_ports(3), flush=True); input()"


def test_ports_are_taken_in_turn() -> None:
    first, second = free_ports(9), free_ports(9)
    assert len(set(first + second)) == 18


def test_two_processes_never_get_the_same_port() -> None:
    """Nor one of a replica that is down and will come back: whole blocks differ."""
    block = local._Ports.BLOCK
    mine = free_ports(1)[0] // block
    others = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        blocks = [mine]
        for other in others:
            assert other.stdout is not None
            ports = [int(word) for word in other.stdout.readline().split()]
            assert len(ports) == 3 and len({port // block for port in ports}) == 1
            blocks.append(ports[0] // block)
        assert len(set(blocks)) == 4
    finally:
        for other in others:
            other.communicate("\n")


def test_a_process_that_ended_leaves_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mpaxos-test-{os.getpid()}"
    monkeypatch.setattr(local._Ports, "NAME", name)
    monkeypatch.setattr(local._Ports, "BLOCKS", 1)
    code = f"from mpaxos import local; local._Ports.NAME = {name!r}; local._Ports.BLOCKS = 1; "
    claim = subprocess.Popen(
        [sys.executable, "-c", code + "print(local.free_ports(1), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    ports = local._Ports()
    try:
        assert claim.stdout is not None and claim.stdout.readline()
        with pytest.raises(ConfigError, match="run local clusters already"):
            ports.take(1)
    finally:
        claim.kill()
        claim.communicate()
    assert ports.take(1)

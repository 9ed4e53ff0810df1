"""What a client is told at its construction: addresses and settings, checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mpaxos.errors import ConfigError

MAX_WINDOW = 1024
"""The cluster clamps windows to this; see docs/sessions.md."""

Address = tuple[str, int]
Addresses = str | Iterable[str | Address]


@dataclass(frozen=True)
class Options:
    """Settings of a client; times are seconds."""

    deadline: float = 10.0
    """How long a call may take where it does not say otherwise."""
    window: int = 256
    """Requests in flight; further calls wait in the order they were made."""
    stall_timeout: float = 2.0
    """Silence of a replica that owes answers after which another one is tried; also the longest
    wait for a connection."""
    close_timeout: float = 0.5
    """How long closing waits for the cluster to confirm the end of the session."""

    def __post_init__(self) -> None:
        if not 1 <= self.window <= MAX_WINDOW:
            raise ConfigError(f"window is {self.window}: use 1 to {MAX_WINDOW}")
        for name in ("deadline", "stall_timeout", "close_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}: use a number above 0 (seconds)"
                )


def parse_addresses(addresses: Addresses) -> list[Address]:
    """Client addresses as (host, port): from "host:port,host:port", a list of such texts, or of
    pairs. IPv6 addresses stand in brackets. Raises ConfigError."""
    items = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    parsed = [_parse(item) if isinstance(item, str) else _pair(item) for item in items]
    if not parsed:
        raise ConfigError('no address given: use for example "127.0.0.1:3001,127.0.0.1:3002"')
    return list(dict.fromkeys(parsed))


def _parse(text: str) -> Address:
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ConfigError(f'address "{text.strip()}" is not host:port, for example 127.0.0.1:3001')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f'address "{text.strip()}": write IPv6 in brackets, [::1]:3001')
    return _pair((host, int(port)))


def _pair(address: Address) -> Address:
    host, port = address
    if not host or not 0 < port < 65536:
        raise ConfigError(f"address {host}:{port}: the port must be 1 to 65535")
    return host, port


def address_text(address: Address) -> str:
    """host:port, IPv6 in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

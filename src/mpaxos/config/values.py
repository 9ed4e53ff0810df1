"""How sizes and addresses are written."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from mpaxos.errors import ConfigError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Address = tuple[str, int]
"""Host (name, IPv4 or IPv6 literal without brackets) and port."""

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 50, description="size")]
"""Bytes; a file may write "512 MiB"."""

_DIGITS = 30
"""More are no size that exists; thousands of them are more than int() and float() take."""

_UNITS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": GIB << 10}


def parse_size(value: object, key: str = "size") -> int:
    """Bytes from an integer or a text like "512 MiB". Raises ConfigError naming `key`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
        if found and len(found[1]) <= _DIGITS and found[2].upper() in _UNITS:
            return int(float(found[1]) * _UNITS[found[2].upper()])
    raise ConfigError(
        f'{key} = {value!r} is not a size; give bytes or a text like "512 MiB", "1GiB", "64 KiB"'
    )


def parse_address(text: str, key: str = "address", *, zero: bool = False) -> Address:
    """Split "host:port" or "[ipv6]:port". Port 0 only where `zero` allows it."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    plausible = bool(colon and host and port.isascii() and port.isdigit())
    if not plausible or (":" in host and not bracketed):
        raise ConfigError(
            f'{key} = {text!r} is not an address; write "host:port" or "[ipv6]:port", '
            'for example "127.0.0.1:3001"'
        )
    number = int(port) if len(port) <= _DIGITS else 1 << 16
    if number > 65535 or (number == 0 and not zero):
        raise ConfigError(f"{key} = {text!r}: a port is a number from 1 to 65535")
    return host, number


def format_size(size: int) -> str:
    """A size as people read it: "512.0 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"

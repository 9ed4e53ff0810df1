"""Questions to one replica beside its service: JSON in ADMIN frames, without a session."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import msgspec

from mpaxos.client import wire
from mpaxos.client.options import Address, address_text, parse_addresses
from mpaxos.errors import ClientError, ConnectionFailed, WireError

_READ = 64 << 10


async def ask(
    address: str | Address, request: dict[str, Any], *, timeout: float = 5.0
) -> dict[str, Any]:
    """Ask the replica whose client port is at `address`; `timeout` in seconds.

    Raises ConnectionFailed when it cannot be reached or does not answer in time, VersionMismatch or
    ClientError when the answer makes no sense, ConfigError for a bad address.
    """
    host, port = where = parse_addresses([address])[0]
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_question(request))
                frames = wire.FrameReader()
                while data := await reader.read(_READ):
                    for kind, payload in frames.feed(data):
                        return _answer(where, kind, payload)
            finally:
                writer.transport.abort()
    except (OSError, WireError) as error:
        raise _failure(where, error, timeout) from None
    raise _failure(where, None, timeout)


def ask_blocking(
    address: str | Address, request: dict[str, Any], *, timeout: float = 5.0
) -> dict[str, Any]:
    """The blocking twin of `ask`."""
    where = parse_addresses([address])[0]
    end = time.monotonic() + timeout
    try:
        with socket.create_connection(where, timeout) as connection:
            connection.sendall(_question(request))
            frames = wire.FrameReader()
            while True:
                # The timeout is for all, not for each piece that trickles in.
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                connection.settimeout(left)
                data = connection.recv(_READ)
                if not data:
                    break
                for kind, payload in frames.feed(data):
                    return _answer(where, kind, payload)
    except (OSError, WireError) as error:
        raise _failure(where, error, timeout) from None
    raise _failure(where, None, timeout)


def _question(request: dict[str, Any]) -> bytes:
    return wire.frame(wire.ADMIN, msgspec.json.encode(request))


def _answer(where: Address, kind: int, payload: bytes) -> dict[str, Any]:
    if kind == wire.BYE:
        reason = payload[:500].decode(errors="replace")
        raise ClientError(f"{address_text(where)} refused the question: {reason}")
    if kind != wire.ADMIN_REPLY:
        raise WireError(f"a frame of kind {kind} is no answer")
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"the answer is not a JSON object: {error}") from None


def _failure(where: Address, error: Exception | None, timeout: float) -> ClientError:
    if isinstance(error, WireError):
        return ClientError(f"{address_text(where)}: {error}")
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{address_text(where)} did not answer within {timeout} s")
    text = "it closed the connection" if error is None else str(error)
    return ConnectionFailed(f"{address_text(where)} cannot be asked: {text}; is the replica up?")

"""Messages of the protocol as bytes, and back.

A message is split into a *control part*, MessagePack of the tagged record with its `values` left
empty, and its values, (time, batch) pairs that travel beside it: their bytes never pass through
Python. The number of values must fit the message, or the message is refused.

A Value holds a batch, which is an opaque object to Python and has no MessagePack form. Nothing is
lost by that, as a control part never holds values; the decoder's hook refuses one that claims to.
So the very records of the protocol are the wire's schema, and there is no twin to keep in step.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from mpaxos.core.messages import (
    VALUE_CARRIERS,
    Accept,
    AnyMessage,
    CatchupReply,
    Forward,
    Promise,
)
from mpaxos.core.types import Batch, Value
from mpaxos.errors import WireError

Attachment = tuple[int, Batch]
"""Time (nanoseconds since the Unix epoch, or 0 where the leader stamps) and batch of one value."""

_NO_VALUES: list[Value] = []


def _refuse(kind: type, found: object) -> NoReturn:
    raise ValueError("values travel beside the control part, not inside")


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage, dec_hook=_refuse)


def encode(message: AnyMessage) -> tuple[bytes, list[Attachment]]:
    """The control part of `message` and its values, in order. `message` is left as it was."""
    if not isinstance(message, VALUE_CARRIERS):
        return _encoder.encode(message), []
    values = [(value.time, value.batch) for value in message.values]
    return _encoder.encode(msgspec.structs.replace(message, values=_NO_VALUES)), values


def decode(control: bytes, values: list[Attachment]) -> AnyMessage:
    """The message of a control part and the values that came with it.

    Raises WireError when the bytes are not a message or the values do not fit it.
    """
    try:
        message: AnyMessage = _decoder.decode(control)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a message of another replica does not decode: {error}") from error
    kind = type(message).__name__
    if isinstance(message, VALUE_CARRIERS):
        if message.values:
            raise WireError(f"a {kind} with values inside its control part")
        _check_number(message, kind, len(values))
        message.values = [Value(batch, time) for time, batch in values]
    elif values:
        raise WireError(f"a {kind} carries no values, {len(values)} came with it")
    return message


def _check_number(
    message: Promise | Accept | Forward | CatchupReply, kind: str, found: int
) -> None:
    match message:
        case Accept():
            expected = 1
        case Promise():
            expected = len(message.accepted)
        case CatchupReply():
            expected = len(message.ballots)
        case Forward():
            expected = max(found, 1)
    if found != expected:
        raise WireError(f"a {kind} that needs {expected} values came with {found}")

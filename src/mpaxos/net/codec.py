"""Messages of the protocol as bytes, and back.

A message is split into a *control part*, MessagePack of the tagged record with its `values` left
empty, and its values, (time, batch) pairs that travel beside it: their bytes never pass through
Python. The number of values must fit the message, or the message is refused.

The chunk of a StateChunk travels in the same way, in a frame of its own kind.

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
    StateChunk,
)
from mpaxos.core.types import Batch, Value
from mpaxos.errors import WireError

Attachment = tuple[int, Batch]
"""Time (nanoseconds since the Unix epoch, or 0 where the leader stamps) and batch of one value."""

Beside = Any
"""What travels beside a control part: the chunk of a StateChunk, else list[Attachment]."""

_NO_VALUES: list[Value] = []


def _refuse(kind: type, found: object) -> NoReturn:
    raise ValueError("values travel beside the control part, not inside")


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage, dec_hook=_refuse)


def encode(message: AnyMessage) -> tuple[bytes, Beside]:
    """The control part of `message` and its values, in order, or its chunk. `message` is left as
    it was."""
    if isinstance(message, StateChunk):
        return _encoder.encode(msgspec.structs.replace(message, data=None)), message.data
    if not isinstance(message, VALUE_CARRIERS):
        return _encoder.encode(message), []
    values = [(value.time, value.batch) for value in message.values]
    return _encoder.encode(msgspec.structs.replace(message, values=_NO_VALUES)), values


def decode(control: bytes, values: Beside) -> AnyMessage:
    """The message of a control part and what came with it.

    Raises WireError when the bytes are not a message or the values do not fit it.
    """
    try:
        message: AnyMessage = _decoder.decode(control)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a message of another replica does not decode: {error}") from error
    kind = type(message).__name__
    if isinstance(message, StateChunk) or not isinstance(values, list):
        return _with_chunk(message, kind, values)
    if isinstance(message, VALUE_CARRIERS):
        if message.values:
            raise WireError(f"a {kind} with values inside its control part")
        _check_number(message, kind, len(values))
        message.values = [Value(batch, time) for time, batch in values]
    elif values:
        raise WireError(f"a {kind} carries no values, {len(values)} came with it")
    return message


def _with_chunk(message: AnyMessage, kind: str, chunk: Beside) -> StateChunk:
    if not isinstance(message, StateChunk):
        raise WireError(f"a {kind} carries no chunk, one came with it")
    if isinstance(chunk, list) or message.data is not None:
        raise WireError(f"a {kind} needs a chunk beside its control part, and no values")
    message.data = chunk
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

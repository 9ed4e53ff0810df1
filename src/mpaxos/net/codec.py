"""Messages of the protocol as bytes: MessagePack for the control part, values beside it.

A value is a batch, which stays in native memory, so `values` is empty in the control part; the
plane carries (time, batch) pairs as attachments, and they are put back after decoding. msgspec
checks the types of all other fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from mpaxos.core.messages import (
    VALUE_CARRIERS,
    Accept,
    AnyMessage,
    CatchupReply,
    Forward,
    Promise,
)
from mpaxos.core.types import Value
from mpaxos.errors import WireError

if TYPE_CHECKING:
    from mpaxos._native import Batch

Attachments = list[tuple[int, "Batch"]]


def _no_batches_inside(kind: type, data: object) -> NoReturn:
    raise ValueError("a batch inside the control part")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage, dec_hook=_no_batches_inside)


def encode(message: AnyMessage) -> tuple[bytes, Attachments]:
    """The control part of a message and the values that go beside it."""
    if not isinstance(message, VALUE_CARRIERS):
        return _encoder.encode(message), []
    values = cast(Attachments, [(value.time, value.batch) for value in message.values])
    return _encoder.encode(msgspec.structs.replace(message, values=[])), values


def decode(control: bytes, values: Sequence[tuple[int, Any]]) -> AnyMessage:
    """The message whose parts these are. Raises WireError when they are not one."""
    try:
        message: AnyMessage = _decoder.decode(control)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"not a message of the protocol: {error}") from error
    expected = _expected(message)
    if not expected[0] <= len(values) <= expected[1]:
        raise WireError(f"a {type(message).__name__} with {len(values)} values")
    if isinstance(message, VALUE_CARRIERS):
        message.values = [Value(batch, time) for time, batch in values]
    return message


def _expected(message: AnyMessage) -> tuple[int, int]:
    """The least and the largest number of values that `message` may carry."""
    if isinstance(message, Accept):
        return (1, 1)
    if isinstance(message, Promise):
        return (len(message.accepted), len(message.accepted))
    if isinstance(message, CatchupReply):
        return (len(message.ballots), len(message.ballots))
    if isinstance(message, Forward):
        return (1, 1 << 16)
    return (0, 0)

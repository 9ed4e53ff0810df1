"""Keys, values, arguments and results of state machines as bytes.

Keys are encoded so that the order of the bytes is the order of the keys: containers are ordered by
bytes, and iteration is in key order on every replica. Everything else is MessagePack, with the
elements of sets in a fixed order: equal values must become equal bytes on every replica.
"""

from __future__ import annotations

import struct
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from mpaxos.errors import ConfigError

pack = msgspec.msgpack.Encoder().encode
"""MessagePack of a value. Raises TypeError (or OverflowError, beyond 64 bit) when it has none."""

_pack_sorted = msgspec.msgpack.Encoder(order="deterministic").encode
# Sorts sets, whose order differs from process to process, but takes only dictionaries with str
# keys: it is used just for types that may hold sets.

_INT_LIMIT = 1 << 63
_unsigned = struct.Struct(">Q")


class KeyCodec(NamedTuple):
    """Keys of one type, order-preserving."""

    text: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    prefix: Callable[[Any], bytes] | None
    """Encodes a beginning of keys; None where keys have no beginnings."""


class ValueCodec(NamedTuple):
    """Values of one type. `encode` refuses what `decode` could not read back.

    A value of exactly the type `exact` always reads back: `packer` alone encodes it. Without a
    packer values are bytes, and are kept as they are.
    """

    text: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    exact: object
    packer: Callable[[Any], bytes] | None


class _Part(NamedTuple):
    """How keys of one type look inside a tuple: each ends where one can tell."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes, int], tuple[Any, int]]


def _wrong(expected: str, key: object) -> TypeError:
    return TypeError(f"keys of this container are {expected}, not {type(key).__name__}")


def _encode_str(key: Any) -> bytes:
    if not isinstance(key, str):
        raise _wrong("str", key)
    return key.encode()


def _decode_str(data: bytes) -> str:
    return data.decode()


def _encode_bytes(key: Any) -> bytes:
    if not isinstance(key, bytes):
        raise _wrong("bytes", key)
    return key


def _decode_bytes(data: bytes) -> bytes:
    return data


def _encode_int(key: Any) -> bytes:
    if not isinstance(key, int):
        raise _wrong("int", key)
    if not -_INT_LIMIT <= key < _INT_LIMIT:
        raise OverflowError("integer keys are at most 64 bit; use str or bytes keys for larger")
    # Adding 2**63 flips the sign bit: negative numbers sort before positive ones.
    return _unsigned.pack(key + _INT_LIMIT)


def _decode_int(data: bytes) -> int:
    value: int = _unsigned.unpack(data)[0]
    return value - _INT_LIMIT


def _encode_bool(key: Any) -> bytes:
    if not isinstance(key, bool):
        raise _wrong("bool", key)
    return b"\1" if key else b"\0"


def _decode_bool(data: bytes) -> bool:
    return data != b"\0"


_SIMPLE: dict[object, KeyCodec] = {
    str: KeyCodec("str", _encode_str, _decode_str, _encode_str),
    bytes: KeyCodec("bytes", _encode_bytes, _decode_bytes, _encode_bytes),
    int: KeyCodec("int", _encode_int, _decode_int, None),
    bool: KeyCodec("bool", _encode_bool, _decode_bool, None),
}


def key_codec(hint: object) -> KeyCodec:
    """The codec of keys annotated as `hint`. Raises ConfigError for types that cannot be keys."""
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple
    elements = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and elements and Ellipsis not in elements:
        return _tuple_codec(tuple(key_codec(element) for element in elements), elements)
    raise ConfigError(
        f"{type_text(hint)} cannot be a key: use str, bytes, int, bool or a tuple of these with a "
        "fixed length"
    )


def _tuple_codec(codecs: tuple[KeyCodec, ...], hints: tuple[object, ...]) -> KeyCodec:
    parts = tuple(_part(codec, hint) for codec, hint in zip(codecs, hints, strict=True))
    text = f"tuple[{', '.join(codec.text for codec in codecs)}]"

    def prefix(key: Any) -> bytes:
        if not isinstance(key, tuple) or len(key) > len(parts):
            raise _wrong(text, key)
        return b"".join([part.encode(k) for part, k in zip(parts, key, strict=False)])

    def encode(key: Any) -> bytes:
        if not isinstance(key, tuple) or len(key) != len(parts):
            raise _wrong(text, key)
        return prefix(key)

    def decode(data: bytes) -> tuple[Any, ...]:
        return _decode_parts(parts, data, 0)[0]

    return KeyCodec(text, encode, decode, prefix)


def _decode_parts(parts: tuple[_Part, ...], data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    values = []
    for part in parts:
        value, at = part.decode(data, at)
        values.append(value)
    return tuple(values), at


def _part(codec: KeyCodec, hint: object) -> _Part:
    if hint in (str, bytes):
        return _Part(
            # 00 becomes 00 ff and 00 01 ends: a shorter text sorts before what it begins.
            lambda key: codec.encode(key).replace(b"\0", b"\0\xff") + b"\0\1",
            lambda data, at: _decode_escaped(codec, data, at),
        )
    if hint in (int, bool):
        width = 8 if hint is int else 1
        return _Part(
            codec.encode, lambda data, at: (codec.decode(data[at : at + width]), at + width)
        )
    elements = typing.get_args(hint)
    parts = tuple(_part(key_codec(element), element) for element in elements)
    return _Part(codec.encode, lambda data, at: _decode_parts(parts, data, at))


def _decode_escaped(codec: KeyCodec, data: bytes, at: int) -> tuple[Any, int]:
    end = data.index(b"\0", at)
    while data[end + 1] != 1:
        end = data.index(b"\0", end + 2)
    return codec.decode(data[at:end].replace(b"\0\xff", b"\0")), end + 2


def after_prefix(prefix: bytes) -> bytes | None:
    """The smallest bytes above everything that begins with `prefix`; None when there are none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


# ------------------------------------------------------------------ values


def stored_codec(hint: object) -> ValueCodec:
    """The codec of values kept in containers. `bytes` are kept as they are; the rest is packed."""
    if hint is bytes:
        return ValueCodec("bytes", _encode_raw, _decode_bytes, bytes, None)
    return packed_codec(hint)


def _encode_raw(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"values of this container are bytes, not {type(value).__name__}")
    return value


def packed_codec(hint: object) -> ValueCodec:
    """The codec of arguments, results and most values. Raises ConfigError for types that
    MessagePack cannot carry."""
    text = type_text(hint)
    try:
        inside = list(_inside(msgspec.inspect.type_info(hint), set()))
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(typing.cast(Any, hint))
    except (TypeError, RuntimeError, NameError) as error:
        raise ConfigError(f"{text} cannot be encoded: {error}") from error
    for info in inside:
        if isinstance(info, msgspec.inspect.CustomType):
            raise ConfigError(
                f"{type_text(info.cls)} cannot be encoded: make it a dataclass or a msgspec.Struct"
            )
    decode = decoder.decode
    exact = type(None) if hint is None else hint
    if exact not in _PLAIN:
        exact = _Nothing
    packer = _pack_sorted if any(isinstance(info, _UNORDERED) for info in inside) else pack

    def encode(value: Any) -> bytes:
        data = packer(value)
        if type(value) is not exact:
            try:
                decode(data)
            except msgspec.ValidationError as error:
                raise TypeError(f"a {type(value).__name__} where {text} is due: {error}") from None
        return data

    return ValueCodec(text, encode, decode, exact, packer)


class _Nothing:
    """The type of no value."""


_PLAIN = (str, bytes, int, bool, float, type(None))
_UNORDERED = (msgspec.inspect.SetType, msgspec.inspect.FrozenSetType, msgspec.inspect.AnyType)


def _inside(info: object, seen: set[int]) -> Iterator[object]:
    """A type description and all descriptions in it, each once."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        yield info
        for name in info.__struct_fields__:
            yield from _inside(getattr(info, name), seen)
    elif isinstance(info, list | tuple):
        for element in info:
            yield from _inside(element, seen)


def type_text(hint: object) -> str:
    """A type as one would write it, the same in every process."""
    if hint is None or hint is type(None):
        return "None"
    arguments = typing.get_args(hint)
    if arguments:
        origin = typing.get_origin(hint)
        name = getattr(origin, "__name__", None) or str(origin)
        return f"{name}[{', '.join(type_text(argument) for argument in arguments)}]"
    if hint is Ellipsis:
        return "..."
    name = getattr(hint, "__qualname__", None)
    return name if isinstance(name, str) else repr(hint)

"""The state of a state machine: Dict, Set, Value.

They are declared by annotation and used like the built-ins they are named after, but they live in
the replica's storage, in key order, and change only in commands.

What a container hands out is a fresh object. **Changing it in place changes nothing that is kept**:

    self.orders[name].append(item)      # lost: changes a copy

    order = self.orders[name]
    order.append(item)
    self.orders[name] = order           # kept: `d[k] = v` is the only way to change an item
"""

from __future__ import annotations

from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    MutableMapping,
    MutableSet,
    ValuesView,
)
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar, overload

from mpaxos.machine.codec import KeyCodec, ValueCodec, after_prefix
from mpaxos.machine.overlay import Table

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_FULL_RANGE: tuple[bytes, None] = (b"", None)


class Dict(MutableMapping[K, V]):
    """A persistent dictionary, ordered by key.

    Keys are str, bytes, int (64 bit), bool, or tuples of these; values anything that msgspec can
    carry. Iteration is in ascending key order (str: by code point), not in order of insertion. A
    key of another type is a TypeError even in `key in d`. Values are fresh objects on every access:
    to change one, assign it again (see the module's text).
    """

    __slots__ = ("_decode_key", "_decode_value", "_encode_key", "_encode_value", "_keys", "_table")

    def __init__(self, table: Table, keys: KeyCodec, values: ValueCodec) -> None:
        """Called by the host; users annotate: `accounts: Dict[str, int]`."""
        self._table = table
        self._keys = keys
        self._encode_key = keys.encode
        self._decode_key = keys.decode
        self._encode_value = values.encode
        self._decode_value = values.decode

    def __getitem__(self, key: K) -> V:
        data = self._table.get(self._encode_key(key))
        if data is None:
            raise KeyError(key)
        value: V = self._decode_value(data)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._table.put(self._encode_key(key), self._encode_value(value))

    def __delitem__(self, key: K) -> None:
        if not self._table.delete(self._encode_key(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return self._table.get(self._encode_key(key)) is not None

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[K]:
        decode = self._decode_key
        for key, _ in self._table.scan():
            yield decode(key)

    def items(self) -> ItemsView[K, V]:
        """The items in key order, read from the storage page by page."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """The values in key order, read from the storage page by page."""
        return _Values(self)

    def range(self, start: K | None = None, end: K | None = None) -> Iterator[tuple[K, V]]:
        """Items with start <= key < end in key order; None stands for no bound."""
        first = b"" if start is None else self._encode_key(start)
        return self._scan(first, None if end is None else self._encode_key(end))

    def prefix(self, prefix: K | tuple[object, ...]) -> Iterator[tuple[K, V]]:
        """Items whose str or bytes key begins with `prefix`, or whose tuple key begins with the
        elements of the tuple `prefix`. Raises TypeError for other keys."""
        if self._keys.prefix is None:
            raise TypeError(f"keys of type {self._keys.text} have no prefixes: use range()")
        first = self._keys.prefix(prefix)
        return self._scan(first, after_prefix(first))

    def popitem(self) -> tuple[K, V]:
        """Remove and return the item with the smallest key. Raises KeyError when empty."""
        for item in self._scan(*_FULL_RANGE):
            del self[item[0]]
            return item
        raise KeyError("popitem(): the Dict is empty")

    def clear(self) -> None:
        """Remove all items; reads all keys."""
        for key in [key for key, _ in self._table.scan()]:
            self._table.delete(key)

    def _scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[K, V]]:
        decode_key, decode_value = self._decode_key, self._decode_value
        for key, value in self._table.scan(start, end):
            yield decode_key(key), decode_value(value)

    def __repr__(self) -> str:
        return f"<Dict {self._table.name}>"


class _Items(ItemsView[K, V]):
    _mapping: Dict[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._scan(*_FULL_RANGE)


class _Values(ValuesView[V]):
    _mapping: Dict[object, V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._scan(*_FULL_RANGE))


class Set(MutableSet[K]):
    """A persistent set, ordered by its elements; the types are those of Dict's keys."""

    __slots__ = ("_keys", "_table")

    def __init__(self, table: Table, keys: KeyCodec) -> None:
        """Called by the host; users annotate: `names: Set[str]`."""
        self._table = table
        self._keys = keys

    @classmethod
    def _from_iterable(cls, iterable: Iterable[K]) -> AbstractSet[K]:  # type: ignore[override]
        # The results of &, |, -, ^ are ordinary sets in memory.
        return frozenset(iterable)

    def __contains__(self, item: object) -> bool:
        return self._table.get(self._keys.encode(item)) is not None

    def __iter__(self) -> Iterator[K]:
        for key, _ in self._table.scan():
            yield self._keys.decode(key)

    def __len__(self) -> int:
        return len(self._table)

    def add(self, item: K) -> None:
        """Put `item` in; nothing happens when it is there."""
        key = self._keys.encode(item)
        if self._table.get(key) is None:
            self._table.put(key, b"")

    def discard(self, item: K) -> None:
        """Take `item` out if it is there."""
        self._table.delete(self._keys.encode(item))

    def clear(self) -> None:
        """Remove all elements; reads all of them."""
        for key in [key for key, _ in self._table.scan()]:
            self._table.delete(key)

    def __repr__(self) -> str:
        return f"<Set {self._table.name}>"


class Value(Generic[V]):
    """One persistent value, empty at first."""

    __slots__ = ("_table", "_values")

    def __init__(self, table: Table, values: ValueCodec) -> None:
        """Called by the host; users annotate: `total: Value[int]`."""
        self._table = table
        self._values = values

    @overload
    def get(self) -> V | None: ...
    @overload
    def get(self, default: D) -> V | D: ...
    def get(self, default: object = None) -> object:
        """The value, or `default` while none was set. A fresh object on every call."""
        data = self._table.get(b"")
        return default if data is None else self._values.decode(data)

    def set(self, value: V) -> None:
        """Keep `value`."""
        self._table.put(b"", self._values.encode(value))

    def clear(self) -> None:
        """Be empty again."""
        self._table.delete(b"")

    def __repr__(self) -> str:
        return f"<Value {self._table.name}>"

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

from mpaxos._native import Items, Table
from mpaxos.machine.codec import KeyCodec, ValueCodec, after_prefix, key_codec, stored_codec
from mpaxos.machine.scan import scan

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_FULL_RANGE: tuple[bytes, None] = (b"", None)
_ONLY = b""
"""The key of a Value's one item."""


class Dict(Items[K, V], MutableMapping[K, V]):
    """A persistent dictionary, ordered by key.

    Keys are str, bytes, int (64 bit), bool, or tuples of these; values anything that msgspec can
    carry. Iteration is in ascending key order (str: by code point), not in order of insertion. A
    key of another type is a TypeError even in `key in d`. Values are fresh objects on every access:
    to change one, assign it again (see the module's text).
    """

    __slots__ = ("_keys", "_table", "_values")

    def __init__(self, table: Table, keys: KeyCodec, values: ValueCodec) -> None:
        """Called by the host; users annotate: `accounts: Dict[str, int]`."""
        super().__init__(table, keys, values)
        self._table = table
        self._keys = keys
        self._values = values

    def __iter__(self) -> Iterator[K]:
        decode = self._keys.decode
        for key, _ in scan(self._table):
            yield decode(key)

    def items(self) -> ItemsView[K, V]:
        """The items in key order, read from the storage page by page."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """The values in key order, read from the storage page by page."""
        return _Values(self)

    def range(self, start: K | None = None, end: K | None = None) -> Iterator[tuple[K, V]]:
        """Items with start <= key < end in key order; None stands for no bound."""
        encode = self._keys.encode
        first = b"" if start is None else encode(start)
        return self._scan(first, None if end is None else encode(end))

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
        for key in [key for key, _ in scan(self._table)]:
            self._table.delete(key)

    def _scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[K, V]]:
        decode_key, decode_value = self._keys.decode, self._values.decode
        for key, value in scan(self._table, start, end):
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

    __slots__ = ("_items", "_keys", "_table")

    def __init__(self, table: Table, keys: KeyCodec) -> None:
        """Called by the host; users annotate: `names: Set[str]`."""
        self._table = table
        self._keys = keys
        self._items: Items[K, bytes] = Items(table, keys, stored_codec(bytes))

    @classmethod
    def _from_iterable(cls, iterable: Iterable[K]) -> AbstractSet[K]:  # type: ignore[override]
        # The results of &, |, -, ^ are ordinary sets in memory.
        return frozenset(iterable)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[K]:
        for key, _ in scan(self._table):
            yield self._keys.decode(key)

    def __len__(self) -> int:
        return len(self._table)

    def add(self, item: K) -> None:
        """Put `item` in; nothing happens when it is there."""
        if item not in self._items:
            self._items[item] = b""

    def discard(self, item: K) -> None:
        """Take `item` out if it is there."""
        self._table.delete(self._keys.encode(item))

    def clear(self) -> None:
        """Remove all elements; reads all of them."""
        for key in [key for key, _ in scan(self._table)]:
            self._table.delete(key)

    def __repr__(self) -> str:
        return f"<Set {self._table.name}>"


class Value(Generic[V]):
    """One persistent value, empty at first."""

    __slots__ = ("_items", "_table")

    def __init__(self, table: Table, values: ValueCodec) -> None:
        """Called by the host; users annotate: `total: Value[int]`."""
        self._table = table
        self._items: Items[bytes, V] = Items(table, key_codec(bytes), values)

    @overload
    def get(self) -> V | None: ...
    @overload
    def get(self, default: D) -> V | D: ...
    def get(self, default: object = None) -> object:
        """The value, or `default` while none was set. A fresh object on every call."""
        return self._items.get(_ONLY, default)

    def set(self, value: V) -> None:
        """Keep `value`."""
        self._items[_ONLY] = value

    def clear(self) -> None:
        """Be empty again."""
        self._table.delete(_ONLY)

    def __repr__(self) -> str:
        return f"<Value {self._table.name}>"

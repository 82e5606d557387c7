"""Sequences that are kept as text: an address takes more than half a kilobyte as an object, a route as much.

A record may have hundreds of them, and a node thousands of records. They are needed only while an interface is built or
compared.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self, TypeVar, overload
from weakref import WeakValueDictionary

Item = TypeVar("Item")

# Bytes. Longer texts are compressed.
_PLAIN = 120

_known: WeakValueDictionary[tuple[type, str | bytes], Packed[object]] = WeakValueDictionary()


class Packed(Sequence[Item]):
    """An immutable sequence that is not empty, equal to the tuple of its items. Each access parses the items again.

    Equal sequences are one object: the record of a link, its declaration and the journal have the same ones.
    """

    __slots__ = ("__weakref__", "_data", "_length")

    # A shorter sequence is kept as it is: parsing would cost more than its items.
    LEAST: ClassVar[int] = 1
    _data: str | bytes
    _length: int

    @classmethod
    def of(cls, items: Sequence[Item]) -> Sequence[Item]:
        """The items, packed if there are enough of them."""
        if len(items) < cls.LEAST or isinstance(items, cls):
            return items
        text = "\n".join(map(cls.to_text, items))
        return cls._shared(text if len(text) <= _PLAIN else zlib.compress(text.encode()), len(items))

    @classmethod
    def _shared(cls, data: str | bytes, length: int) -> Self:
        known = _known.get((cls, data))
        if isinstance(known, cls):
            return known
        made = cls.__new__(cls)
        made._data, made._length = data, length
        _known[cls, data] = made  # type: ignore[assignment]  # of some kind of items
        return made

    @staticmethod
    @abstractmethod
    def to_text(item: Item) -> str:
        """The item as one line."""

    @staticmethod
    @abstractmethod
    def from_text(text: str) -> Item:
        """The item in a line that `to_text` wrote."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items())

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self._items()[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self is other or (type(self) is type(other) and self._data == other._data)
        return self._items() == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items())

    def __repr__(self) -> str:
        return repr(self._items())

    def texts(self) -> list[str]:
        """The items as `to_text` has written them."""
        return (self._data if isinstance(self._data, str) else zlib.decompress(self._data).decode()).split("\n")

    def _items(self) -> tuple[Item, ...]:
        return tuple(map(self.from_text, self.texts()))


def texts_of(items: Sequence[Item], packed: type[Packed[Item]]) -> list[str]:
    """The items as texts, which need not be parsed if they are packed."""
    return items.texts() if isinstance(items, Packed) else list(map(packed.to_text, items))

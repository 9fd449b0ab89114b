"""Frames that nobody holds any more but somebody may ask for soon: a consumer a little behind another one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Kept(Protocol):
    """What may be kept: something of a size, that can be let go."""

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""

    def release(self) -> None:
        """Give them back."""


Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item", bound=Kept)


class RecentFrames(Generic[Key, Item]):
    """The latest frames that were finished with, as many as fit `most_bytes`; the oldest goes first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: OrderedDict[Key, Item] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def keep(self, key: Key, item: Item) -> None:
        """Take over an item; it may be let go at once."""
        self._items[key] = item
        self.nbytes += item.nbytes
        while self.nbytes > self._most_bytes:
            self._let_go()

    def take(self, key: Key) -> Item | None:
        """Give an item back to whoever wants it again; None if it is not here."""
        item = self._items.pop(key, None)
        if item is not None:
            self.nbytes -= item.nbytes
        return item

    def retain(self, wanted: Callable[[Key], bool]) -> None:
        """Let go of what nobody wants."""
        for key in [key for key in self._items if not wanted(key)]:
            self._release(self._items.pop(key))

    def clear(self) -> None:
        """Let everything go."""
        while self._items:
            self._let_go()

    def _let_go(self) -> None:
        _, item = self._items.popitem(last=False)
        self._release(item)

    def _release(self, item: Item) -> None:
        self.nbytes -= item.nbytes
        item.release()

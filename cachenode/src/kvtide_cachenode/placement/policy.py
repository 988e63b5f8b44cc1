"""What an eviction policy is: an order among keys, told of what happens to them."""

from collections.abc import Hashable, Iterator
from typing import Final, Protocol, Self, TypeVar

Key = TypeVar("Key", bound=Hashable)

# Keys of one page of `Policy.hottest`: a page is what is done at once.
PAGE_KEYS: Final = 1000


class Policy(Protocol[Key]):
    """Orders the keys of one tier by how little they would be missed.

    Whoever holds the entries tells the policy of every insertion, hit and removal; the policy holds no
    values, reads no clock and removes nothing itself.
    """

    def inserted(self, key: Key, size_bytes: int) -> None:
        """A key that the policy does not hold came in, charged with ``size_bytes``."""

    def replaced(self, key: Key, size_bytes: int) -> None:
        """A key that the policy holds was written again: as `removed`, then `inserted`."""

    def touched(self, key: Key) -> None:
        """A key that the policy holds was read. Another function may do it while `hottest` is under way."""

    def removed(self, key: Key) -> None:
        """A key that the policy holds is gone: evicted, deleted or overwritten."""

    def victim(self) -> Key | None:
        """The key to evict next, None when the policy holds none. Calling it changes nothing."""

    def hottest(self) -> Iterator[list[Key]]:
        """All keys that are held now, the one to evict last first, in pages, of which some may be empty.

        Between two pages anything may happen to the policy.
        """

    def fresh(self) -> Self:
        """An empty policy of the same kind."""

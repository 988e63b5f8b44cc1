"""One command of a client, on its way from the parser to its reply."""

from collections.abc import Sequence
from typing import Final

from kvtide_cachenode.store import Reservation, Store

Argument = bytes | Reservation
"""A word, or a value that landed in the arena: whoever stores it takes it, nobody else can read it."""

_NONE: Final[dict[int, Reservation]] = {}


class Request:
    """A command's arguments, and where its large ones landed.

    ``words`` are the small arguments in their order, the command's name first; ``values`` the landed ones by
    their number in the command. Only a command whose row in the table says so has values: for all others the
    words are everything. A value that was not taken when the reply is complete is given up.
    """

    __slots__ = ("values", "words")

    def __init__(self, words: list[bytes], values: dict[int, Reservation] = _NONE) -> None:
        self.words = words
        self.values = values

    @classmethod
    def of(cls, arguments: Sequence[Argument]) -> "Request":
        """A request made of another's arguments; its values are this one's from then on."""
        words = [argument for argument in arguments if isinstance(argument, bytes)]
        if len(words) == len(arguments):
            return cls(words)
        return cls(words, {at: said for at, said in enumerate(arguments) if isinstance(said, Reservation)})

    def arguments(self) -> Sequence[Argument]:
        """Words and values in the order in which the client sent them."""
        values = self.values
        if not values:
            return self.words
        words = iter(self.words)
        count = len(self.words) + len(values)
        return [values[index] if index in values else next(words) for index in range(count)]

    def keys(self, first: int, last: int, step: int) -> list[bytes]:
        """The arguments from number ``first`` to ``last`` (-1: to the end) by ``step``; none is a value."""
        arguments = self.arguments()
        end = last + 1 if last > 0 else len(arguments) + last + 1
        return [key for key in arguments[first:end:step] if isinstance(key, bytes)]

    def take(self, index: int) -> Reservation | None:
        """The value that landed as argument ``index``, the caller's from now on; None where a word is."""
        return self.values.pop(index, None)

    def moved(self) -> "Request":
        """The same request as another object, which has the words and values from now on."""
        moved = Request(self.words, self.values)
        self.words, self.values = [], _NONE
        return moved

    def release(self, store: Store) -> None:
        """Give up the values that nobody took."""
        values, self.values = self.values, _NONE
        for reservation in values.values():
            store.abort(reservation)

"""A value in pieces for a client, decoded where it lies on the SSD in another form than the client's."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from kvtide_cachenode.store.form import FORMS, RAW, Form, form_of
from kvtide_cachenode.store.reservation import Reservation
from kvtide_cachenode.store.ssd import StreamBrokenError, ValueStream


class DecodedStream:
    """One value being read; to be used in ``async with``. ``length`` is None when there is nothing to read.

    A raw value passes by. Another is first read whole, into memory that ``reserve`` charges and ``give_back``
    frees, and then decoded.
    """

    def __init__(
        self,
        stream: ValueStream,
        reserve: Callable[[int], Reservation],
        give_back: Callable[[Reservation], None],
    ) -> None:
        self.length: int | None = None
        self._stream = stream
        self._reserve = reserve
        self._give_back = give_back
        self._held = AsyncExitStack()
        self._pieces: AsyncIterator[memoryview]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._stream)
            self.length = self._stream.length
            if self.length is not None:
                self._pieces = self._stream.pieces()
                if FORMS:
                    await self._look(opening, self.length)
            self._held = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._held.aclose()

    def pieces(self) -> AsyncIterator[memoryview]:
        """The value's pieces; each may be used until the next is asked for.

        Raises:
            StreamBrokenError: in place of a piece, of the last one at the latest.
        """
        return self._pieces

    async def _look(self, opening: AsyncExitStack, length: int) -> None:
        """Read the beginning, which says the form, and of an encoded value all."""
        try:
            first = await anext(self._pieces, memoryview(b""))
            form = form_of(first)
            if form is RAW:
                self._pieces = _behind(first, self._pieces)
            else:
                value = await self._whole(opening, form, first, length)
                self.length, self._pieces = len(value), _alone(value)
        except StreamBrokenError:
            self.length = None  # nothing was announced yet: it is a miss

    async def _whole(self, opening: AsyncExitStack, form: Form, first: memoryview, length: int) -> bytes:
        reservation = self._reserve(length)
        opening.callback(self._give_back, reservation)
        at = len(first)
        reservation.memory[:at] = first
        async for piece in self._pieces:
            reservation.memory[at : at + len(piece)] = piece
            at += len(piece)
        return form.decoded(reservation.memory)


async def _behind(first: memoryview, others: AsyncIterator[memoryview]) -> AsyncIterator[memoryview]:
    yield first
    async for piece in others:
        yield piece


async def _alone(value: bytes) -> AsyncIterator[memoryview]:
    yield memoryview(value)

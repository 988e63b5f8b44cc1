"""Staging memory of a block on its way, and what is done about a thread's accidents."""

import logging
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from kvtide_cachenode.engines.tally import Tally

logger = logging.getLogger("vllm.kvtide")


class Slot(Protocol):
    """Staging memory of one block: ``memory`` is header and payload."""

    @property
    def memory(self) -> memoryview:
        """The bytes, `HEADER_BYTES` of header in front."""
        ...


SlotT = TypeVar("SlotT", bound=Slot)


def noting_accidents(tally: "Tally") -> "Callable[[Future[None]], None]":
    """Logs and counts what no thread should raise: nobody else looks at these futures."""

    def look_at(future: "Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            tally.add("accidents")
            logger.error("kvtide: a transfer broke off", exc_info=error)

    return look_at

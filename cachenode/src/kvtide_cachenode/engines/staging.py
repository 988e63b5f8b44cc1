"""Staging memory of a block on its way, and what is done about a thread's accidents."""

import logging
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

logger = logging.getLogger("vllm.kvtide")


class Slot(Protocol):
    """Staging memory of one block: ``memory`` is header and payload."""

    @property
    def memory(self) -> memoryview:
        """The bytes, `HEADER_BYTES` of header in front."""
        ...


SlotT = TypeVar("SlotT", bound=Slot)


def log_accident(future: "Future[None]") -> None:
    """Log what no thread should raise: nobody else looks at these futures."""
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("kvtide: a transfer broke off", exc_info=error)

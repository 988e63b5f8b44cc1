"""Documents from others, decoded without holding anybody up."""

import asyncio
from typing import Final, TypeVar

from kvtide_cachenode.contract.messages import decode

T = TypeVar("T")

# Larger documents are decoded in a thread: the loop comes in between the parts of a long list.
DECODED_AT_ONCE_BYTES: Final = 16 * 1024


async def decode_aside(document: bytes, kind: type[T]) -> T:
    """`messages.decode`, in a thread where it may take long.

    Raises:
        ValueError: it is none of this kind; one sentence.
    """
    if len(document) <= DECODED_AT_ONCE_BYTES:
        return decode(document, kind)
    return await asyncio.to_thread(decode, document, kind)

"""JSON from whoever can reach a port: read as what it shall be, or refused in a sentence."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


class DocumentError(ValueError):
    """A document is not JSON, or not of its form; one sentence."""


def decode(document: bytes, form: type[T]) -> T:
    """A document as an object of ``form``.

    Raises:
        DocumentError: it is something else.
    """
    try:
        return msgspec.json.decode(document, type=form)
    except RecursionError:
        raise DocumentError("the document's objects and arrays lie too deep in each other") from None
    except (msgspec.MsgspecError, ValueError) as error:  # text that is not UTF-8 is a ValueError
        raise DocumentError(str(error)) from None

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
        raise DocumentError("its objects and arrays lie too deep in each other") from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"byte {error.start} of a text is not UTF-8") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise DocumentError(str(error)) from None

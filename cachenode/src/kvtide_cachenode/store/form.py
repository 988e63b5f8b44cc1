"""In which form a value lies in the store: as it was sent, or encoded. One table has all forms.

What a value begins with says its form, so slot moves, restarts and the SSD carry it without a word more.
Clients get a value `decoded`; peers that take a slot, and the SSD, get it as it lies there.
"""

from typing import Final, Protocol

MAGIC_BYTES: Final = 4


class Form(Protocol):
    """One way to encode values."""

    def decoded(self, encoded: bytes | memoryview) -> bytes:
        """What was stored, of a value that begins with this form's magic."""


class Raw:
    """Bytes as they were sent."""

    def decoded(self, encoded: bytes | memoryview) -> bytes:
        """See `Form`."""
        return bytes(encoded)


RAW: Final = Raw()
FORMS: Final[dict[bytes, Form]] = {}
"""The forms beside `RAW`, by the `MAGIC_BYTES` that their values begin with."""


def form_of(value: bytes | memoryview) -> Form:
    """The form of a whole value, or of its beginning."""
    return FORMS.get(bytes(value[:MAGIC_BYTES]), RAW)

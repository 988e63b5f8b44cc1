"""Headers of RESP requests, `*3` and `$5`: tables of the short ones, and what is read out of a line."""

from typing import Final

SMALL_HEADER_BYTES: Final = len(b"$1023")
HEADER_OF_LENGTH: Final = [b"$%d" % length for length in range(1024)]
LENGTH_OF_HEADER: Final = {header: length for length, header in enumerate(HEADER_OF_LENGTH)}
COUNT_OF_HEADER: Final = {b"*%d" % count: count for count in range(1, 1025)}


def lacks_only_its_end(parts: list[bytes]) -> bool:
    """Whether a command of short arguments, split at CRLF, is right as far as it is there."""
    headers, arguments, end = parts[1:-1:2], parts[2:-1:2], parts[-1]
    if len(headers) > len(arguments):
        if len(end) > LENGTH_OF_HEADER.get(headers.pop(), -1):
            return False
    elif end[:1] not in b"$" or b"\n" in end or len(end) > SMALL_HEADER_BYTES:
        return False
    try:
        return headers == [HEADER_OF_LENGTH[len(argument)] for argument in arguments]
    except IndexError:
        return False


def number_in(line: bytes) -> int | None:
    """The number behind the first character of a header; None where there is none."""
    digits = line[1:]
    negative = digits.startswith(b"-")
    if not (digits[1:] if negative else digits).isdigit():
        return None
    return int(digits)

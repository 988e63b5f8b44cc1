"""Kubernetes quantities, the one grammar of node and operator: ``62.5Gi``, ``512M``, ``12e8``, ``500m``.

A signed decimal number, and behind it a binary suffix (Ki … Ei), a decimal one (n u m, k M G T P E) or a
decimal exponent. ``1E`` is exa and ``1E3`` a thousand. As in Kubernetes, what is above 2⁶³ − 1 is capped, and
a fraction of the unit that is asked for is rounded up.
"""

import re
from fractions import Fraction
from math import ceil

PATTERN = r"[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([num]|[kMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,9})?"
"""What a quantity that is not negative looks like, in Python's regular expressions and in JSON schemas."""
MAX_CHARS = 32
"""A longer text is refused."""
MOST = 2**63 - 1

_QUANTITY = re.compile(rf"-?{PATTERN}")
_NUMBER = re.compile(r"[+-]?[0-9.]+")
_SUFFIXES = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 10**3), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30),
    "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
_EXAMPLES = "write for example 512Mi, 1.5Gi or 1073741824"
_FURTHEST_EXPONENT = 2 * MAX_CHARS
"""Beyond it every number of `MAX_CHARS` is above `MOST` or next to nothing."""


def parse_amount(text: str) -> Fraction:
    """What a quantity says, exactly, but for the cap.

    Raises:
        ValueError: what was given and what a quantity looks like.
    """
    if len(text) > MAX_CHARS or _QUANTITY.fullmatch(text) is None:
        raise ValueError(f"{text[:MAX_CHARS]!r} is not a quantity; {_EXAMPLES}")
    number = _NUMBER.match(text)
    assert number is not None, "every quantity begins with one"
    suffix = text[number.end() :]
    factor = _SUFFIXES.get(suffix)
    if factor is None:
        exponent = max(min(int(suffix[1:]), _FURTHEST_EXPONENT), -_FURTHEST_EXPONENT)
        factor = Fraction(10) ** exponent
    return max(min(Fraction(number[0]) * factor, Fraction(MOST)), Fraction(-MOST))


def parse_quantity(text: str) -> int:
    """Bytes, a fraction of one rounded up.

    Raises:
        ValueError: it is no quantity, or below zero; what was given and what a quantity looks like.
    """
    amount = parse_amount(text)
    if amount < 0:
        raise ValueError(f"{text!r} is below zero; {_EXAMPLES}")
    return ceil(amount)


def format_quantity(amount: int) -> str:
    """The shortest exact binary quantity: ``1610612736`` is ``1536Mi``."""
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        size = int(_SUFFIXES[suffix])
        if amount and amount % size == 0:
            return f"{amount // size}{suffix}"
    return str(amount)

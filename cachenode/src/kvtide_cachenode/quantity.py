"""Kubernetes quantities of bytes: "4Gi", "512Mi", "1.5Gi", "2G" or plain bytes."""

import re
from decimal import Decimal

_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,9})?)([kMGTP]|[KMGTP]i)?")


def parse_quantity(text: str) -> int:
    """Bytes in a Kubernetes quantity, a fraction of a byte rounded up.

    Raises:
        ValueError: what was given and what a quantity looks like.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write for example 512Mi, 1.5Gi or 1073741824")
    amount = Decimal(match[1]) * _SUFFIXES[match[2] or ""]
    return int(amount.to_integral_value(rounding="ROUND_CEILING"))

"""What clients do to blocks. Pure."""

from enum import IntEnum


class Access(IntEnum):
    """What a client does to a block, in the order in which it does it within one request."""

    LOOK_UP = 1
    LOAD = 2
    STORE = 3


# An attribute of an enumeration takes as long as a call.
LOOK_UP, LOAD, STORE = Access

"""Child processes that never outlive their parent."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Called in a child: Linux ends it when its parent is gone, also after a kill -9, and Ctrl-C does not.

    What Ctrl-C means is for the parent to decide.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

"""How every command of kvtide ends: the exit codes of `kvtide`, `kvtide-node` and `kvtide-operator`.

====  ============================================================================================
0     Done; also when a command that runs until it is stopped (`serve`, `up`, `record`) was stopped.
1     What was to be done failed, or whoever read the output has gone.
2     A mistake: one sentence on standard error says what to change.
3     `kvtide plan`: no size keeps the constraints; the nearest is shown.
130   Ctrl-C.
====  ============================================================================================
"""

import errno
import sys
from collections.abc import Callable
from typing import Any, Final

import click

FAILED: Final = 1
MISTAKE: Final = 2
INFEASIBLE: Final = 3
INTERRUPTED: Final = 130
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Group(click.Group):
    """A program of several commands that ends as all of kvtide's do."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run it; never a traceback for what happens to everyone."""
        return _ended(super().main, standalone_mode, *args, **extra)


class Command(click.Command):
    """A program of one command that ends as all of kvtide's do."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run it; never a traceback for what happens to everyone."""
        return _ended(super().main, standalone_mode, *args, **extra)


def _ended(main: Callable[..., Any], standalone_mode: bool, *args: Any, **extra: Any) -> Any:
    if not standalone_mode:
        return main(*args, standalone_mode=False, **extra)
    try:
        code = main(*args, standalone_mode=False, **extra)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
        sys.exit(FAILED)
    sys.exit(code if isinstance(code, int) else 0)

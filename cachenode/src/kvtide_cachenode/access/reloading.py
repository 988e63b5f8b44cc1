"""Files that are read again when they change: certificates rotate, users come and go.

A file counts as changed when the path leads to another file, or to another time or size: the kubelet swaps
a symbolic link for a whole folder, other tools write in place. What cannot be used is told once, and what was
read before stays.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from kvtide_cachenode.process.background import every
from kvtide_cachenode.process.failures import Failures

# How long a change may go unnoticed. Looking costs a `stat` for each file.
LOOK_S: Final = 2.0

log = logging.getLogger("kvtide_node")

_Signature = tuple[tuple[int, int, int] | None, ...]


class Loaded(Protocol):
    """What is made of files."""

    def load(self) -> None:
        """Read them again.

        Raises:
            ValueError: they cannot be used; what was read before is still there. One sentence.
        """


Made = TypeVar("Made", bound=Loaded, covariant=True)


class Watched(Generic[Made]):
    """``value`` is what ``make`` made of ``files``, which belong together and are looked at again later."""

    def __init__(self, name: str, files: Sequence[Path], make: Callable[[], Made]) -> None:
        self.name = name
        self.reloads = 0
        self.failures = 0
        self._files = tuple(files)
        self._seen = self._signature()  # before they are read, so that no change is missed
        self.value = make()

    def look(self) -> None:
        """Load the files if they changed since they were looked at last."""
        found = self._signature()
        if found == self._seen:
            return
        self._seen = found
        try:
            self.value.load()
        except ValueError as error:
            self.failures += 1
            log.warning("what was read before stays in use: %s", error, extra={"files": self.name})
        else:
            self.reloads += 1
            log.info("read the changed files of %s", self.name, extra={"files": self.name})

    def _signature(self) -> _Signature:
        return tuple(map(_identity, self._files))


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


async def keep_fresh(watched: Sequence[Watched[Loaded]], failures: Failures) -> None:
    """Look after the files until cancelled."""
    await asyncio.gather(*(every(LOOK_S, f"reload {each.name}", failures, each.look) for each in watched))

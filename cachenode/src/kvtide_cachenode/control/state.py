"""The document that says how this node shall be: kept on disk, fenced, taken up again at start."""

import asyncio
import contextlib
import os
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec

from kvtide_cachenode.cluster.topology import reachable
from kvtide_cachenode.contract.messages import Desired, decode

STATE_NAME: Final = "state.json"


class StaleError(Exception):
    """A document comes from a deposed leader or is an older one; the message says what this node has."""


class StateError(Exception):
    """The state cannot be read or kept; the message names the file and the cure."""


class State(msgspec.Struct, forbid_unknown_fields=True):
    """What outlives the process: the node's id, the newest document, and the sizes last asked for."""

    node_id: str
    desired: Desired | None = None
    dram_bytes: int | None = None
    ssd_bytes: int | None = None


class StateFile:
    """A `State` in a directory, replaced as a whole; without a directory it lives as long as the process."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = asyncio.Lock()
        self.state = State(token_hex(20))

    @property
    def lasting(self) -> bool:
        """Whether there is a directory."""
        return self._directory is not None

    def load(self) -> None:
        """Read what an earlier process kept; the first one in a directory gives the node its id.

        Raises:
            StateError: there is something that cannot be read, or nothing can be kept there.
        """
        if self._directory is None:
            return
        path = self._directory / STATE_NAME
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self.state = decode(path.read_bytes(), State)
        except FileNotFoundError:
            _write(self._directory, msgspec.json.encode(self.state))
        except (OSError, ValueError) as error:
            raise StateError(f"{path} cannot be read ({error}): mend it or remove it") from None

    def fence(self, document: Desired) -> None:
        """Refuse a document that is older than the one this node has, or another one of the same age.

        Raises:
            StaleError: it is.
        """
        known = self.state.desired
        if not reachable(document.term, 0 if known is None else known.term):
            raise StaleError(f"term {document.term} is so far ahead that no later one could follow it")
        if known is None:
            return
        has = f"this node has term {known.term}, generation {known.generation}"
        if (document.term, document.generation) < (known.term, known.generation):
            raise StaleError(f"term {document.term}, generation {document.generation} is older: {has}")
        same_age = (document.term, document.generation) == (known.term, known.generation)
        if same_age and document != known:
            raise StaleError(f"{has} with another content: give a changed document a higher generation")

    async def keep(self, document: Desired | None, dram_bytes: int | None, ssd_bytes: int | None) -> None:
        """Remember a document and sizes, None for what stays; they are on the disk when this returns.

        Raises:
            StaleError: see `fence`.
            StateError: the state cannot be written; the earlier one is still there.
        """
        async with self._lock:
            if document is not None:
                self.fence(document)
            known = self.state
            state = State(
                known.node_id,
                known.desired if document is None else document,
                known.dram_bytes if dram_bytes is None else dram_bytes,
                known.ssd_bytes if ssd_bytes is None else ssd_bytes,
            )
            if self._directory is not None:
                await asyncio.to_thread(_write, self._directory, msgspec.json.encode(state))
            self.state = state


def _write(directory: Path, text: bytes) -> None:
    path = directory / STATE_NAME
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(f"{path} cannot be written: {error.strerror}") from error

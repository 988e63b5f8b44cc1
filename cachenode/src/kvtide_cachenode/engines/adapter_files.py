"""What lies on disk of an adapter: a digest of its configuration and weights, made again when they change."""

import threading
import time
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import Final

from kvtide_cachenode.engines.model_digest import WeightsError, read_whole, weight_files

CONFIGURATION: Final = "adapter_config.json"
DIGITS: Final = 32
MAX_ADAPTERS: Final = 1024  # what is known of more is found out again
# A file may change twice within one tick of its clock: what is younger than this is read again.
SETTLED_S: Final = 2.0

_State = tuple[tuple[str, int, int, int, int, int], ...]


class AdapterFiles:
    """Digests by path. Any thread may ask; what has not changed costs a look at the files' dates."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[_State, str]] = OrderedDict()
        self._lock = threading.Lock()

    def digest(self, path: str) -> str:
        """What the adapter in the folder ``path`` is now; it is read whole.

        Raises:
            WeightsError: it has no weights there, they cannot be read, or they change while they are read.
        """
        folder = Path(path).expanduser()
        with self._lock:
            try:
                files = _files(folder)
                state = _state(files)
                known = self._known.get(path)
                if known is not None and known[0] == state:
                    self._known.move_to_end(path)
                    return known[1]
                now_s = time.time()
                made = _digest(files)
                if _state(_files(folder)) != state:
                    raise WeightsError(f"{path} changes while it is read")
            except OSError as error:
                raise WeightsError(f"{error.filename or path} cannot be read: {error.strerror}") from None
            if now_s - max(changed_ns for *_, changed_ns in state) / 1e9 > SETTLED_S:
                self._known[path] = state, made
                if len(self._known) > MAX_ADAPTERS:
                    self._known.popitem(last=False)
            return made


def _files(folder: Path) -> list[Path]:
    weights = weight_files(folder)
    if not weights:
        raise WeightsError(f"{folder} holds no weights")
    return [folder / CONFIGURATION, *weights]


def _state(files: list[Path]) -> _State:
    stats = [(path.name, path.stat()) for path in files]
    return tuple(
        (name, at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in stats
    )


def _digest(files: list[Path]) -> str:
    hasher = blake2b(digest_size=DIGITS // 2)
    for path in files:
        with path.open("rb") as file:
            hasher.update(f"{path.name} {path.stat().st_size} ".encode())
            read_whole(file, hasher)
    return hasher.hexdigest()

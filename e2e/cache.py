"""Where the end-to-end tests keep what takes long to make, between runs."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("KVTIDE_CACHE") or Path.home() / ".cache" / "kvtide") / "e2e"


class MissingError(Exception):
    """Something the end-to-end tests need is not there; the message says what to do."""

"""Files that commands write: where one cannot be written, that is said before the work."""

from pathlib import Path

from kvtide_operator.cli.errors import UserError, WorkError


def check_writable(option: str, path: Path | None) -> None:
    """Refuse now what could not be written after hours of work.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        return
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror or error}; write elsewhere") from None


def write_file(option: str, path: Path, content: bytes) -> None:
    """Write a file whose results were already shown.

    Raises:
        WorkError: the disk is full or gone by now.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise WorkError(f"{option} {path}: {error.strerror or error}; it is not complete") from None

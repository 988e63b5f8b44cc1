"""What a key says of its block: how deep it lies, and in which subtree."""

from collections.abc import Hashable

# kvt:<model>:<layout>:<rank>:<root>:<depth>:<hash>
_PARTS = 7
_ROOT, _DEPTH = 4, 5


def depth_in_key(key: Hashable) -> int:
    """Blocks between a key's block and its root; 0 for keys that are not of this form."""
    if not isinstance(key, bytes) or not key.startswith(b"kvt:"):
        return 0
    parts = key.split(b":")
    if len(parts) != _PARTS or not parts[_DEPTH].isdigit() or len(parts[_DEPTH]) > 6:
        return 0
    return int(parts[_DEPTH])


def root_of(block_id: int) -> str:
    """The root in the keys of the subtree below a block, by that block's id in the access trace."""
    return f"{block_id:014x}"


def root_in_key(key: bytes) -> bytes | None:
    """The subtree of a key's block, None for keys of another form: they share the residual group."""
    if not key.startswith(b"kvt:"):
        return None
    parts = key.split(b":")
    return parts[_ROOT] if len(parts) == _PARTS else None

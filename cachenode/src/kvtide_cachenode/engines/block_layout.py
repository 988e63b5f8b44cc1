"""Where a block's keys and values lie in an engine's cache, and their order in a node.

In a node a block is canonical, ``[K | V][layer][head][token][channel]``, whatever the engine's own order:
each part is a view of the cache with the shape ``[block, head, token, channel]`` and whatever strides it has,
and copying obeys strides. A cache whose physical order or number format is not known is exchanged as opaque
bytes instead, ``[layer][bytes of a block]``, and its tag names the CPU kernel that packed it.

vLLM 0.32 declares a layer's cache as ``[block, head, token, 2·channel]``, K before V in the last axis. Its
CPU kernels ``vec`` and ``vec16`` use other places in the same memory: each block and head holds K as
``[channel, token]``, then V as ``[token, channel]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from kvtide_cachenode.engines.container import HEADER_BYTES

TRANSPOSED_K: Final = frozenset({"vec", "vec16"})

_DTYPE_TAGS: Final = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
}


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's cache: tokens of a block, KV heads of this rank, channels of a head.

    ``packing`` is the CPU kernel's name, empty where the declared view is the physical order; ``has_values``
    is False for multi-head latent attention, whose one vector serves as key and value.
    """

    tokens: int
    heads: int
    channels: int
    dtype: torch.dtype
    packing: str = ""
    has_values: bool = True

    @property
    def is_canonical(self) -> bool:
        """Whether the physical order is known."""
        return self.dtype in _DTYPE_TAGS and (not self.packing or self.packing in TRANSPOSED_K)

    def tag(self, layers: int) -> str:
        """What must be equal for blocks to be exchanged."""
        dtype = _DTYPE_TAGS.get(self.dtype, str(self.dtype).removeprefix("torch."))
        form = "c1" if self.is_canonical else f"n1-{self.packing or 'gpu'}"
        kind = "kv" if self.has_values else "mla"
        return f"{form}-{kind}-{dtype}-{layers}x{self.heads}x{self.tokens}x{self.channels}"

    def parts(self, cache: torch.Tensor) -> list[torch.Tensor]:
        """Views of a layer's cache, ``[block, head, token, channel]`` each: K and V, or all as bytes.

        Raises:
            ValueError: the cache has another shape than vLLM 0.32 gives it.
        """
        if not self.is_canonical:
            return [cache.view(torch.uint8)]
        width = self.channels * (2 if self.has_values else 1)
        expected = (self.heads, self.tokens, width)
        if cache.dtype != self.dtype or tuple(cache.shape[1:]) != expected:
            raise ValueError(
                f"the KV cache of a layer is {cache.dtype} {list(cache.shape)},"
                f" not {self.dtype} [blocks, {', '.join(map(str, expected))}]: this vLLM is not known;"
                " use 0.32"
            )
        if not self.has_values:
            return [cache]
        if not self.packing:
            return list(cache.split(self.channels, dim=-1))
        flat = cache.view(cache.shape[0], self.heads, 2 * self.tokens * self.channels)
        keys, values = flat.split(self.tokens * self.channels, dim=-1)
        return [
            keys.unflatten(-1, (self.channels, self.tokens)).transpose(-1, -2),
            values.unflatten(-1, (self.tokens, self.channels)),
        ]


class TensorSlot:
    """Staging memory of one block, as bytes and as one tensor for each part."""

    def __init__(self, shapes: Sequence[torch.Size], dtype: torch.dtype, pinned: bool) -> None:
        counts = [shape.numel() for shape in shapes]
        head = HEADER_BYTES // dtype.itemsize
        # The cast makes the payload aligned to its elements: the header is 32 bytes.
        buffer = torch.empty(head + sum(counts), dtype=dtype, pin_memory=pinned)
        self.memory = memoryview(buffer.view(torch.uint8).numpy())
        pieces = buffer[head:].split(counts)
        self.parts = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


class BlockLayout:
    """The caches of all layers: copies a block out of them and into them."""

    def __init__(self, shape: LayerShape, caches: Mapping[str, torch.Tensor]) -> None:
        by_layer = [shape.parts(cache) for cache in caches.values()]
        # All keys, then all values: what a codec treats alike lies together.
        self._views = [parts[at] for at in range(len(by_layer[0])) for parts in by_layer]
        self._pinned = self._views[0].is_cuda
        self.blocks = self._views[0].shape[0]
        self.block_bytes = sum(view[0].numel() * view.element_size() for view in self._views)

    def make_slot(self) -> TensorSlot:
        """Staging memory for one block."""
        shapes = [view.shape[1:] for view in self._views]
        return TensorSlot(shapes, self._views[0].dtype, self._pinned)

    def gather(self, block_id: int, slot: TensorSlot) -> None:
        """Copy a block out of the caches; when this returns it may be overwritten there."""
        for view, part in zip(self._views, slot.parts, strict=True):
            part.copy_(view[block_id])

    def scatter(self, slot: TensorSlot, block_id: int) -> None:
        """Copy a block into the caches."""
        for view, part in zip(self._views, slot.parts, strict=True):
            view[block_id].copy_(part)

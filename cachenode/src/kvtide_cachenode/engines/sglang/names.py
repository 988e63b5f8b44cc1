"""What keeps SGLang's pages apart: the engine's model, and how often its storage was cleared.

The ranks of an engine agree on a name without waiting for each other: through the store over which
torch.distributed brought them together, which lives as long as the engine. SGLang tells every rank to clear,
in the same order, so that the same number on each rank means the same weights.
"""

from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from torch.distributed import distributed_c10d

from kvtide_cachenode.engines.block_keys import MODEL_DIGITS
from kvtide_cachenode.engines.model_digest import digest
from kvtide_cachenode.engines.namespace import model_digest

if TYPE_CHECKING:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig

# Of SGLang's arguments, those that change what its model computes.
_ARGUMENTS: Final = (
    "json_model_override_args",
    "quantization",
    "dtype",
    "load_format",
    "context_length",
    "speculative_algorithm",
    "speculative_draft_model_path",
)


class ModelNames:
    """The name of the model's pages, a new one at each `advance` after the first."""

    def __init__(self, config: "HiCacheStorageConfig", model_id: str | None) -> None:
        self._store = distributed_c10d._get_default_store()
        self._engine = self._store.compare_set("kvtide/engine", "", uuid4().hex).decode()
        self._counter = f"kvtide/generation/{config.dp_rank}.{config.pp_rank}.{config.tp_rank}"
        self._model = self._first_name(config, model_id)

    def advance(self) -> str:
        """The name from now on. Whoever attaches the storage anew does not know what weights it finds."""
        number = self._store.add(self._counter, 1)
        if number == 1:
            return self._model
        facts = {"model": self._model, "engine": self._engine, "generation": number}
        return digest(facts, None, MODEL_DIGITS)

    def _first_name(self, config: "HiCacheStorageConfig", model_id: str | None) -> str:
        if model_id is not None:
            return digest({"engine": "sglang", "name": model_id}, None, MODEL_DIGITS)
        name, revision, facts = config.model_name or "", None, {"engine": "sglang"}
        arguments = _server_arguments()
        if arguments is not None:
            # What storage is told as the model's name is what it is served as.
            name, revision = arguments.model_path, arguments.revision
            facts |= {argument: str(getattr(arguments, argument, None)) for argument in _ARGUMENTS}
        return model_digest(name, revision, facts, self._engine)


def _server_arguments() -> Any:
    try:
        from sglang.srt.runtime_context import get_server_args

        return get_server_args()
    except (ImportError, ValueError):  # without a server
        return None

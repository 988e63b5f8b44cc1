"""The beginning of all keys, ``kvt:<model>:<layout>``: it is another one wherever KV must not be exchanged.

It is found out in a thread where that takes time. An adapter is known by what lies on its disk; whoever
stores a block computed with it checks afterwards that this is still so, since vLLM may have loaded it anew
at any step.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar
from uuid import uuid4

from kvtide_cachenode.engines.adapter_files import MAX_ADAPTERS, AdapterFiles
from kvtide_cachenode.engines.block_keys import MODEL_DIGITS
from kvtide_cachenode.engines.model_digest import (
    COMMIT_DIGITS,
    WeightsError,
    digest,
    is_commit,
    model_weights,
)

CURE: Final = "nothing computed with it is loaded or stored; "

logger = logging.getLogger("vllm.kvtide")

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class LoraRequest(Protocol):
    """What vLLM says of the adapter of a request."""

    lora_name: str
    lora_int_id: int
    lora_path: str
    load_inplace: bool


class AdapterVersion(NamedTuple):
    """What an adapter's folder held when a block was named."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a request's keys.

    ``is_replaced``: this engine has computed under another head what its own block hashes do not tell apart,
    so that its prefix cache may hold blocks of either. ``adapter`` must still be on disk when a block that
    was computed with it is stored.
    """

    name: bytes
    is_replaced: bool = False
    adapter: AdapterVersion | None = None


class Namespace:
    """Heads for the requests of one engine, whose weights are those that ``model`` names until `renew`."""

    def __init__(self, model: str, layout: str) -> None:
        self._base = model
        self._layout = layout
        self._renewals = 0
        self._adapters = _Adapters()
        self._thread = ThreadPoolExecutor(1, "kvtide-adapters")
        self._waiting: dict[tuple[str, int, str, bool], Future[Head | None]] = {}
        self._plain = self._make_plain()

    def head(self, lora: LoraRequest | None) -> "Future[Head | None]":
        """The head for requests with this adapter, as its files are now; None: nothing may be exchanged."""
        if lora is None:
            return self._plain
        identity = (lora.lora_name, lora.lora_int_id, lora.lora_path, lora.load_inplace)
        waiting = self._waiting.get(identity)
        if waiting is not None and not waiting.running() and not waiting.done():
            return waiting  # it will look at the files after this
        found = self._thread.submit(self._of_adapter, *identity, self._base, self._renewals)
        self._waiting[identity] = found
        found.add_done_callback(lambda done: self._forget(identity, done))
        return found

    def renew(self) -> None:
        """Share nothing with what was stored until now: the weights have changed."""
        self._base = uuid4().hex[:MODEL_DIGITS]
        self._renewals += 1
        self._waiting.clear()
        self._plain = self._make_plain()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _make_plain(self) -> "Future[Head | None]":
        plain: Future[Head | None] = Future()
        plain.set_result(Head(self._name(self._base), is_replaced=self._renewals > 0))
        return plain

    def _name(self, model: str) -> bytes:
        return f"kvt:{model}:{self._layout}".encode()

    def _of_adapter(
        self, name: str, number: int, path: str, is_inplace: bool, base: str, renewals: int
    ) -> Head | None:
        version, is_replaced = self._adapters.find(name, number, path, is_inplace)
        if version is None:
            return None
        model = digest({"base": base, "adapter": version.digest}, None, MODEL_DIGITS)
        return Head(self._name(model), is_replaced or renewals > 0, version)

    def _forget(self, identity: tuple[str, int, str, bool], done: "Future[Head | None]") -> None:
        if self._waiting.get(identity) is done:
            self._waiting.pop(identity, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("kvtide: adapter %s: nothing is exchanged", identity[0], exc_info=error)


def model_digest(name: str, revision: str | None, facts: Mapping[str, object], process: str) -> str:
    """A digest of ``facts`` and the weights: in the folder ``name``, or what ``revision`` tells apart.

    Where weights are not known, it is this engine's alone: ``process`` tells it from others.
    """
    told = {**facts, "name": [name, revision]}
    try:
        folder = model_weights(name)
        if folder is not None:
            return digest(facts, folder, MODEL_DIGITS)
        if is_commit(revision):
            return digest(told, None, MODEL_DIGITS)
        reason = f"{name} is no local folder of weights and its revision is no commit, so that it may change"
    except WeightsError as error:
        reason = str(error)
    logger.warning(
        "kvtide: %s: blocks are shared with no other engine and not after a restart; give a readable local"
        " folder, --revision with a commit of %d digits, or model_id",
        reason,
        COMMIT_DIGITS,
    )
    return digest({**told, "process": process}, None, MODEL_DIGITS)


class _Adapters:
    """What vLLM has in its memory of each adapter; one thread asks.

    vLLM reads an adapter when its number is new, and with ``load_inplace`` at each step that computes with
    it. Files that change while it has read them earlier say nothing about what it computes with.
    """

    def __init__(self) -> None:
        self._files = AdapterFiles()
        self._of_number: OrderedDict[int, str | None] = OrderedDict()
        # vLLM's block hashes tell adapters by name and path alone.
        self._of_place: OrderedDict[tuple[str, str], tuple[str | None, bool]] = OrderedDict()
        self._warned: OrderedDict[str, None] = OrderedDict()

    def find(self, name: str, number: int, path: str, is_inplace: bool) -> tuple[AdapterVersion | None, bool]:
        """What requests with it are computed with, None where that is not known; whether it was another."""
        found: str | None = None
        try:
            found = self._files.digest(path)
        except WeightsError as error:
            self._warn(
                f"{name}:{error}",
                f"adapter {name}: {error}; {CURE}give it as a readable local folder and load it anew",
            )
        loaded = self._of_number.get(number, found)
        if loaded != found and not is_inplace:
            if found is not None:
                self._warn(
                    f"{name}:{number}",
                    f"adapter {name}: {path} is not what vLLM has loaded as number {number};"
                    f" {CURE}load it anew",
                )
            found = None
        _keep(self._of_number, number, found)
        place = (name, path)
        before, was_replaced = self._of_place.get(place, (found, False))
        is_replaced = was_replaced or before != found
        _keep(self._of_place, place, (found, is_replaced))
        return (None if found is None else AdapterVersion(path, found)), is_replaced

    def _warn(self, reason: str, sentence: str) -> None:
        if reason not in self._warned:
            logger.warning("kvtide: %s", sentence)
        _keep(self._warned, reason, None)


def _keep(of: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    of[key] = value
    of.move_to_end(key)
    if len(of) > MAX_ADAPTERS:
        of.popitem(last=False)

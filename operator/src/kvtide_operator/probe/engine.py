"""An OpenAI-compatible engine, as a client sees it: its model, counters, and requests with their times."""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, Final, Self

import aiohttp
import msgspec

from kvtide_operator.probe.counters import Counters, KvRoom, read_counters

CONNECT_TIMEOUT_S: Final = 5.0
ASK_TIMEOUT_S: Final = 30.0
"""Of a question that computes nothing."""
REQUEST_TIMEOUT_S: Final = 600.0
"""Of a completion, from sending it to its last token; beyond it the engine counts as stuck."""
COUNTERS_TIMEOUT_S: Final = 5.0
"""How long counters may lag behind an answer."""
MAX_ANSWER_BYTES: Final = 16 << 20
MAX_CONNECTIONS: Final = 1024


class EngineError(Exception):
    """The engine cannot be used; the message says which one, what it did and what to do."""


class _Card(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: Annotated[int, msgspec.Meta(gt=0)] | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[dict[str, Any]] = []
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that an engine serves: its name there, where it came from, tokens that fit a request."""

    name: str
    root: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """When a request was sent and its tokens came, in seconds of a monotonic clock.

    ``tokens`` are pairs of a moment and how many tokens of the answer were there by then.
    """

    sent_s: float
    tokens: tuple[tuple[float, int], ...]

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.tokens[0][0] - self.sent_s

    def produced(self, from_s: float, until_s: float) -> int:
        """Tokens that came after ``from_s`` and until ``until_s``."""
        before = max((count for at_s, count in self.tokens if at_s <= from_s), default=0)
        return max((count for at_s, count in self.tokens if at_s <= until_s), default=0) - before


class Engine:
    """One engine. Use `open` in ``async with``."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = ServedModel("", "", 0)
        self._http = http

    @classmethod
    async def open(cls, url: str, model: str | None = None) -> Self:
        """Connect and choose the model: the one named, or the only one there is.

        Raises:
            EngineError: nobody answers, it is no such engine, or it does not serve that model.
        """
        if not url.startswith(("http://", "https://")):
            raise EngineError(f"{url} is no URL; write for example http://127.0.0.1:8000")
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS))
        engine = cls(url, http)
        try:
            await engine._choose(model)
        except BaseException:
            await http.close()
            raise
        return engine

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def version(self) -> str:
        """The engine's version, ``unknown`` where it does not say."""
        try:
            return str(msgspec.json.decode(await self._ask("/version"))["version"])
        except (EngineError, msgspec.DecodeError, KeyError, TypeError):
            return "unknown"

    async def counters(self) -> Counters:
        """What ``/metrics`` says.

        Raises:
            EngineError: it says nothing.
        """
        return read_counters((await self._ask("/metrics")).decode(errors="replace"))

    async def counters_after(self, before: Counters, name: str, rise: float) -> Counters:
        """The counters once ``name`` has risen by ``rise``: they may lag behind an answer by a moment.

        Raises:
            EngineError: it does not rise, so somebody reset it or it means something else.
        """
        deadline_s = time.monotonic() + COUNTERS_TIMEOUT_S
        while True:
            now = await self.counters()
            if now.since(before, name) >= rise or name not in now.sums:
                return now
            if time.monotonic() > deadline_s:
                raise EngineError(f"{self.url}: {name} did not count {rise:g} answered requests; is it vLLM?")
            await asyncio.sleep(0.02)

    async def kv_room(self) -> KvRoom:
        """Its KV cache.

        Raises:
            EngineError: it does not say.
        """
        labels = (await self.counters()).labels.get("vllm:cache_config_info", {})
        try:
            return KvRoom(
                blocks=int(labels["num_gpu_blocks"]),
                block_tokens=int(labels["block_size"]),
                keeps_prefixes=labels.get("enable_prefix_caching") != "False",
            )
        except (KeyError, ValueError):
            raise EngineError(
                f"{self.url}/metrics does not say num_gpu_blocks and block_size; is it vLLM?"
            ) from None

    async def forget(self) -> bool:
        """Empty the engine's own prefix cache; False where VLLM_SERVER_DEV_MODE=1 does not offer that."""
        try:
            await self._ask("/reset_prefix_cache", b"{}")
        except EngineError:
            return False
        return True

    async def tokens(self, text: str) -> list[int]:
        """The tokens of a text.

        Raises:
            EngineError: the engine does not say.
        """
        body = msgspec.json.encode({"model": self.model.name, "prompt": text, "add_special_tokens": False})
        try:
            found = msgspec.json.decode(await self._ask("/tokenize", body))["tokens"]
            return msgspec.convert(found, list[int])
        except (msgspec.MsgspecError, KeyError, TypeError):
            raise EngineError(f"{self.url}/tokenize answers with no list of tokens; is it vLLM?") from None

    async def complete(self, prompt: list[int], output_tokens: int, **more: Any) -> Answer:
        """Complete a prompt, streaming, to exactly that length.

        Raises:
            EngineError: it refuses, breaks off, or answers with something else.
        """
        body = msgspec.json.encode(
            {
                "model": self.model.name,
                "prompt": prompt,
                "max_tokens": output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
            | more
        )
        sent_s = time.perf_counter()
        tokens: list[tuple[float, int]] = []
        try:
            async with self._http.post(
                f"{self.url}/v1/completions",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            ) as reply:
                if reply.status != 200:
                    raise EngineError(f"{self.url} refused a request: {await _reason(reply)}")
                async for line in reply.content:
                    if count := self._count(line):
                        tokens.append((time.perf_counter(), max(count, len(tokens) + 1)))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineError(f"{self.url} broke off an answer ({_cause(error)}); see its log") from None
        if not tokens:
            raise EngineError(f"{self.url} streamed an answer without a token; is it OpenAI-compatible?")
        return Answer(sent_s, tuple(tokens))

    def _count(self, line: bytes) -> int:
        """How many tokens there are by a line of the stream; 0 for a line without any."""
        data = line.strip().removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            return 0
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except msgspec.MsgspecError:
            raise EngineError(
                f"{self.url} streamed {data[:80]!r}, which is no completion; is it OpenAI-compatible?"
            ) from None
        if chunk.error is not None:
            raise EngineError(f"{self.url} broke off an answer: {str(chunk.error.get('message'))[:300]}")
        return (max(chunk.usage.completion_tokens, 1) if chunk.usage else 1) if chunk.choices else 0

    async def _choose(self, wanted: str | None) -> None:
        try:
            cards = msgspec.json.decode(await self._ask("/v1/models"), type=_Cards).data
        except msgspec.MsgspecError:
            raise EngineError(
                f"{self.url}/v1/models answers with no list of models; is it OpenAI-compatible?"
            ) from None
        named = [card for card in cards if wanted in (None, card.id)]
        there = ", ".join(card.id for card in cards) or "none"
        if not named:
            asked = wanted or "any model"
            raise EngineError(f"{self.url} does not serve {asked} (it serves {there}); name one with --model")
        if len(named) > 1:
            raise EngineError(f"{self.url} serves several models ({there}); name one with --model")
        card = named[0]
        if card.max_model_len is None:
            raise EngineError(f"{self.url} does not say max_model_len of {card.id}; is it vLLM?")
        self.model = ServedModel(card.id, card.root or card.id, card.max_model_len)

    async def _ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body else {}
        method = "POST" if body else "GET"
        try:
            async with self._http.request(method, self.url + path, data=body, headers=headers) as reply:
                if reply.status != 200:
                    raise EngineError(f"{self.url}{path} answers {await _reason(reply)}; is it vLLM?")
                answer = await reply.content.read(MAX_ANSWER_BYTES)
                while more := await reply.content.read(MAX_ANSWER_BYTES):
                    answer += more
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise EngineError(f"{self.url}{path} answers with more than 16 MiB; is it vLLM?")
                return answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineError(
                f"{self.url} cannot be reached ({_cause(error)}); start the engine, or mend the URL"
            ) from None


async def _reason(reply: aiohttp.ClientResponse) -> str:
    said = (await reply.content.read(300)).decode(errors="replace").replace("\n", " ").strip()
    return f"{reply.status} {said}".strip()


def _cause(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__

"""`kvtide trace record`: an access trace from the KV events that an engine publishes."""

import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import WorkError
from kvtide_operator.cli.output import check_writable
from kvtide_operator.workload.kv_events.order import Numbered, Order, Received
from kvtide_operator.workload.kv_events.requests import Request, Requests

if TYPE_CHECKING:
    from types import FrameType

    from kvtide_operator.cli.kv_subscriber import Subscriber

METRICS_TIMEOUT_S = 10.0
QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"


@click.command("record")
@click.option("--kv-events", "events_url", required=True, metavar="tcp://HOST:PORT",
              help="Where the engine publishes KV events: vLLM's endpoint.")  # fmt: skip
@click.option("--replay", "replay_url", metavar="tcp://HOST:PORT",
              help="Where it sends what was missed again: vLLM's replay_endpoint.")  # fmt: skip
@click.option("--metrics", "metrics_url", metavar="http://HOST:PORT/metrics",
              help="Its metrics, to estimate the share of what no event shows.")  # fmt: skip
@options.output("The JSONL file to write; a request is in it when it is complete.", required=True)
def record(events_url: str, replay_url: str | None, metrics_url: str | None, output: Path) -> None:
    """Record an engine's requests from its KV events, until Ctrl-C.

    Requests that set kv_cache_report_mode to full (vLLM: vllm_xargs) are recorded whatever the engine's own
    cache has of them. Without it a request is rebuilt from what of it was new, and one of which nothing was
    new is missing.
    """
    from kvtide_operator.cli.kv_subscriber import Subscriber

    check_writable("-o", output)
    stopped = threading.Event()

    def stop(signum: int, frame: "FrameType | None") -> None:  # noqa: ARG001 - the handler's signature
        stopped.set()
        signal.signal(signum, signal.default_int_handler)  # whoever says it twice means at once

    subscriber = Subscriber(events_url, replay_url, _say)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        with output.open("wb") as file:
            _Recording(subscriber, file, metrics_url).run(stopped)
    except OSError as error:
        raise WorkError(f"-o {output}: {error.strerror or error}; what was written before is in it") from None
    finally:
        subscriber.close()


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


class _Recording:
    """What is known of the stream, and the file it goes to."""

    def __init__(self, subscriber: "Subscriber", file: BinaryIO, metrics_url: str | None) -> None:
        self._subscriber = subscriber
        self._file = file
        self._metrics_url = metrics_url
        self._boot_id = uuid.uuid4().hex
        self._lines = 0
        self._order = Order(subscriber.replay, _say)
        self._requests = Requests(self._write)

    def run(self, stopped: threading.Event) -> None:
        """Record until ``stopped`` is set, then write what is under way and say what there is."""
        self._take(self._order.catch_up())
        before = _prefix_cache(self._metrics_url)
        reused_before = self._requests.told.reused_tokens
        _say("recording; Ctrl-C ends it")
        while not stopped.is_set():
            message = self._subscriber.receive()
            if message is not None:
                self._take(self._order.add(*message))
        for message in self._subscriber.waiting():
            self._take(self._order.add(*message))
        self._requests.end()
        _summarise(self._lines, self._order.received, self._requests)
        if before is not None and (after := _prefix_cache(self._metrics_url)) is not None:
            queries, hits = (now - then for now, then in zip(after, before, strict=True))
            _estimate_invisible(queries, hits, self._requests.told.reused_tokens - reused_before)

    def _take(self, batches: Iterator[Numbered]) -> None:
        for number, batch in batches:
            if batch is None:
                self._requests.end()
            else:
                self._requests.add(number, batch)
        self._file.flush()

    def _write(self, request: Request) -> None:
        from kvtide_operator.workload.writer import encode_node_line

        self._file.write(
            encode_node_line(
                arrived_s=request.began_s,
                input_tokens=len(request.blocks) * self._requests.block_tokens,
                output_tokens=request.output_blocks * self._requests.block_tokens,
                block_ids=request.blocks,
                seq=self._lines,
                boot_id=self._boot_id,
            )
        )
        self._lines += 1


def _summarise(lines: int, received: Received, requests: Requests) -> None:
    told = requests.told
    _say(
        f"{lines:,} requests in blocks of {requests.block_tokens} tokens from {received.batches:,} batches;"
        f" {told.rebuilt:,} of them rebuilt from what of them was new"
    )
    faults = {
        "batches came again by replay": received.repaired,
        "batches are lost": received.lost,
        "batches are malformed": received.malformed,
        "restarts of the engine": received.restarts,
        "parts of requests follow blocks from before the recording and are left out": told.orphans,
        "parts of blocks are left out": told.other_block_sizes,
    }
    for what, count in faults.items():
        if count:
            _say(f"{count:,} {what}")


def _prefix_cache(url: str | None) -> tuple[float, float] | None:
    """Tokens that vLLM looked up in its prefix cache, and of those found, since its start."""
    if url is None:
        return None
    from prometheus_client.parser import text_string_to_metric_families

    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("it does not begin with http:// or https://")
        with urlopen(url, timeout=METRICS_TIMEOUT_S) as reply:  # noqa: S310 - the scheme is checked above
            text = reply.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (URLError, OSError, ValueError) as error:
        _say(f"{url} gives no metrics: {error}; the share of requests that no event shows is not known")
        return None
    sums = [[sample.value for sample in samples if sample.name == name] for name in (QUERIES, HITS)]
    if not all(sums):
        _say(f"{url} has no {QUERIES} and {HITS}; the share of requests that no event shows is not known")
        return None
    return sum(sums[0]), sum(sums[1])


def _estimate_invisible(queries: float, hits: float, reused_tokens: int) -> None:
    """Say how much was asked for in requests that no event shows: hits that no recorded request explains."""
    if queries < 0 or hits < 0:
        _say("the engine has restarted, so the share of requests that no event shows is not known")
        return
    share = max(0.0, hits - reused_tokens) / queries if queries else 0.0
    _say(
        f"of {queries:,.0f} prompt tokens about {share:.1%} were of requests that no event shows"
        f" ({hits:,.0f} hit the engine's own cache, {reused_tokens:,} of them in recorded requests)"
    )

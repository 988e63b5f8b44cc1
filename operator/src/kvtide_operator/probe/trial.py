"""What a validation plays: how large the tiers are, how fast requests arrive, in which order rows come."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from kvtide_cachenode.contract.client import NodeError
from kvtide_cachenode.contract.messages import TierStatus
from kvtide_operator.probe.conversations import (
    TURN_TOKENS,
    TextError,
    conversations,
    poisson_arrivals,
    read_texts,
    texts_for,
)
from kvtide_operator.probe.engine import EngineError
from kvtide_operator.probe.rig import Rig, Setup, ValidationError, measured_node
from kvtide_operator.probe.validation import (
    Row,
    capacity_per_s,
    row_of,
    simulated,
    trace_of,
)
from kvtide_operator.replay.target_connection import AccessError, PeerError
from kvtide_operator.simulate.engine.fit import FitError, slower
from kvtide_operator.simulate.engine.profile import ProfileError, ProfileFile, parse_profile
from kvtide_operator.simulate.engine.tabulate import to_json
from kvtide_operator.simulate.errors import SimulationError

MISTAKES = (
    AccessError,
    EngineError,
    FitError,
    NodeError,
    PeerError,
    ProfileError,
    SimulationError,
    TextError,
    ValidationError,
)
"""What a user can mend: each carries one sentence."""

DRAM_SHARES = (0.25, 0.33, 0.42, 1.25)
"""DRAM sizes, in parts of what all requests store."""
SSD_SHARE = 1.5
BUSY_REQUESTS = 30
"""Sent at once to see how much longer steps take while blocks are stored and requests received."""
PAUSE_S = 8.0
"""Of a run: emptying the node, the last answers, and simulating."""
LEAST_REQUESTS = 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What to play.

    Attributes:
        texts: file of texts.
        dram_sizes: bytes of DRAM, one configuration each; empty for `DRAM_SHARES`.
        requests: of a run.
        output_tokens: of each answer.
        runs: how often each configuration is played.
        load: offered load of the configuration that can serve least.
        chunk_tokens: tokens of a step of the engine.
        max_sequences: requests in a batch of the engine.
        ssd_bytes_s: speed of the node's SSD.
        calibration_s: seconds of measuring step times.
        minutes: of playing; there are fewer requests where all would take longer.
        seed: of conversations and arrivals.
    """

    texts: Path
    dram_sizes: tuple[int, ...]
    requests: int
    output_tokens: int
    runs: int
    load: float
    chunk_tokens: int
    max_sequences: int
    ssd_bytes_s: float
    calibration_s: float
    minutes: float
    seed: int


@dataclass(frozen=True, slots=True)
class Tiers:
    """Sizes of the node."""

    name: str
    dram_bytes: int
    ssd_bytes: int


@dataclass(frozen=True, slots=True)
class Trial:
    """A validation that can begin.

    Attributes:
        rig: engine and node.
        options: what to play.
        setup: what the simulator is told.
        busy: by how much longer steps take under load than one by one; step times count it.
        tiers: the configurations.
        prompts: of the requests, in order.
        arrivals_s: of the requests.
    """

    rig: Rig
    options: TrialOptions
    setup: Setup
    busy: float
    tiers: tuple[Tiers, ...]
    prompts: list[list[int]]
    arrivals_s: list[float]

    @property
    def text(self) -> str:
        """What is going to happen, in a sentence."""
        rows, setup = len(self.tiers) * self.options.runs, self.setup
        return (
            f"under load   steps take {self.busy:.3f} times as long as one by one\n"
            f"a block      takes {setup.entry_bytes / MIB:.2f} MiB in the node and"
            f" {1e3 * setup.entry_bytes / setup.load_bytes_s:.3g} ms to load\n"
            f"to be played {rows} runs of {len(self.prompts)} requests{self._fewer},"
            f" {len(self.prompts) / self.arrivals_s[-1]:.2f} a second: about {self.minutes:.0f} minutes"
        )

    @property
    def minutes(self) -> float:
        """About how long all runs will take."""
        return len(self.tiers) * self.options.runs * (self.arrivals_s[-1] + PAUSE_S) / 60

    @property
    def _fewer(self) -> str:
        wanted, minutes = self.options.requests, self.options.minutes
        return f" ({wanted} would take more than {minutes:g} minutes)" if wanted > len(self.prompts) else ""

    async def rows(self) -> AsyncIterator[Row]:
        """Play all configurations once, then again, so that what drifts does not fall on one of them."""
        options = self.options
        for run in range(1, options.runs + 1):
            for tiers in self.tiers:
                await self.rig.empty(tiers.dram_bytes, tiers.ssd_bytes)
                if self.setup.own_cache:
                    await self.rig.engine.forget()
                cursor = await self.rig.trace_end()
                salt = f"validate-{options.seed}-{tiers.name}-{run}"
                answers = await self.rig.play(self.prompts, self.arrivals_s, options.output_tokens, salt)
                trace = await self.rig.trace_since(cursor, len(self.prompts), self.setup.block_tokens)
                yield row_of(tiers.name, run, answers, trace, self.setup, tiers.dram_bytes, tiers.ssd_bytes)


async def prepare(rig: Rig, options: TrialOptions, file: ProfileFile, overhead_s: float) -> Trial:
    """Read the texts, measure the node, and choose sizes, the rate of arrivals and how many there are.

    Raises:
        one of `MISTAKES`.
    """
    room = await rig.engine.kv_room()
    texts = await read_texts(options.texts, rig.engine, texts_for(options.requests) + 1 + BUSY_REQUESTS)
    # Nobody else asks for the texts that engine and node are measured with.
    apart, at_once, played = texts[0], texts[1 : 1 + BUSY_REQUESTS], texts[1 + BUSY_REQUESTS :]
    if len(apart) <= room.block_tokens:
        raise ValidationError(
            f"blocks of {room.block_tokens} tokens are longer than these texts; give the engine smaller ones"
        )
    tiers = (await rig.node.status()).tiers
    await rig.empty(tiers["dram"].capacity_bytes, 0)
    setup = Setup(
        profile=parse_profile(to_json(file), "the calibration"),
        overhead_s=overhead_s,
        chunk_tokens=options.chunk_tokens,
        max_sequences=options.max_sequences,
        block_tokens=room.block_tokens,
        entry_bytes=0,
        load_bytes_s=1.0,
        ssd_bytes_s=options.ssd_bytes_s,
        own_cache=room.keeps_prefixes,
    )
    setup = await measured_node(rig, setup, apart)
    busy = await _busy(rig, options, setup, at_once)
    setup = replace(setup, profile=parse_profile(to_json(slower(file, busy)), "the calibration"))
    trial = _trial(rig, options, setup, busy, played, tiers, options.requests)
    if trial.minutes > options.minutes:
        fewer = max(int(options.requests * options.minutes / trial.minutes), LEAST_REQUESTS)
        trial = _trial(rig, options, setup, busy, played, tiers, fewer)
    return trial


async def _busy(rig: Rig, options: TrialOptions, setup: Setup, texts: list[list[int]]) -> float:
    """By how much longer than simulated the engine takes for requests that are all there at once."""
    prompts = [text[: TURN_TOKENS[at % len(TURN_TOKENS)]] for at, text in enumerate(texts)]
    arrivals_s = [0.0] * len(prompts)
    answers = await rig.play(prompts, arrivals_s, options.output_tokens, f"busy-{options.seed}")
    took_s = max(each.tokens[-1][0] for each in answers) - min(each.sent_s for each in answers)
    trace = trace_of(prompts, arrivals_s, options.output_tokens, setup.block_tokens)
    return (took_s - setup.overhead_s) / simulated(trace, setup, 0, 0).makespan_s


def _trial(
    rig: Rig,
    options: TrialOptions,
    setup: Setup,
    busy: float,
    texts: list[list[int]],
    there: dict[str, TierStatus],
    requests: int,
) -> Trial:
    """The trial with so many requests; ``there`` are the node's tiers.

    Raises:
        ValidationError: they need more memory than the node has.
    """
    prompts = conversations(texts[: texts_for(requests)], requests, options.seed)
    tiers = _tiers(options, setup, prompts, has_ssd="ssd" in there)
    largest = max(tiers, key=lambda one: one.dram_bytes)
    if largest.dram_bytes > there["dram"].max_bytes:
        raise ValidationError(
            f"{largest.name} is more than the {there['dram'].max_bytes / MIB:,.0f} MiB that the node has;"
            " give smaller sizes with --dram, or fewer requests"
        )
    at_once = trace_of(prompts, [0.0] * len(prompts), options.output_tokens, setup.block_tokens)
    least = min(capacity_per_s(at_once, setup, one.dram_bytes, one.ssd_bytes) for one in tiers)
    arrivals_s = poisson_arrivals(len(prompts), options.load * least, options.seed)
    return Trial(rig, options, setup, busy, tiers, prompts, arrivals_s)


def _tiers(
    options: TrialOptions, setup: Setup, prompts: list[list[int]], *, has_ssd: bool
) -> tuple[Tiers, ...]:
    full = {
        tuple(p[:end]) for p in prompts for end in range(setup.block_tokens, len(p) + 1, setup.block_tokens)
    }
    stored_bytes = len(full) * setup.entry_bytes
    sizes = options.dram_sizes or tuple(round(share * stored_bytes) // MIB * MIB for share in DRAM_SHARES)
    tiers = [Tiers(f"{size / MIB:,.0f} MiB DRAM", size, 0) for size in sizes]
    if has_ssd:
        ssd_bytes = round(SSD_SHARE * stored_bytes) // MIB * MIB
        tiers.append(Tiers(f"{sizes[0] / MIB:,.0f} MiB DRAM, SSD", sizes[0], ssd_bytes))
    return tuple(tiers)

"""Turns a manifest into a running loop over local nodes."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kvtide_operator.act.local import LocalPlace, PlaceError
from kvtide_operator.api.manifest import Manifest, ManifestError
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import CatalogueProfile
from kvtide_operator.loop import Loop
from kvtide_operator.observe.history import TraceHistory
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.plan.dram import Prices
from kvtide_operator.simulate.engine_profile import EngineProfile, ProfileError, parse_profile
from kvtide_operator.simulate.model import GeometryError, geometry
from kvtide_operator.simulate.prices import GIB, Ladder, Price, PriceError, Rung
from kvtide_operator.simulate.profiles import find_profile
from kvtide_operator.workload.trace import Trace, TraceError

MB = 1_000_000
WARM_UP_WINDOWS = 3
"""Trace kept, in windows: one to plan for, the rest to know what was already cached when it began."""

MISTAKES = (ManifestError, TraceError, GeometryError, ProfileError, PriceError, PlaceError)
"""What a user can mend; each carries one sentence."""


@asynccontextmanager
async def local_loop(
    manifest: Manifest, *, clock: Callable[[], float] = time.time, before: Trace | None = None
) -> AsyncIterator[tuple[Loop, LocalPlace]]:
    """Nodes of the declared size on this machine and the loop over them; all nodes end with the context.

    Raises:
        PlaceError: a node did not start.
        GeometryError: the manifest names a model that kvtide does not know.
        ProfileError: no step times ship for that model and system.
    """
    spec = manifest.cache.spec
    model = spec.model
    block_bytes = geometry(model.name, kv_bytes_per_token=model.kv_bytes_per_token).block_bytes(
        model.block_tokens
    )
    prices = prices_of(manifest)
    place = LocalPlace(
        spec.nodes.replicas.min, spec.dram.capacity.initial, block_tokens=spec.model.block_tokens
    )
    async with place:
        history = TraceHistory(WARM_UP_WINDOWS * spec.scaling.window)
        yield (
            Loop(
                spec=spec,
                prices=prices,
                observer=NodeObserver(place.clients, history),
                history=history,
                place=place,
                block_bytes=block_bytes,
                clock=clock,
                before=before,
            ),
            place,
        )


def prices_of(manifest: Manifest) -> Prices:
    """What the planner weighs against each other: the tier's DRAM and the engine's time.

    Raises:
        ProfileError: the step times are nowhere.
    """
    spec = manifest.cache.spec
    engine = engine_profile(manifest)
    return Prices(
        dram_per_hour=price_of(manifest.classes[spec.dram.classes[0]]).per_hour,
        engine_hour=float(spec.engine.gpu_hour) * engine.gpus,
        engine=engine,
    )


def engine_profile(manifest: Manifest) -> EngineProfile:
    """The step times the manifest names: of the catalogue, or of a file beside it.

    Raises:
        ProfileError: none ship for that model and system, or the file is no profile.
    """
    spec = manifest.cache.spec
    profile = spec.engine.profile
    if isinstance(profile, CatalogueProfile):
        return find_profile(spec.model.name, profile.system, spec.engine.kind, profile.gpus)
    path = manifest.path.parent / profile.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"engine profile {path}: {error.strerror or error}") from None
    return parse_profile(data, str(path))


def price_of(tier_class: TierClass) -> Price:
    """The price of a class as the simulator takes it."""
    price = tier_class.spec.price
    throughput = [Rung(step.above / MB, step.per_m_bps_hour) for step in price.throughput]
    iops = [Rung(step.above, step.per_iops_hour) for step in price.iops]
    return Price(
        currency=price.currency,
        capacity=Ladder.up_to(
            "price.capacity",
            [(step.up_to and step.up_to / GIB, step.per_gi_b_hour) for step in price.capacity],
        ),
        throughput=Ladder("price.throughput", tuple(throughput)) if throughput else None,
        iops=Ladder("price.iops", tuple(iops)) if iops else None,
    )

"""Turns a manifest into a running loop over local nodes."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kvtide_operator.act.local import LocalPlace
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.loop import Loop
from kvtide_operator.observe.history import TraceHistory
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.plan.dram import Prices
from kvtide_operator.simulate.model import geometry
from kvtide_operator.simulate.prices import GIB, Ladder, Price
from kvtide_operator.simulate.profiles import find_profile
from kvtide_operator.workload.trace import Trace

WARM_UP_WINDOWS = 3
"""Trace kept, in windows: one to plan for, the rest to know what was already cached when it began."""


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
        spec.nodes.replicas.min, spec.tiers[0].capacity.initial, block_tokens=spec.model.block_tokens
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
        ProfileError: no step times ship for the model and system.
    """
    spec = manifest.cache.spec
    engine = find_profile(spec.model.name, spec.engine.profile.system, spec.engine.kind)
    return Prices(
        dram_per_hour=_price_of(manifest.classes[spec.tiers[0].classes[0]]).per_hour,
        engine_hour=float(spec.engine.gpu_hour) * engine.gpus,
        engine=engine,
    )


def _price_of(tier_class: TierClass) -> Price:
    price = tier_class.spec.price
    rungs = [(step.up_to and step.up_to / GIB, step.per_gi_b_hour) for step in price.capacity]
    return Price(price.currency, Ladder.up_to("price.capacity", rungs))

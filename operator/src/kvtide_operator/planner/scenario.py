"""What a manifest declares, as the simulator takes it."""

from typing import Any

from kvtide_cachenode.contract.sizing import SSD_ENTRY_BYTES
from kvtide_operator.act.node_options import SSD_WRITES
from kvtide_operator.api.engine import BaseProfile, CatalogueProfile, MeasuredProfile
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.planner.bill import Bill
from kvtide_operator.planner.prices import bandwidth_of, price_of
from kvtide_operator.simulate.cache.pool import Offload, Routing
from kvtide_operator.simulate.engine.model import geometry
from kvtide_operator.simulate.engine.pace import Pace
from kvtide_operator.simulate.engine.profile import EngineProfile, ProfileError, parse_profile
from kvtide_operator.simulate.engine.profiles import find_profile
from kvtide_operator.simulate.engine.scaled_profile import scaled
from kvtide_operator.simulate.media import MediumSpeed
from kvtide_operator.simulate.prices import VolumeSizes
from kvtide_operator.simulate.scenario import Scenario, SsdClass
from kvtide_operator.workload.trace import Trace

_OFFLOAD: dict[str, Offload] = {
    "WriteThrough": "writeThrough",
    "OnEvict": "onEvict",
    "Selective": "selective",
}
_ROUTING: dict[str, Routing] = {"RoundRobin": "roundRobin", "PrefixAffine": "prefixAffine"}


def scenario_from(manifest: Manifest, trace: Trace, seed: int = 0, pace: Pace | None = None) -> Scenario:
    """The scenario that a manifest declares for a trace; ``pace`` is that of the engines, where it is known.

    Raises:
        GeometryError, ProfileError, PriceError, MediumError, SimulationError: what the manifest says cannot
            be simulated; the message says why.
    """
    return Scenario(trace=trace, seed=seed, **declared(manifest, pace))


def declared(manifest: Manifest, pace: Pace | None = None) -> dict[str, Any]:
    """The fields of a `Scenario` that a manifest declares: all but the trace, by name.

    vLLM and SGLang differ in which blocks they cache and in when they read from an SSD.

    Raises:
        GeometryError, ProfileError, PriceError, MediumError: as `scenario_from`.
    """
    spec = manifest.cache.spec
    vllm = spec.engine.kind == "VLLM"
    return {
        "kv_bytes_per_token": kv_bytes_per_token(manifest),
        "profile": engine_profile(manifest, pace),
        "dram_price": price_of(manifest.classes[spec.dram.classes[0]]),
        "tiers_per_hour": Bill.of(manifest).per_hour if manifest.in_containers else None,
        "gpu_hour": float(spec.engine.gpu_hour),
        "ssd_classes": {
            name: _ssd_class(manifest.classes[name]) for name in (spec.ssd.classes if spec.ssd else ())
        },
        "gpu_cache_bytes": spec.engine.gpu_cache,
        "semantics": "vllm" if vllm else "mooncake",
        "reload": "async" if vllm else "queueing",
        "loading": "async" if vllm else "layered",
        "offload": _OFFLOAD[spec.engine.offload],
        "routing": _ROUTING[spec.engine.routing],
        "ssd_writes": SSD_WRITES[spec.ssd.admission if spec.ssd else "Always"],
        "ssd_max_bytes": spec.ssd.capacity.max if spec.ssd else None,
        "ssd_index_bytes": SSD_ENTRY_BYTES,
    }


def kv_bytes_per_token(manifest: Manifest) -> int:
    """What a token's KV takes in the model that a manifest names.

    Raises:
        GeometryError: the model is not known, and its geometry not given.
    """
    model = manifest.cache.spec.model
    return geometry(
        model.name,
        model.dtype,
        layers=model.layers,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        kv_bytes_per_token=model.kv_bytes_per_token,
    ).kv_bytes_per_token


def engine_profile(manifest: Manifest, pace: Pace | None = None) -> EngineProfile:
    """The step times the manifest names: of the catalogue, of a file beside it, or one of these at a pace.

    Raises:
        ProfileError: none ship for that model and system, the file is no profile, or it is far from the pace.
    """
    profile = manifest.cache.spec.engine.profile
    if not isinstance(profile, MeasuredProfile):
        return _named_profile(manifest, profile)
    base = _named_profile(manifest, profile.base)
    return base if pace is None else scaled(base, pace)


def _named_profile(manifest: Manifest, profile: BaseProfile) -> EngineProfile:
    spec = manifest.cache.spec
    if isinstance(profile, CatalogueProfile):
        return find_profile(spec.model.name, profile.system, spec.engine.kind, profile.gpus)
    path = manifest.path.parent / profile.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"engine profile {path}: {error.strerror or error}") from None
    return parse_profile(data, str(path))


def _ssd_class(tier_class: TierClass) -> SsdClass:
    spec = tier_class.spec
    assert spec.speed is not None, "a class of medium SSD has a speed: the API checks it"
    speed = MediumSpeed(
        read=bandwidth_of(spec.speed.read),
        write=bandwidth_of(spec.speed.write),
        shared_channel=spec.speed.shared_channel,
        latency_s=spec.speed.latency,
        endurance_bytes_per_day=spec.endurance.writes_per_day if spec.endurance else None,
    )
    return SsdClass(
        price_of(tier_class), speed, VolumeSizes(spec.volume.min, spec.volume.max, spec.volume.step)
    )

"""The engine profiles that ship, one JSON file each, made by ``kvtide engine profile``."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from kvtide_operator.simulate.engine.model import canonical_name
from kvtide_operator.simulate.engine.profile import EngineProfile, ProfileError, parse_profile


@cache
def shipped() -> Mapping[str, EngineProfile]:
    """All profiles that ship, by file name without its ending, in order of name; read once a process."""
    files = sorted(
        (file for file in resources.files(__name__).iterdir() if file.name.endswith(".json")),
        key=lambda file: file.name,
    )
    return MappingProxyType(
        {file.name.removesuffix(".json"): parse_profile(file.read_bytes(), file.name) for file in files}
    )


def find_profile(model: str, system: str, engine: str, gpus: int | None = None) -> EngineProfile:
    """The profile that ships for a model on a system; ``gpus`` chooses where several sizes ship.

    Raises:
        ProfileError: none ships, or several do; the message lists what there is.
    """
    profiles = shipped()
    wanted = (canonical_name(model), system.lower(), engine.lower())
    found = [
        profile
        for profile in profiles.values()
        if (canonical_name(profile.model), profile.system, profile.engine) == wanted
        and gpus in (None, profile.gpus)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        sizes = ", ".join(str(profile.gpus) for profile in found)
        raise ProfileError(f"profiles for {model} on {system} ship for {sizes} GPUs; say which")
    count = "" if gpus is None else f"{gpus} x "
    raise ProfileError(
        f"no profile ships for {model} on {count}{system} with {engine} (there are: {', '.join(profiles)});"
        f" make one with `kvtide engine profile --model {model} --system {system} --engine {engine.lower()}`"
    )

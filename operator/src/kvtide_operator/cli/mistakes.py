"""What a user can mend: each of these errors carries one sentence."""

from kvtide_operator.act.local import PlaceError
from kvtide_operator.api.manifest import ManifestError
from kvtide_operator.plan.space import SpaceError
from kvtide_operator.simulate.engine.model import GeometryError
from kvtide_operator.simulate.engine.profile import ProfileError
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.media import MediumError
from kvtide_operator.simulate.prices import PriceError
from kvtide_operator.workload.trace import TraceError

MISTAKES = (
    GeometryError,
    ManifestError,
    MediumError,
    PlaceError,
    PriceError,
    ProfileError,
    SimulationError,
    SpaceError,
    TraceError,
)

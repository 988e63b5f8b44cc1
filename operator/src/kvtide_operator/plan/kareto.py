"""Our variant of Kareto's search: only cells that could still add to the frontier are refined."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.plan.explorer import Explorer
from kvtide_operator.plan.grid import even
from kvtide_operator.plan.hypervolume import REFERENCE, Bounds, dominated_volume
from kvtide_operator.plan.outcome import objectives_of
from kvtide_operator.plan.pareto import non_dominated
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.simulate.configuration import Configuration

LATTICE = 64
"""Cells are bisected down to this fraction of each range: 64 GiB and 56 s of Kareto's own ranges."""

MIN_EXTENT = 0.01
"""A range over the start points below this share of an objective's bounds is noise, not a trade-off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kareto:
    """Adaptive search over DRAM and TTL by cells of a grid.

    It differs from Algorithm 1 (Kareto, section 4.2) in four points, each of which that algorithm needs to
    work where GPUs dominate cost:

    * differences are normalised by the range over the start points, never relative to the values: the
      constant GPU part of the cost would hide what storage costs;
    * both axes expand, each doubling its last step, while the step gained more than ``tau_expand``;
    * a cell's optimistic corner has the least cost, the least TTFT and the highest throughput of its four
      corners. Only a cell whose optimistic corner would add more than ``tau_refine`` of the frontier's
      hypervolume is refined, the most promising ones first;
    * a cell is bisected along the axis on which its corners differ most, instead of at its middle.

    The thresholds are ours; `benches/search.py` sweeps them.

    Attributes:
        tau_expand: normalised gain in TTFT or throughput of the last step on an axis.
        tau_refine: optimistic gain of a cell relative to the hypervolume found.
        start_points: points of the start grid on each axis.
        start_share: where the start grid ends on both axes, as a share of the range.
        cells_per_round: cells bisected before the frontier is looked at again. More keep more workers busy
            but decide on older knowledge.
        max_evaluations: per SSD class.
    """

    tau_expand: float = 0.02
    tau_refine: float = 0.0005
    start_points: int = 4
    start_share: Fraction = Fraction(1, 2)
    cells_per_round: int = 6
    max_evaluations: int = 80

    def limit(self, space: SearchSpace) -> int:
        """At most this many evaluations."""
        return self.max_evaluations * len(space.media)

    def explore(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:
        """Start grid, expansion, refinement; ends when no cell promises enough."""
        lines = sorted({round(share * LATTICE) for share in even(self.start_points, self.start_share)})
        view = _View(explorer, space, bounds)
        grids = [_Grid(medium, list(lines), list(lines) if medium else [0]) for medium in space.media]
        view.evaluate(spot for grid in grids for spot in grid.spots())
        scale = view.extent()
        growing = grids
        while growing:
            growing = [grid for grid in growing if grid.expand(view, scale, self.tau_expand)]
            view.evaluate(spot for grid in growing for spot in grid.spots())
        cells = [cell for grid in grids for cell in grid.cells()]
        while cells:
            cells = self._refined(cells, view, scale)

    def _refined(self, cells: list["_Cell"], view: "_View", scale: NDArray[np.float64]) -> list["_Cell"]:
        """The cells that still promise something, the best of them bisected."""
        gains = view.optimistic_gains(cells)
        ranked = sorted(range(len(cells)), key=lambda index: -gains[index])
        promising = [
            cells[index] for index in ranked if gains[index] > self.tau_refine and cells[index].divisible()
        ]
        best, rest = promising[: self.cells_per_round], promising[self.cells_per_round :]
        halves = [half for cell in best for half in cell.bisected(view, scale)]
        view.evaluate(spot for half in halves for spot in half.corners())
        return rest + halves


_Spot = tuple[int, int, str | None]
"""DRAM and TTL in units of the lattice, and the SSD class."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """A rectangle whose four corners have been evaluated; a line where an axis has one value."""

    dram: tuple[int, int]
    ttl: tuple[int, int]
    medium: str | None

    def corners(self) -> list[_Spot]:
        return [(dram, ttl, self.medium) for dram in self.dram for ttl in self.ttl]

    def divisible(self) -> bool:
        return self.dram[1] - self.dram[0] > 1 or self.ttl[1] - self.ttl[0] > 1

    def bisected(self, view: "_View", scale: NDArray[np.float64]) -> list["_Cell"]:
        """Two halves, cut across the axis on which the corners differ most of those that can be cut."""
        by_dram = view.difference(self.corners()[:2], self.corners()[2:], scale)
        by_ttl = view.difference(self.corners()[::2], self.corners()[1::2], scale)
        (low, high), (early, late) = self.dram, self.ttl
        if late - early <= 1 or (high - low > 1 and by_dram >= by_ttl):
            middle = (low + high) // 2
            return [replace(self, dram=(low, middle)), replace(self, dram=(middle, high))]
        middle = (early + late) // 2
        return [replace(self, ttl=(early, middle)), replace(self, ttl=(middle, late))]


@dataclass(slots=True)
class _Grid:
    """The start grid of one SSD class, while it expands."""

    medium: str | None
    drams: list[int]
    ttls: list[int]

    def spots(self) -> list[_Spot]:
        return [(dram, ttl, self.medium) for dram in self.drams for ttl in self.ttls]

    def expand(self, view: "_View", scale: NDArray[np.float64], tau: float) -> bool:
        """Append a line to each axis whose last step still gained; whether there was one."""
        (near, far), (early, late) = (self.drams[-2:] * 2)[:2], (self.ttls[-2:] * 2)[:2]
        medium = self.medium
        by_dram = [view.gain((near, ttl, medium), (far, ttl, medium), scale) for ttl in self.ttls]
        by_ttl = [view.gain((dram, early, medium), (dram, late, medium), scale) for dram in self.drams]
        grew_dram = max(by_dram) > tau and _grow(self.drams)
        grew_ttl = max(by_ttl) > tau and _grow(self.ttls)
        return grew_dram or grew_ttl

    def cells(self) -> list[_Cell]:
        ttls = list(pairwise(self.ttls)) or [(self.ttls[0], self.ttls[0])]
        drams = list(pairwise(self.drams)) or [(self.drams[0], self.drams[0])]
        return [_Cell(dram, ttl, self.medium) for dram in drams for ttl in ttls]


def _grow(lines: list[int]) -> bool:
    if len(lines) < 2 or lines[-1] == LATTICE:
        return False
    lines.append(min(lines[-1] + 2 * (lines[-1] - lines[-2]), LATTICE))
    return True


class _View:
    """Spots of the lattice as scaled objectives.

    An unstable spot is infinitely slow and serves nothing. Where all are unstable latency means nothing:
    then TTFT is left out and the search is for cost and throughput. Where all are slower than the bounds
    allow, the slowest stable one is the bound.
    """

    def __init__(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:
        self._explorer = explorer
        self._space = space
        self._bounds = bounds
        self._rows: dict[Configuration, NDArray[np.float64]] = {}

    def evaluate(self, spots: Iterable[_Spot]) -> None:
        """Evaluate ``spots`` and scale everything known anew."""
        self._explorer.evaluate(self._configuration(spot) for spot in spots)
        candidates = self._explorer.candidates
        rows = self._bounds.scaled(objectives_of(candidates))
        stable = np.array([candidate.outcome.stable for candidate in candidates])
        if stable.any():
            if rows[stable, 1].min() >= REFERENCE:
                rows[:, 1] /= rows[stable, 1].max()
            rows[~stable, 1] = np.inf
            rows[~stable, 2] = 1.0
        else:
            rows[:, 1] = 0.0
        self._rows = {candidate.configuration: row for candidate, row in zip(candidates, rows, strict=True)}

    def extent(self) -> NDArray[np.float64]:
        """float64[3]: the range of each objective over what is known, as far as it lies within the bounds."""
        rows = np.minimum(np.stack(list(self._rows.values())), REFERENCE)
        return np.asarray(np.maximum(np.ptp(rows, axis=0), MIN_EXTENT))

    def gain(self, before: _Spot, after: _Spot, scale: NDArray[np.float64]) -> float:
        """How much ``after`` betters ``before`` in TTFT or throughput, in units of ``scale``."""
        one, other = (np.minimum(self._row(spot), REFERENCE) for spot in (before, after))
        return float(((one - other) / scale)[1:].max())

    def difference(self, ones: list[_Spot], others: list[_Spot], scale: NDArray[np.float64]) -> float:
        """The largest difference of any objective between ``ones`` and ``others``, pair by pair."""
        a, b = (np.minimum([self._row(spot) for spot in spots], REFERENCE) for spots in (ones, others))
        return float((np.abs(a - b) / scale).max())

    def optimistic_gains(self, cells: list[_Cell]) -> list[float]:
        """Hypervolume that each cell's optimistic corner would add, relative to what there is."""
        rows = np.stack(list(self._rows.values()))
        front = rows[non_dominated(rows)]
        volume = dominated_volume(front)
        corners = [np.min([self._row(spot) for spot in cell.corners()], axis=0) for cell in cells]
        added = [dominated_volume(np.vstack([front, corner])) - volume for corner in corners]
        return [gain / volume if volume > 0 else gain for gain in added]

    def _row(self, spot: _Spot) -> NDArray[np.float64]:
        return self._rows[self._configuration(spot)]

    def _configuration(self, spot: _Spot) -> Configuration:
        dram, ttl, medium = spot
        return self._space.configuration(Fraction(dram, LATTICE), Fraction(ttl, LATTICE), medium)

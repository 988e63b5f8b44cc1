"""TieredCache: one cache for one model's engines."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kvtide_cachenode.contract.sizing import (
    MI,
    PROCESS_BYTES,
    SLACK_PERCENT,
    SOCKETS_BYTES,
    capacity_for,
    limit_for,
)
from kvtide_operator.api.base import API_VERSION, Metadata, Model, rule, rules
from kvtide_operator.api.engine import CacheModel, CatalogueProfile, EngineSpec, TableProfile
from kvtide_operator.api.links import History, Metrics, Security
from kvtide_operator.api.nodes import Nodes, NodeTemplate, Replicas
from kvtide_operator.api.objective import Objective, Scaling
from kvtide_operator.api.quantity import format_quantity, in_cel
from kvtide_operator.api.status import TieredCacheStatus
from kvtide_operator.api.tiers import Capacity, DramTier, SsdTier, Tier, Ttl

__all__ = [
    "CacheModel",
    "Capacity",
    "CatalogueProfile",
    "DramTier",
    "EngineSpec",
    "History",
    "Metrics",
    "NodeTemplate",
    "Nodes",
    "Objective",
    "Replicas",
    "Scaling",
    "Security",
    "SsdTier",
    "TableProfile",
    "Tier",
    "TieredCache",
    "TieredCacheSpec",
    "Ttl",
]

MAX_NAME_CHARACTERS = 50
_OVERHEAD_BYTES = PROCESS_BYTES + SOCKETS_BYTES
_OVERHEAD = format_quantity(_OVERHEAD_BYTES)


_SEASON_SAID = "scaling.season must be at least scaling.window; give for example 168h, a week"
_KEEP_SAID = (
    "history.keep must be at least scaling.season, or windows are deleted before they come again; give for "
    "example 336h"
)


class TieredCacheSpec(Model):
    """What the user wants.

    Attributes:
        model: the model whose KV is cached.
        engine: the engines in front of the cache.
        metrics: where the engines' metrics are; without it the nodes' traces alone drive the loop.
        tiers: one DRAM tier and after it at most one SSD tier.
        nodes: how many cache nodes, and what their pods look like.
        objective: which point of the frontier to take.
        scaling: when and how far the loop moves a tier.
        history: where past windows are kept; without it ``scaling.season`` is off.
        security: who may connect.
    """

    model_config = rules(
        rule(
            "self.tiers[0].medium == 'DRAM' && (self.tiers.size() == 1 || self.tiers[1].medium == 'SSD')",
            "give one DRAM tier and after it at most one SSD tier",
        ),
        rule(
            "!has(self.nodes.maxMemory) || "
            "quantity(string(self.tiers[0].capacity.initial)).asApproximateFloat() * "
            f"{100 + SLACK_PERCENT}.0 <= "
            "double(has(self.nodes.replicas.max) ? self.nodes.replicas.max : self.nodes.replicas.min) * "
            f"(quantity(string(self.nodes.maxMemory)).asApproximateFloat() - {_OVERHEAD_BYTES}.0) * 100.0",
            "the initial DRAM is more than nodes.replicas.max nodes of nodes.maxMemory can hold: of each, "
            f"{_OVERHEAD} and {SLACK_PERCENT} % of the rest are for the process; raise one of them",
        ),
        rule(
            f"!has(self.history) || {in_cel('self.scaling.season')} >= {in_cel('self.scaling.window')}",
            _SEASON_SAID,
        ),
        rule(
            f"!has(self.history) || {in_cel('self.history.keep')} >= {in_cel('self.scaling.season')}",
            _KEEP_SAID,
        ),
    )

    model: CacheModel
    engine: EngineSpec
    metrics: Metrics | None = None
    tiers: tuple[Tier, ...] = Field(
        min_length=1,
        max_length=2,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    nodes: Nodes
    objective: Objective = Objective()
    scaling: Scaling = Scaling()
    history: History | None = None
    security: Security = Security()

    @model_validator(mode="after")
    def _one_dram_and_perhaps_ssd(self) -> Self:
        media = [tier.medium for tier in self.tiers]
        if media not in (["DRAM"], ["DRAM", "SSD"]):
            raise ValueError(
                f"tiers are {', '.join(media)}; give one DRAM tier and after it at most one SSD tier"
            )
        names = [tier.name for tier in self.tiers]
        if len(set(names)) < len(names):
            raise ValueError(f"two tiers are named {names[0]!r}; give each a name of its own")
        return self

    @model_validator(mode="after")
    def _nodes_can_hold_it(self) -> Self:
        initial, most = self.dram.capacity.initial, self.nodes.max_memory
        count = self.nodes.replicas.max
        if most is not None and initial * (100 + SLACK_PERCENT) > count * (most - _OVERHEAD_BYTES) * 100:
            fits = capacity_for(most) * count // MI * MI
            raise ValueError(
                f"the initial DRAM of {format_quantity(initial)} is more than {count} nodes of "
                f"nodes.maxMemory {format_quantity(most)} can hold, which is "
                f"{format_quantity(fits)}: of each, {_OVERHEAD} and {SLACK_PERCENT} % of the rest are "
                f"for the process; give {format_quantity(limit_for(-(-initial // count)))}"
            )
        return self

    @model_validator(mode="after")
    def _history_reaches_a_season_back(self) -> Self:
        if self.history is None:
            return self
        if self.scaling.season < self.scaling.window:
            raise ValueError(_SEASON_SAID)
        if self.history.keep < self.scaling.season:
            raise ValueError(_KEEP_SAID)
        return self

    @property
    def dram(self) -> DramTier:
        """The DRAM tier."""
        tier = self.tiers[0]
        assert isinstance(tier, DramTier)
        return tier

    @property
    def ssd(self) -> SsdTier | None:
        """The SSD tier, where there is one."""
        tier = self.tiers[-1]
        return tier if isinstance(tier, SsdTier) else None


class TieredCache(Model):
    """Namespaced: one cache for one model's engines."""

    # Its Services are DNS labels, its StatefulSet's pods carry the name and a hash of 11 in a label of 63.
    model_config = rules(
        rule(
            f"self.metadata.name.size() <= {MAX_NAME_CHARACTERS} && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must begin with a letter, have only lower case letters, digits and '-', and at "
            f"most {MAX_NAME_CHARACTERS} characters: its pods and Services are named after it",
        )
    )

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["TieredCache"] = "TieredCache"
    metadata: Metadata
    spec: TieredCacheSpec
    status: TieredCacheStatus | None = None

    @model_validator(mode="after")
    def _name_fits_children(self) -> Self:
        name = self.metadata.name
        if len(name) > MAX_NAME_CHARACTERS or not name[0].isalpha() or "." in name:
            raise ValueError(
                f"metadata.name {name!r} must begin with a letter, have only lower case letters, digits and "
                f"'-', and at most {MAX_NAME_CHARACTERS} characters: its pods and Services are named after it"
            )
        return self

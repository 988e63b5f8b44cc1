"""The rows of a plan's table: one a configuration."""

from typing import Any

Row = tuple[list[str], dict[str, Any]]
"""What a point is beside one of the frontier (``chosen``, ``baseline``), and the point."""


def rows_of(document: dict[str, Any]) -> list[Row]:
    """The frontier, the chosen point and the baseline of `cli.planning.planned`, cheapest first."""
    labelled: list[Row] = [([], point) for point in document["frontier"]]
    labelled += [(["chosen"], document["chosen"]), (["baseline"], document["baseline"])]
    rows: dict[tuple[Any, ...], Row] = {}
    for labels, point in labelled:
        which = point["dram_gib"], point.get("ttl_s"), point.get("ttl_groups"), point["tier_class"]
        known, _ = rows.get(which, ([], point))
        rows[which] = ([*known, *labels], point)
    return sorted(rows.values(), key=lambda row: float(row[1]["cost_per_hour"]))

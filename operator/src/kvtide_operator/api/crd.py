"""The CustomResourceDefinitions, made from the models: ``python -m kvtide_operator.api.crd [--check]``."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel

from kvtide_operator.api.base import API_VERSION
from kvtide_operator.api.cacheplan import CachePlan
from kvtide_operator.api.structural import structural_schema
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache

FOLDER: Final = Path(__file__).parents[4] / "crds"
_GROUP, _, _VERSION = API_VERSION.partition("/")
_HEADER = "# Made from the models by `python -m kvtide_operator.api.crd`; edit those.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; one of priority 1 shows with ``-o wide`` only."""

    name: str
    path: str
    type: Literal["string", "boolean", "date"] = "string"
    priority: int = 0

    def as_crd(self) -> dict[str, Any]:
        """The column as a CRD has it: priority 0 is not stored."""
        column: dict[str, Any] = {"jsonPath": self.path, "name": self.name, "type": self.type}
        return column | ({"priority": self.priority} if self.priority else {})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its model and how kubectl calls and shows it."""

    model: type[BaseModel]
    name: str
    plural: str
    short: str
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[Column, ...]
    status: bool = True

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{_GROUP}_{self.plural}.yaml"


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_READY = '.status.conditions[?(@.type=="Ready")].status'

KINDS: Final = (
    Kind(
        TieredCache,
        "TieredCache",
        "tieredcaches",
        "tc",
        "Namespaced",
        (
            Column("Ready", _READY),
            Column("Nodes", ".status.summary.nodes"),
            Column("DRAM", ".status.summary.dram"),
            Column("SSD", ".status.summary.ssd"),
            Column("Hit ratio", ".status.hitRatio"),
            Column("Cost/h", ".status.costPerHour"),
            Column("Doing", ".status.summary.doing"),
            Column("Mode", ".spec.scaling.mode"),
            Column("Plan", ".status.plan.name", priority=1),
            Column("Why", '.status.conditions[?(@.type=="Ready")].message', priority=1),
            _AGE,
        ),
    ),
    Kind(
        TierClass,
        "TierClass",
        "tierclasses",
        "tcl",
        "Cluster",
        (
            Column("Medium", ".spec.medium"),
            Column("Storage class", ".spec.storageClassName"),
            Column("Per GiB-h", ".spec.price.capacity[0].perGiBHour"),
            Column("Currency", ".spec.price.currency"),
            _AGE,
        ),
        status=False,
    ),
    Kind(
        CachePlan,
        "CachePlan",
        "cacheplans",
        "cpl",
        "Namespaced",
        (
            Column("Cache", ".spec.cacheRef.name"),
            Column("Phase", ".status.phase"),
            Column("DRAM", ".status.summary.dram"),
            Column("SSD", ".status.summary.ssd"),
            Column("Saves", ".status.summary.saves"),
            Column("Gain", ".spec.gain"),
            Column("Approved", ".spec.approved", "boolean"),
            Column("Until", ".spec.validUntil"),
            Column("Why", ".spec.why", priority=1),
            _AGE,
        ),
    ),
)


def definition(kind: Kind) -> dict[str, Any]:
    """The CRD as the API server stores it, so that applying it twice changes nothing."""
    schema = structural_schema(kind.model)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    schema["required"] = ["spec"]
    version: dict[str, Any] = {
        "name": _VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.as_crd() for column in kind.columns],
        "schema": {"openAPIV3Schema": schema},
    }
    if kind.status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{_GROUP}"},
        "spec": {
            "conversion": {"strategy": "None"},
            "group": _GROUP,
            "names": {
                "categories": ["kvtide"],
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "shortNames": [kind.short],
                "singular": kind.name.lower(),
            },
            "scope": kind.scope,
            "versions": [version],
        },
    }


def rendered() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        kind.file: _HEADER + yaml.dump(definition(kind), Dumper=_Dumper, sort_keys=False, width=110)
        for kind in KINDS
    }


class _Dumper(yaml.SafeDumper):
    """Repeats what is the same in two places: API servers know no YAML aliases."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Never an alias."""
        return True


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` say which are not what the models say; 1 where one is not."""
    parser = argparse.ArgumentParser(prog="python -m kvtide_operator.api.crd", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where the files are")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file is outdated")
    options = parser.parse_args(arguments)
    texts = rendered()
    if not options.check:
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (options.folder / name).write_text(text, "utf-8")
        return 0
    outdated = [
        name
        for name, text in texts.items()
        if not (options.folder / name).is_file() or (options.folder / name).read_text("utf-8") != text
    ]
    for name in outdated:
        sys.stderr.write(
            f"{options.folder / name} is not what the models say; run python -m {__spec__.name}\n"
        )
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())

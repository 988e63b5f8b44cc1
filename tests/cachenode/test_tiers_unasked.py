"""Nobody outside the store asks which tiers there are: what a tier does differently, it does itself."""

import ast
from pathlib import Path

import kvtide_cachenode

SOURCES = Path(kvtide_cachenode.__file__).parent
STORES = {"Store", "TieredStore", "DemotingStore", "SsdLog"}


def asked(tree: ast.AST) -> list[int]:
    """Lines that ask for the kind of a store, or for a flag of it."""
    lines = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                names = {name.id for name in ast.walk(kinds) if isinstance(name, ast.Name)}
                lines += [node.lineno] * bool(names & STORES)
            case ast.Call(func=ast.Name(id="hasattr"), args=[ast.Attribute(attr="store" | "_store"), *_]):
                lines.append(node.lineno)
            case ast.MatchClass(cls=ast.Name(id=name)) if name in STORES:
                lines.append(node.lineno)
            case ast.Attribute(attr="tiered"):
                lines.append(node.lineno)
    return lines


def test_no_code_outside_the_store_asks_which_tiers_exist() -> None:
    outside = [path for path in SOURCES.rglob("*.py") if SOURCES / "store" not in path.parents]
    assert len(outside) > 50
    found = {str(path.relative_to(SOURCES)): asked(ast.parse(path.read_text())) for path in outside}
    assert not {path: lines for path, lines in found.items() if lines}


def test_what_is_looked_for_is_found() -> None:
    text = "isinstance(a.store, (int, TieredStore))\nhasattr(node.store, 'log')\nnode.store.tiered\n"
    text += "match store:\n    case TieredStore():\n        pass\n"
    assert sorted(asked(ast.parse(text))) == [1, 2, 3, 5]

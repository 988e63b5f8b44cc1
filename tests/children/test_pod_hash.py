"""The template's hash: the same for the same content, another for any other, blind to sizes."""

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.act.kubernetes.children import wanted_hash
from kvtide_operator.act.kubernetes.children.pod_hash import template_hash

GIB = 1 << 30


def shuffled(value: Any, order: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    if isinstance(value, list):
        return [shuffled(each, order) for each in value]
    return value


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all plain values."""
    if isinstance(value, dict):
        return [leaf for name, each in value.items() for leaf in leaves(each, (*path, name))]
    if isinstance(value, list):
        return [leaf for at, each in enumerate(value) for leaf in leaves(each, (*path, at))]
    return [path]


def changed(template: Any, path: tuple[Any, ...]) -> Any:
    made = copy.deepcopy(template)
    place = made
    for step in path[:-1]:
        place = place[step]
    old = place[path[-1]]
    place[path[-1]] = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else f"{old}x"
    return made


def template_of(objects: dict[str, Any]) -> dict[str, Any]:
    return objects["StatefulSet/chat"]["spec"]["template"]


def test_any_leaf_but_sizes_and_the_hash_counts(make_cache, objects_of, security) -> None:
    template = template_of(objects_of(make_cache(security=security)))
    known = template_hash(template)
    blind = {path for path in leaves(template) if template_hash(changed(template, path)) == known}
    assert {path[:4] if "resources" in path else path for path in blind} == {
        ("spec", "containers", 0, "resources"),
        ("metadata", "annotations", "kvtide.dev/template-hash"),
    }


@given(st.randoms(use_true_random=False))
def test_order_of_keys_does_not_count(make_cache, objects_of, order) -> None:
    template = template_of(objects_of(make_cache()))
    assert template_hash(shuffled(template, order)) == template_hash(template)
    assert template_hash(json.loads(json.dumps(template))) == template_hash(template)


@given(
    st.integers(1, 1 << 45),
    st.integers(1, 64),
    st.none() | st.integers(1, 1 << 45),
    st.integers(1, 1 << 45),
)
def test_sizes_and_replicas_never_count(
    make_cache, objects_of, memory_bytes, replicas, claim_bytes, other
) -> None:
    cache = make_cache(ssd=True)
    made = template_of(
        objects_of(cache, memory_bytes=memory_bytes, replicas=replicas, claim_bytes=claim_bytes)
    )
    again = template_of(
        objects_of(cache, memory_bytes=other, replicas=1, claim_bytes=None if claim_bytes is None else other)
    )
    mine, theirs = (each["metadata"]["annotations"]["kvtide.dev/template-hash"] for each in (made, again))
    assert mine == theirs == wanted_hash(cache, has_ssd=claim_bytes is not None)


def test_bounds_objective_and_prices_never_count(make_cache) -> None:
    one = make_cache(objective={"prefer": "Cost"}, nodes={"replicas": {"min": 1}})
    other = make_cache(objective={"prefer": "Latency"}, nodes={"replicas": {"min": 5}, "maxMemory": "64Gi"})
    assert wanted_hash(one, has_ssd=False) == wanted_hash(other, has_ssd=False)


def test_what_the_user_says_of_pods_counts(make_cache) -> None:
    known = wanted_hash(make_cache(), has_ssd=False)
    for template in (
        {"image": "other"},
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
        {"nodeSelector": {"a": "b"}},
        {"tolerations": [{"key": "a"}]},
        {"priorityClassName": "a"},
        {"terminationGracePeriod": "61s"},
    ):
        assert wanted_hash(make_cache(nodes={"template": template}), has_ssd=False) != known
    assert wanted_hash(make_cache(nodes={"template": {"cpu": "3"}}), has_ssd=False) == known


def test_the_annotation_is_on_pod_and_set(make_cache, objects_of) -> None:
    made = objects_of(make_cache())["StatefulSet/chat"]
    on_pod = made["spec"]["template"]["metadata"]["annotations"]["kvtide.dev/template-hash"]
    assert made["metadata"]["annotations"]["kvtide.dev/template-hash"] == on_pod
    assert template_hash(made["spec"]["template"]) == on_pod

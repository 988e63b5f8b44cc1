"""Which addresses a user of a namespace may have the operator connect to."""

from typing import Any

import pytest
import yaml

from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.reconcile.allowed import ALLOWED, Allowed

from .test_declared import SAMPLES


def spec(**more: Any) -> TieredCacheSpec:
    document = yaml.safe_load((SAMPLES / "vllm-small.yaml").read_text())
    return TieredCacheSpec.model_validate(document["spec"] | more)


def history(url: str, secret: str | None = None) -> TieredCacheSpec:
    return spec(history={"url": url} | ({"secretRef": {"name": secret}} if secret else {}))


@pytest.mark.parametrize(
    "url",
    [
        "file:///tmp/x",
        "/tmp/x",
        "s3://bucket",
        "memory://x",
        "http://169.254.169.254/x",
        "simplecache::s3://b",
    ],
)
def test_the_operators_rights_are_nobodys_unless_configured(url: str) -> None:
    said = ALLOWED.refusal(history(url))
    assert said is not None
    assert f"history.url {url} is none that this operator's configuration allows (it allows none)" in said
    assert "history.secretRef" in said


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket", True),
        ("s3://bucket/team-a", True),
        ("s3://bucket-of-others/x", False),
        ("s3://bucket?endpoint_override=169.254.169.254", False),
        ("s3://bucket/../other", False),
        ("s3://bucket/%2e%2e/other", False),
        ("s3://key:secret@bucket/x", False),
        ("file:///var/history/a", True),
        ("file:///var/history", True),
        ("file:///var/history-of-others", False),
        ("file:///var/history/../../etc", False),
        ("s3://own?endpoint_override=minio:9000&scheme=http", True),
        ("s3://own/x?endpoint_override=minio:9000&scheme=http", True),
        ("s3://own/x", False),
        ("gs://any/thing", True),
    ],
)
def test_what_begins_as_configured_is_allowed_and_nothing_that_only_looks_like_it(
    url: str, *, allowed: bool
) -> None:
    configured = Allowed(
        ("s3://bucket", "file:///var/history/", "s3://own?endpoint_override=minio:9000&scheme=http", "gs://")
    )
    if url == "file:///var/history":
        configured = Allowed(("file:///var/history",))
    assert (configured.refusal(history(url)) is None) == allowed


def test_keys_of_its_own_take_a_cache_to_any_bucket_but_to_no_other_endpoint() -> None:
    assert ALLOWED.refusal(history("s3://bucket/x", "keys")) is None
    assert ALLOWED.refusal(history("s3://bucket/x?endpoint_override=10.0.0.1", "keys")) is not None
    assert ALLOWED.refusal(history("s3://a:b@bucket/x", "keys")) is not None


def test_prometheus_is_any_unless_some_are_configured() -> None:
    def measured(url: str) -> TieredCacheSpec:
        return spec(metrics={"prometheus": {"url": url}})

    assert ALLOWED.refusal(measured("http://anything:9090")) is None
    only = Allowed(prometheus=("http://prometheus.monitoring:9090",))
    assert (
        Allowed(prometheus=("http://prometheus:909",)).refusal(measured("http://prometheus:9090")) is not None
    )
    assert only.refusal(measured("http://prometheus.monitoring:9090")) is None
    assert only.refusal(measured("http://prometheus.monitoring:9090/prefix")) is None
    said = only.refusal(measured("http://169.254.169.254"))
    assert said is not None
    assert "metrics.prometheus.url http://169.254.169.254 is none" in said
    assert "(http://prometheus.monitoring:9090)" in said

"""Two releases over one namespace, and one that is uninstalled: somebody always looks after the cache."""

import signal
from pathlib import Path

import pytest

from e2e.kubectl import apply, kubectl, new_namespace, until
from e2e.live_cache import MIB, LiveCache, start_cache
from e2e.operator_process import operator

pytestmark = pytest.mark.timeout(300)

LATER = 2_000_000_000
"""A term above any that a Lease begins with."""


async def looked_after(cache: LiveCache, by: str) -> bool:
    found = (await cache.status()).get("lookedAfterBy", {})
    return bool(found.get("lease") == f"{by}/kvtide-operator")


async def test_who_was_there_first_goes_on_when_the_second_release_is_gone(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    async with new_namespace("e2e") as other:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "kvtide-operator", "namespace": other},
            "spec": {"leaseTransitions": LATER},
        }
        await apply(lease)
        # Terms of the second release are above those of the first, whose nodes it leads now.
        async with operator(tmp_path, other, namespace, identity="second") as second:
            cache = await start_cache(namespace, node_image)
            assert await looked_after(cache, other)
            async with operator(tmp_path, namespace, identity="first"):

                async def told() -> bool:
                    events = await kubectl("-n", namespace, "get", "events", "-o", "yaml")
                    return f"by the Lease {other}/kvtide-operator" in events

                await until("the first to say who leads", told, 30)
                await cache.resize("192Mi")
                await cache.settled(192 * MIB, 60)
                assert await looked_after(cache, other)

                await second.kill(signal.SIGTERM)
                await until("the first to follow", lambda: looked_after(cache, namespace), 60)
                await cache.resize("128Mi")
                await cache.settled(128 * MIB, 60)
                await cache.check_sizes(128 * MIB)
                desired = await (await cache.nodes())[0].status()
                assert desired.desired is not None
                assert desired.desired.term > LATER
                assert (await cache.condition("Stalled"))["status"] == "False"

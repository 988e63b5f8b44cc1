"""How much memory a node asks for, and what it makes of the memory it gets."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node
from kvtide_cachenode.contract.client import NodeClient, NodeUnreachable
from kvtide_cachenode.contract.messages import CapacityRequest, Desired, IdleTimeouts
from kvtide_cachenode.contract.sizing import (
    MI,
    PAGE_BYTES,
    PROCESS_BYTES,
    SOCKETS_BYTES,
    capacity_for,
    limit_for,
)
from kvtide_cachenode.process.memory_limit import largest_capacity_bytes

GI = 1 << 30
sizes = st.integers(0, 1 << 44)


@given(sizes)
def test_a_tier_fits_the_limit_that_is_asked_for_it(capacity: int) -> None:
    limit = limit_for(capacity)
    assert limit % MI == 0
    assert limit >= capacity * 103 / 100 + PROCESS_BYTES + SOCKETS_BYTES
    assert capacity // PAGE_BYTES * PAGE_BYTES <= capacity_for(limit) < capacity + MI
    assert limit_for(capacity_for(limit)) == limit


@given(sizes)
def test_what_is_put_into_a_limit_stays_below_it(limit: int) -> None:
    capacity = capacity_for(limit)
    assert capacity % PAGE_BYTES == 0
    assert capacity == 0 or limit_for(capacity) < limit + MI
    assert capacity == 0 or capacity * 103 / 100 + PROCESS_BYTES + SOCKETS_BYTES <= limit


@given(sizes, sizes)
def test_more_is_never_less(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert limit_for(low) <= limit_for(high)
    assert capacity_for(low) <= capacity_for(high)


def test_by_hand() -> None:
    assert limit_for(100 * MI) == (103 + 64 + 128) * MI
    assert capacity_for(295 * MI) == 100 * MI
    assert capacity_for(192 * MI) == capacity_for(0) == 0


async def test_auto_takes_what_fits_or_what_was_applied_last(
    start_node: Callable[..., Any], tmp_path: Path
) -> None:
    options = "--dram", "auto", "--state-dir", str(tmp_path)
    node = start_node(*options)
    async with NodeClient(node.admin_url) as client:
        first = await client.status()
        assert 0 < first.tiers["dram"].capacity_bytes <= largest_capacity_bytes()
        assert first.tiers["dram"].capacity_bytes > largest_capacity_bytes() - 64 * MI
        await client.set_capacity(dram_bytes=3 * MI)
    node.process.terminate()
    node.process.wait(120)
    async with NodeClient(start_node(*options).admin_url) as client:
        again = await client.status()
    assert again.tiers["dram"].capacity_bytes == 3 * MI
    assert again.keeps_state
    assert again.cluster is not None
    assert first.cluster is not None
    assert again.cluster.node_id == first.cluster.node_id


async def test_status_says_what_an_operator_goes_by(start_node: Callable[..., Any], tmp_path: Path) -> None:
    node = start_node("--dram", "16Mi", "--ssd", "0", "--ssd-path", str(tmp_path))
    async with NodeClient(node.admin_url) as client:
        status = await client.status()
        assert status.listen == f"127.0.0.1:{node.port}"
        assert status.ttl_s == IdleTimeouts()
        assert status.cluster is not None
        assert status.cluster.topology is None
        me = Node(status.cluster.node_id, "127.0.0.1", node.port, 16 * MI)
        document = Desired(
            3, 1, CapacityRequest(8 * MI, GI // 8), IdleTimeouts(other=60.0), first_topology([me])
        )
        status = await client.set_desired(document)
        assert status.cluster is not None
        assert status.cluster.topology == document.topology
        assert status.ttl_s == IdleTimeouts(other=60.0)
        assert status.tiers["ssd"].capacity_bytes == GI // 8
        status = await client.set_desired(Desired(3, 2))  # what a document leaves out stays
        assert status.ttl_s == IdleTimeouts(other=60.0)
        assert status.cluster is not None
        assert status.cluster.topology == document.topology


async def test_a_node_without_a_directory_or_an_ssd_says_so(start_node: Callable[..., Any]) -> None:
    async with NodeClient(start_node("--dram", "16Mi").admin_url) as client:
        status = await client.status()
    assert not status.keeps_state
    assert status.ttl_s is None


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "1", "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


async def test_the_client_trusts_whom_it_is_told_to(
    start_node: Callable[..., Any], certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    node = start_node("--dram", "16Mi", "--tls-cert", str(cert), "--tls-key", str(key))
    url = node.admin_url.replace("http://", "https://")
    async with NodeClient(url, tls=ssl.create_default_context(cafile=cert)) as client:
        assert (await client.status()).ready
    async with NodeClient(url) as stranger:
        with pytest.raises(NodeUnreachable, match="cannot be reached"):
            await stranger.status()

"""The admin API through its client, and through bare HTTP where the client would not go wrong."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio

from kvtide_cachenode.contract.client import NodeClient, NodeRefused, NodeUnreachable

MI = 1024 * 1024


async def test_status_says_what_is(served: Any, admin: NodeClient) -> None:
    served.node.store.put(b"k", bytes(MI))
    status = await admin.status()
    dram = status.tiers["dram"]
    assert (dram.capacity_bytes, dram.entries) == (32 * MI, 1)
    assert MI < dram.used_bytes < MI + 10_000
    assert (status.boot_id, status.ready, status.resize) == (served.node.boot_id, True, None)
    assert status.capabilities == ["dram", "trace", "desired", "cluster", "drain"]
    assert await admin.ready()
    served.node.ready = False
    assert not await admin.ready()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ('{"dram": -1}', 400, "below zero"),
        ('{"dram": "12 apples"}', 400, "'12 apples' is not a quantity"),
        ('{"dram": 1.5}', 400, "int | str"),
        ('{"ram": 1}', 400, "ram"),
        ("{", 400, "body must be"),
        ('{"dram": "900Ti"}', 409, "above the"),
        ("x" * 5_000_000, 413, "larger than 4194304 bytes"),
    ],
)
async def test_bad_capacities_are_refused_in_a_sentence(
    served: Any, body: str, status: int, sentence: str
) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.put(served.admin_url + "/v1/capacity", data=io.BytesIO(body.encode())) as reply,
    ):
        assert reply.status == status
        assert sentence in json.loads(await reply.read())["error"]
    assert served.node.store.capacity_bytes == 32 * MI


async def test_quantities_and_repeats(served: Any) -> None:
    async with aiohttp.ClientSession() as http:
        for _ in range(2):
            async with http.put(served.admin_url + "/v1/capacity", data='{"dram": "1.5Mi"}') as reply:
                assert json.loads(await reply.read())["tiers"]["dram"]["capacity_bytes"] == MI * 3 // 2
        async with http.get(served.admin_url + "/nope") as reply:
            assert (reply.status, "there is no /nope" in await reply.text()) == (404, True)
        async with http.delete(served.admin_url + "/v1/status") as reply:
            assert (reply.status, "not DELETE" in await reply.text()) == (405, True)
        async with http.get(served.admin_url + "/metrics") as reply:
            text = await reply.text()
    assert 'kvtide_node_capacity_bytes{tier="dram"} 1.572864e+06' in text
    assert 'kvtide_node_hits_total{tier="dram"} 0.0' in text


async def test_the_trace_is_read_without_consuming(served: Any, admin: NodeClient) -> None:
    client = redis.asyncio.Redis(port=served.port)
    line = {"timestamp": 5, "input_length": 7, "output_length": 9, "hash_ids": [1, 2], "hit_blocks": 1}
    for _ in range(3):
        assert await client.execute_command("KVTIDE.TRACE", json.dumps(line)) in (b"OK", "OK", True)
    first = await admin.trace()
    assert [json.loads(text)["seq"] for text in first.lines.splitlines()] == [0, 1, 2]
    assert json.loads(first.lines.splitlines()[0]) == line | {
        "observed_at": "engine", "weight": 1, "seq": 0, "boot_id": served.node.boot_id,
    }  # fmt: skip
    assert first.gap == 0
    assert (await admin.trace(first.next)).lines == b""
    assert (await admin.trace()).lines == first.lines
    assert len((await admin.trace(f"{served.node.boot_id}:2")).lines.splitlines()) == 1
    assert len((await admin.trace("anotherboot:77")).lines.splitlines()) == 3
    with pytest.raises(NodeRefused, match="since='nonsense'") as refused:
        await admin.trace("nonsense")
    assert refused.value.status == 400
    with pytest.raises(redis.exceptions.ResponseError, match="hash_ids"):
        await client.execute_command(
            "KVTIDE.TRACE", '{"timestamp": 5, "input_length": 7, "output_length": 9, "hash_ids": [-1]}'
        )
    await client.set("k", "v")  # an engine's connection is not inferred from
    await client.aclose()
    assert (await admin.status()).trace.lines == 3


async def test_a_token_guards_v1_only(start_node: Callable[..., Any], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    url = start_node("--dram", "64Mi", "--admin-token-file", str(token)).admin_url
    async with NodeClient(url) as stranger, NodeClient(url, "s3cret") as known:
        with pytest.raises(NodeRefused, match="Authorization: Bearer") as refused:
            await stranger.status()
        assert refused.value.status == 401
        assert await stranger.ready()
        assert (await known.set_capacity(dram_bytes=MI)).tiers["dram"].capacity_bytes == MI


async def test_no_node_there(unused_tcp_port: int) -> None:
    async with NodeClient(f"http://127.0.0.1:{unused_tcp_port}") as nobody:
        with pytest.raises(NodeUnreachable, match="cannot be reached"):
            await nobody.status()
        assert not await nobody.ready()

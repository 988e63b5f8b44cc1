"""JSON and numbers that no client means well with: a sentence, and the connection goes on."""

import json
from typing import Any

import pytest
from tests.cachenode.raw_client import encoded, said

from kvtide_cachenode.cluster.topology import MAX_EPOCH
from kvtide_cachenode.peers.link import PeerLink, PeerLostError

DEEP = 100_000
HUGE = b"9" * 25


def topology(epoch: int) -> dict[str, Any]:
    node = {"id": "a" * 40, "host": "127.0.0.1", "port": 1, "dram_bytes": 1}
    return {"epoch": epoch, "nodes": [node], "slots": [{"first": 0, "last": 16383, "node": "a" * 40}]}


@pytest.mark.parametrize("command", [b"KVTIDE.TOPOLOGY", b"KVTIDE.TRACE"])
async def test_documents_are_refused_in_a_sentence(served: Any, command: bytes) -> None:
    for document in (
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * DEEP,
        b'{"epoch":' + b"[" * DEEP,
        b'{"host":"\xff"}',
        b'{"epoch":' + HUGE + b"}",
        b"1" * 5000,
        b"",
    ):
        reply = await said(served.port, encoded([command, document]) + b"PING\r\n")
        assert reply.startswith(b"-ERR "), (document[:20], reply)
        assert reply.endswith(b"\r\n+PONG\r\n")
        assert reply.count(b"\r\n") == 2
    assert served.node.failures.total == {}


async def test_an_epoch_that_nothing_could_supersede_is_refused(served: Any) -> None:
    for epoch in (10**25, 2**63, MAX_EPOCH + 1):
        document = json.dumps(topology(epoch)).encode()
        reply = await said(served.port, encoded([b"KVTIDE.TOPOLOGY", document]))
        assert b"-ERR epoch %d is not between 1, the first, and" % epoch in reply or b"out of range" in reply
    wide = topology(1)
    wide["nodes"][0]["dram_bytes"] = 10**25
    assert (await said(served.port, encoded([b"KVTIDE.TOPOLOGY", json.dumps(wide).encode()]))).startswith(
        b"-ERR "
    )
    assert served.node.cluster.view is None


async def test_numbers_of_any_length(served: Any) -> None:
    for words in (
        [b"KVTIDE.PEER", HUGE, b"a"], [b"KVTIDE.PEER", b"9" * 19, b"a"],
        [b"CLUSTER", b"COUNTKEYSINSLOT", HUGE],
        [b"SCAN", HUGE], [b"SCAN", b"0", b"COUNT", HUGE], [b"SELECT", HUGE], [b"HELLO", HUGE],
        [b"SCAN", b"1" * 5000], [b"SCAN", b"0", b"COUNT", b"-1"],
    ):  # fmt: skip
        reply = await said(served.port, encoded(words) + b"PING\r\n")
        assert reply.startswith((b"-ERR ", b"-NOPROTO ")), words
        assert reply.endswith(b"\r\n+PONG\r\n")
    for head in (b"*" + HUGE, b"*1\r\n$" + HUGE, b"*1\r\n$" + b"1" * 5000):
        assert (await said(served.port, head + b"\r\n")).startswith(b"-ERR Protocol error")
    assert served.node.failures.total == {}


async def test_what_a_peer_says_of_itself() -> None:
    for answer in (b'{"a":' * 1000 + b"}" * 1000, b'{"id":"\xff"}', b'{"epoch":' + HUGE + b"}"):
        link = PeerLink()
        buffer, reply = link.get_buffer(0), b"$%d\r\n%b\r\n" % (len(answer), answer)
        buffer[: len(reply)] = reply
        link.buffer_updated(len(reply))
        with pytest.raises(PeerLostError, match="it is no node of this cluster"):
            await link.state()

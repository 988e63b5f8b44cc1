"""Long commands in a cluster: parts are forwarded; who follows redirects is told before the first part."""

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

COUNT = 1_000


def plain(member):
    return redis.Redis(port=member.port, socket_timeout=30, retry=Retry(NoBackoff(), 0))


def test_a_client_that_knows_no_cluster_has_one_reply(cluster):
    values = {b"key:%d" % number: b"%d" % number * (1 + number % 50) for number in range(COUNT)}
    values[b"key:0"] = values[b"key:999"] = bytes(50_000)
    with plain(cluster[0]) as client:
        assert client.mset(values)
        assert client.mget([*values, b"absent"]) == [*values.values(), None]
        assert client.exists(*values, b"absent") == client.touch(*values, b"absent") == COUNT
        with client.pipeline() as transaction:
            transaction.set("a", bytes(60_000)).get("a").mget([*values]).delete("a")
            assert transaction.execute() == [True, bytes(60_000), [*values.values()], 1]
        assert client.unlink(*[*values][:500]) == 500
        assert client.delete(*values) == COUNT - 500
        assert client.execute_command("MSET", *[b"x"] * 600) is True
        with pytest.raises(redis.ResponseError, match="wrong number of arguments for 'mset' command"):
            client.execute_command("MSET", *[b"x"] * 601)
        assert client.ping()
    assert sum(member.entries for member in cluster) == 1


def test_a_client_that_follows_redirects_is_told_of_one(cluster):
    replies = []
    for member in cluster:
        with plain(member) as client:
            client.execute_command("CLUSTER SLOTS")
            for tag in (b"{a}%d", b"%d"):
                try:
                    replies.append(client.execute_command("EXISTS", *[tag % number for number in range(400)]))
                except redis.ResponseError as error:
                    replies.append(type(error).__name__)
            assert client.ping()
    others = len(cluster) - 1
    expected = ["0", *["ClusterCrossSlotError"] * len(cluster), *["MovedError"] * others]
    assert sorted(map(str, replies)) == expected

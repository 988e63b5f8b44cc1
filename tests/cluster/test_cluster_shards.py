"""Several shards under one supervisor, and nodes that speak TLS to each other."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest
import redis

from kvtide_cachenode import shards as module
from kvtide_cachenode.shards import ShardError, ShardLostError, Supervisor

NODE = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", "16Mi"]
NODE += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]


@contextmanager
def shards(*options):
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--shards", "2", "--dram", "64Mi", *options]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            said = json.loads(process.stdout.readline())
            assert said["pid"] == process.pid
            yield said["shards"]
        finally:
            process.terminate()
            assert process.wait(120) == 0


def port_of(shard):
    return int(shard["listen"].rpartition(":")[2])


def status_of(shard):
    basic = {"Authorization": "Basic " + base64.b64encode(b"default:secret").decode()}
    request = urllib.request.Request(f"http://{shard['admin']}/v1/status", headers=basic)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())


def write_and_read_all(started, options):
    values = {f"key:{number}": os.urandom(20_000) for number in range(40)}
    with redis.Redis(port=port_of(started[0]), **options) as one:
        assert one.mset(values)
        assert one.mget(list(values)) == list(values.values())
    with redis.RedisCluster(host="127.0.0.1", port=port_of(started[1]), **options) as all_shards:
        assert [all_shards.get(key) for key in values] == list(values.values())
    return values


def test_shards_share_budget_and_keys_and_one_that_dies_comes_back(tmp_path):
    password = tmp_path / "password"
    password.write_text("secret")
    with shards("--password-file", str(password)) as started:
        assert {status_of(shard)["tiers"]["dram"]["capacity_bytes"] for shard in started} == {32 << 20}
        values = write_and_read_all(started, {"password": "secret"})
        assert all(status_of(shard)["tiers"]["dram"]["entries"] for shard in started)
        os.kill(started[1]["pid"], signal.SIGKILL)
        with redis.Redis(port=port_of(started[0]), password="secret") as one:
            deadline_s = time.monotonic() + 60
            while sum(value is not None for value in values_of(one, values)) < len(values):
                assert time.monotonic() < deadline_s, "the shard does not come back"
                time.sleep(0.2)
        assert [status_of(shard)["cluster"]["epoch"] for shard in started] == [2, 2]


def values_of(client, values):
    """Read all values; what is missing is stored again, as an engine does."""
    found = client.mget(list(values))
    assert all(value in (None, wanted) for value, wanted in zip(found, values.values(), strict=True))
    for (key, value), held in zip(values.items(), found, strict=True):
        if held is None:
            with suppress(redis.ResponseError):  # the shard is not back yet
                client.set(key, value)
    return found


def test_nodes_with_tls_forward_to_each_other(tmp_path):
    certificate, key = tmp_path / "node.crt", tmp_path / "node.key"
    make = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=node",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", *make, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(certificate)]
    client = {"ssl": True, "ssl_ca_certs": str(certificate)}
    client |= {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    with shards(*options) as started:
        write_and_read_all(started, client)


async def test_a_shard_that_hangs_is_killed_and_started_again(monkeypatch):
    monkeypatch.setattr(module, "CHECK_S", 0.2)
    monkeypatch.setattr(module, "SILENT_S", 0.5)
    monkeypatch.setattr(module, "RESTART_S", 0.1)
    supervisor = Supervisor([NODE, NODE], 64 << 20, None, None)
    said = await supervisor.start()
    running = asyncio.create_task(supervisor.run())
    try:
        os.kill(said[1]["pid"], signal.SIGSTOP)
        async with asyncio.timeout(40):
            while supervisor._shards[1].said["pid"] == said[1]["pid"]:
                await asyncio.sleep(0.05)
        assert supervisor._shards[1].said["listen"] == said[1]["listen"]
        assert supervisor._shards[0].said["pid"] == said[0]["pid"]
    finally:
        running.cancel()
        await supervisor.stop()
    assert supervisor.failures.total == {}


async def test_a_shard_that_is_just_being_started_ends_with_the_supervisor(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "RESTART_S", 0.01)
    supervisor = Supervisor([NODE, NODE], 64 << 20, None, None)
    said = await supervisor.start()
    started = tmp_path / "pid"
    slow = f"import os, time; open({str(started)!r}, 'w').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    supervisor._shards[1].command = [sys.executable, "-c", slow]
    running = asyncio.create_task(supervisor.run())
    try:
        os.kill(said[1]["pid"], signal.SIGKILL)
        async with asyncio.timeout(40):
            while not (started.exists() and started.read_text().endswith("\n")):
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await supervisor.stop()
        await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


async def test_a_shard_that_cannot_be_started_again_ends_the_supervisor(monkeypatch):
    monkeypatch.setattr(module, "RESTART_S", 0.01)
    monkeypatch.setattr(module, "STARTS", 2)
    supervisor = Supervisor([NODE, NODE], 64 << 20, None, None)
    said = await supervisor.start()
    supervisor._shards[1].command = [sys.executable, "-c", "raise SystemExit(3)"]
    try:
        os.kill(said[1]["pid"], signal.SIGKILL)
        async with asyncio.timeout(40):
            with pytest.raises(ShardLostError, match="cannot be started again"):
                await supervisor.run()
    finally:
        await supervisor.stop()


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "print('no JSON', flush=True)"])
async def test_a_shard_that_says_nothing_of_use_is_no_shard(monkeypatch, program):
    monkeypatch.setattr(module, "START_S", 0.5)
    supervisor = Supervisor([[sys.executable, "-c", program]], 64 << 20, None, None)
    with pytest.raises(ShardError, match=r"not ready within|not JSON"):
        await supervisor.start()

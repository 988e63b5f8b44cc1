"""What engines are given to connect: configurations and arguments that agree with each other."""

import json
import shlex
from importlib import import_module

import msgspec
import redis.asyncio
import yaml

from kvtide_cachenode.engines.options import Options


def connection_of(objects) -> dict[str, str]:
    return objects["ConfigMap/chat-connection"]["data"]


def test_vllm_connects_through_lmcache(make_cache, objects_of) -> None:
    data = connection_of(objects_of(make_cache()))
    assert data["endpoint"] == "redis://chat.serving.svc:6379"
    config = yaml.safe_load(data["lmcache.yaml"])
    assert config == {
        "chunk_size": 256,
        "remote_url": "resp://chat.serving.svc:6379",
        "remote_serde": "naive",
    }
    (argument,) = shlex.split(data["vllm-args"].replace('"', '\\"'))
    assert json.loads(argument.removeprefix("--kv-transfer-config="))["kv_connector"] == "LMCacheConnectorV1"


def test_sglang_connects_through_an_lmcache_server(make_cache, objects_of) -> None:
    data = connection_of(objects_of(make_cache(engine="SGLANG")))
    words = shlex.split(data["lmcache-server-args"])
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert json.loads(options["--l2-adapter"]) == {"type": "resp", "host": "chat.serving.svc", "port": 6379}
    config = yaml.safe_load(data["lmcache.yaml"])
    assert (config["mp_host"], str(config["mp_port"])) == (options["--host"], options["--port"])
    assert str(config["chunk_size"]) == options["--chunk-size"] == "256"
    assert "--enable-lmcache" in data["sglang-args"]


def test_sglang_with_tls_is_said_not_to_work(make_cache, objects_of) -> None:
    data = connection_of(
        objects_of(make_cache(engine="SGLANG", security={"tls": {"secretRef": {"name": "c"}}}))
    )
    assert set(data) == {"endpoint", "unsupported"}


async def test_the_url_with_tls_is_one_that_lmcaches_client_reads(make_cache, objects_of) -> None:
    security = {"tls": {"secretRef": {"name": "certs"}, "clients": "Required"}}
    url = yaml.safe_load(connection_of(objects_of(make_cache(security=security)))["lmcache.yaml"])[
        "remote_url"
    ]
    pool = redis.asyncio.ConnectionPool.from_url(url)
    options = pool.connection_kwargs
    assert (options["host"], options["port"]) == ("chat.serving.svc", 6379)
    assert {options["ssl_ca_certs"], options["ssl_certfile"], options["ssl_keyfile"]} == {
        "/etc/kvtide/ca.crt", "/etc/kvtide/tls.crt", "/etc/kvtide/tls.key",
    }  # fmt: skip


def test_what_to_add_to_an_engines_pod(make_cache, objects_of, security) -> None:
    data = connection_of(objects_of(make_cache(security=security)))
    pod = yaml.safe_load(data["pod.yaml"])
    environment = {each["name"]: each for each in pod["env"]}
    assert environment["PYTHONHASHSEED"]["value"] == "0"
    (mount,), (volume,) = pod["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    sources = volume["projected"]["sources"]
    secret_files = [
        item["path"] for source in sources if "secret" in source for item in source["secret"]["items"]
    ]
    tls = security.get("tls")
    needed = {"ca.crt"} if tls else set()
    if "auth" in security:
        needed.add("password")
    if tls and tls.get("clients") == "Required":
        needed |= {"tls.crt", "tls.key"}
    assert set(secret_files) == needed
    secrets = [each["valueFrom"]["secretKeyRef"]["name"] for each in pod["env"] if "valueFrom" in each]
    assert secrets == (["pw"] if "auth" in security else [])
    assert not any("pw" in str(each.get("value", "")) for each in pod["env"])


def test_vllm_connects_through_the_connector_that_names_subtrees(make_cache, objects_of, security) -> None:
    data = connection_of(objects_of(make_cache(ssd=True, security=security)))
    if security.get("tls", {}).get("clients") == "Required":
        assert "vllm-kvtide-args" not in data, "the connector has no certificate to show"
        return
    hashes, argument = data["vllm-kvtide-args"].split(" ", 1)
    assert hashes == "--prefix-caching-hash-algo=sha256_cbor"
    transfer = json.loads(argument.removeprefix("--kv-transfer-config="))
    options = msgspec.convert(transfer["kv_connector_extra_config"], Options)
    assert options.addresses() == [("chat.serving.svc", 6379)]
    assert options.root_depth == 0
    assert (options.password_file, options.tls_ca_file) == (
        "/etc/kvtide/password" if "auth" in security else None,
        "/etc/kvtide/ca.crt" if "tls" in security else None,
    )
    import_module(transfer["kv_connector_module_path"].rpartition(".")[0])

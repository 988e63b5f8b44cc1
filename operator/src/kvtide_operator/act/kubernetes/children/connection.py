"""The ConfigMap for engines: configurations and arguments, and what an engine's pod needs for them.

vLLM has kvtide's own connector, or runs LMCache in its own process, which connects to the nodes. SGLang talks
to an LMCache server beside it, and that server to the nodes. Both were read in LMCache 0.5.6.
"""

import json
from functools import lru_cache
from pathlib import PurePath
from typing import Final

import yaml

from kvtide_operator.act.kubernetes.children.names import (
    RESP_PORT,
    Manifest,
    client_host,
    client_url,
    connection_name,
    metadata,
)
from kvtide_operator.api.tieredcache import TieredCache

MOUNT: Final = "/etc/kvtide"
CONFIG_FILE: Final = f"{MOUNT}/lmcache.yaml"
PASSWORD_FILE: Final = f"{MOUNT}/password"
LMCACHE_SERVER_PORT: Final = 5555
# DRAM of the LMCache server beside SGLang: a buffer on the way to the nodes, which hold the cache.
LMCACHE_SERVER_GB: Final = 4
NO_TLS_FOR_SGLANG: Final = (
    "LMCache's server, which SGLang needs, cannot speak TLS to this cache: "
    "leave spec.security.tls out, or use vLLM.\n"
)


def connection(cache: TieredCache, owner_uid: str) -> Manifest:
    """Everything an engine needs, but the password, which stays in its Secret.

    ``pod.yaml`` is what to add to an engine's pod; the other keys are its files and arguments.
    """
    tls = cache.spec.security.tls is not None
    data = {"endpoint": client_url(cache)}
    if cache.spec.engine.kind == "VLLM":
        data["lmcache.yaml"] = _yaml(_in_process(cache))
        data["vllm-args"] = "--kv-transfer-config=" + _json(
            {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
        )
        if not (cache.spec.security.tls and cache.spec.security.tls.clients == "Required"):
            data["vllm-kvtide-args"] = _own_arguments(cache)
        data["pod.yaml"] = _yaml(_pod(cache))
    elif tls:
        data["unsupported"] = NO_TLS_FOR_SGLANG
    else:
        data["lmcache.yaml"] = _yaml(_beside(cache))
        data["sglang-args"] = f"--enable-lmcache --lmcache-config-file={CONFIG_FILE}"
        data["lmcache-server-args"] = _server_arguments(cache)
        data["pod.yaml"] = _yaml(_pod(cache))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cache, owner_uid, connection_name(cache)),
        "data": data,
    }


def _own_arguments(cache: TieredCache) -> str:
    """For kvtide's own connector, which needs no LMCache, and has no certificate to show."""
    security, ssd = cache.spec.security, cache.spec.ssd
    options: Manifest = {"nodes": f"{client_host(cache)}:{RESP_PORT}"}
    if ssd is not None:
        options["root_depth"] = ssd.ttl.root_depth
    if security.auth is not None:
        options["password_file"] = PASSWORD_FILE
    if security.tls is not None:
        options["tls_ca_file"] = f"{MOUNT}/ca.crt"
    transfer = {
        "kv_connector": "KvtideConnector",
        "kv_connector_module_path": "kvtide_cachenode.engines.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": options,
    }
    return f"--prefix-caching-hash-algo=sha256_cbor --kv-transfer-config={_json(transfer)}"


def _in_process(cache: TieredCache) -> Manifest:
    return {
        # As long as the blocks that nodes and planner count.
        "chunk_size": cache.spec.model.block_tokens,
        "remote_url": _remote_url(cache, ""),
        "remote_serde": "naive",
    }


def _beside(cache: TieredCache) -> Manifest:
    return {
        "chunk_size": cache.spec.model.block_tokens,
        "mp_host": "127.0.0.1",
        "mp_port": LMCACHE_SERVER_PORT,
    }


def _remote_url(cache: TieredCache, user: str) -> str:
    """LMCache's fastest client; with TLS the one that speaks it, which takes its files from the URL.

    That one compares names: the nodes' certificate must be for `names.client_host`.
    """
    tls = cache.spec.security.tls
    if tls is None:
        return f"resp://{client_host(cache)}:{RESP_PORT}"
    files = f"ssl_ca_certs={MOUNT}/ca.crt"
    if tls.clients == "Required":
        files += f"&ssl_certfile={MOUNT}/tls.crt&ssl_keyfile={MOUNT}/tls.key"
    return f"rediss://{user}{client_host(cache)}:{RESP_PORT}?{files}"


def _server_arguments(cache: TieredCache) -> str:
    adapter = {"type": "resp", "host": client_host(cache), "port": RESP_PORT}
    return (
        f"--host 127.0.0.1 --port {LMCACHE_SERVER_PORT} --l1-size-gb {LMCACHE_SERVER_GB} "
        f"--eviction-policy LRU --chunk-size {cache.spec.model.block_tokens} --l2-adapter '{_json(adapter)}'"
    )


def _pod(cache: TieredCache) -> Manifest:
    """Environment, mount and volume of an engine's container (of LMCache's server, too, where there is one).

    Engines share entries only where their hashes agree, hence PYTHONHASHSEED.
    """
    environment: list[Manifest] = [
        {"name": "LMCACHE_CONFIG_FILE", "value": CONFIG_FILE},
        {"name": "PYTHONHASHSEED", "value": "0"},
    ]
    auth, tls = cache.spec.security.auth, cache.spec.security.tls
    if auth is not None:
        secret = {"secretKeyRef": {"name": auth.secret_ref.name, "key": auth.secret_ref.key}}
        if tls is None:
            environment.append({"name": "LMCACHE_RESP_PASSWORD", "valueFrom": secret})
        else:
            # This client takes the password from its URL; the environment goes before the file.
            environment += [
                {"name": "KVTIDE_PASSWORD", "valueFrom": secret},
                {"name": "LMCACHE_REMOTE_URL", "value": _remote_url(cache, ":$(KVTIDE_PASSWORD)@")},
            ]
    files: list[Manifest] = [{"configMap": {"name": connection_name(cache)}}]
    if auth is not None and cache.spec.engine.kind == "VLLM":
        password = {"key": auth.secret_ref.key, "path": PurePath(PASSWORD_FILE).name}
        files.append({"secret": {"name": auth.secret_ref.name, "items": [password]}})
    if tls is not None:
        keys = ["ca.crt", *(["tls.crt", "tls.key"] if tls.clients == "Required" else [])]
        items = [{"key": key, "path": key} for key in keys]
        files.append({"secret": {"name": tls.secret_ref.name, "items": items}})
    return {
        "env": environment,
        "volumeMounts": [{"name": "kvtide", "mountPath": MOUNT, "readOnly": True}],
        "volumes": [{"name": "kvtide", "projected": {"sources": files}}],
    }


def _yaml(document: Manifest) -> str:
    return _rendered(_json(document))


@lru_cache(maxsize=1024)
def _rendered(document: str) -> str:
    # Every pass over every cache asks for what hardly ever changes.
    return yaml.safe_dump(json.loads(document), sort_keys=False, width=1000)


def _json(document: Manifest) -> str:
    return json.dumps(document, separators=(",", ":"))

"""Ways in: to the nodes of a cache, and to the Prometheus that it names."""

import asyncio
import logging
import math
import os
import ssl
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor as Threads
from contextlib import contextmanager
from typing import Final

from kvtide_cachenode.contract.client import NodeClient, NodeError, NodeRefused
from kvtide_operator.act.kubernetes.admin_token import admin_token
from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.children import ADMIN_PORT, admin_secret, admin_secret_name
from kvtide_operator.act.kubernetes.errors import InvalidError
from kvtide_operator.api.manifest import ManifestError
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.observe.nodes import node_state
from kvtide_operator.observe.prometheus.query import PrometheusAccess
from kvtide_operator.observe.prometheus.source import PrometheusSource
from kvtide_operator.world.cluster import PodState
from kvtide_operator.world.kinds import SECRET, CacheKey
from kvtide_operator.world.nodes import NodeState

UNAUTHORIZED: Final = 401
HISTORY_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
log = logging.getLogger("kvtide_operator.access")

TOKEN_REREAD_S: Final = 20.0
"""Between two looks at the Secret of the token: it may have been deleted, or have another one."""
REREAD_S: Final = 10.0
"""Between two looks at the nodes' certificates, while a node does not answer: they may have been rotated."""


class Nodes:
    """The admin clients of a cache's nodes: one for every pod that has an address."""

    def __init__(self, api: KubernetesApi, key: CacheKey) -> None:
        self._api = api
        self._key = key
        # The newest first. A node has the one before until the kubelet has renewed its file.
        self._tokens: tuple[str, ...] = ()
        self._token_read_s = -math.inf
        self._tls: ssl.SSLContext | None = None
        self._certificates: Mapping[str, str] = {}
        self._read_s = -math.inf
        self._silent = False
        self._by_url: dict[str, NodeClient] = {}
        self.clients: Mapping[str, NodeClient] = {}

    async def follow(self, cache: TieredCache, uid: str, pods: tuple[PodState, ...]) -> None:
        """Know the pods there are now.

        Raises:
            ApiError: the token or the certificates cannot be read.
            ManifestError: there are no usable certificates, or the token's Secret is somebody else's.
        """
        if time.monotonic() - self._token_read_s >= TOKEN_REREAD_S:
            await self._read_token(cache, uid)
        tls = cache.spec.security.tls
        if tls is None:
            await self._take(None, {})
        elif self._tls is None or (self._silent and time.monotonic() - self._read_s >= REREAD_S):
            secret = await self._api.get(SECRET, self._key.namespace, tls.secret_ref.name)
            self._read_s = time.monotonic()
            data = secret.get("data", {})
            if data != self._certificates:
                await self._take(self._trusting(tls.secret_ref.name, data), data)
        scheme = "http" if tls is None else "https"
        urls = {pod.name: _url(scheme, pod.ip) for pod in pods if pod.ip is not None}
        for url in self._by_url.keys() - set(urls.values()):
            await self._by_url.pop(url).close()
        for url in set(urls.values()) - self._by_url.keys():
            self._by_url[url] = NodeClient(url, self._tokens[0], self._tls)
        self.clients = {name: self._by_url[url] for name, url in urls.items()}

    async def ask(self) -> tuple[dict[str, NodeState], dict[str, str]]:
        """What every node says of itself; and of the others, why they do not answer."""
        names = list(self.clients)
        answers = await asyncio.gather(*(self._ask(name) for name in names))
        states = {
            name: said for name, said in zip(names, answers, strict=True) if isinstance(said, NodeState)
        }
        silent = {name: said for name, said in zip(names, answers, strict=True) if isinstance(said, str)}
        self._silent = bool(silent)
        return states, silent

    async def close(self) -> None:
        """Close all connections."""
        for client in self._by_url.values():
            await client.close()
        self._by_url.clear()

    async def _read_token(self, cache: TieredCache, uid: str) -> None:
        token = await admin_token(
            self._api, self._key, uid, admin_secret_name(cache), lambda new: admin_secret(cache, uid, new)
        )
        self._token_read_s = time.monotonic()
        if token not in self._tokens[:1]:
            self._tokens = (token, *self._tokens[:1])

    def _trusting(self, name: str, data: Mapping[str, str]) -> ssl.SSLContext:
        """A context of a Secret's files; the one there is while these are of no use.

        Raises:
            ManifestError: there is none.
        """
        try:
            return _context({key: b64decode(text) for key, text in data.items()})
        except (KeyError, ssl.SSLError) as error:
            why = f"lacks {error}" if isinstance(error, KeyError) else f"has no usable certificate: {error}"
            if self._tls is None:
                raise ManifestError(f"Secret {name} {why}; give it tls.crt, tls.key and ca.crt") from None
            log.warning("New certificates are of no use", extra={"cache": str(self._key), "reason": why})
            return self._tls

    async def _take(self, tls: ssl.SSLContext | None, certificates: Mapping[str, str]) -> None:
        """Connect anew with these certificates, where they are others."""
        if (tls is None) != (self._tls is None) or certificates != self._certificates:
            await self.close()
        self._tls, self._certificates = tls, certificates

    async def _ask(self, name: str) -> NodeState | str:
        """What a node says, to the token that it takes: another one while it has not been renewed there."""
        client = self.clients[name]
        reason = ""
        for token in (None, *self._tokens):
            if token is not None:
                client.present(token)
            try:
                return node_state(name, await client.status())
            except NodeRefused as error:
                reason = str(error)
                if error.status != UNAUTHORIZED:
                    break
            except NodeError as error:
                reason = str(error)
                break
        return reason


async def history_keys(api: KubernetesApi, cache: TieredCache) -> Mapping[str, str] | None:
    """The keys of a cache's own for its history; None where it names none.

    Raises:
        ApiError: the Secret cannot be read.
        ManifestError: it has no such keys.
    """
    history = cache.spec.history
    if history is None or history.secret_ref is None:
        return None
    name = history.secret_ref.name
    data = (await api.get(SECRET, cache.metadata.namespace, name)).get("data", {})
    try:
        keys = {key: b64decode(text).decode().strip() for key, text in data.items() if key in HISTORY_KEYS}
        missing = [key for key in HISTORY_KEYS[:2] if not keys.get(key)]
    except ValueError:
        missing = [*HISTORY_KEYS[:2]]
    if missing:
        raise ManifestError(
            f"Secret {name}, which history.secretRef names, has no text under {' and '.join(missing)}; "
            f"it may have {', '.join(HISTORY_KEYS)}"
        )
    return keys


async def metrics_of(api: KubernetesApi, cache: TieredCache, threads: Threads) -> PrometheusSource | None:
    """Where the cache's metrics are; None where it names no place.

    Raises:
        ApiError: a Secret that it names cannot be read, or lacks the key.
    """
    spec = cache.spec
    if spec.metrics is None:
        return None
    prometheus, namespace = spec.metrics.prometheus, cache.metadata.namespace

    async def secret(name: str, key: str) -> str:
        data = (await api.get(SECRET, namespace, name)).get("data") or {}
        try:
            return b64decode(data[key], validate=True).decode().strip()
        except (KeyError, ValueError):
            raise InvalidError(
                f"Secret {namespace}/{name}", f"has no readable key {key!r}, which spec.metrics names; add it"
            ) from None

    token, authority = prometheus.auth_secret_ref, prometheus.ca_secret_ref
    access = PrometheusAccess(
        url=prometheus.url,
        token=await secret(token.name, token.key) if token else None,
        ca_pem=await secret(authority.name, authority.key) if authority else None,
    )
    return PrometheusSource(
        access,
        spec.engine.kind,
        spec.metrics.selector,
        stale_after_s=spec.metrics.stale_after,
        executor=threads,
    )


def _url(scheme: str, ip: str) -> str:
    return f"{scheme}://[{ip}]:{ADMIN_PORT}" if ":" in ip else f"{scheme}://{ip}:{ADMIN_PORT}"


def _context(secret: Mapping[str, bytes]) -> ssl.SSLContext:
    """Trusts the Secret's authority, and shows the nodes' own certificate; pods have no names to check."""
    context = ssl.create_default_context(cadata=secret.get("ca.crt", secret["tls.crt"]).decode())
    context.check_hostname = False
    with _file(secret["tls.crt"]) as certificate, _file(secret["tls.key"]) as private_key:
        context.load_cert_chain(certificate, private_key)
    return context


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """The content as a file for as long as it is read: the root file system may be read-only."""
    file = os.memfd_create("pem")
    try:
        os.write(file, content)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)

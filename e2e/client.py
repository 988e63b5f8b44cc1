"""Ways to the API server that KUBECONFIG names: the operator's own client, and plain HTTP."""

import random
import ssl

import aiohttp
from prometheus_client import CollectorRegistry

from kvtide_operator.act.kubernetes.api import ATTEMPTS, ApiMetrics, KubernetesApi, OpenGate
from kvtide_operator.act.kubernetes.transport import Transport, find_cluster


def new_api(*, attempts: int = ATTEMPTS) -> KubernetesApi:
    """The operator's own client, without a leader's gate."""
    return KubernetesApi(
        Transport(find_cluster(), threads=4),
        gate=OpenGate(),
        metrics=ApiMetrics(CollectorRegistry()),
        random=random.random,
        attempts=attempts,
    )


def connect(*, auto_decompress: bool = True) -> aiohttp.ClientSession:
    """A session whose paths are the API server's, with KUBECONFIG's credentials."""
    cluster = find_cluster()
    context = ssl.create_default_context(cafile=cluster.ssl_ca_cert)
    if cluster.cert_file:
        context.load_cert_chain(cluster.cert_file, cluster.key_file)
    token = cluster.get_api_key_with_prefix("BearerToken")
    return aiohttp.ClientSession(
        cluster.host,
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        headers={"Authorization": token} if token else {},
        timeout=aiohttp.ClientTimeout(total=None, connect=5),
        read_bufsize=1 << 22,
        auto_decompress=auto_decompress,
    )

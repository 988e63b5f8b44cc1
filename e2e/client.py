"""The operator's own client of the Kubernetes API, without a leader's gate."""

import random

from prometheus_client import CollectorRegistry

from kvtide_operator.act.kubernetes.api import ATTEMPTS, ApiMetrics, KubernetesApi, OpenGate
from kvtide_operator.act.kubernetes.transport import Transport, find_cluster


def new_api(*, attempts: int = ATTEMPTS) -> KubernetesApi:
    """A client of the cluster that KUBECONFIG names."""
    return KubernetesApi(
        Transport(find_cluster(), threads=4),
        gate=OpenGate(),
        metrics=ApiMetrics(CollectorRegistry()),
        random=random.random,
        attempts=attempts,
    )

"""What a cache is looked after with."""

from dataclasses import dataclass

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.events import Events
from kvtide_operator.act.kubernetes.execute import Executor
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.reconcile.allowed import ALLOWED, Allowed
from kvtide_operator.reconcile.leadership import Leadership


@dataclass(frozen=True, slots=True)
class Hands:
    """What a cache is looked after with.

    Attributes:
        namespace: where the operator's own pods are.
        leads: by what this process leads.
        allowed: which addresses caches may name.
    """

    api: KubernetesApi
    executor: Executor
    events: Events
    store: ObjectStore
    namespace: str
    leads: Leadership
    allowed: Allowed = ALLOWED

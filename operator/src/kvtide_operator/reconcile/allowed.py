"""Which addresses caches may name: their authors have neither the operator's network nor its rights."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from kvtide_operator.api.tieredcache import TieredCacheSpec

ANY_PROMETHEUS = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Beginnings of URLs, each up to the end of a host or of a part of the path; a scheme alone is any host.

    Attributes:
        history: what is read and written with the operator's own rights.
        prometheus: what is asked from where the operator is, with a cache's own token.
    """

    history: tuple[str, ...] = ()
    prometheus: tuple[str, ...] = ANY_PROMETHEUS

    def refusal(self, spec: TieredCacheSpec) -> str | None:
        """Why a cache may not name what it names; None where it may."""
        if spec.metrics is not None and not _begins(spec.metrics.prometheus.url, self.prometheus):
            return _refused("metrics.prometheus.url", spec.metrics.prometheus.url, self.prometheus)
        if spec.history is None or _begins(spec.history.url, self.history):
            return None
        own_keys = spec.history.secret_ref is not None and re.fullmatch(r"s3://[^?#@]+", spec.history.url)
        if own_keys:
            return None
        more = "; or give history.secretRef, for s3://bucket/prefix with keys of your own"
        return _refused("history.url", spec.history.url, self.history) + more


ALLOWED = Allowed()
"""Where nothing was configured."""


def _refused(field: str, url: str, allowed: tuple[str, ...]) -> str:
    return (
        f"{field} {url[:200]} is none that this operator's configuration allows "
        f"({', '.join(allowed) or 'it allows none'})"
    )


def _begins(url: str, allowed: tuple[str, ...]) -> bool:
    """Whether a URL lies under one of these; parameters, such as another endpoint, must be its very own."""
    if "@" in urlsplit(url).netloc or ".." in unquote(url).split("/") or "::" in url:
        return False
    there, _, parameters = url.partition("?")
    for one in allowed:
        root, _, with_parameters = one.partition("?")
        if parameters != with_parameters:
            continue
        under = there == root or there.startswith(root if root.endswith("/") else f"{root}/")
        if under:
            return True
    return False

"""The files of a node: Secrets that it reads, and the one place that it writes to."""

from typing import Final

from kvtide_operator.act.kubernetes.children.names import Manifest, admin_secret_name
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.world.kinds import SSD_CLAIM

STATE_DIR: Final = "/state"
SSD_MOUNT: Final = "/ssd"
ADMIN_MOUNT: Final = "/etc/kvtide/admin"
AUTH_MOUNT: Final = "/etc/kvtide/auth"
TLS_MOUNT: Final = "/etc/kvtide/tls"
OWNER_AND_GROUP_READ: Final = 0o440
# The state is one document, which names each of 16,384 slots at worst: 4 MiB, twice while it is replaced.
STATE_LIMIT: Final = "64Mi"


def volumes(cache: TieredCache, has_ssd: bool) -> list[Manifest]:
    """The pod's volumes, but that of the SSD, which is a claim of the StatefulSet's."""
    security = cache.spec.security
    made = [_secret_volume("admin", admin_secret_name(cache), {"token": "token"})]
    if not has_ssd:
        made.append({"name": "state", "emptyDir": {"sizeLimit": STATE_LIMIT}})
    if security.auth is not None:
        reference = security.auth.secret_ref
        made.append(_secret_volume("auth", reference.name, {reference.key: "password"}))
    if security.tls is not None:
        files = ["tls.crt", "tls.key", *(["ca.crt"] if security.tls.clients == "Required" else [])]
        made.append(_secret_volume("tls", security.tls.secret_ref.name, {name: name for name in files}))
    return made


def mounts(cache: TieredCache, has_ssd: bool) -> list[Manifest]:
    """Where the container finds them; it writes to nothing but the SSD, or its state."""
    made: list[Manifest] = [{"name": "admin", "mountPath": ADMIN_MOUNT, "readOnly": True}]
    if has_ssd:
        made.append({"name": SSD_CLAIM, "mountPath": SSD_MOUNT})
    else:
        made.append({"name": "state", "mountPath": STATE_DIR})
    if cache.spec.security.auth is not None:
        made.append({"name": "auth", "mountPath": AUTH_MOUNT, "readOnly": True})
    if cache.spec.security.tls is not None:
        made.append({"name": "tls", "mountPath": TLS_MOUNT, "readOnly": True})
    return made


def _secret_volume(name: str, secret: str, files: dict[str, str]) -> Manifest:
    return {
        "name": name,
        "secret": {
            "secretName": secret,
            "defaultMode": OWNER_AND_GROUP_READ,
            "items": [{"key": key, "path": path} for key, path in files.items()],
        },
    }

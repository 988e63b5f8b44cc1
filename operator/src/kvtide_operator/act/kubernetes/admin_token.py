"""The token of a cache's admin API: a Secret that is made once and then only read."""

import secrets
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import Final

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import ConflictError, InvalidError, NotFoundError
from kvtide_operator.api.manifest import ManifestError
from kvtide_operator.world.kinds import SECRET, CacheKey, Raw
from kvtide_operator.world.owner import controlled_by, not_ours

TOKEN_BYTES: Final = 32


async def admin_token(
    api: KubernetesApi, key: CacheKey, uid: str, name: str, secret_with: Callable[[str], Raw]
) -> str:
    """The token in the Secret ``name``; where there is none, it is made with a new random token.

    Args:
        api: where Secrets are.
        key: the cache whose nodes have the token.
        uid: its uid.
        name: of the Secret.
        secret_with: gives the manifest of the Secret that holds a token.

    Raises:
        ApiError: it can be neither read nor made, or holds no token.
        ManifestError: it is somebody else's.
    """
    try:
        secret = await api.get(SECRET, key.namespace, name)
    except NotFoundError:
        try:
            secret = await api.create(secret_with(secrets.token_urlsafe(TOKEN_BYTES)))
        except ConflictError:
            # Made a moment ago, by an operator that is about to end.
            secret = await api.get(SECRET, key.namespace, name)
    if not controlled_by(secret, uid):
        raise ManifestError(not_ours(secret, uid))
    try:
        return b64decode(secret["data"]["token"], validate=True).decode("ascii")
    except (KeyError, Base64Error, UnicodeDecodeError):
        raise InvalidError(
            f"Secret {key.namespace}/{name}", "has no readable key 'token'; delete it to have it made anew"
        ) from None

"""What a cache is connected to: Prometheus, the history of its windows, and who may connect to it."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import Model, ObjectName, SecretRef, rule, rules
from kvtide_operator.api.quantity import DeclaredDuration, in_cel

SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class TokenRef(Model):
    """A bearer token in a Secret in the namespace of the cache.

    Attributes:
        name: of the Secret.
        key: within it.
    """

    name: ObjectName
    key: SecretKey = "token"


class AuthorityRef(Model):
    """A PEM file of certificate authorities in a Secret in the namespace of the cache.

    Attributes:
        name: of the Secret.
        key: within it.
    """

    name: ObjectName
    key: SecretKey = "ca.crt"


class PasswordRef(Model):
    """A password in a Secret in the namespace of the cache.

    Attributes:
        name: of the Secret.
        key: within it.
    """

    name: ObjectName
    key: SecretKey = "password"


_NO_USER = "metrics.prometheus.url must hold no user and no password; give a token by authSecretRef"


_HOST = r"([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\])"
_PORT = "(:([0-9]{1,4}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5])))))?"
_ADDRESS = rf"^https?://([^/?#]*@)?{_HOST}{_PORT}(/[^\s?#]*)?$"
_ADDRESS_SAID = (
    "metrics.prometheus.url must be http:// or https://, a host, and at most a port and a path; give for "
    "example http://prometheus.monitoring:9090"
)


class Prometheus(Model):
    """Where the engines' metrics are.

    Attributes:
        url: of its HTTP API.
        auth_secret_ref: sent as a bearer token.
        ca_secret_ref: whom to trust instead of the public authorities.
    """

    model_config = rules(
        rule("!self.url.matches('^https?://[^/?#]*@')", _NO_USER),
        rule(f"self.url.matches(r'{_ADDRESS}')", _ADDRESS_SAID),
    )

    url: str = Field(max_length=2048, pattern=r"^https?://")
    auth_secret_ref: TokenRef | None = None
    ca_secret_ref: AuthorityRef | None = None

    @model_validator(mode="after")
    def _tells_no_secret(self) -> Self:
        if re.match("https?://[^/?#]*@", self.url):
            raise ValueError(_NO_USER)
        if re.fullmatch(_ADDRESS, self.url) is None:
            raise ValueError(_ADDRESS_SAID)
        return self


class Metrics(Model):
    """Metrics of the engines; without them the nodes' traces alone drive the loop.

    Attributes:
        prometheus: where they are.
        selector: labels that every series of this cache's engines has.
        stale_after: age at which the newest sample says nothing any more.
    """

    model_config = rules(
        rule(
            f"{in_cel('self.staleAfter')} > duration('0s')",
            "metrics.staleAfter must be above 0s; give for example 3m",
        ),
        rule(
            "!has(self.selector) || self.selector.all(name, name.matches('^[a-zA-Z_][a-zA-Z0-9_]*$'))",
            "metrics.selector must have names of Prometheus labels: letters, digits and _",
        ),
    )

    prometheus: Prometheus
    selector: Annotated[
        dict[
            Annotated[str, Field(max_length=128, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")],
            Annotated[str, Field(max_length=256)],
        ],
        Field(max_length=16),
    ] = Field(default={})
    stale_after: DeclaredDuration = Field(default=180.0, gt=0)


_ONLY_S3 = "history.secretRef is only for an url of s3://; remove it or change url"


_BUCKET = r"^s3://[A-Za-z0-9][^/?#\s]*(/[^\s]*)?([?][^\s]*)?$"
_BUCKET_SAID = "history.url must name a bucket, without blanks; give for example s3://bucket/prefix"


class History(Model):
    """Where past windows are kept; with them, the loop plans on the same slot of the season before.

    Attributes:
        url: a folder, at any scheme that fsspec knows: file, s3, gs.
        secret_ref: keys of your own for s3, as AWS tools call them: AWS_ACCESS_KEY_ID,
            AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN and AWS_REGION where needed.
        keep: age at which windows are deleted.
    """

    model_config = rules(
        rule(
            f"{in_cel('self.keep')} > duration('0s')", "history.keep must be above 0s; give for example 336h"
        ),
        rule(
            "self.url.matches('^[a-z][a-z0-9+.-]*://.')",
            "history.url must be a URL; give for example s3://bucket/prefix",
        ),
        rule(f"!self.url.startsWith('s3:') || self.url.matches(r'{_BUCKET}')", _BUCKET_SAID),
        rule("!has(self.secretRef) || self.url.startsWith('s3://')", _ONLY_S3),
    )

    url: str = Field(min_length=1, max_length=2048)
    secret_ref: SecretRef | None = None
    keep: DeclaredDuration = Field(default=1209600.0, gt=0)

    @model_validator(mode="after")
    def _has_keys_for_s3(self) -> Self:
        if self.secret_ref is not None and not self.url.startswith("s3://"):
            raise ValueError(_ONLY_S3)
        if self.url.startswith("s3:") and re.fullmatch(_BUCKET, self.url) is None:
            raise ValueError(_BUCKET_SAID)
        return self


class Auth(Model):
    """The password of the data port.

    Attributes:
        secret_ref: where it is.
    """

    secret_ref: PasswordRef


class Tls(Model):
    """TLS on all ports, from a Secret of type ``kubernetes.io/tls``.

    Attributes:
        secret_ref: where certificate and key are.
        clients: whether a client must show a certificate of the Secret's ``ca.crt``.
    """

    secret_ref: SecretRef
    clients: Literal["Required", "Optional"] = "Optional"


class Security(Model):
    """Who may connect; left out, the cache is open to whom its NetworkPolicy lets in.

    Attributes:
        auth: a password.
        tls: encryption.
    """

    auth: Auth | None = None
    tls: Tls | None = None

"""Blocking HTTP calls to the API server, in a bounded pool of threads; one answer or one error each."""

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import urllib3.exceptions
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration

from kvtide_operator.act.kubernetes.errors import TimedOutError, UnavailableError, error_of

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 15.0
"""Longer than any single call of ours takes on a server that is well; lists are paged."""

# The package says that it is typed, but these carry no types.
_load_service_account: Final[Any] = config.load_incluster_config
_load_kubeconfig: Final[Any] = config.load_kube_config
_new_configuration: Final[Any] = Configuration
_new_client: Final[Any] = ApiClient


class CredentialsError(Exception):
    """There is nothing to reach a cluster with; the message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request; ``content_type`` is None for one without a body."""

    verb: str
    path: str
    query: Mapping[str, str]
    body: Any = None
    content_type: str | None = None

    def __str__(self) -> str:
        """For messages."""
        return f"{self.verb} {self.path}"


def find_cluster() -> Any:
    """Where the API server is and who we are: a pod's service account, else ``KUBECONFIG`` or its default.

    Raises:
        CredentialsError: neither is there, or what is there cannot be used.
    """
    found = _new_configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            _load_service_account(client_configuration=found)
        else:
            # Named here, since the package looks at the variable only when it is imported.
            _load_kubeconfig(os.environ.get("KUBECONFIG"), client_configuration=found)
    except (config.ConfigException, OSError) as error:
        raise CredentialsError(
            f"found no cluster to work with ({error}); run in a pod with a service account, or set KUBECONFIG"
        ) from None
    # Retries are ours: they must stop at the leader's deadline and be counted.
    found.retries = False
    return found


class Transport:
    """A pool of ``threads`` threads and connections; further calls wait for a free one."""

    def __init__(self, configuration: Any, *, threads: int) -> None:
        configuration.connection_pool_maxsize = threads
        self._client = _new_client(configuration)
        self._client.user_agent = "kvtide-operator"
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kubernetes-api")

    async def send(self, call: Call, before: Callable[[], None]) -> dict[str, Any]:
        """Send a request and return the decoded answer.

        ``before`` runs in the thread, directly before the request leaves, however long it waited there.

        Raises:
            ApiError: of the class that fits.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._send, call, before)

    def close(self) -> None:
        """Close the connections; calls under way end by their own time-outs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _send(self, call: Call, before: Callable[[], None]) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        if call.content_type is not None:
            headers["Content-Type"] = call.content_type
        request = self._client.param_serialize(
            call.verb, call.path, query_params=list(call.query.items()), header_params=headers,
            body=_encoded(call), auth_settings=["BearerToken"],
        )  # fmt: skip
        before()
        try:
            reply = self._client.call_api(*request, _request_timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
            said = reply.read()
        except urllib3.exceptions.TimeoutError as error:
            raise TimedOutError(str(call), f"no answer in time ({_words(error)})") from None
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise UnavailableError(str(call), f"cannot be reached ({_words(error)})") from None
        if reply.status >= 400:
            raise error_of(str(call), reply.status, _refusal(said), reply.headers.get("Retry-After"))
        return _decoded(call, said)


def _encoded(call: Call) -> Any:
    """The body; for an apply, which is read as YAML, without the pairs of escapes that only JSON knows."""
    if call.content_type is None or not call.content_type.endswith("yaml"):
        return call.body
    text = json.dumps(call.body, ensure_ascii=False)
    # Of what lies below the pairs YAML does not take all as it is.
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _decoded(call: Call, said: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(said, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        body = {}
    # Every answer but that to a deletion is an object or a list, and both have metadata.
    if call.verb != "DELETE" and not isinstance(body.get("metadata"), dict):
        raise UnavailableError(str(call), f"the answer is no Kubernetes object: {_begun(said)}")
    return body


def _refusal(said: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(said, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {"message": _begun(said)}


def _begun(said: bytes) -> str:
    """A proxy on the way answers in HTML or plain text; its first words help whoever reads the log."""
    return said[:200].decode(errors="replace")


def _words(error: Exception) -> str:
    return str(error.args[-1] if error.args else error)[:200]

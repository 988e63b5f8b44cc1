"""kubectl, as a user has it: what the tests do to a cluster does not depend on the operator's own client."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

POLL_S: Final = 0.2
SERVICE_ACCOUNT_S: Final = 60.0


class KubectlError(Exception):
    """kubectl ended with an error; the message is what it said."""


async def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl; what it printed.

    Raises:
        KubectlError: it failed.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "kubectl", *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, error = await process.communicate(None if stdin is None else stdin.encode())
    if process.returncode != 0:
        raise KubectlError(f"kubectl {' '.join(arguments)}: {error.decode().strip()}")
    return out.decode()


async def get(kind: str, name: str, namespace: str) -> dict[str, Any]:
    """One object.

    Raises:
        KubectlError: it is not there.
    """
    found: dict[str, Any] = json.loads(await kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return found


async def apply(*manifests: Mapping[str, Any]) -> None:
    """Server-side apply as the user `e2e`.

    Raises:
        KubectlError: the API server refuses one of them.
    """
    listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
    command = ("apply", "--server-side", "--field-manager=e2e", "--filename=-")
    await kubectl(*command, stdin=json.dumps(listed))


async def until(what: str, holds: Callable[[], Any], timeout_s: float) -> Any:
    """The first true answer of an async function; an error in it is an answer that is not true.

    Raises:
        TimeoutError: there is none in time; the message has the last answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if answer := await holds():
                return answer
        except KubectlError as error:
            answer = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}: {answer}")
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def new_namespace(prefix: str) -> AsyncIterator[str]:
    """A namespace for one test, with Pod Security *restricted*; deleted with all that is in it."""
    name = f"{prefix}-{uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        # Without it, which a controller makes, no pod can be made there.
        await until("the service account", lambda: get("serviceaccount", "default", name), SERVICE_ACCOUNT_S)
        yield name
    finally:
        await kubectl("delete", "namespace", name, "--wait=false")

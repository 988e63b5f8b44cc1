"""The `kvtide-operator` command: options, and kopf, which only watches and writes nothing on any object."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, cast, get_args

import click
import kopf
from prometheus_client import disable_created_metrics

from kvtide_cachenode.contract.command_line import MISTAKE, Command
from kvtide_cachenode.contract.logs import LogFormat, set_up
from kvtide_cachenode.contract.option_types import Address
from kvtide_operator.act.kubernetes.transport import CredentialsError
from kvtide_operator.endpoints import ListenError
from kvtide_operator.observe.watch_relist import selector_of
from kvtide_operator.process import OperatorProcess, Options
from kvtide_operator.reconcile import Controller
from kvtide_operator.reconcile.allowed import ANY_PROMETHEUS, Allowed
from kvtide_operator.world.kinds import Kind

EXIT_LIMIT_S: Final = 10.0
"""From SIGTERM on; then the process is killed, and the Lease runs out by itself."""
WATCH_S: Final = 240
"""After this the server ends a watch, and it is begun again where it was."""
WATCH_GRACE_S: Final = 30
SILENCE_S: Final = 70
"""A watch without even a bookmark for so long is dead: the server sends one each minute."""
MAX_BACKOFF_S: Final = 30.0
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

# A function without types: no second series that says since when a counter counts.
_without_created: Final[Any] = disable_created_metrics


_ADDRESS: Final = Address(example="0.0.0.0:8080")


class _StartError(click.ClickException):
    """The operator cannot start as asked: one sentence."""

    exit_code = MISTAKE


class _Backoffs:
    """Endless: while the API server is away the operator waits for it."""

    def __iter__(self) -> Iterator[float]:
        delay_s = 1.0
        while True:
            yield delay_s
            delay_s = min(delay_s * 2, MAX_BACKOFF_S)


class _NoDiffs(kopf.DiffBaseStorage):
    """Of each event kopf works out what has changed, by a deep copy of the object: nobody here asks it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


@click.command(cls=Command, context_settings={"auto_envvar_prefix": "KVTIDE_OPERATOR", "show_default": True})
@click.option("--namespace", "namespaces", multiple=True, help="Whose caches to look after; default: all.")
@click.option(
    "--metrics",
    type=_ADDRESS,
    default="0.0.0.0:8080",
    help="Where Prometheus asks (port 0: any).",
)
@click.option("--probes", type=_ADDRESS, default="0.0.0.0:8081", help="Where the kubelet asks.")
@click.option("--lease-namespace", help="Where the Lease is kept; default: the pod's namespace.")
@click.option(
    "--allow-history",
    multiple=True,
    help="Beginning of a URL where caches may keep history with the operator's rights; default: none.",
)
@click.option(
    "--allow-prometheus",
    multiple=True,
    default=ANY_PROMETHEUS,
    help="Beginning of a URL where caches may have Prometheus.",
)
@click.option("--identity", default=socket.gethostname, help="Name of this replica; default: the host's.")
@click.option("--release", default="kvtide-operator", help="What caches call this operator in their status.")
@click.option("--log-format", type=click.Choice(get_args(LogFormat)), default="json", help="How logs look.")
def main(
    namespaces: tuple[str, ...],
    metrics: tuple[str, int],
    probes: tuple[str, int],
    lease_namespace: str | None,
    allow_history: tuple[str, ...],
    allow_prometheus: tuple[str, ...],
    identity: str,
    release: str,
    log_format: LogFormat,
) -> None:
    """Keeps the TieredCaches of a Kubernetes cluster at the right size."""
    set_up(log_format)
    # It says of every event that its handler succeeded.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    _without_created()
    if lease_namespace is None:
        if not _NAMESPACE_FILE.exists():
            raise click.UsageError("outside a pod --lease-namespace is needed: where may the Lease be kept?")
        lease_namespace = _NAMESPACE_FILE.read_text("ascii").strip()
    allowed = Allowed(allow_history, allow_prometheus)
    options = Options(namespaces, metrics, probes, lease_namespace, identity, release)
    try:
        ended_well = asyncio.run(_serve(options, allowed))
    except (CredentialsError, ListenError) as error:
        raise _StartError(str(error)) from None
    sys.exit(0 if ended_well else 1)


async def _serve(options: Options, allowed: Allowed) -> bool:
    """Run until SIGTERM, SIGINT or a failure; whether it ended as asked."""
    process = OperatorProcess(options, partial(Controller, allowed=allowed))
    try:
        registry = _registry(process, await process.start())
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            clusterwide=not options.namespaces,
            namespaces=options.namespaces,
            # Its own choice asks for the name of the user, and the one of the image has none.
            identity=cast(Any, options.identity),
            stop_flag=process.ended,
        )
    finally:
        await process.stop()
    return process.failure is None


def _registry(process: OperatorProcess, kinds: tuple[Kind, ...]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)
    for kind in kinds:
        # Only `on.event`: every other handler writes annotations or finalizers onto the object.
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(
            _handler(process, kind)
        )

    @kopf.on.startup(registry=registry)
    async def lead(settings: kopf.OperatorSettings, **_: Any) -> None:
        for kind in kinds:
            if selector := selector_of(kind):
                settings.watching.label_selectors[kind.group, kind.version, kind.plural] = selector
        # Instead of kopf's own, which ends all watches before anybody hears that the Lease shall be let go.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _end, process)
        process.lead()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await process.stop()

    return registry


def _end(process: OperatorProcess) -> None:
    asyncio.get_running_loop().call_later(EXIT_LIMIT_S, os.kill, os.getpid(), signal.SIGKILL)
    process.end()


def _handler(process: OperatorProcess, kind: Kind) -> Any:
    async def heard(event: kopf.RawEvent, **_: Any) -> None:
        process.heard(kind, event)

    return heard


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.server_timeout = WATCH_S
    settings.watching.client_timeout = WATCH_S + WATCH_GRACE_S
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = SILENCE_S
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5
    settings.process.ultimate_exiting_timeout = EXIT_LIMIT_S
    return settings

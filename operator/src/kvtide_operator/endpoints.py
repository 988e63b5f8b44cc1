"""What the operator answers over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Address = tuple[str, int]
Check = Callable[[], str | None]
"""A sentence on what is wrong, None when nothing is."""


class ListenError(Exception):
    """An address cannot be listened on; the message names it and the cure."""


class Endpoints:
    """Serves probes and metrics, each on its own address.

    Args:
        probes: where the kubelet asks.
        metrics: where Prometheus asks.
        registry: the metrics.
        healthy: what must hold for this process to be of use; if not, it is to be restarted.
        ready: what must hold for it to do its work.
    """

    def __init__(
        self,
        *,
        probes: Address,
        metrics: Address,
        registry: CollectorRegistry,
        healthy: Mapping[str, Check],
        ready: Mapping[str, Check],
    ) -> None:
        self._registry = registry
        self._served: list[tuple[Address, dict[str, Callable[[], web.Response]]]] = [
            (probes, {"/healthz": lambda: _probe(healthy), "/readyz": lambda: _probe({**healthy, **ready})}),
            (metrics, {"/metrics": self._metrics}),
        ]
        self._runners: list[web.AppRunner] = []

    async def start(self) -> list[Address]:
        """Listen; returns where, in the order probes, metrics.

        Raises:
            ListenError: an address is taken or is none of this machine's.
        """
        bound: list[Address] = []
        for (host, port), routes in self._served:
            app = web.Application()
            for path, answer in routes.items():
                app.router.add_get(path, _handler(answer))
            runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            self._runners.append(runner)
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                await self.stop()
                raise ListenError(
                    f"cannot listen on {host}:{port} ({error.strerror or error}); choose another address"
                ) from None
            bound.append(runner.addresses[0][:2])
        return bound

    async def stop(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()

    def _metrics(self) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def _handler(answer: Callable[[], web.Response]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        return answer()

    return handle


def _probe(checks: Mapping[str, Check]) -> web.Response:
    problems = {name: problem for name, check in checks.items() if (problem := check()) is not None}
    lines = [f"{name}: {problems.get(name, 'ok')}\n" for name in checks]
    return web.Response(status=503 if problems else 200, text="".join(lines))

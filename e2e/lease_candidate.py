"""A candidate for a Lease, as a process: says on standard output when it leads, and writes while it does.

Run with NAMESPACE LEASE NAME. Every 0.2 s it counts in a ConfigMap of the Lease's name through the gate, and
prints one JSON line for each thing that happens, with the time on a clock that all processes share.
"""

import asyncio
import json
import random
import signal
import sys
import time

from prometheus_client import CollectorRegistry

from kvtide_operator.act.kubernetes.api import ApiMetrics, KubernetesApi, OpenGate
from kvtide_operator.act.kubernetes.errors import ApiError, NotLeaderError
from kvtide_operator.act.kubernetes.lease import Election
from kvtide_operator.act.kubernetes.transport import Transport, find_cluster
from kvtide_operator.world.kinds import CONFIG_MAP


def say(what: str, **more: object) -> None:
    """One line: what happened and when, in seconds on the machine's monotonic clock."""
    print(json.dumps({"what": what, "at_s": time.monotonic(), **more}), flush=True)


async def write(api: KubernetesApi, namespace: str, name: str, identity: str) -> None:
    """Write through the gate, for ever, and say when a write was done and when it was refused."""
    allowed = None
    while True:
        manifest = {
            "apiVersion": "v1",
            "kind": CONFIG_MAP.kind,
            "metadata": {"name": name, "namespace": namespace},
            "data": {"writer": identity, "at": str(time.monotonic())},
        }
        before_s = time.monotonic()
        try:
            await api.apply(manifest)
            # The gate was open at some time between these two.
            say("wrote", before_s=before_s)
            allowed = True
        except NotLeaderError:
            if allowed is not False:
                say("refused")
            allowed = False
        except ApiError as error:
            say("failed", error=str(error))
        await asyncio.sleep(0.2)


async def main(namespace: str, lease: str, identity: str) -> None:
    """Stand, lead, release on SIGTERM."""
    metrics = ApiMetrics(CollectorRegistry())
    leases = KubernetesApi(
        Transport(find_cluster(), threads=1),
        gate=OpenGate(),
        metrics=metrics,
        random=random.random,
        attempts=1,
    )
    election = Election(leases, namespace, lease, identity, random=random.random)
    api = KubernetesApi(
        Transport(find_cluster(), threads=2), gate=election, metrics=metrics, random=random.random
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def lead() -> None:
        while True:
            say("leads", term=await election.campaign())
            await election.keep()
            say("lost")

    tasks = [asyncio.create_task(lead()), asyncio.create_task(write(api, namespace, lease, identity))]
    await stopped.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await election.release()
    say("released")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

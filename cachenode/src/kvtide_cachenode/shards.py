"""Several nodes under one supervisor, each with its own core, ports, slots and share of both tiers.

A shard is an ordinary node in a process of its own, and the shards are an ordinary cluster: clients that know
Redis Cluster go to each key's shard, all others may use any shard's address. A shard that ends is started
again, and the cluster told where it is; so is one that answers nothing any more. One that cannot be started
ends them all: whoever looks after this process must see it.
"""

import asyncio
import json
import logging
import os
import signal
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from kvtide_cachenode.access.reloading import Loaded, Watched, keep_fresh
from kvtide_cachenode.access.users import Secret
from kvtide_cachenode.cluster.redirect import LAST_HOP
from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node, Topology
from kvtide_cachenode.peers.link import PeerLostError, PeerState
from kvtide_cachenode.peers.links import Peers
from kvtide_cachenode.process.background import every, net, until_done
from kvtide_cachenode.process.failures import Failures

MAX_SHARDS: Final = 64
# A shard that ended is started again after so long, and twice as long after each start that fails.
RESTART_S: Final = 1.0
STARTS: Final = 6
# A large SSD tier is read in this time, and a shard whose loop stands still is killed after it.
START_S: Final = 120.0
SILENT_S: Final = 60.0
CHECK_S: Final = 5.0
# A shard finishes its replies and writes its snapshot; one that takes longer is killed.
STOP_S: Final = 30.0
log = logging.getLogger("kvtide_node")


class ShardError(Exception):
    """A shard does not start; it has said why on standard error."""


class ShardLostError(ShardError):
    """A shard that had been running cannot be started again."""


@dataclass
class Shard:
    """One shard: the command line that starts it and, while it runs, its process and what it said."""

    command: list[str]
    dram_bytes: int
    process: Process
    said: dict[str, Any]
    heard_s: float = 0.0  # when it answered last, by the loop's clock


class Supervisor:
    """Runs shards until it is stopped. ``commands`` has the command line of each."""

    def __init__(
        self,
        commands: Sequence[list[str]],
        dram_bytes: int,
        password: Secret | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._commands = commands
        self._dram_bytes = dram_bytes
        self._peers = Peers("0" * 40, password, tls)
        self._shards: list[Shard] = []
        self._epoch = 0
        self._forming = asyncio.Lock()
        self.failures = Failures()

    async def start(self) -> list[dict[str, Any]]:
        """Start all shards and form the cluster; what each says of itself.

        Raises:
            ShardError: one does not start; none is left running.
        """
        try:
            for command in self._commands:
                process, said = await _started(command)
                # Clients and shards know the ports by now: a shard that is started again keeps them.
                fixed = [f"--{flag}={address}" for flag, address in said.items() if flag != "pid"]
                share_bytes = self._dram_bytes // len(self._commands)
                self._shards.append(Shard([*command, *fixed], share_bytes, process, said))
            await self._form()
        except (ShardError, PeerLostError) as error:
            await self.stop()
            raise ShardError(str(error)) from None
        return [shard.said for shard in self._shards]

    async def run(self) -> None:
        """Start ended and silent shards again, for ever.

        Raises:
            ShardLostError: one cannot be started again.
        """
        try:
            async with asyncio.TaskGroup() as watching:
                for shard in self._shards:
                    shard.heard_s = asyncio.get_running_loop().time()
                    watching.create_task(self._keep(shard))
                    look = partial(self._look, shard)
                    watching.create_task(every(CHECK_S, "look at a shard", self.failures, look))
        except ExceptionGroup as ended:
            raise ended.exceptions[0] from None

    async def stop(self) -> None:
        """End all shards, each with its own grace."""
        running = [shard.process for shard in self._shards if shard.process.returncode is None]
        for process in running:
            process.terminate()
        if running:
            _, late = await asyncio.wait([asyncio.create_task(p.wait()) for p in running], timeout=STOP_S)
            if late:
                for process in running:
                    with suppress(ProcessLookupError):
                        process.kill()
        self._peers.close()

    async def _keep(self, shard: Shard) -> None:
        while True:
            code = await shard.process.wait()
            log.error("the shard on %s ended with %s and is started again", shard.said["listen"], code)
            await self._restart(shard)
            await until_done("form the cluster of shards", self.failures, self._join)

    async def _restart(self, shard: Shard) -> None:
        for attempt in range(STARTS):
            await asyncio.sleep(RESTART_S * 2**attempt)
            try:
                shard.process, shard.said = await _started(shard.command)
            except (ShardError, OSError) as error:
                log.error("%s", error)
            else:
                shard.heard_s = asyncio.get_running_loop().time()
                return
        raise ShardLostError(f"the shard on {shard.said['listen']} cannot be started again: see what it said")

    async def _join(self) -> None:
        """Form the cluster as soon as all shards answer; meanwhile one that ended is being started."""
        while True:
            try:
                await self._form()
            except PeerLostError as error:
                log.warning("the shards are no cluster yet: %s", error)
                await asyncio.sleep(RESTART_S)
            else:
                return

    async def _look(self, shard: Shard) -> None:
        """Kill a shard that has not answered for long; `_keep` starts it again."""
        process = shard.process
        if process.returncode is not None:
            return
        now_s = asyncio.get_running_loop().time
        try:
            await self._state(shard)
        except PeerLostError:
            silent_s = now_s() - shard.heard_s
            log.warning("the shard on %s does not answer for %.0f s", shard.said["listen"], silent_s)
            if silent_s > SILENT_S and process is shard.process:
                log.error("the shard on %s is killed", shard.said["listen"])
                with suppress(ProcessLookupError):
                    process.kill()
        else:
            shard.heard_s = now_s()

    async def _state(self, shard: Shard) -> PeerState:
        try:
            async with (
                asyncio.timeout(CHECK_S),
                self._peers.link(_address(shard.said["listen"]), LAST_HOP) as link,
            ):
                link.send(b"KVTIDE.PEER", b"%d" % LAST_HOP, b"0" * 40)
                return await link.state()
        except TimeoutError:
            raise PeerLostError(f"the shard on {shard.said['listen']} does not answer") from None

    async def _form(self) -> None:
        """Give all shards a topology in which each has an equal part of the slots, always the same one."""
        async with self._forming:
            await self._form_now()

    async def _form_now(self) -> None:
        nodes, epochs = [], []
        for shard in self._shards:
            state = await self._state(shard)
            epochs.append(state.epoch)
            nodes.append(Node(state.id, *_address(shard.said["listen"]), shard.dram_bytes))
        if max(epochs) > self._epoch:
            return  # an operator has given them another topology and looks after it
        self._epoch += 1
        topology = replace(first_topology(nodes), epoch=self._epoch)
        await asyncio.gather(*(self._give(node, topology) for node in nodes))

    async def _give(self, node: Node, topology: Topology) -> None:
        async with self._peers.link((node.host, node.port), LAST_HOP) as link:
            link.send(b"KVTIDE.TOPOLOGY", msgspec.json.encode(topology))
            await link.state()


def shard_commands(
    count: int,
    addresses: dict[str, tuple[str, int] | None],
    sizes: dict[str, int | None],
    folders: dict[str, Path | None],
) -> list[list[str]]:
    """This process' own command line once for each shard, with the options that differ put behind.

    Ports count up from the given one (0 stays 0), sizes are divided, folders get one sub-folder each.
    """
    commands = []
    for number in range(count):
        own = ["--shards", "1"]
        for flag, address in addresses.items():
            if address is not None:
                host, port = address
                own.append(f"--{flag}=[{host}]:{port and port + number}")
        own += [f"--{flag}={size // count}" for flag, size in sizes.items() if size is not None]
        own += [f"--{flag}={path / f'shard-{number}'}" for flag, path in folders.items() if path is not None]
        commands.append([sys.executable, "-m", "kvtide_cachenode", *sys.argv[1:], *own])
    return commands


async def _started(command: list[str]) -> tuple[Process, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        return process, await _said(process)
    except BaseException:
        if process.returncode is None:
            process.kill()  # also when nobody waits for it any more: it would outlive this process
            await process.wait()
        raise


async def _said(process: Process) -> dict[str, Any]:
    """What a shard says of itself when it is ready."""
    assert process.stdout is not None, "it is a pipe"
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise ShardError(f"a shard was not ready within {START_S:.0f} s") from None
    if not line:
        raise ShardError(f"a shard ended with exit code {await process.wait()} before it was ready")
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ShardError("a shard said what is not JSON when it was to say where it listens") from None
    return said


def _address(shown: str) -> tuple[str, int]:
    host, _, port = shown.rpartition(":")
    return host.strip("[]"), int(port)


async def supervise(supervisor: Supervisor, watched: Sequence[Watched[Loaded]]) -> None:
    """Run shards until SIGTERM or SIGINT; print one JSON line when all are ready.

    ``watched`` are files the supervisor looks after for itself; so do the shards.

    Raises:
        ShardError: a shard does not start.
        ShardLostError: one ended and cannot be started again.
    """
    loop = asyncio.get_running_loop()
    net(loop, supervisor.failures)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    shards = await supervisor.start()
    print(json.dumps({**shards[0], "pid": os.getpid(), "shards": shards}), flush=True)  # noqa: T201 - what `serve` says when ready
    asked = loop.create_task(stop.wait())
    running = loop.create_task(supervisor.run())
    fresh = loop.create_task(keep_fresh(watched, supervisor.failures))
    try:
        await asyncio.wait((asked, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    finally:
        for task in (asked, running, fresh):
            task.cancel()
        await supervisor.stop()

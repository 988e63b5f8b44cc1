"""Several nodes under one supervisor, each with its own core, ports, slots and share of both tiers.

A shard is an ordinary node in a process of its own, and the shards are an ordinary cluster: clients that know
Redis Cluster go to each key's shard, all others may use any shard's address. A shard that ends is started
again, and the cluster told where it is.
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
from pathlib import Path
from typing import Any, Final

import msgspec

from kvtide_cachenode.cluster.redirect import LAST_HOP
from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node, Topology
from kvtide_cachenode.peer_link import PeerLostError
from kvtide_cachenode.peers import Peers
from kvtide_cachenode.reloading import Loaded, Watched, keep_fresh

MAX_SHARDS: Final = 64
RESTART_S: Final = 1.0
# A shard finishes its replies and writes its snapshot; one that takes longer is killed.
STOP_S: Final = 30.0
log = logging.getLogger("kvtide_node")


class ShardError(Exception):
    """A shard does not start; it has said why on standard error."""


@dataclass
class Shard:
    """One shard: the command line that starts it and, while it runs, its process and what it said."""

    command: list[str]
    dram_bytes: int
    process: Process
    said: dict[str, Any]


class Supervisor:
    """Runs shards until it is stopped. ``commands`` has the command line of each."""

    def __init__(
        self,
        commands: Sequence[list[str]],
        dram_bytes: int,
        password: bytes | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._commands = commands
        self._dram_bytes = dram_bytes
        self._peers = Peers("0" * 40, password, tls)
        self._shards: list[Shard] = []
        self._epoch = 0

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
        """Start ended shards again, for ever."""
        await asyncio.gather(*(self._keep(shard) for shard in self._shards))

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
            await asyncio.sleep(RESTART_S)
            try:
                shard.process, shard.said = await _started(shard.command)
                await self._form()
            except (ShardError, PeerLostError) as error:
                log.error("%s", error)

    async def _form(self) -> None:
        """Give all shards a topology in which each has an equal part of the slots, always the same one."""
        nodes, epochs = [], []
        for shard in self._shards:
            host, port = _address(shard.said["listen"])
            async with self._peers.link((host, port), LAST_HOP) as link:
                link.send(b"KVTIDE.PEER", b"%d" % LAST_HOP, b"0" * 40)
                state = await link.state()
            epochs.append(state.epoch)
            nodes.append(Node(state.id, host, port, shard.dram_bytes))
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
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise ShardError(f"a shard ended with exit code {await process.wait()} before it was ready")
    said: dict[str, Any] = json.loads(line)
    return process, said


def _address(shown: str) -> tuple[str, int]:
    host, _, port = shown.rpartition(":")
    return host.strip("[]"), int(port)


async def supervise(supervisor: Supervisor, watched: Sequence[Watched[Loaded]]) -> None:
    """Run shards until SIGTERM or SIGINT; print one JSON line when all are ready.

    ``watched`` are files the supervisor looks after for itself; so do the shards.

    Raises:
        ShardError: a shard does not start.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    shards = await supervisor.start()
    print(json.dumps({**shards[0], "pid": os.getpid(), "shards": shards}), flush=True)  # noqa: T201 - what `serve` says when ready
    running = loop.create_task(supervisor.run()), loop.create_task(keep_fresh(watched))
    try:
        await stop.wait()
    finally:
        for task in running:
            task.cancel()
        await supervisor.stop()

"""The `kvtide-node` command."""

import asyncio
import json
import logging
import os
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import uvloop

from kvtide_cachenode.admin import AdminServer
from kvtide_cachenode.eviction import POLICIES, make_policy
from kvtide_cachenode.memory_limit import largest_capacity_bytes, machine_bytes
from kvtide_cachenode.node import Node
from kvtide_cachenode.quantity import parse_quantity
from kvtide_cachenode.server import DataServer
from kvtide_cachenode.store import Store

log = logging.getLogger("kvtide_node")


class StartError(click.ClickException):
    """The node cannot start as asked; one sentence, exit code 2."""

    exit_code = 2


class _Address(click.ParamType[tuple[str, int]]):
    name = "HOST:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value[0], value[1]
        host, colon, port = str(value).rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT; write for example 127.0.0.1:6379", param, ctx)
        return host.strip("[]"), int(port)


class _Size(click.ParamType[int]):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_quantity(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("kvtide"), "-V", "--version", prog_name="kvtide-node")
def main() -> None:
    """A bounded, resizable cache for KV blocks that speaks the Redis protocol."""


@main.command(context_settings={"auto_envvar_prefix": "KVTIDE_NODE", "show_default": True})
@click.option(
    "--listen", type=_Address(), default="127.0.0.1:6379", help="Where clients connect (port 0: any)."
)
@click.option("--admin", type=_Address(), default="127.0.0.1:7379", help="Where the admin API listens.")
@click.option("--dram", type=_Size(), default="4Gi", help="Capacity of the DRAM tier, everything included.")
@click.option("--eviction", type=click.Choice(sorted(POLICIES)), default="lru", help="Who goes first.")
@click.option(
    "--password-file", type=click.Path(dir_okay=False, path_type=Path), help="Password of the data port."
)
@click.option(
    "--admin-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Bearer token of the admin API.",
)
@click.option(
    "--block-tokens",
    type=click.IntRange(1, 2**20),
    default=512,
    help="Tokens a block stands for in the trace.",
)
def serve(
    listen: tuple[str, int],
    admin: tuple[str, int],
    dram: int,
    eviction: str,
    password_file: Path | None,
    admin_token_file: Path | None,
    block_tokens: int,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Every option is also read from the environment (KVTIDE_NODE_LISTEN, KVTIDE_NODE_DRAM, …). When the node
    is ready it prints one JSON line: {"listen": …, "admin": …, "pid": …}. Logs go to standard error.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    password = _secret(password_file)
    token = _secret(admin_token_file)
    largest = largest_capacity_bytes()
    if dram > largest:
        raise StartError(
            f"--dram {dram} is above the {largest} bytes that fit this machine's or container's memory"
        )
    store = Store(dram, machine_bytes(), make_policy(eviction))
    node = Node(store, block_tokens, None if password is None else password.encode())
    uvloop.run(_serve(node, listen, AdminServer(node, token), admin))


async def _serve(
    node: Node, listen: tuple[str, int], admin_server: AdminServer, admin: tuple[str, int]
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = DataServer(node)
    try:
        try:
            data_address = server.start(*listen)
        except OSError as error:
            raise StartError(_cannot_listen("--listen", listen, error)) from None
        try:
            admin_address = await admin_server.start(*admin)
        except OSError as error:
            raise StartError(_cannot_listen("--admin", admin, error)) from None
        node.ready = True
        said = {"listen": _shown(data_address), "admin": _shown(admin_address), "pid": os.getpid()}
        click.echo(json.dumps(said))
        log.info("serving RESP on %(listen)s, admin API on %(admin)s", said)
        await stop.wait()
        log.info("stopping")
    finally:
        node.ready = False
        await server.stop()
        await admin_server.stop()


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path} cannot be read: {error}") from None
    if not secret:
        raise StartError(f"{path} is empty: write the secret into it, on one line")
    return secret


def _cannot_listen(option: str, address: tuple[str, int], error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{option} {_shown(address)} cannot be bound ({reason}): choose a free port, or 0 for any"


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

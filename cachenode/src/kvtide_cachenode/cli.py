"""The `kvtide-node` command."""

import asyncio
import json
import logging
import math
import os
import signal
from importlib import metadata
from pathlib import Path
from typing import get_args

import click
import uvloop

from kvtide_cachenode.access.reloading import Loaded, Watched, keep_fresh
from kvtide_cachenode.access.tls import Certificates, TlsError
from kvtide_cachenode.access.users import Secret, Users, UsersError
from kvtide_cachenode.config_file import read_config
from kvtide_cachenode.contract.command_line import MISTAKE, Group
from kvtide_cachenode.contract.logs import LogFormat, set_up
from kvtide_cachenode.contract.option_types import AUTO, Address, Size
from kvtide_cachenode.contract.sizing import PROCESS_BYTES
from kvtide_cachenode.control.admin import AdminServer
from kvtide_cachenode.control.opening import StoreOptions, close_store, keep_up, open_store
from kvtide_cachenode.control.state import StateError, StateFile
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import NEEDED_WORTH, POLICIES, SsdWrites
from kvtide_cachenode.process.background import every, net
from kvtide_cachenode.process.garbage import SEARCH_S, search_all, search_young_only
from kvtide_cachenode.process.memory_limit import largest_capacity_bytes
from kvtide_cachenode.serve.file_limit import raise_file_limit
from kvtide_cachenode.serve.lm_connection import LmConnection
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.shards import (
    MAX_SHARDS,
    ShardError,
    ShardLostError,
    Supervisor,
    shard_commands,
    supervise,
)
from kvtide_cachenode.store import SsdLogError

# At SIGTERM, requests under way may take so long; then connections are closed, and the tiers get their time.
FINISH_S = 5.0

log = logging.getLogger("kvtide_node")


class StartError(click.ClickException):
    """The node cannot start as asked: one sentence."""

    exit_code = MISTAKE


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("kvtide"), "-V", "--version", prog_name="kvtide-node")
def main() -> None:
    """A bounded, resizable cache for KV blocks that speaks the Redis protocol."""


@main.command(context_settings={"auto_envvar_prefix": "KVTIDE_NODE", "show_default": True})
@click.option(
    "--listen", type=Address(), default="127.0.0.1:6379", help="Where clients connect (port 0: any)."
)
@click.option("--lm", type=Address(), help="Where LMCache's lm:// clients connect; it knows no passwords.")
@click.option("--admin", type=Address(), default="127.0.0.1:7379", help="Where the admin API listens.")
@click.option(
    "--shards",
    type=click.IntRange(1, MAX_SHARDS),
    default=1,
    help="Nodes to run, each on a core of its own with its own ports and its share of both tiers.",
)
@click.option(
    "--dram",
    type=Size(auto=True),
    default="4Gi",
    help="Capacity of the DRAM tier, everything included; auto: what fits the container's memory.",
)
@click.option("--eviction", type=click.Choice(sorted(POLICIES)), default="lru", help="Who goes first.")
@click.option("--ssd", type=Size(), help="Capacity of the SSD tier; needs --ssd-path.")
@click.option(
    "--ssd-path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the SSD tier, this node's alone; its entries outlive a restart.",
)
@click.option(
    "--ssd-admission",
    type=click.Choice(sorted(NEEDED_WORTH)),
    default="always",
    help="Which entries that leave DRAM are written.",
)
@click.option("--ssd-writes-per-day", type=Size(), help="Bytes that may be written to the SSD in a day.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where sizes and PUT /v1/desired outlive a restart.  [default: --ssd-path]",
)
@click.option(
    "--password-file", type=click.Path(dir_okay=False, path_type=Path), help="Password of the data port."
)
@click.option(
    "--admin-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Bearer token of the admin API.",
)
@click.option(
    "--users",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file of users: names, password hashes, roles (read, write, admin).",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Certificate chain (PEM): TLS on both ports; needs --tls-key.",
)
@click.option(
    "--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="The certificate's key (PEM)."
)
@click.option(
    "--tls-client-ca",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Only clients with a certificate of this authority (PEM) come in.",
)
@click.option(
    "--log-format",
    type=click.Choice(get_args(LogFormat)),
    default="text",
    help="Lines for people, or a JSON object a line.",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="TOML file with any of these options; environment and command line go before it.",
)
@click.option(
    "--block-tokens",
    type=click.IntRange(1, 2**20),
    default=512,
    help="Tokens a block stands for in the trace.",
)
def serve(
    listen: tuple[str, int],
    lm: tuple[str, int] | None,
    admin: tuple[str, int],
    shards: int,
    dram: int,
    eviction: str,
    ssd: int | None,
    ssd_path: Path | None,
    ssd_admission: SsdWrites,
    ssd_writes_per_day: int | None,
    state_dir: Path | None,
    password_file: Path | None,
    admin_token_file: Path | None,
    users: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    log_format: LogFormat,
    block_tokens: int,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Every option is also read from the environment (KVTIDE_NODE_LISTEN, KVTIDE_NODE_DRAM, …). When the node
    is ready it prints one JSON line: {"listen": …, "admin": …, "pid": …} (and "lm"). Logs go to standard
    error. At SIGTERM it is not ready any more, finishes what is under way, writes what shall last, and exits.
    """
    set_up(log_format)
    raise_file_limit()
    certificates = _certificates(tls_cert, tls_key, tls_client_ca)
    known = _users(password_file, users)
    watched: list[Watched[Loaded]] = [known]
    token = _token(admin_token_file)
    if token is not None:
        watched.append(token)
    tls = peer_tls = admin_tls = None
    if certificates is not None:
        watched.append(certificates)
        tls = certificates.value
        peer_tls, admin_tls = tls.peer, tls.admin
    largest = largest_capacity_bytes() - (shards - 1) * PROCESS_BYTES
    if dram == AUTO:
        dram = max(largest, 0)
    if dram > largest:
        raise StartError(
            f"--dram {dram} is above the {largest} bytes that fit this machine's or container's memory"
        )
    if (ssd is None) != (ssd_path is None):
        raise StartError("--ssd SIZE and --ssd-path DIR go together: give both, or neither")
    if shards > 1:
        commands = shard_commands(
            shards,
            {"listen": listen, "lm": lm, "admin": admin},
            {"dram": dram, "ssd": ssd, "ssd-writes-per-day": ssd_writes_per_day},
            {"ssd-path": ssd_path, "state-dir": state_dir},
        )
        supervisor = Supervisor(commands, dram, known.value.password, peer_tls)
        try:
            uvloop.run(supervise(supervisor, watched))
        except ShardLostError as error:
            raise click.ClickException(str(error)) from None
        except ShardError as error:
            raise StartError(str(error)) from None
        return
    budget = math.inf if ssd_writes_per_day is None else ssd_writes_per_day
    options = StoreOptions(dram, eviction, ssd or 0, ssd_path, ssd_admission, budget)
    state = StateFile(state_dir or ssd_path)

    async def run() -> None:
        store = await open_store(options, state)
        try:
            node = Node(
                store,
                block_tokens,
                node_id=state.state.node_id,
                users=known.value,
                peer_tls=peer_tls,
                watched=watched,
            )
            bearer = None if token is None else token.value
            await _serve(node, listen, lm, AdminServer(node, bearer, state, admin_tls), admin, tls)
        finally:
            await close_store(store)

    try:
        state.load()
        uvloop.run(run())
    except (StateError, SsdLogError) as error:
        raise StartError(str(error)) from None


async def _serve(
    node: Node,
    listen: tuple[str, int],
    lm: tuple[str, int] | None,
    admin_server: AdminServer,
    admin: tuple[str, int],
    tls: Certificates | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    net(loop, node.failures)
    search_young_only()
    upkeep = (
        loop.create_task(keep_up(node.store, node.failures)),
        loop.create_task(keep_fresh(node.watched, node.failures)),
        loop.create_task(
            every(SEARCH_S, "garbage", node.failures, lambda: search_all(node.store.key_count()))
        ),
    )
    server, lm_server = DataServer(node, tls=tls), DataServer(node, LmConnection, full=b"")
    said: dict[str, object] = {}
    try:
        try:
            said["listen"] = node.listen = _shown(server.start(*listen))
        except OSError as error:
            raise StartError(_cannot_listen("--listen", listen, error)) from None
        if lm is not None:
            try:
                said["lm"] = _shown(lm_server.start(*lm))
            except OSError as error:
                raise StartError(_cannot_listen("--lm", lm, error)) from None
        try:
            said["admin"] = _shown(await admin_server.start(*admin))
        except OSError as error:
            raise StartError(_cannot_listen("--admin", admin, error)) from None
        node.ready = True
        said["pid"] = os.getpid()
        click.echo(json.dumps(said))
        log.info("serving RESP on %(listen)s, admin API on %(admin)s", said, extra=said)
        await stop.wait()
        node.ready, node.stopping = False, True
        log.info("stopping", extra={"connections": len(node.sessions)})
        await asyncio.gather(server.finish(FINISH_S), lm_server.finish(FINISH_S))
    finally:
        node.ready = False
        await server.stop()
        await lm_server.stop()
        await admin_server.stop()
        await node.cluster.stop()
        for task in upkeep:
            task.cancel()


def _certificates(
    cert: Path | None, key: Path | None, client_ca: Path | None
) -> Watched[Certificates] | None:
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise StartError("--tls-cert and --tls-key go together, and --tls-client-ca needs both")
    files = [file for file in (cert, key, client_ca) if file is not None]
    try:
        return Watched("tls", files, lambda: Certificates(cert, key, client_ca))
    except TlsError as error:
        raise StartError(str(error)) from None


def _users(password: Path | None, file: Path | None) -> Watched[Users]:
    def make() -> Users:
        return Users(None if password is None else Secret(password), file)

    try:
        return Watched("users", [each for each in (password, file) if each is not None], make)
    except UsersError as error:
        raise StartError(str(error)) from None


def _token(file: Path | None) -> Watched[Secret] | None:
    try:
        return None if file is None else Watched("token", [file], lambda: Secret(file))
    except UsersError as error:
        raise StartError(str(error)) from None


def _cannot_listen(option: str, address: tuple[str, int], error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{option} {_shown(address)} cannot be bound ({reason}): choose a free port, or 0 for any"


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

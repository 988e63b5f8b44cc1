"""Certificates and users change while a node serves."""

import asyncio
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import redis.asyncio

from kvtide_cachenode.access import reloading
from kvtide_cachenode.access.reloading import Watched, keep_fresh
from kvtide_cachenode.access.tls import Certificates
from kvtide_cachenode.access.users import Secret, Users, UsersError
from kvtide_cachenode.control.admin import AdminServer
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process.failures import Failures
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import Store

MI = 1024 * 1024
PASSWORD = b"correct horse battery staple"


def pair(folder: Path, name: str) -> None:
    """A certificate that is its own authority, for 127.0.0.1, as tls.crt, tls.key and ca.crt."""
    folder.mkdir(exist_ok=True)
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=120)
    shutil.copy(folder / "tls.crt", folder / "ca.crt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("first", "second"):
        pair(folder / name, name)
    return folder


class Mounted:
    """A folder of secrets as the kubelet makes it: names lead through one link, which is swapped."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        path.mkdir()
        self._swap(source)
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (path / name).symlink_to(Path("..data", name))

    def _swap(self, source: Path) -> None:
        (self.path / "..new").symlink_to(source)
        (self.path / "..new").rename(self.path / "..data")

    def swap(self, source: Path) -> None:
        """Have all names lead to another folder at once."""
        self._swap(source)

    def certificates(self, client_ca: bool) -> Watched[Certificates]:
        files = [self.path / name for name in ("tls.crt", "tls.key", "ca.crt")]
        return Watched(
            "tls", files, lambda: Certificates(files[0], files[1], files[2] if client_ca else None)
        )


class Served:
    """A node with TLS in this process."""

    def __init__(self, watched: Watched[Certificates]) -> None:
        self.node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16, watched=[watched])
        self._data = DataServer(self.node, tls=watched.value)
        self._admin = AdminServer(self.node, tls=watched.value.admin)

    async def start(self) -> None:
        _, self.port = self._data.start("127.0.0.1", 0)
        _, self.admin_port = await self._admin.start("127.0.0.1", 0)

    async def stop(self) -> None:
        await self._data.stop()
        await self._admin.stop()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., object]]:
    started: list[Served] = []

    async def start(watched: Watched[Certificates]) -> Served:
        started.append(Served(watched))
        await started[-1].start()
        return started[-1]

    yield start
    for served in started:
        await served.stop()


def shown(port: int) -> str:
    """The name in the certificate that a port shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as secure:
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return next(name for name in ("first", "second") if name.encode() in der)


async def ports_show(served: Served) -> list[str]:
    return [await asyncio.to_thread(shown, port) for port in (served.port, served.admin_port)]


async def metric(served: Served, name: str, made: Path) -> float:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{served.admin_port}/metrics", ssl=context) as answer,
    ):
        text = await answer.text()
    line = next(line for line in text.splitlines() if line.startswith(f'kvtide_node_{name}{{files="tls"}}'))
    return float(line.rpartition(" ")[2])


async def test_new_connections_see_the_new_certificate_and_old_ones_go_on(
    serve: Callable[..., object], made: Path, tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path / "tls", made / "first")
    watched = mounted.certificates(client_ca=False)
    served = await serve(watched)
    assert await ports_show(served) == ["first", "first"]
    with redis.Redis("127.0.0.1", served.port, ssl=True, ssl_ca_certs=str(made / "first/ca.crt")) as old:
        await asyncio.to_thread(old.set, "k", b"v")
        mounted.swap(made / "second")
        watched.look()
        assert await ports_show(served) == ["second", "second"]
        assert await asyncio.to_thread(old.get, "k") == b"v"
    with redis.Redis("127.0.0.1", served.port, ssl=True, ssl_ca_certs=str(made / "second/ca.crt")) as new:
        assert await asyncio.to_thread(new.get, "k") == b"v"
    assert await metric(served, "reloads_total", made) == 1


@pytest.mark.parametrize("damage", ["gone", "not a certificate", "of another key", "cut off"])
async def test_wrong_files_change_nothing_and_are_told_once(
    serve: Callable[..., object], made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = shutil.copytree(made / "first", tmp_path / "tls")
    watched = Mounted(tmp_path / "mounted", folder).certificates(client_ca=True)
    served = await serve(watched)
    certificate = folder / "tls.crt"
    match damage:
        case "gone":
            certificate.unlink()
        case "not a certificate":
            certificate.write_text("hello")
        case "of another key":
            shutil.copy(made / "second/tls.crt", certificate)
        case "cut off":
            certificate.write_bytes(certificate.read_bytes()[:200])
    for _ in range(3):
        watched.look()
    assert (watched.reloads, watched.failures) == (0, 1)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert "tls.crt" in caplog.text
    assert await asyncio.to_thread(shown, served.port) == "first"
    for name in ("tls.crt", "tls.key", "ca.crt"):
        shutil.copy(made / "second" / name, folder / name)
    watched.look()
    assert (watched.reloads, watched.failures) == (1, 1)
    assert await asyncio.to_thread(shown, served.port) == "second"


async def test_an_authority_that_is_taken_away_lets_nobody_in(
    serve: Callable[..., object], made: Path, tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path / "tls", made / "first")
    watched = mounted.certificates(client_ca=True)
    served = await serve(watched)

    def ping(name: str, server: str) -> object:
        folder = made / name
        mine = {"ssl_certfile": str(folder / "tls.crt"), "ssl_keyfile": str(folder / "tls.key")}
        trusted = str(made / server / "ca.crt")
        with redis.Redis("127.0.0.1", served.port, ssl=True, ssl_ca_certs=trusted, **mine) as client:
            return client.ping()

    assert await asyncio.to_thread(ping, "first", "first") is True
    mounted.swap(made / "second")
    watched.look()
    assert await asyncio.to_thread(ping, "second", "second") is True
    with pytest.raises(redis.exceptions.RedisError):
        await asyncio.to_thread(ping, "first", "second")


def comes_in(
    port: int, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool, ssl.SSLSession | None]:
    """Whether a client is let in, and the session that it may resume."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            client.wrap_socket(plain, session=session) as secure,
        ):
            secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")  # the data port answers with an error
            return secure.recv(1) != b"", secure.session
    except (ssl.SSLError, ConnectionError):
        return False, None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_session_is_no_way_round_an_authority_that_is_gone(
    serve: Callable[..., object], made: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = version
    client.load_cert_chain(made / "first/tls.crt", made / "first/tls.key")
    for port in ("port", "admin_port"):
        mounted = Mounted(tmp_path / port, made / "first")
        watched = mounted.certificates(client_ca=True)
        served = await serve(watched)
        allowed, session = await asyncio.to_thread(comes_in, getattr(served, port), client, None)
        assert allowed == (port == "port" or version is ssl.TLSVersion.TLSv1_3)
        mounted.swap(made / "second")
        watched.look()
        allowed, _ = await asyncio.to_thread(comes_in, getattr(served, port), client, session)
        assert not allowed


async def test_nodes_show_each_other_the_new_certificate(made: Path, tmp_path: Path) -> None:
    mounted = Mounted(tmp_path / "tls", made / "first")
    watched = mounted.certificates(client_ca=True)
    mounted.swap(made / "second")
    watched.look()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "second/tls.crt", made / "second/tls.key")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(made / "second/ca.crt")
    ours, theirs = socket.socketpair()
    names: list[object] = []

    def accept() -> None:
        with server.wrap_socket(theirs, server_side=True) as secure:
            names.append(secure.getpeercert())

    thread = threading.Thread(target=accept)
    thread.start()
    with watched.value.peer.wrap_socket(ours):
        thread.join(10)
    assert "second" in str(names)


def users_text(*names: str) -> str:
    digest = hashlib.sha256(PASSWORD).hexdigest()
    return "".join(f'[users.{name}]\npassword_sha256 = "{digest}"\nroles = ["read"]\n' for name in names)


def test_users_come_and_go_with_their_file(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    file.write_text(users_text("old", "both"))
    watched = Watched("users", [file], lambda: Users(Secret(None, b"default's"), file))
    users = watched.value
    file.write_text(users_text("both", "new"))
    watched.look()
    assert users.check(b"old", PASSWORD) is None
    assert users.check(b"both", PASSWORD) is not None
    assert users.check(b"new", PASSWORD) is not None
    assert users.check(b"default", b"default's") is not None
    file.write_text("users = nobody")
    watched.look()
    assert (watched.reloads, watched.failures) == (1, 1)
    assert users.check(b"new", PASSWORD) is not None
    file.write_text("")  # nobody named must not mean that anybody may come in
    watched.look()
    assert watched.failures == 2
    assert users.initial is None


def test_a_changed_password_file_is_the_password_and_the_one_before_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    watched = Watched("users", [file], lambda: Users(Secret(file)))
    users = watched.value
    assert users.check(b"default", b"first") is not None
    file.write_text("second\n")
    watched.look()
    assert users.check(b"default", b"second") is not None
    assert users.check(b"default", b"first") is None
    for useless in (b"", b"\xff\xfe"):
        file.write_bytes(useless)
        watched.look()
        assert users.check(b"default", b"second") is not None
        assert users.initial is None
    assert (watched.reloads, watched.failures) == (1, 2)
    assert users.password is not None
    assert (users.password.value, users.password.former) == (b"second", b"first")


def test_a_secret_that_is_no_text_is_a_sentence_without_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"hush\xff")
    with pytest.raises(UsersError, match="no text in UTF-8") as refused:
        Secret(file)
    assert "hush" not in str(refused.value)


async def test_password_and_token_change_while_the_node_runs(
    start_node: Callable[..., Any], tmp_path: Path
) -> None:
    password, token = tmp_path / "password", tmp_path / "token"
    password.write_text("first")
    token.write_text("one")
    node = start_node("--dram", "16Mi", "--password-file", str(password), "--admin-token-file", str(token))
    password.write_text("second")
    token.write_text("two")
    async with aiohttp.ClientSession() as session:

        async def status(bearer: str) -> int:
            headers = {"Authorization": f"Bearer {bearer}"}
            async with session.get(f"{node.admin_url}/v1/status", headers=headers) as answer:
                return answer.status

        while await status("two") != 200:  # the test's own time-out ends it
            await asyncio.sleep(0.05)
        assert await status("one") == 401

    async def comes_in(secret: str) -> bool:
        async with redis.asyncio.Redis(port=node.port, password=secret) as client:
            try:
                return bool(await client.ping())
            except redis.exceptions.AuthenticationError:
                return False

    while not await comes_in("second"):
        await asyncio.sleep(0.05)
    assert not await comes_in("first")


async def test_files_are_looked_at_while_the_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_S", 0.01)
    file = tmp_path / "users.toml"
    file.write_text(users_text("old"))
    watched = Watched("users", [file], lambda: Users(None, file))
    task = asyncio.create_task(keep_fresh([watched], Failures()))
    file.write_text(users_text("new"))
    async with asyncio.timeout(120):
        while not watched.reloads:
            await asyncio.sleep(0.01)
    task.cancel()
    assert watched.value.check(b"new", PASSWORD) is not None


def test_a_node_takes_up_changed_files_by_itself(
    start_node: Callable[..., object], made: Path, tmp_path: Path
) -> None:
    mounted = Mounted(tmp_path / "tls", made / "first")
    file = tmp_path / "users.toml"
    file.write_text(users_text("old"))
    files = ["--tls-cert", str(mounted.path / "tls.crt"), "--tls-key", str(mounted.path / "tls.key")]
    port = start_node("--dram", "16Mi", "--users", str(file), *files).port
    assert shown(port) == "first"
    file.write_text(users_text("new"))
    mounted.swap(made / "second")
    while shown(port) != "second":  # the test's own time-out ends it
        threading.Event().wait(0.05)
    trusted = str(made / "second/ca.crt")
    login = {"username": "new", "password": PASSWORD.decode()}
    with redis.Redis("127.0.0.1", port, ssl=True, ssl_ca_certs=trusted, **login) as client:
        assert client.ping() is True

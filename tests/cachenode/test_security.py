"""Users, roles and TLS with the clients that people use: every cell of the table in docs/node.md."""

import base64
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from kvtide_cachenode.access.users import Users, UsersError

MI = 1024 * 1024
ONCE = Retry(NoBackoff(), 0)
PASSWORD = "correct horse battery staple"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server for 127.0.0.1 and a client, each as NAME.pem and NAME.key."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=120)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


def basic(name: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()}


def users_file(folder: Path) -> Path:
    file = folder / "users.toml"
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    roles = {"reader": ["read"], "writer": ["write"], "boss": ["read", "write", "admin"]}
    file.write_text(
        "".join(
            f'[users.{name}]\npassword_sha256 = "{digest}"\nroles = {json.dumps(allowed)}\n'
            for name, allowed in roles.items()
        )
    )
    return file


def auth_options(folder: Path, auth: str) -> list[str]:
    if auth == "users":
        return ["--users", str(users_file(folder))]
    if auth == "password":
        (folder / "password").write_text(PASSWORD)
        return ["--password-file", str(folder / "password")]
    return []


def tls_options(certificates: Path, tls: str) -> list[str]:
    options = ["--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "server.key")]
    if tls == "mutual":
        options += ["--tls-client-ca", str(certificates / "ca.pem")]
    return options if tls != "plain" else []


@pytest.mark.parametrize("tls", ["plain", "tls", "mutual"])
@pytest.mark.parametrize("auth", ["open", "password", "users"])
async def test_each_client_comes_in_as_the_table_says(
    start_node: Callable[..., Any], certificates: Path, tmp_path: Path, auth: str, tls: str
) -> None:
    started = start_node("--dram", "64Mi", *auth_options(tmp_path, auth), *tls_options(certificates, tls))
    login: dict[str, Any] = {} if auth == "open" else {"password": PASSWORD}
    login |= {"username": "boss"} if auth == "users" else {}
    pair = {"client": (str(certificates / "client.pem"), str(certificates / "client.key"))}
    secure: dict[str, Any] = {}
    if tls != "plain":
        secure = {"ssl": True, "ssl_ca_certs": str(certificates / "ca.pem")}
        if tls == "mutual":
            secure |= {"ssl_certfile": pair["client"][0], "ssl_keyfile": pair["client"][1]}
    value = b"tide" * (3 * MI // 4)
    with redis.Redis("127.0.0.1", started.port, **login, **secure) as client:
        assert client.set("k", value) is True
        assert client.get("k") == value
    async with redis.asyncio.Redis(host="127.0.0.1", port=started.port, **login, **secure) as other:
        pipeline = other.pipeline(transaction=False)
        for number in range(30):
            pipeline.set(f"p{number}", b"%d" % number * 20_000)
            pipeline.get(f"p{number}")
        assert (await pipeline.execute())[1::2] == [b"%d" % number * 20_000 for number in range(30)]
    command = ["redis-cli", "-h", "127.0.0.1", "-p", str(started.port), "--no-auth-warning"]
    if auth != "open":
        command += ["--pass", PASSWORD, *(["--user", "boss"] if auth == "users" else [])]
    if tls != "plain":
        command += ["--tls", "--cacert", str(certificates / "ca.pem")]
    if tls == "mutual":
        command += ["--cert", pair["client"][0], "--key", pair["client"][1]]
    said = subprocess.run([*command, "STRLEN", "k"], capture_output=True, timeout=120, check=True).stdout
    assert said.strip() == b"%d" % len(value)
    context: ssl.SSLContext | None = None
    if tls != "plain":
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        if tls == "mutual":
            context.load_cert_chain(*pair["client"])
    url = started.admin_url.replace("http:", "https:") if tls != "plain" else started.admin_url
    named = {"open": None, "password": "default", "users": "boss"}[auth]
    known = {} if named is None else basic(named)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context or True)) as session:
        async with session.get(f"{url}/v1/status", headers=known) as answer:
            assert answer.status == 200
        async with session.get(f"{url}/v1/status") as answer:
            assert answer.status == (200 if auth == "open" else 401)
    if tls == "plain":
        return
    with (
        redis.Redis("127.0.0.1", started.port, **login, socket_timeout=5, retry=ONCE) as unencrypted,
        pytest.raises(redis.exceptions.RedisError),
    ):
        unencrypted.ping()
    if tls == "mutual":
        del secure["ssl_certfile"], secure["ssl_keyfile"]
        with (
            redis.Redis("127.0.0.1", started.port, **login, **secure, retry=ONCE) as stranger,
            pytest.raises(redis.exceptions.RedisError),
        ):
            stranger.ping()


def test_an_end_of_tls_that_comes_with_other_bytes_is_heard(
    start_node: Callable[..., Any], certificates: Path
) -> None:
    """A client that says it is done waits until the node says so, too."""
    node = start_node("--dram", "64Mi", *tls_options(certificates, "tls"))
    from_node, to_node = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    client = context.wrap_bio(from_node, to_node, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as wire:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.sendall(to_node.read())
                from_node.write(wire.recv(65_536))
        client.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\nhalf of")
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        wire.sendall(to_node.read())  # the handshake's end, half a value and the end, at once
        while wire.recv(65_536):
            pass


def test_roles_bound_what_a_user_may_do(start_node: Callable[..., Any], tmp_path: Path) -> None:
    port = start_node("--dram", "64Mi", "--users", str(users_file(tmp_path))).port

    def client(name: str | None, password: str = PASSWORD) -> Any:
        return redis.Redis("127.0.0.1", port, username=name, password=password if name else None, retry=ONCE)

    with client("reader") as reader, client("writer") as writer, client("boss") as boss:
        assert writer.set("k", bytes(100_000)) is True
        assert reader.get("k") == bytes(100_000)
        for denied in (
            lambda: reader.set("k", "v"),
            lambda: reader.set("k", bytes(100_000)),
            lambda: reader.delete("k"),
            lambda: writer.get("k"),
            lambda: writer.flushall(),
            lambda: reader.acl_list(),
        ):
            with pytest.raises(NoPermissionError):
                denied()
        assert reader.acl_whoami() == "reader" or reader.acl_whoami() == b"reader"
        assert len(boss.acl_list()) == 3
        assert "#..." in str(boss.acl_list())
        assert boss.flushall() is True
        assert [line["user"] for line in boss.client_list()].count("reader") == 1
    for name, password in ((None, ""), ("reader", "guess"), ("nobody", PASSWORD)):
        with client(name, password) as stranger, pytest.raises(AuthenticationError):
            stranger.get("k")


async def test_only_an_admin_user_opens_the_admin_api(start_node: Callable[..., Any], tmp_path: Path) -> None:
    url = start_node("--dram", "64Mi", "--users", str(users_file(tmp_path))).admin_url
    seen = {}
    async with aiohttp.ClientSession() as session:
        for name in ("reader", "writer", "boss", "nobody"):
            async with session.get(f"{url}/v1/status", headers=basic(name)) as answer:
                seen[name] = answer.status
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 200
        async with session.get(f"{url}/v1/status", headers={"Authorization": "Basic !"}) as answer:
            assert answer.status == 401
    assert seen == {"reader": 401, "writer": 401, "boss": 200, "nobody": 401}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "is not TOML"),
        ("", "must have tables"),
        ("[users.a]\nroles = []", "must have password_sha256 and roles"),
        ('[users.a]\nroles = []\npassword_sha256 = "12"', "64 hexadecimal digits"),
        ('[users.a]\nroles = ["root"]\npassword_sha256 = "%s"' % ("0" * 64), "roles must be a list of read"),
        ('[users."a b"]\nroles = []\npassword_sha256 = "%s"' % ("0" * 64), "no spaces"),
    ],
)
def test_a_wrong_file_of_users_is_a_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "users.toml"
    file.write_text(text)
    with pytest.raises(UsersError, match=complaint):
        Users(None, file)

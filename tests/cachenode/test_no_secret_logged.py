"""No secret is in the log, whatever is said to the node: all of the log is read, at debug level."""

import base64
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import msgspec
import pytest

from .raw_client import encoded

PASSWORD: Final = b"correct-horse-battery-staple"
USERS_PASSWORD: Final = b"staple-battery-horse-correct"
GUESS: Final = b"incorrect-mare-battery-staple"
TOKEN: Final = b"token-of-many-letters"
NEW_SECRET: Final = b"secret-in-a-file-that-changed"
DEFECT: Final = b"whose-password-check-is-broken"
SECRETS: Final = (PASSWORD, USERS_PASSWORD, GUESS, TOKEN, NEW_SECRET)
DEADLINE_S: Final = 30.0
# The program as it is, but for the level of its log and one name whose check has a defect.
NODE: Final = f"""
import logging
from kvtide_cachenode import cli
from kvtide_cachenode.access import users
logging.basicConfig(level=logging.DEBUG)
check = users.Users.check
def check_or_fail(self, name, password):
    if name == {DEFECT!r}:
        raise ZeroDivisionError("injected")
    return check(self, name, password)
users.Users.check = check_or_fail
cli.main(prog_name="kvtide-node")
"""
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


def said_with(secret: bytes) -> list[bytes]:
    """Commands that hold a secret: right ones, refused ones, and what is no command."""
    commands = [
        (b"AUTH", secret),
        (b"AUTH", b"default", secret),
        (b"AUTH", DEFECT, secret),
        (b"AUTH", b"default", secret, b"too many"),
        (b"AUTH", secret * 2000),
        (b"HELLO", b"3", b"AUTH", b"default", secret),
        (b"HELLO", b"3", b"AUTH", DEFECT, secret),
        (b"HELLO", b"3", b"AUTH", secret),
        (b"HELLO", b"9", b"AUTH", b"default", secret),
        (b"HELLO", b"3", b"NOAUTH", b"default", secret),
        (b"ACL", b"SETUSER", b"somebody", b"on", b">" + secret),
        (b"ACL", secret),
        (b"CONFIG", b"SET", b"requirepass", secret),
        (b"CLIENT", b"SETNAME", secret + b"\n"),
        (b"MIGRATE", b"127.0.0.1", b"1", b"k", b"0", b"1", b"AUTH", secret),
        (b"KVTIDE.PEER", secret, secret),
        (b"KVTIDE.TOPOLOGY", secret),
        (b"AUTH" + secret, secret),
        (secret,),
    ]
    malformed = [
        b"AUTH %b\r\n" % secret,
        b'AUTH "%b\r\n' % secret,
        b"AUTH %b" % secret,
        b"*2\r\n$4\r\nAUTH\r\n+%b\r\n" % secret,
        b"*2\r\n$4\r\nAUTH\r\n$999999999999\r\n%b\r\n" % secret,
        b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b" % (len(secret) + 100, secret),
        b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(secret) - 1, secret),
        b"*2\r\n$4\r\nAUTH\r\n$%b\r\n" % secret,
        b"*%b\r\n" % secret,
        b"%b\r\n" % secret,
        b"\xff\xfe%b\xff\r\n" % secret,
    ]
    return [*map(encoded, commands), *malformed]


def heads_with(secret: bytes) -> list[bytes]:
    """HTTP requests that hold a secret in a header, the path or the body."""
    basic = base64.b64encode(b"default:" + secret)
    broken = base64.b64encode(DEFECT + b":" + secret)
    values = [b"Bearer " + secret, b"Bearer \xff" + secret, b"Basic " + basic, b"Basic " + broken, secret]
    lines = [b"Authorization: " + value for value in values]
    lines += [b"Authorization : Bearer " + secret, b"Authorization\r\n Bearer " + secret]
    heads = [b"GET /v1/status HTTP/1.1\r\nHost: a\r\n" + line for line in lines]
    heads += [b"GET /v1/trace?since=%b HTTP/1.1\r\nHost: a" % secret, b"%b / HTTP/1.1\r\nHost: a" % secret]
    heads += [b"GET /%b HTTP/9\r\nHost: a" % secret]
    body = b"PUT /v1/capacity HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
    return [head + b"\r\n\r\n" for head in heads] + [body % (TOKEN, len(secret), secret)]


class Node:
    """A node in a process of its own, all of whose log is kept."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        assert process.stdout is not None
        said = msgspec.json.decode(process.stdout.readline())
        self.port, self.admin_port = (int(said[port].rpartition(":")[2]) for port in ("listen", "admin"))
        self._log = log

    def logged(self) -> bytes:
        return self._log.read_bytes()

    def logs(self, what: bytes) -> None:
        """Wait until it does."""
        until_s = monotonic() + DEADLINE_S
        while what not in self.logged():
            assert monotonic() < until_s, f"{what!r} is not in the log:\n{self.logged().decode()}"
            sleep(0.02)


@contextmanager
def node(folder: Path, *options: str) -> Iterator[Node]:
    command = [sys.executable, "-c", NODE, "serve", "--dram", "64Mi", *options]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=os.environ | {"PYTHONASYNCIODEBUG": "1"}
        )
    with process:
        try:
            yield Node(process, folder / "log")
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def say(port: int, text: bytes, context: ssl.SSLContext | None = None, quits: bool = False) -> bytes:
    """Say it, and that there is no more unless the text says so; what was answered, as far as it came."""
    answered = b""
    with suppress(OSError), ExitStack() as stack:
        wire = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
        if context is not None:
            wire = stack.enter_context(context.wrap_socket(wire))
        wire.sendall(text)
        if not quits and isinstance(wire, ssl.SSLSocket):
            wire = stack.enter_context(wire.unwrap())
        elif not quits:
            wire.shutdown(socket.SHUT_WR)
        while piece := wire.recv(65_536):
            answered += piece
    return answered


def no_secret_in(log: bytes) -> None:
    for secret in SECRETS:
        hidden = base64.b64encode(b"default:" + secret).rstrip(b"=")[:-2]
        digest = hashlib.sha256(secret)
        for form in (secret, hidden, digest.hexdigest().encode(), repr(digest.digest())[2:-1].encode()):
            assert form not in log, log.decode(errors="replace")


def secrets_in(folder: Path) -> list[str]:
    """Files with the secrets, and the options that name them."""
    (folder / "password").write_bytes(PASSWORD)
    (folder / "token").write_bytes(TOKEN)
    digest = hashlib.sha256(USERS_PASSWORD).hexdigest()
    (folder / "users").write_text(f'[users.boss]\npassword_sha256 = "{digest}"\nroles = ["admin"]\n')
    names = {"--password-file": "password", "--admin-token-file": "token", "--users": "users"}
    return [word for option, name in names.items() for word in (option, str(folder / name))]


def certificate_in(folder: Path) -> list[str]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    return ["--tls-cert", str(cert), "--tls-key", str(key)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("tls", [False, True])
def test_no_command_and_no_request_leaves_a_secret_in_the_log(tmp_path: Path, tls: bool) -> None:
    options = secrets_in(tmp_path) + (certificate_in(tmp_path) if tls else [])
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with node(tmp_path, *options) as started:
        for secret in (PASSWORD, USERS_PASSWORD, GUESS, TOKEN):
            for text in said_with(secret):
                say(started.port, text, context)
                say(started.port, encoded([b"AUTH", PASSWORD]) + text, context)
            for text in heads_with(secret):
                say(started.admin_port, text, context)
            if tls:  # who forgets TLS says it in the clear
                say(started.port, said_with(secret)[0])
                say(started.admin_port, heads_with(secret)[0])
        served = encoded([b"AUTH", PASSWORD]) + b"PING\r\nQUIT\r\n"
        assert say(started.port, served, context, quits=True) == b"+OK\r\n+PONG\r\n+OK\r\n"
        # The log is worth reading: it has what there was to tell, with the command's name.
        started.logs(b"internal error in command")
        started.logs(b"internal error in admin")
        started.logs(b"ZeroDivisionError")
    assert b"stopping" in started.logged()
    no_secret_in(started.logged())


@pytest.mark.timeout(120)
def test_no_file_that_is_wrong_leaves_its_secret_in_the_log(tmp_path: Path) -> None:
    wrong = {
        "users": b'[users.boss]\npassword_sha256 = "%b"\nroles = ["admin"]\n' % NEW_SECRET,
        "key.pem": b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n" % NEW_SECRET,
        "token": b"\xff" + NEW_SECRET,
    }
    options = secrets_in(tmp_path) + certificate_in(tmp_path)
    right = {name: (tmp_path / name).read_bytes() for name in wrong}
    with node(tmp_path, *options) as started:
        for name, text in wrong.items():
            (tmp_path / name).write_bytes(text)
        for name in wrong:
            started.logs(str(tmp_path / name).encode())  # each is told of by its path
    logged = started.logged()
    assert logged.count(b"stays in use") == len(wrong)
    no_secret_in(logged)
    for name, text in wrong.items():
        for other, before in right.items():
            (tmp_path / other).write_bytes(text if other == name else before)
        command = [sys.executable, "-c", NODE, "serve", "--dram", "64Mi", *options]
        ended = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
        assert ended.returncode != 0
        assert str(tmp_path / name).encode() in ended.stderr
        no_secret_in(ended.stderr + ended.stdout)

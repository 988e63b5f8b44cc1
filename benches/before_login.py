"""What connections cost that have not logged in, at their worst, and who is still served beside them.

    python -m benches.before_login [--connections 2000] [--open | --password] [--behaviours 1,2] [--json]

A new node for each behaviour, once with a password and once open. So many connections come, do their worst
and stay; the node's VmRSS is read from outside until it has been quiet for a while. What it grew by must stay
below 64 MiB. Meanwhile a client that was there before, one that comes and logs in, a peer and the admin port
ask and must be answered (on an open node nobody can be told from the crowd by a password: there only the
client that was there before and the admin port must be). A behaviour that makes the node grow beyond
--give-up is stopped there, so that it does not take the machine with it. TLS handshakes are a behaviour of
their own; its figure is printed and not held against the 64 MiB.
"""

import argparse
import json
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches.node_process import MI, NodeProcess, Sampler, node_process, raise_file_limit, table
from benches.resp_stream import Client, request

from kvtide_cachenode.contract.quantity import parse_quantity

WANTED_BYTES: Final = 64 * MI
PASSWORD: Final = b"a long and random password"
PIECE_BYTES: Final = 64 * 1024
ANSWER_S: Final = 10.0
QUIET_S: Final = 3.0


@dataclass(frozen=True)
class Behaviour:
    """What each connection sends, as far as it is taken, and whether it reads what is answered."""

    name: str
    said: Callable[[int], bytes]
    tls: bool = False


def _many(head: bytes, word: bytes) -> Callable[[int], bytes]:
    """``head`` and then words without end."""
    return lambda at_most: (head + word * (at_most // len(word) + 1))[:at_most]


BEHAVIOURS: Final = (
    Behaviour("silent", lambda _: b""),
    Behaviour("*1000001 and short words", _many(b"*1000001\r\n", b"$1\r\nx\r\n")),
    Behaviour("*1000001 and empty words", _many(b"*1000001\r\n", b"$0\r\n\r\n")),
    Behaviour("words of 16,000 B", _many(b"*1000001\r\n", b"$16000\r\n" + b"x" * 16_000 + b"\r\n")),
    Behaviour("a value announced", lambda _: b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$66000000\r\n"),
    Behaviour("a value begun", lambda _: b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$66000000\r\n" + bytes(1000)),
    Behaviour("half a header", lambda _: b"*3\r\n$3\r\nSE"),
    Behaviour("a line without an end", lambda at_most: b"PING " * min(at_most // 5, 800)),
    Behaviour(
        "AUTH with 2,000,000 B",
        lambda at_most: b"*2\r\n$4\r\nAUTH\r\n$2000000\r\n" + b"p" * min(at_most, 1_999_000),
    ),
    Behaviour(
        "HELLO with a million words", _many(b"*1000001\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", b"$4\r\nAUTH\r\n")
    ),
    Behaviour(
        "ECHO of 2,000,000 B", _many(b"", b"*2\r\n$4\r\nECHO\r\n$2000000\r\n" + b"e" * 2_000_000 + b"\r\n")
    ),
    Behaviour("never reads: errors", _many(b"", request(b"NOSUCHCOMMAND", b"x" * 200) * 100)),
    Behaviour("never reads: COMMAND DOCS", _many(b"", request(b"COMMAND", b"DOCS") * 100)),
    Behaviour("never reads: wrong AUTH", _many(b"", request(b"AUTH", b"wrong") * 100)),
    Behaviour("never reads: HELLO 3", _many(b"", request(b"HELLO", b"3") * 100)),
    Behaviour("TLS: half a handshake", lambda _: b"\x16\x03\x01\x02\x00\x01\x00", tls=True),
    Behaviour("TLS: silent after it", lambda _: b"", tls=True),
)


@dataclass
class Crowd:
    """The connections of one behaviour."""

    sockets: list[socket.socket]
    sent: list[int]

    @classmethod
    def come(cls, port: int, count: int) -> "Crowd":
        sockets = []
        for _ in range(count):
            one = socket.socket()
            one.settimeout(5)
            try:
                one.connect(("127.0.0.1", port))
            except OSError:
                one.close()
                continue
            one.setblocking(False)
            sockets.append(one)
        return cls(sockets, [0] * len(sockets))

    def say(self, text: bytes, until: Callable[[], bool]) -> None:
        """Send to all what they take, until they take no more or it is enough."""
        whole = memoryview(text)
        moved = True
        idle = 0
        while (moved or idle < 10) and not until():
            moved = False
            for at, one in enumerate(self.sockets):
                if self.sent[at] >= len(whole):
                    continue
                try:
                    count = one.send(whole[self.sent[at] : self.sent[at] + PIECE_BYTES])
                except BlockingIOError:
                    continue
                except OSError:  # it was cut off
                    self.sent[at] = len(whole)
                    continue
                self.sent[at] += count
                moved = True
            idle = 0 if moved else idle + 1
            if not moved:
                if all(sent >= len(whole) for sent in self.sent):
                    return
                time.sleep(0.05)

    def alive(self) -> int:
        """Connections that the node has not closed."""
        poll = select.poll()
        for one in self.sockets:
            poll.register(one, select.POLLIN | select.POLLRDHUP)
        gone = sum(
            bool(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)) for _, event in poll.poll(0)
        )
        return len(self.sockets) - gone

    def go(self) -> None:
        for one in self.sockets:
            one.close()


def served(what: Callable[[], bool]) -> bool:
    try:
        return what()
    except (OSError, AssertionError):
        return False


def measure(
    behaviour: Behaviour, options: argparse.Namespace, password: bool, certificate: list[str]
) -> dict[str, Any]:
    began_s = time.monotonic()
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        secret = path / "password"
        secret.write_bytes(PASSWORD)
        started = ["--dram", str(options.dram)]
        started += ["--password-file", str(secret)] if password else []
        started += certificate if behaviour.tls else []
        token = path / "token"
        token.write_bytes(PASSWORD)
        started += ["--admin-token-file", str(token)]
        node = stack.enter_context(node_process(*started, token=PASSWORD.decode()))
        words = PASSWORD if password else None
        before = None if behaviour.tls else Client(node.port, words, ANSWER_S)
        if before is not None:  # on an open node, too, it has said something
            before.ask(b"PING")
        sampler = Sampler(node)
        sampler.start()
        idle = sampler.first["VmRSS"]

        def grown() -> bool:
            return sampler.peak["VmRSS"] - idle > options.give_up or not node.running

        crowd = Crowd.come(node.port, options.connections)
        stack.callback(crowd.go)
        if behaviour.name == "TLS: silent after it":
            shake_hands(crowd, grown)
        crowd.say(behaviour.said(options.bytes), grown)
        until_s = time.monotonic() + options.hold
        while time.monotonic() < until_s and not grown():
            time.sleep(0.02)
        served_now = who_is_served(node, before, words, behaviour.tls)
        sampler.stop()
        added = sampler.peak["VmRSS"] - idle
        row = {
            "node": "password" if password else "open",
            "behaviour": behaviour.name,
            "came": len(crowd.sockets),
            "stayed": crowd.alive(),
            "mib_sent": sum(crowd.sent) / MI,
            "mib_added": added / MI,
            "stopped": added > options.give_up,
            **served_now,
        }
        row["seconds"] = time.monotonic() - began_s
        row["good"] = (
            node.running
            and (behaviour.tls or added <= WANTED_BYTES)
            and row["client_before"] in (True, None)
            and row["admin"] is True
            and (not password or (row["new_client"] in (True, None) and row["peer"] in (True, None)))
        )
        return row


def who_is_served(
    node: NodeProcess, before: Client | None, password: bytes | None, tls: bool
) -> dict[str, bool | None]:
    """Who gets an answer now; None where it is not asked (TLS clients)."""

    def old_client() -> bool:
        assert before is not None
        stored = before.ask(b"SET", b"served", b"yes") == b"OK"
        return stored and before.ask(b"GET", b"served") == b"yes"

    def new_client() -> bool:
        return Client(node.port, password, ANSWER_S).ask(b"PING") == b"PONG"

    def peer() -> bool:
        said = Client(node.port, password, ANSWER_S).ask(b"KVTIDE.PEER", b"1", b"a" * 40)
        return isinstance(said, bytes) and b"epoch" in said

    def admin() -> bool:
        asked = [
            node.ask("GET", path, timeout_s=ANSWER_S)[0] for path in ("/healthz", "/v1/status", "/metrics")
        ]
        return asked == [200, 200, 200]

    if tls:
        return {"client_before": None, "new_client": None, "peer": None, "admin": tls_admin(node)}
    return {
        "client_before": served(old_client),
        "new_client": served(new_client),
        "peer": served(peer),
        "admin": served(admin),
    }


def tls_admin(node: NodeProcess) -> bool:
    context = ssl._create_unverified_context()
    host, _, port = node.admin.rpartition(":")
    with (
        suppress(OSError),
        socket.create_connection((host, int(port)), ANSWER_S) as plain,
        context.wrap_socket(plain) as one,
    ):
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        return one.recv(100).startswith(b"HTTP/1.1 200")
    return False


def shake_hands(crowd: Crowd, until: Callable[[], bool]) -> None:
    """Finish the handshake on every connection, one after the other."""
    context = ssl._create_unverified_context()
    for at, plain in enumerate(crowd.sockets):
        if until():
            return
        plain.settimeout(ANSWER_S)
        with suppress(OSError):
            crowd.sockets[at] = context.wrap_socket(plain)
        crowd.sockets[at].setblocking(False)


def certificate_in(path: Path) -> list[str]:
    """A certificate of its own authority, and the options that use it."""
    cert, key = path / "cert.pem", path / "key.pem"
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
    subprocess.run(command, check=True, capture_output=True)
    return ["--tls-cert", str(cert), "--tls-key", str(key)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{at:2} {one.name}" for at, one in enumerate(BEHAVIOURS, 1)),
    )
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--dram", type=parse_quantity, default="256Mi")
    parser.add_argument("--bytes", type=parse_quantity, default="4Mi", help="that each sends at most")
    parser.add_argument("--hold", type=float, default=QUIET_S, help="seconds that they stay after that")
    parser.add_argument(
        "--give-up", type=parse_quantity, default="1Gi", help="growth at which one is stopped"
    )
    parser.add_argument("--behaviours", help="numbers of those below; all of them by default")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--open", action="store_true", help="only the node without a password")
    which.add_argument("--password", action="store_true", help="only the node with one")
    parser.add_argument("--seed", type=int, default=0, help="nothing here is drawn by chance")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = (
        BEHAVIOURS
        if options.behaviours is None
        else [BEHAVIOURS[int(at) - 1] for at in options.behaviours.split(",")]
    )
    rows = []
    with tempfile.TemporaryDirectory() as path:
        certificate = certificate_in(Path(path)) if any(one.tls for one in wanted) else []
        raise_file_limit()
        for password in (True, False):
            if (options.open and password) or (options.password and not password):
                continue
            for behaviour in wanted:
                print(f"{behaviour.name} …", file=sys.stderr, flush=True)
                rows.append(measure(behaviour, options, password, certificate))
                print(
                    "  " + ", ".join(f"{name} {value}" for name, value in rows[-1].items()), file=sys.stderr
                )
    good = all(row["good"] for row in rows)
    if options.json:
        print(json.dumps({"good": good, "rows": rows}, indent=2))
    else:
        print(table(list(rows[0]), [list(row.values()) for row in rows]))
        print("met" if good else "not met")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

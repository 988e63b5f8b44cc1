"""Clients of other languages: what they stored comes back, slots moving or not."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients.conftest import CLIENTS
from clients.nodes import PASSWORD, Cluster, cluster, node

BOTH = [(name, protocol) for name, client in CLIENTS.items() for protocol in client.protocols]
CHECKS = {"values", "many", "pipeline", "transaction", "scan", "deletion", "largeKeys"}
NOT_IN_A_CLUSTER = {"redis-rs": {"scan"}}
"""What a client has no call for."""

Report = dict[str, dict[str, Any]]
Play = Callable[..., Any]


@contextmanager
def playing(
    command: list[str],
    port: int,
    *,
    protocol: int = 2,
    is_cluster: bool = False,
    password: str = "",
    patience_s: float = 60.0,
    ca: str = "",
) -> Iterator[Report]:
    """A client that has done its checks, and until the block ends writes and reads on; then all it said."""
    settings = {"KV_HOST": "127.0.0.1", "KV_PORT": str(port), "KV_PROTOCOL": str(protocol)}
    settings |= {"KV_CLUSTER": str(int(is_cluster)), "KV_PASSWORD": password, "KV_CA": ca}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | settings,
    ) as process:
        said: Report = {}
        too_slow = threading.Timer(patience_s, process.kill)
        too_slow.start()
        try:
            assert process.stdout is not None
            while "ready" not in said:
                line = process.stdout.readline()
                assert line, f"it ended: {said}"
                one = json.loads(line)
                said[one["check"]] = one
            yield said
            rest, errors = process.communicate()
            said |= {one["check"]: one for one in map(json.loads, rest.splitlines())}
            assert process.returncode == 0, errors
        finally:
            too_slow.cancel()
            process.kill()


def assert_right(said: Report, without: AbstractSet[str] = frozenset()) -> None:
    assert {name: one for name, one in said.items() if not one["ok"]} == {}
    assert set(said) == (CHECKS - without) | {"ready", "churn"}
    assert said["churn"]["recovered"], said["churn"]
    assert said["churn"]["wrong"] == 0


@pytest.fixture(scope="module")
def password_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("password") / "password"
    path.write_text(PASSWORD)
    return path


@pytest.fixture(scope="module")
def three(password_file: Path) -> Iterator[Cluster]:
    with cluster("--password-file", str(password_file)) as made:
        yield made


@pytest.mark.parametrize(("name", "protocol"), BOTH)
def test_a_node_that_is_killed_and_comes_back(
    name: str, protocol: int, program_of: Play, password_file: Path
) -> None:
    options = ("--password-file", str(password_file))
    with ExitStack() as nodes:
        first = nodes.enter_context(node(*options))
        with playing(program_of(name), first.port, protocol=protocol, password=PASSWORD) as said:
            first.process.kill()
            first.process.wait()
            nodes.enter_context(node(*options, port=first.port))
    assert_right(said)


@pytest.mark.parametrize(("name", "protocol"), BOTH)
def test_a_cluster_whose_slots_move(name: str, protocol: int, program_of: Play, three: Cluster) -> None:
    port = three.nodes[0].port
    with playing(program_of(name), port, protocol=protocol, is_cluster=True, password=PASSWORD) as said:
        for shares in ((0, 1, 1), (1, 1, 1), (1, 0, 1), (1, 1, 1)):
            three.move(*shares)
    assert_right(said, NOT_IN_A_CLUSTER.get(name, set()))
    assert (said["churn"]["missing"], said["churn"]["errors"]) == (0, 0), said["churn"]


@pytest.mark.parametrize("name", [name for name, client in CLIENTS.items() if client.tls])
def test_tls(name: str, program_of: Play, password_file: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "node.crt", tmp_path / "node.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=node"
    words += " -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *words.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    options = ["--password-file", str(password_file), "--tls-cert", str(certificate), "--tls-key", str(key)]
    with (
        node(*options) as one,
        playing(program_of(name), one.port, password=PASSWORD, ca=str(certificate)) as said,
    ):
        pass
    assert_right(said)


def test_ioredis_gives_a_password_to_open_nodes(program_of: Play) -> None:
    with cluster() as made:
        port = made.nodes[0].port
        with playing(program_of("ioredis"), port, is_cluster=True, password=PASSWORD) as said:
            pass
    assert_right(said)

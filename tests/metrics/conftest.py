"""A real Prometheus over an exporter whose pages a test writes, and a server that answers as it is told."""

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.ports import free_port

CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
{jobs}
"""
JOB = "- {{job_name: {name}, metrics_path: /{name}, static_configs: [{{targets: ['{target}']}}]}}"

Page = Callable[[float], str]
Start = Callable[[tuple[str, ...]], "Prometheus"]


@dataclass
class Exporter:
    """Pages by job, each a function of the seconds since the exporter began. No page is a dead engine."""

    server: ThreadingHTTPServer
    pages: dict[str, Page] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)


@dataclass
class Prometheus:
    url: str
    exporter: Exporter

    def ask(self, promql: str) -> list[dict]:
        query = urllib.parse.urlencode({"query": promql})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=5) as answer:
            return json.load(answer)["data"]["result"]

    def wait_until(self, promql: str) -> None:
        """Until the query has an answer."""
        within(lambda: bool(self.ask(promql)), promql)


def within(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def exporter() -> Iterator[Exporter]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = made.pages.get(self.path.strip("/"))
            body = page(time.monotonic() - made.began_s).encode() if page else b""
            self.send_response(200 if page else 503)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # Prometheus does not wait for ever
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    made = Exporter(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def prometheus_of(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a Prometheus that scrapes the exporter's pages of these names."""
    with ExitStack() as running:

        def start(jobs: tuple[str, ...]) -> Prometheus:
            return running.enter_context(_prometheus(exporter, jobs, tmp_path_factory.mktemp("prometheus")))

        yield start


@contextmanager
def _prometheus(exporter: Exporter, names: tuple[str, ...], folder: Path) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    assert binary, "these tests play against a real Prometheus: install the package `prometheus`"
    target = "{}:{}".format(*exporter.server.server_address)
    jobs = "\n".join(JOB.format(name=name, target=target) for name in names)
    (folder / "prometheus.yml").write_text(CONFIG.format(jobs=jobs))
    listen = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        made = Prometheus(f"http://{listen}", exporter)

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return bool(made.ask("vector(1)"))
            except OSError:
                return False

        within(ready, "Prometheus is ready")
        yield made
    finally:
        process.terminate()
        process.wait(120)


@dataclass
class Scripted:
    """A server that plays back answers: status, headers and body, the last one for ever."""

    url: str
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def answer(self, status: int, body: object, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append((status, headers, raw))


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.requests.append((self.path, dict(self.headers)))
            if not made.answers:
                made.hold.wait(20)
                return
            status, headers, body = made.answers[0] if len(made.answers) == 1 else made.answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Scripted("http://{}:{}".format(*server.server_address))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor

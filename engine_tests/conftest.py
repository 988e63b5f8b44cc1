"""Real engines on real nodes. Starting an engine takes most of a minute, so tests share them."""

import json
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("KVTIDE_ENGINE", Path.home() / ".cache/kvtide/engine"))
MODEL = FOLDER / "model"
NODE_COMMAND = Path(__file__).parent.parent / ".venv/bin/kvtide-node"
START_S = 600.0
ANSWER_S = 300.0
LOAD_TIMEOUT_S = 3.0
LOOKUP_TIMEOUT_S = 2.0  # of a machine on which an engine keeps all cores busy
BLOCK_TOKENS = 128


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url, document=None, method=None, patience_s=ANSWER_S):
    body = None if document is None else json.dumps(document).encode()
    method = method or ("GET" if body is None else "POST")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=patience_s) as reply:
        return reply.read().decode()


def samples(text):
    """Metric name to the sum over its labels."""
    sums = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


class Node:
    """A cache node in a process of its own."""

    def __init__(self, *options, port=0):
        command = [NODE_COMMAND, "serve", "--block-tokens", str(BLOCK_TOKENS)]
        command += ["--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = json.loads(self.process.stdout.readline())
        self.port = int(said["listen"].rpartition(":")[2])
        self.admin = f"http://{said['admin']}"

    def status(self):
        return json.loads(fetch(f"{self.admin}/v1/status"))

    def metrics(self):
        return samples(fetch(f"{self.admin}/metrics"))

    def trace(self):
        lines = [json.loads(line) for line in fetch(f"{self.admin}/v1/trace").splitlines()]
        return [line for line in lines if line["observed_at"] == "engine"]

    def resize(self, dram_bytes):
        fetch(f"{self.admin}/v1/capacity", {"dram": dram_bytes}, "PUT")

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(15)
        finally:
            self.process.stdout.close()


class Proxy:
    """Passes bytes to a node until it is told to misbehave, after some bytes of an answer.

    ``fault`` takes the bytes of answers seen since it was set and a piece of an answer, and gives the piece
    to send on, or None to send nothing; an OSError ends the connection.
    """

    def __init__(self, port):
        self.target = port
        self.fault = None
        self.answered_bytes = 0
        self._pairs = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def misbehave(self, fault):
        self.answered_bytes = 0
        self.fault = fault

    def serve(self, port):
        """Behave, and pass to another node from now on; who is connected has to connect anew."""
        self.target, self.fault = port, None
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._end(*pair)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.serve(self.target)

    @staticmethod
    def _end(*ends):
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                node = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            node.settimeout(None)
            self._pairs.append((client, node))
            threading.Thread(target=self._pass, args=(client, node, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(node, client, True), daemon=True).start()

    def _pass(self, source, sink, is_answer):
        try:
            while piece := source.recv(1 << 18):
                if is_answer and self.fault is not None:
                    self.answered_bytes += len(piece)
                    piece = self.fault(self.answered_bytes, piece)
                    if piece is None:
                        continue
                sink.sendall(piece)
        except OSError:
            pass  # one of them hung up, or the fault did
        finally:
            self._end(source, sink)


class Engine:
    """``vllm serve`` with the connector."""

    def __init__(self, ports, log, *options, dtype="float32", connector=None, environment=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        extra = {"nodes": ",".join(f"127.0.0.1:{port}" for port in ports)}
        extra |= {"load_timeout_s": LOAD_TIMEOUT_S, "lookup_timeout_s": LOOKUP_TIMEOUT_S, "load_threads": 2}
        transfer = {
            "kv_connector": "KvtideConnector",
            "kv_connector_module_path": "kvtide_cachenode.engines.vllm_connector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": extra | (connector or {}),
        }
        command = [FOLDER / "bin/vllm", "serve", MODEL, "--served-model-name", "smol"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", dtype, "--enforce-eager"]
        command += ["--max-model-len", "8192", "--max-num-seqs", "8", *options]
        if ports:
            command += ["--kv-transfer-config", json.dumps(transfer)]
        environment = os.environ | ENGINE_ENVIRONMENT | (environment or {})
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def wait(self):
        deadline_s = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline_s, self.log.read_text()[-4000:]
            try:
                fetch(f"{self.url}/health")
                return
            except OSError:
                time.sleep(0.5)

    def complete(self, prompt, output_tokens=8, patience_s=ANSWER_S, **more):
        """Greedy; the answer's one choice."""
        document = {"model": "smol", "prompt": prompt, "max_tokens": output_tokens, "temperature": 0}
        document |= {"ignore_eos": True, "return_token_ids": True} | more
        answer = fetch(f"{self.url}/v1/completions", document, patience_s=patience_s)
        return json.loads(answer)["choices"][0]

    def tokens(self, prompt, output_tokens=8, **more):
        return self.complete(prompt, output_tokens, **more)["token_ids"]

    def ttft_s(self, prompt):
        """Seconds to the answer's only token."""
        began_s = time.perf_counter()
        self.complete(prompt, 1)
        return time.perf_counter() - began_s

    def forget(self):
        """Empty vLLM's own prefix cache."""
        fetch(f"{self.url}/reset_prefix_cache", {})

    def settle(self, prompt):
        """Use nodes until ``prompt`` is loaded whole: connections may have broken and nodes be left alone."""
        deadline_s = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline_s, "the engine does not come back to the node"
            self.forget()
            with self.counted() as grown:
                self.complete(prompt, 1)
            if grown["load_blocks"] == len(prompt) // BLOCK_TOKENS:
                self.forget()
                return

    def counters(self):
        return samples(fetch(f"{self.url}/metrics"))

    @contextmanager
    def counted(self):
        """How the counters grew, filled in at the end: kvtide's without their prefix and suffix."""
        before, growth = self.counters(), {}
        yield growth
        # Workers' counters reach the metrics with a step's output; the answer may overtake them.
        deadline_s = time.monotonic() + 2
        while True:
            after = self.counters()
            grown = {name: after[name] - before.get(name, 0) for name in after}
            short = {
                name.removeprefix("vllm:").removesuffix("_total"): value for name, value in grown.items()
            }
            growth.update({name.removeprefix("kvtide_"): value for name, value in short.items()})
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.25)

    def stop(self):
        if self.process.poll() is not None:
            return  # it never came up
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


ENGINE_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_SERVER_DEV_MODE": "1",  # /reset_prefix_cache
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Of several threads that spin at each other's barriers, one that waits for a core stops them all.
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="session")
def engines(tmp_path_factory):
    """Starts engines; ends those that still run when the tests do."""
    with ExitStack() as stack:

        def start(*arguments, **options):
            log = tmp_path_factory.mktemp("engine") / "log"
            engine = Engine(*arguments[:1], log, *arguments[1:], **options)
            stack.callback(engine.stop)
            engine.wait()
            return engine

        yield start


@pytest.fixture(scope="session")
def node():
    """The node of most tests: all they store fits."""
    node = Node("--dram", "4Gi")
    yield node
    node.stop()


@pytest.fixture(scope="session")
def proxy(node):
    proxy = Proxy(node.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def first(engines, node):
    """A float32 engine, directly at the node."""
    return engines([node.port])


@pytest.fixture(scope="session")
def second(first, engines, proxy):
    """Another one, started later, whose bytes all go through the proxy."""
    return engines([proxy.port], connector={"trace": False})


def prompt_of(tokens, seed):
    """A list of token ids that no other seed begins with."""
    state = seed * 7919 + 17
    ids = []
    for _ in range(tokens):
        state = (state * 1103515245 + 12345) % 2**31
        ids.append(state // 65536 % 40000 + 100)
    return ids


@pytest.fixture(scope="session")
def model():
    """The model's folder."""
    return MODEL


@pytest.fixture
def start_node():
    """Starts nodes; ends them when the test does."""
    with ExitStack() as stack:

        def start(*options):
            node = Node("--dram", "1Gi", *options)
            stack.callback(node.stop)
            return node

        yield start


@pytest.fixture(scope="session")
def make_prompt():
    return prompt_of


@pytest.fixture
def show(capsys):
    """Prints figures past pytest's capture."""

    def say(*lines):
        with capsys.disabled():
            print("", *lines, sep="\n    ")

    return say


@pytest.fixture
def measure_ttft(show):
    """Times to the first token of 2,000-token prompts: cold, from vLLM's own cache, and from the node."""
    parts = ("queue", "prefill", "lookup", "load", "load_wait", "transfer", "check", "scatter")

    def measure(engine, title):
        seconds = {"cold": [], "own": [], "external": []}
        sums = dict.fromkeys((kind, part) for kind in ("own", "external") for part in parts)
        for run in range(5):
            prompt = prompt_of(2000, 70 + run)
            seconds["cold"].append(engine.ttft_s(prompt))
            for kind in ("own", "external"):
                if kind == "external":
                    engine.forget()
                with engine.counted() as grown:
                    seconds[kind].append(engine.ttft_s(prompt))
                grown |= {"queue_seconds": grown["request_queue_time_seconds_sum"]}
                grown |= {"prefill_seconds": grown["request_prefill_time_seconds_sum"]}
                for part in parts:
                    sums[kind, part] = (sums[kind, part] or 0.0) + grown[f"{part}_seconds"] / 5
            assert grown["load_blocks"] == 2000 // BLOCK_TOKENS
        cold, own, external = (statistics.median(seconds[kind]) for kind in ("cold", "own", "external"))
        show(
            f"{title}, 2,000 tokens, medians of 5: cold {cold:.3f} s, own prefix cache {own:.3f} s, external"
            f" {external:.3f} s = {external / own:.2f} × own, {external / cold:.3f} × cold",
            *(
                f"mean ms, {kind}: " + ", ".join(f"{part} {sums[kind, part] * 1e3:.0f}" for part in parts)
                for kind in ("own", "external")
            ),
        )
        return cold, own, external

    return measure

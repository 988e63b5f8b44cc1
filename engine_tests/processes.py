"""Nodes, engines and what stands between them, each in a process or thread of its own."""

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from kvtide_cachenode.engines.node_connection import Credentials, NodeConnection
from kvtide_cachenode.wire.resp_client import encode

FOLDER = Path(os.environ.get("KVTIDE_ENGINE", Path.home() / ".cache/kvtide/engine"))
MODEL = FOLDER / "model"
NODE_COMMAND = Path(__file__).parent.parent / ".venv/bin/kvtide-node"
KVTIDE_COMMAND = NODE_COMMAND.with_name("kvtide")
START_S = 600.0
ANSWER_S = 300.0
SETTLE_S = 60.0
PATIENCE_S = 30.0  # of an engine with its nodes, which are not at fault where engines keep all cores busy
FAULTY_PATIENCE_S = 5.0  # … and of the one whose node is made to fail
BLOCK_TOKENS = 128
TIGHT_KV_BLOCKS = 22


PORTS = iter(random.sample(range(20_000, 32_000), 1000))


def free_port():
    """One that no connection is given while an engine takes its minute to start: those are above 32,767."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = next(PORTS)
            probe.bind(("127.0.0.1", port))
            return port


def fetch(url, document=None, method=None, patience_s=ANSWER_S):
    body = None if document is None else json.dumps(document).encode()
    method = method or ("GET" if body is None else "POST")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=patience_s) as reply:
        return reply.read().decode()


def wait_for(read, is_enough, what):
    """What ``read`` gives when it is enough."""
    deadline_s = time.monotonic() + SETTLE_S
    while not is_enough(value := read()):
        assert time.monotonic() < deadline_s, f"{what}: {value}"
        time.sleep(0.1)
    return value


def samples(text):
    """Metric name to the sum over its labels."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


class Node:
    """A cache node in a process of its own."""

    def __init__(self, *options, port=0):
        command = [str(NODE_COMMAND), "serve", "--block-tokens", str(BLOCK_TOKENS)]
        command += ["--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.port = int(said["listen"].rpartition(":")[2])
        self.admin = f"http://{said['admin']}"

    def status(self):
        return json.loads(fetch(f"{self.admin}/v1/status"))

    def metrics(self):
        return samples(fetch(f"{self.admin}/metrics"))

    def trace(self, at_least=0):
        """The lines of engines, when there are ``at_least`` so many: they come a moment after the answers."""

        def lines():
            told = [json.loads(line) for line in fetch(f"{self.admin}/v1/trace").splitlines()]
            return [line for line in told if line["observed_at"] == "engine"]

        return wait_for(lines, lambda told: len(told) >= at_least, "the trace has too few lines")

    def entries(self):
        return self.status()["tiers"]["dram"]["entries"]

    @contextmanager
    def storing(self, blocks):
        """Waits at the end until so many blocks more are here: they are sent while the engine goes on."""
        wanted = self.entries() + blocks
        yield
        got = wait_for(self.entries, lambda entries: entries >= wanted, "blocks are not stored")
        assert got == wanted

    def ask(self, *words):
        """The reply to a command."""
        deadline_s = time.monotonic() + SETTLE_S
        connection = NodeConnection(("127.0.0.1", self.port), Credentials(), deadline_s)
        try:
            return connection.ask(encode(*words), deadline_s)
        finally:
            connection.close()

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
            assert self.process.stdout is not None
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
        self.port, events, replay = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.events_url, self.replay_url = (f"tcp://127.0.0.1:{port}" for port in (events, replay))
        self._log = log
        publisher = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv@pod@smol"}
        publisher |= {"endpoint": f"tcp://*:{events}", "replay_endpoint": f"tcp://*:{replay}"}
        extra: dict[str, object] = {"nodes": ",".join(f"127.0.0.1:{port}" for port in ports)}
        extra |= {"load_timeout_s": PATIENCE_S, "lookup_timeout_s": PATIENCE_S, "load_threads": 2}
        transfer = {
            "kv_connector": "KvtideConnector",
            "kv_connector_module_path": "kvtide_cachenode.engines.vllm.connector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": extra | (connector or {}),
        }
        command = [FOLDER / "bin/vllm", "serve", MODEL, "--served-model-name", "smol"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", dtype, "--enforce-eager"]
        command += ["--max-model-len", "8192", "--max-num-seqs", "8"]
        command += ["--kv-events-config", json.dumps(publisher), "--kv-transfer-config", json.dumps(transfer)]
        self._command = [*command, *options]
        self._environment = os.environ | ENGINE_ENVIRONMENT | (environment or {})
        self.start()

    def start(self):
        """Begin to start; `wait` waits for it."""
        self._answers = []
        with self._log.open("w") as out:
            self.process = subprocess.Popen(
                self._command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def wait(self):
        deadline_s = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < deadline_s, self._log.read_text()[-4000:]
            try:
                fetch(f"{self.url}/health")
                return
            except OSError:
                time.sleep(0.5)

    def complete(self, prompt, output_tokens=8, patience_s=ANSWER_S, **more):
        """Greedy; the answer's one choice."""
        document = {"model": "smol", "prompt": prompt, "max_tokens": output_tokens, "temperature": 0}
        document |= {"ignore_eos": True, "return_token_ids": True} | more
        answer = json.loads(fetch(f"{self.url}/v1/completions", document, patience_s=patience_s))
        self._answers.append(answer["id"])
        return answer["choices"][0]

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
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            assert time.monotonic() < deadline_s, "the engine does not come back to the node"
            self.forget()
            with self.counted() as grown:
                self.complete(prompt, 1)
            if grown["load_blocks"] == len(prompt) // BLOCK_TOKENS:
                self.forget()
                return

    def counters(self):
        """Sums over labels, when all that was answered is in them: an answer may overtake its counters."""

        def answered(text):
            lines = [line for line in text.splitlines() if line.startswith("vllm:request_success_total{")]
            return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'finished_reason="length"' in line)

        def read():
            return fetch(f"{self.url}/metrics")

        return samples(wait_for(read, lambda text: answered(text) >= len(self._answers), "not counted"))

    @contextmanager
    def counted(self):
        """How the counters grew, filled in at the end: kvtide's without their prefix and suffix."""
        before, growth = self.counters(), dict[str, float]()
        yield growth
        after = self.counters()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        short = {name.removeprefix("vllm:").removesuffix("_total"): value for name, value in grown.items()}
        growth.update({name.removeprefix("kvtide_"): value for name, value in short.items()})

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

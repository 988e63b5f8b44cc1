"""The simulator against a real vLLM on CPU: engine on one core, node and client on the others.

    python -m engine_tests.validate TEXTS [options of `kvtide engine validate`]

TEXTS is a file of real texts, JSON lines with ``prompt`` or ``input_tok_ids``.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from engine_tests.processes import Engine, Node

REPOSITORY = Path(__file__).parent.parent
CHUNK_TOKENS, MAX_SEQUENCES, MAX_MODEL_TOKENS = 256, 8, 2048
DRAM, SSD = "4Gi", "6Gi"


def start_engine(core, node, log):
    """An engine on one core that keeps no prefixes itself: what hits, hits in the node."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return Engine(
            [node.port],
            log,
            *("--max-num-batched-tokens", str(CHUNK_TOKENS), "--max-model-len", str(MAX_MODEL_TOKENS)),
            *("--no-enable-prefix-caching", "--prefix-caching-hash-algo", "sha256_cbor"),
            *("--kv-events-config", '{"enable_kv_cache_events": false}'),
            dtype="bfloat16",
            environment={"PYTHONPATH": str(REPOSITORY / "cachenode/src")},
        )
    finally:
        os.sched_setaffinity(0, ours)


def main(texts, *options):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("one core only; the engine needs one and the node another")
    os.sched_setaffinity(0, set(cores[1:]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        node = Node("--dram", DRAM, "--ssd", SSD, "--ssd-path", f"{folder}/ssd")
        engine = start_engine(cores[0], node, Path(folder) / "engine.log")
        try:
            engine.wait()
            command = [REPOSITORY / ".venv/bin/kvtide", "engine", "validate", engine.url]
            command += ["--node", node.admin, "--texts", texts, "--chunk-tokens", str(CHUNK_TOKENS)]
            command += ["--max-sequences", str(MAX_SEQUENCES), *options]
            return subprocess.call(command)
        except KeyboardInterrupt:
            return 130
        finally:
            engine.stop()
            node.stop()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

"""`kvtide trace record` against what a real vLLM publishes, held against the connector's own trace."""

import json
import signal
import subprocess
import threading

import pytest

pytestmark = pytest.mark.timeout(600)

FULL = {"vllm_xargs": {"kv_cache_report_mode": "full"}}


class Recorder:
    def __init__(self, kvtide, engine, file):
        command = [kvtide, "trace", "record", "-o", file, "--kv-events", engine.events_url]
        command += ["--replay", engine.replay_url, "--metrics", f"{engine.url}/metrics"]
        self._file = file
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._said: list[str] = []
        self._is_recording = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._is_recording.wait(60), self._said

    def _read(self):
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.strip())
            if line.startswith("recording"):
                self._is_recording.set()

    def end(self):
        """Lines in order of arrival, and what it said."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(60) == 0, self._said
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        lines = [json.loads(line) for line in self._file.read_text().splitlines()]
        return sorted(lines, key=lambda line: line["timestamp"]), self._said


def grown(chains):
    """Of chains in a row that each begin with the one before, the last alone.

    While the connector looks a request up, vLLM reports its reuse at every step, which takes seconds here.
    """
    return [
        chain for chain, after in zip(chains, [*chains[1:], []], strict=True) if after[: len(chain)] != chain
    ]


def test_events_tell_what_the_connector_tells(first, node, make_prompt, kvtide, tmp_path, show):
    one, other = make_prompt(300, 700), make_prompt(300, 701)
    first.forget()
    first.tokens(make_prompt(300, 699), 1)  # before the recording: the engine sends it again
    recorder = Recorder(kvtide, first, tmp_path / "t.jsonl")
    seen = len(node.trace())
    prompts = [one, one, one[:128] + other, other, one]
    with node.storing(2 + 2 + 2 + 3):
        for prompt in prompts:
            first.tokens(prompt, 1, **FULL)
        first.tokens(make_prompt(250, 702), 140, **FULL)  # an answer that fills another block
    told = [line["hash_ids"] for line in node.trace(seen + 6)[seen:]]
    lines, said = recorder.end()
    show(*said[-3:])
    # The last id of a connector's line is of tokens that fill no block, which no event tells.
    expected = grown([ids[:-1] for ids in told])
    recorded = grown([line["hash_ids"] for line in lines])
    assert len(expected) == 5
    assert recorded[-5:] == expected
    assert len(recorded) > 5
    assert (lines[-1]["input_length"], lines[-1]["output_length"]) == (128, 256)
    assert "about 0.0%" in said[-1]


def test_without_reports_what_is_partly_new_is_rebuilt(first, node, make_prompt, kvtide, tmp_path, show):
    one, other = make_prompt(300, 710), make_prompt(300, 711)
    recorder = Recorder(kvtide, first, tmp_path / "t.jsonl")
    seen = len(node.trace())
    for prompt in (one, one, one[:128] + other):
        first.tokens(prompt, 1)
    told = [line["hash_ids"] for line in node.trace(seen + 3)[seen:]]
    lines, said = recorder.end()
    show(*said[-3:])
    assert [line["hash_ids"] for line in lines[-2:]] == [told[0][:-1], told[2][:-1]]
    # 300, 300 and 428 tokens were asked for; 256 of the second hit, and no event shows it.
    assert "of 1,028 prompt tokens about 24.9%" in said[-1]

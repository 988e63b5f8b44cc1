"""What a user sees of `kvtide engine calibrate` and `validate` when something is wrong, and of rows."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from kvtide_operator.cli.engine import command
from kvtide_operator.probe.validation import Row, within


@contextmanager
def answering(pages):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "nothing").encode())

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield "http://{}:{}".format(*server.server_address)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


MODELS = json.dumps({"data": [{"id": "toy", "max_model_len": 600}]})
METRICS = "vllm:request_prefill_time_seconds_count 0\nvllm:request_prefill_time_seconds_sum 0\n"


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({}, "/v1/models answers 404 nothing; is it vLLM?"),
        ({"/v1/models": "[]"}, "/v1/models answers with no list of models; is it OpenAI-compatible?"),
        ({"/v1/models": '{"data": []}'}, "does not serve any model (it serves none); name one with --model"),
        (
            {"/v1/models": '{"data": [{"id": "a"}, {"id": "b"}]}'},
            "serves several models (a, b); name one with --model",
        ),
        ({"/v1/models": '{"data": [{"id": "a"}]}'}, "does not say max_model_len of a; is it vLLM?"),
        ({"/v1/models": MODELS}, "/metrics answers 404 nothing; is it vLLM?"),
        (
            {"/v1/models": MODELS, "/metrics": METRICS, "/v1/completions": "data: hello\n\n"},
            "streamed b'hello', which is no completion; is it OpenAI-compatible?",
        ),
        (
            {"/v1/models": MODELS, "/metrics": METRICS, "/v1/completions": ""},
            "streamed an answer without a token; is it OpenAI-compatible?",
        ),
        (
            {
                "/v1/models": MODELS,
                "/metrics": METRICS,
                "/v1/completions": 'data: {"error": {"message": "no memory"}}\n\n',
            },
            "broke off an answer: no memory",
        ),
        (
            {
                "/v1/models": MODELS,
                "/metrics": METRICS + "vllm:num_requests_running 2\n",
            },
            "serves 2 requests; calibrate an engine that is idle",
        ),
    ],
)
def test_a_server_that_is_no_idle_vllm_is_refused_in_a_sentence(pages, said):
    with answering(pages) as url:
        result = CliRunner().invoke(command, ["calibrate", url])
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["calibrate", "engine:8000"], "engine:8000 is no URL; write for example http://127.0.0.1:8000"),
        (["calibrate", "http://127.0.0.1:1"], "cannot be reached"),
        (
            ["calibrate", "http://127.0.0.1:1", "-o", "/no/such/file"],
            "/no/such/file: No such file or directory; write elsewhere",
        ),
        (
            [
                "validate",
                "http://127.0.0.1:1",
                "--node",
                "http://127.0.0.1:1",
                "--texts",
                "t",
                "--dram",
                "9Qi",
            ],
            "9Qi",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_a_sentence(arguments, said):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


def row(name="a", run=1, *, measured=(1.0, 10.0, 0.5), simulated=(1.0, 10.0, 0.5)):
    return Row(name, run, 100, 50.0, *measured, *simulated, 0.6)


@pytest.mark.parametrize(
    ("rows", "agrees"),
    [
        ([row(simulated=(1.09, 10.4, 0.509))], [True]),
        ([row(simulated=(1.11, 10.0, 0.5))], [False]),
        ([row(simulated=(1.0, 10.6, 0.5))], [False]),
        ([row(simulated=(1.0, 10.0, 0.511))], [False]),
        # Equal runs that differ by 10 % of their mean allow 20 %; those of another configuration do not.
        (
            [
                row(measured=(0.95, 10.0, 0.5), simulated=(1.13, 10.0, 0.5)),
                row(run=2, measured=(1.05, 10.0, 0.5), simulated=(1.2, 10.0, 0.5)),
                row("b", simulated=(1.18, 10.0, 0.5)),
            ],
            [True, True, False],
        ),
    ],
)
def test_rows_agree_within_the_bounds_or_twice_the_spread_of_equal_runs(rows, agrees):
    assert within(rows) == agrees

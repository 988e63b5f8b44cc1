"""Sockets at which an engine publishes KV events, and sends past ones again.

Frames of a published batch: topic, number (8 bytes, big-endian), payload; of a replayed one the same behind
an empty frame. A replay is asked for by a number, and ends with the number -1. Source: vLLM 0.32,
``vllm/distributed/kv_events.py``.
"""

from collections.abc import Callable, Iterator

import zmq

from kvtide_operator.cli.errors import UserError
from kvtide_operator.workload.kv_events.order import Message

POLL_S = 0.5
REPLAY_SILENCE_S = 5.0
"""A replay in which nothing comes for so long is given up; what is missing counts as lost."""
MAX_WAITING_BATCHES = 1_000
"""Batches kept while others are written; ZeroMQ drops what comes then, which shows as a gap."""
MAX_MESSAGE_BYTES = 8 << 20
"""ZeroMQ hangs up on a larger message and connects anew, which shows as a gap."""
END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)


class Subscriber:
    """What ``events_url`` publishes, and ``replay_url`` repeats; ``say`` takes sentences about what is odd.

    Raises:
        UserError: a URL is none that can be connected to.
    """

    def __init__(self, events_url: str, replay_url: str | None, say: Callable[[str], None]) -> None:
        self._say = say
        self._replay_url = replay_url
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set_hwm(MAX_WAITING_BATCHES)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        _connect(self._socket, "--kv-events", events_url)
        if replay_url is not None:
            with self._replay_socket(replay_url):
                pass  # a wrong address is told before anything is recorded

    def close(self) -> None:
        """Close all."""
        self._context.destroy(linger=0)

    def receive(self) -> Message | None:
        """The next batch; None if none comes within `POLL_S`."""
        if not self._socket.poll(int(POLL_S * 1e3)):
            return None
        return self._message(self._socket.recv_multipart())

    def waiting(self) -> Iterator[Message]:
        """The batches that have arrived and were not received yet."""
        for _ in range(MAX_WAITING_BATCHES):
            if not self._socket.poll(0):
                return
            message = self._message(self._socket.recv_multipart())
            if message is not None:
                yield message

    def replay(self, first: int) -> Iterator[Message]:
        """What the engine still has from batch ``first`` on."""
        if self._replay_url is None:
            return
        with self._replay_socket(self._replay_url) as socket:
            socket.send_multipart([b"", first.to_bytes(8, "big")])
            while socket.poll(int(REPLAY_SILENCE_S * 1e3)):
                frames = socket.recv_multipart()
                if len(frames) >= 2 and frames[-2] == END_OF_REPLAY:
                    return
                message = self._message(frames)
                if message is not None:
                    yield message
        self._say(f"{self._replay_url} fell silent for {REPLAY_SILENCE_S:g} s in a replay")

    def _replay_socket(self, url: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.LINGER, 0)
        _connect(socket, "--replay", url)
        return socket

    def _message(self, frames: list[bytes]) -> Message | None:
        """Number and payload, which are the last two frames."""
        if len(frames) < 2 or len(frames[-2]) != 8:
            self._say("a message that is no batch of KV events is left out")
            return None
        return int.from_bytes(frames[-2], "big"), frames[-1]


def _connect(socket: "zmq.Socket[bytes]", option: str, url: str) -> None:
    if "*" in url:
        raise UserError(f"{option} {url} is where an engine listens; name its host, as tcp://127.0.0.1:5557")
    try:
        socket.connect(url)
    except zmq.ZMQError:
        raise UserError(f"{option} {url} is no address to connect to; give tcp://HOST:PORT") from None

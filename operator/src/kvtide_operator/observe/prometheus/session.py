"""The HTTP session under prometheus-api-client: what that library leaves unbounded or drops is held here.

The library hands its session method, URL and parameters, and takes ``data.result`` alone of a JSON answer.
This session ends every request in bounded time and bytes, follows no redirect and keeps warnings.
"""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from requests import PreparedRequest, RequestException, Response, Session
from requests.auth import AuthBase

MAX_ANSWER_BYTES: Final = 4 << 20
"""Our queries answer with a few series of a hundred bytes each; more than this is not read."""
MAX_WARNINGS: Final = 8
"""Warnings kept of one reading; each is cut to `MAX_WARNING_CHARACTERS`."""
MAX_WARNING_CHARACTERS: Final = 200
_CHUNK_BYTES: Final = 1 << 16


class UnusableAnswerError(RequestException):
    """An answer that is not read; the message says what came and what to do."""


class BearerToken(AuthBase):
    """Sends a token; as ``auth`` it also keeps a ``.netrc`` from replacing it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """The request with its header."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class BoundedSession(Session):
    """A session for one thread at a time.

    Args:
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._deadline_s = float("inf")
        self._warnings: list[str] = []

    def begin(self, within_s: float) -> None:
        """Everything from now on ends within this time, and warnings are counted from here."""
        self._deadline_s = self._monotonic() + within_s
        self._warnings = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the server warned of since `begin`, each once, in order."""
        return tuple(dict.fromkeys(self._warnings))[:MAX_WARNINGS]

    def request(self, *details: Any, **options: Any) -> Response:
        """As `Session.request`, bounded; the answer is read whole.

        Raises:
            RequestException: no answer, too late, too long, or a redirect.
        """
        self._check_time()
        with super().request(*details, **options | {"stream": True, "allow_redirects": False}) as answer:
            if answer.is_redirect:
                raise UnusableAnswerError(
                    f"it redirects to {answer.headers['location']:.200}; name that as metrics.prometheus.url"
                )
            body = self._body(answer)
        self._keep_warnings(body)
        read = Response()
        read.status_code, read.url, read.encoding = answer.status_code, answer.url, "utf-8"
        read.raw = BytesIO(body)
        return read

    def _check_time(self) -> None:
        if self._monotonic() > self._deadline_s:
            raise UnusableAnswerError("it took too long")

    def _body(self, answer: Response) -> bytes:
        body = bytearray()
        for chunk in answer.iter_content(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise UnusableAnswerError(
                    f"its answer is longer than {MAX_ANSWER_BYTES >> 20} MiB; narrow metrics.selector"
                )
            self._check_time()
        return bytes(body)

    def _keep_warnings(self, body: bytes) -> None:
        try:
            answer = json.loads(body)
        except ValueError:
            return
        for kind in ("warnings", "infos"):
            said = answer.get(kind) if isinstance(answer, dict) else None
            if isinstance(said, list):
                self._warnings += [str(each)[:MAX_WARNING_CHARACTERS] for each in said[:MAX_WARNINGS]]

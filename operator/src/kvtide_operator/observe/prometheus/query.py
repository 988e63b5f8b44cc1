"""One instant query, through prometheus-api-client, with every way to fail as a sentence."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import ConnectionError as NoConnectionError
from requests import JSONDecodeError, RequestException, Timeout
from urllib3.util import Retry

from kvtide_operator.observe.prometheus.session import BearerToken, BoundedSession

MAX_SERIES: Final = 1000
"""Series of one answer; every expression of ours answers with one, but the sizes of caches."""
RETRIED_STATUS: Final = frozenset({429, 500, 502, 503, 504})
RETRIES: Final = 2
"""Tries after the first, with a pause of 0.2 s and 0.4 s; not after a time-out, which would only repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusAccess:
    """Where Prometheus is, and how to get in.

    Attributes:
        url: with its path prefix, if it has one.
        token: a bearer token.
        ca_pem: certificates of the authorities to trust; None for the public ones.
    """

    url: str
    token: str | None = None
    ca_pem: str | None = None


class AnswerError(Exception):
    """Nothing usable came; the text completes the sentence that begins with Prometheus' URL."""


@contextmanager
def session_for(access: PrometheusAccess, within_s: float) -> Iterator[BoundedSession]:
    """A session all of whose requests end within this time; for one thread."""
    with BoundedSession(time.monotonic) as session, _authorities(access.ca_pem) as verify:
        session.verify = verify
        session.begin(within_s)
        yield session


@contextmanager
def _authorities(ca_pem: str | None) -> Iterator[str | bool]:
    """Trust as `requests` takes it: it wants a file, and a read-only container may have no place for one."""
    if ca_pem is None:
        yield True
        return
    file = os.memfd_create("authorities")
    try:
        os.write(file, ca_pem.encode())
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


class Query:
    """Instant queries through the library, with errors as sentences."""

    def __init__(self, session: BoundedSession, access: PrometheusAccess, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._prometheus = PrometheusConnect(
            access.url.rstrip("/"),
            auth=BearerToken(access.token) if access.token else None,
            session=session,
            timeout=timeout_s,
            retry=Retry(
                total=RETRIES,
                read=False,
                status_forcelist=RETRIED_STATUS,
                allowed_methods=["GET"],
                backoff_factor=0.2,
                respect_retry_after_header=False,
                raise_on_status=False,
            ),
        )

    def instant(self, promql: str, at_s: float) -> list[dict[str, Any]]:
        """The rows of an instant vector.

        Raises:
            AnswerError: there are none to be had.
        """
        params = {"time": f"{at_s:.3f}", "timeout": f"{self._timeout_s:g}s"}
        try:
            rows = self._prometheus.custom_query(promql, params)
        except Timeout:
            raise AnswerError(f"did not answer within {self._timeout_s:g} s") from None
        except NoConnectionError as error:
            raise AnswerError(f"cannot be reached ({_cause(error)})") from None
        except JSONDecodeError:
            raise AnswerError("answered with something that is not JSON; is this Prometheus?") from None
        except RequestException as error:
            raise AnswerError(str(error)) from None
        except PrometheusApiClientException as error:
            raise AnswerError(f"answered {str(error)[:300]}") from None
        except (KeyError, TypeError):
            raise AnswerError("answered with JSON that is no query result; is this Prometheus?") from None
        if not _is_vector(rows):
            raise AnswerError("answered with JSON that is no instant vector; is this Prometheus?")
        if len(rows) > MAX_SERIES:
            raise AnswerError(f"answered with {len(rows)} series; narrow metrics.selector")
        return rows


def _cause(error: BaseException) -> str:
    """The innermost reason: the libraries wrap it three times."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return str(error)[:200]


def _is_vector(rows: object) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("metric"), dict)
        and isinstance(row.get("value"), list)
        and len(row["value"]) == 2
        and _is_number(row["value"][1])
        for row in rows
    )


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True

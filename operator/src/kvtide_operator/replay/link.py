"""A way to one target that connects anew after a failure, and gives up after many."""

import asyncio
from collections.abc import Iterable
from typing import Self

from kvtide_cachenode.wire.resp_client import Check
from kvtide_operator.replay.target_connection import AccessError, Answer, PeerError, TargetConnection
from kvtide_operator.replay.targets import Target

FAILURES_IN_A_ROW_MAX = 20
"""Commands to one target that may go without a reply in a row; at this many the run gives up."""

RETRY_PAUSE_S = 0.1
"""Wait before a target that has failed is tried again, so that a restart of about two seconds is survived."""


class GaveUpError(Exception):
    """A target failed too many times in a row; the message names it and the last reason."""


class TargetHealth:
    """How often a target has failed in a row, over all links to it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.failures_in_a_row = 0


class Link:
    """One worker's way to one target. Use `open_to` to make one."""

    def __init__(self, health: TargetHealth, connection: TargetConnection) -> None:
        self._health = health
        self._connection = connection

    @classmethod
    async def open_to(cls, health: TargetHealth) -> Self:
        """Connect.

        Raises:
            PeerError: nobody answers there.
            AccessError: the password is wrong or missing.
        """
        return cls(health, await TargetConnection.open_to(health.target))

    @property
    def target(self) -> Target:
        """The server at the other end."""
        return self._health.target

    @property
    def is_kvtide(self) -> bool:
        """Whether the server last connected to is a kvtide node."""
        return self._connection.is_kvtide

    async def ask(self, command: Iterable[bytes | memoryview], check: Check | None = None) -> Answer:
        """Send one encoded command, on a new connection if the last one broke, and wait for its reply.

        Raises:
            PeerError, AccessError: there is no reply; the next command may try again.
            GaveUpError: that was the last try.
        """
        health = self._health
        try:
            if not self._connection.is_open:
                if health.failures_in_a_row:
                    await asyncio.sleep(RETRY_PAUSE_S)
                self._connection = await TargetConnection.open_to(health.target)
            answer = await self._connection.ask(command, check)
        except (PeerError, AccessError) as failure:
            health.failures_in_a_row += 1
            if health.failures_in_a_row >= FAILURES_IN_A_ROW_MAX:
                why = f"{health.target} failed {FAILURES_IN_A_ROW_MAX} times in a row: {failure}"
                raise GaveUpError(why) from None
            raise
        health.failures_in_a_row = 0
        return answer

    def close(self) -> None:
        """Close at once."""
        self._connection.close()

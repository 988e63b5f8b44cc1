"""A bounded number of threads with a bounded queue, for the blocking calls of the log."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Job(Generic[T]):
    """A call in a thread; `done` is its asyncio side."""

    def __init__(self, future: "Future[T]") -> None:
        self._future = future
        self.done: asyncio.Future[T] = asyncio.wrap_future(future)

    async def within(self, seconds: float) -> bool:
        """Wait for the call at most this long; whether it ended."""
        await asyncio.wait([self.done], timeout=seconds)
        return self.done.done()

    async def result(self) -> T:
        """What the call returns or raises; the call goes on when the caller is cancelled."""
        await asyncio.wait([self.done])
        return self.done.result()

    def withdraw(self) -> bool:
        """Whether the call was still waiting for a thread and will now never begin."""
        return self._future.cancel()


class IoPool:
    """Threads for one kind of work. ``waiting`` counts what was submitted and has not ended."""

    def __init__(self, name: str, threads: int, waiting_limit: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting_limit = waiting_limit
        self.waiting = 0

    @property
    def full(self) -> bool:
        """Whether the queue is at its limit; the caller asks before it submits a client's work."""
        return self.waiting >= self._waiting_limit

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Start a call when a thread is free. The log's own calls pass the limit: there are few of them."""
        job = Job(self._executor.submit(call, *args, **kwargs))
        self.waiting += 1
        job.done.add_done_callback(self._ended)
        return job

    def _ended(self, done: "asyncio.Future[Any]") -> None:
        self.waiting -= 1
        if not done.cancelled():
            done.exception()  # whoever gave up waiting does not ask: mark it as seen

    def close(self) -> None:
        """Let the threads end; a call that hangs in the kernel is not waited for here."""
        self._executor.shutdown(wait=False)

"""Runs batches of simulations on an executor: in this process, in threads, in processes or on a cluster."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from kvtide_operator.plan.outcome import Outcome
from kvtide_operator.simulate.configuration import Configuration

Evaluate = Callable[[Configuration], Outcome]
"""A pure function: the same configuration gives the same outcome in any process."""

_adopted: Evaluate | None = None
_one_batch = Lock()  # an evaluator remembers cache passes; compiled code holds the interpreter's lock anyway


def adopt(evaluate: Evaluate) -> None:
    """Keep ``evaluate`` in this process for batches that come without one.

    A process pool's initializer: the trace and the compiled code reach a worker once, not with every task.
    """
    global _adopted
    _adopted = evaluate


def evaluate_batch(
    evaluate: Evaluate | None, configurations: tuple[Configuration, ...]
) -> tuple[Outcome, ...]:
    """The outcomes of ``configurations`` in their order; without ``evaluate``, by the adopted one.

    Threads of one process take turns.
    """
    evaluate = evaluate or _adopted
    assert evaluate is not None
    with _one_batch:
        return tuple(evaluate(configuration) for configuration in configurations)


class InlineExecutor(Executor):
    """Runs a task where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is already done, or failed as the task did."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future hands on whatever its task raised
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Workers:
    """An executor and the evaluator its tasks are given.

    Attributes:
        executor: anything with `concurrent.futures.Executor`'s interface.
        evaluate: the evaluator; or what the executor turns into it on the worker, such as the future of
            data scattered over a Dask cluster; or None where every worker has adopted one.
    """

    executor: Executor
    evaluate: Any

    def run(
        self, configurations: Sequence[Configuration], on_done: Callable[[int], None]
    ) -> tuple[Outcome, ...]:
        """The outcomes of ``configurations``, in their order, whatever order the workers finish in.

        All configurations of one DRAM size are one task, since they share the simulator's expensive pass.

        Args:
            configurations: what to evaluate.
            on_done: called with the number of configurations of every finished task.
        """
        tasks: dict[Future[tuple[Outcome, ...]], list[int]] = {}
        for indices in _by_dram(configurations):
            batch = tuple(configurations[index] for index in indices)
            tasks[self.executor.submit(evaluate_batch, self.evaluate, batch)] = indices
        outcomes: dict[int, Outcome] = {}
        for future in as_completed(tasks):
            indices = tasks[future]
            outcomes.update(zip(indices, future.result(), strict=True))
            on_done(len(indices))
        return tuple(outcomes[index] for index in range(len(configurations)))


def inline(evaluate: Evaluate) -> Workers:
    """No workers but this thread."""
    return Workers(InlineExecutor(), evaluate)


@contextmanager
def processes(evaluate: Evaluate, jobs: int) -> Iterator[Workers]:
    """``jobs`` processes of this machine; for one job, this process itself."""
    if jobs == 1:
        yield inline(evaluate)
        return
    context = multiprocessing.get_context()
    with ProcessPoolExecutor(jobs, context, initializer=adopt, initargs=(evaluate,)) as pool:
        # Started now: a fork after the caller has begun to draw its progress would copy a thread's locks.
        pool.submit(os.getpid).result()
        yield Workers(pool, None)


def _by_dram(configurations: Sequence[Configuration]) -> list[list[int]]:
    """Indices of the configurations by DRAM size and instances, the largest group first."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, configuration in enumerate(configurations):
        groups.setdefault((configuration.dram_bytes, configuration.instances), []).append(index)
    return sorted(groups.values(), key=len, reverse=True)

"""The same search in one process, in several, in threads and on a Dask cluster: the same result."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed import Client, LocalCluster

from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.search import run_search
from kvtide_operator.plan.workers import Workers, inline, processes
from kvtide_operator.simulate.configuration import Configuration

GIB = 1 << 30


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_number_of_processes_does_not_show(jobs, analytic, space, bounds):
    alone = run_search(Kareto(), space, bounds, inline(analytic))
    with processes(analytic, jobs) as workers:
        together = run_search(Kareto(), space, bounds, workers)
    assert pickle.dumps(together) == pickle.dumps(alone)


def test_threads_give_the_same(analytic, space, bounds):
    alone = run_search(Kareto(), space, bounds, inline(analytic))
    with ThreadPoolExecutor(3) as pool:
        together = run_search(Kareto(), space, bounds, Workers(pool, analytic))
    assert together == alone


def test_the_evaluator_reaches_a_worker_once_and_not_with_every_task(analytic):
    """Pickling it a second time would fail: it lets itself be sent no more than once per process."""
    evaluator = SentRarely(analytic, os.getpid())
    with processes(evaluator, 2) as workers:
        outcomes = workers.run([Configuration(size * GIB) for size in range(40)], lambda _: None)
    assert outcomes == tuple(analytic(Configuration(size * GIB)) for size in range(40))
    assert evaluator.sent <= 2


class SentRarely:
    def __init__(self, evaluate, parent):
        self.evaluate = evaluate
        self.parent = parent
        self.sent = 0

    def __getstate__(self):
        self.sent += 1
        return self.__dict__

    def __call__(self, configuration):
        assert os.getpid() != self.parent
        return self.evaluate(configuration)


def test_one_dram_size_is_one_task(analytic):
    batches = []
    configurations = [Configuration(dram * GIB, ttl, "fast") for ttl in (1.0, 2.0) for dram in (1, 2, 3)]
    outcomes = inline(analytic).run(configurations, batches.append)
    assert batches == [2, 2, 2]
    assert outcomes == tuple(map(analytic, configurations))


def test_an_error_in_a_worker_process_reaches_the_caller():
    with processes(fails, 2) as workers, pytest.raises(ValueError, match="5 bytes"):
        workers.run([Configuration(5)], lambda _: None)


def fails(configuration):
    raise ValueError(f"{configuration.dram_bytes} bytes")


def test_a_dask_clusters_executor_fits(analytic, space, bounds):
    """A scheduler and two workers that talk over TCP; the evaluator is scattered, not sent with tasks."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            protocol="tcp://",
            host="127.0.0.1",
        ) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        (everywhere,) = client.scatter([analytic], broadcast=True)
        together = run_search(Kareto(), space, bounds, Workers(client.get_executor(), everywhere))
    assert together == run_search(Kareto(), space, bounds, inline(analytic))

"""Simulated clusters: empty, and settled with entries in them."""

import pytest
from tests.converge.simulated_cluster import Cluster

from kvtide_cachenode.contract.sizing import MI
from kvtide_operator.decide.target import Target


@pytest.fixture
def make_cluster():
    return Cluster


@pytest.fixture
def settled():
    """Makes a cluster that has come to rest, with entries in it."""

    def make(total_mib=512, entries=0, **options):
        cluster = Cluster(**options)
        cluster.retarget(Target(total_mib * MI, options.pop("ssd_bytes", 0)))
        cluster.settle()
        cluster.fill(entries)
        return cluster

    return make

"""How all tests are run: in an order of a seed where one is given, and properties without a clock."""

import os
from itertools import groupby
from random import Random

import pytest
from hypothesis import settings

SEED = os.environ.get("KVTIDE_TEST_SEED", "")

# How long an example takes says how busy the machine is. In CI they are the same each time, elsewhere new.
settings.register_profile("kvtide", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("kvtide")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEED:
        terminalreporter.write_line(f"In the order of KVTIDE_TEST_SEED={SEED}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in another order, and the tests within each: workers take whole files."""
    if not SEED:
        return
    random = Random(SEED)
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    random.shuffle(files)
    for tests in files:
        random.shuffle(tests)
    items[:] = [test for tests in files for test in tests]

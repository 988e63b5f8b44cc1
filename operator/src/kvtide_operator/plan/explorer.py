"""What every search evaluates through: a memo, a limit and a progress report."""

from collections.abc import Callable, Iterable

from kvtide_operator.plan.outcome import Candidate, Outcome
from kvtide_operator.plan.workers import Workers
from kvtide_operator.simulate.configuration import Configuration

Progress = Callable[[int, int], None]
"""Called with the evaluations done and the evaluations allowed."""


class BudgetSpentError(Exception):
    """The evaluations allowed are spent; what was found before stays found."""


def no_progress(done: int, allowed: int) -> None:
    """Report nothing."""


class Explorer:
    """Evaluates configurations, each at most once, and keeps them in the order they were asked for.

    Args:
        workers: where simulations run. The order of results does not depend on how many there are.
        max_evaluations: at this many different configurations the search ends.
        on_progress: told of every finished task.
    """

    def __init__(self, workers: Workers, max_evaluations: int, on_progress: Progress = no_progress) -> None:
        assert max_evaluations > 0
        self._workers = workers
        self._max_evaluations = max_evaluations
        self._on_progress = on_progress
        self._seen: dict[Configuration, Outcome] = {}
        self._done = 0

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Everything evaluated so far."""
        return tuple(Candidate(configuration, outcome) for configuration, outcome in self._seen.items())

    @property
    def evaluations(self) -> int:
        """How many different configurations have been evaluated."""
        return len(self._seen)

    def evaluate(self, configurations: Iterable[Configuration]) -> None:
        """Evaluate what has not been evaluated; `outcome` then knows it.

        Raises:
            BudgetSpentError: the limit left some of them out; the first ones are evaluated.
        """
        new = [c for c in dict.fromkeys(configurations) if c not in self._seen]
        allowed = new[: self._max_evaluations - len(self._seen)]
        if allowed:
            self._seen.update(zip(allowed, self._workers.run(allowed, self._report), strict=True))
        if len(allowed) < len(new):
            raise BudgetSpentError

    def outcome(self, configuration: Configuration) -> Outcome:
        """The outcome of a configuration that has been evaluated."""
        return self._seen[configuration]

    def __contains__(self, configuration: Configuration) -> bool:
        return configuration in self._seen

    def _report(self, evaluated: int) -> None:
        self._done += evaluated
        self._on_progress(self._done, self._max_evaluations)

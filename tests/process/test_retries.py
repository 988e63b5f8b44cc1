"""What was refused is tried again after 1, 2, 4 … seconds, a minute at most."""

from kvtide_operator.act.kubernetes.execute import Ending, Outcome
from kvtide_operator.decide.steps import ResizePod
from kvtide_operator.reconcile.retries import LONGEST_S, Retries


def outcome(ending: Ending, version: int = 1, pod: str = "a-0") -> Outcome:
    return Outcome(ResizePod(pod, str(version), 1 << 30), ending, "exceeded quota")


def test_each_refusal_in_a_row_rests_twice_as_long() -> None:
    retries, now_s, waits = Retries(), 0.0, []
    for version in range(9):
        retries.learn([outcome(Ending.REFUSED, version)], now_s)
        began_s = now_s
        while retries.resting(now_s):
            now_s += 0.5
        waits.append(now_s - began_s)
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_S, LONGEST_S, LONGEST_S]


def test_another_step_or_a_pass_without_it_changes_nothing_while_it_rests() -> None:
    retries = Retries()
    retries.learn([outcome(Ending.REFUSED)], 0.0)
    retries.learn([outcome(Ending.DONE, pod="a-1")], 0.5)
    assert [one.step.pod for one in retries.resting(0.5)] == ["a-0"]
    assert retries.any


def test_what_was_done_or_is_not_asked_for_any_more_is_forgotten() -> None:
    retries = Retries()
    retries.learn([outcome(Ending.REFUSED), outcome(Ending.REFUSED, pod="a-1")], 0.0)
    retries.learn([outcome(Ending.DONE)], 0.5)
    assert [one.step.pod for one in retries.resting(0.5)] == ["a-1"]
    retries.learn([], 1.5)
    assert not retries.any

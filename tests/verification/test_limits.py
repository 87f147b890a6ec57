"""The time limit: it interrupts, nests, and leaves handler and timer as they were."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from verification.limits import TimeLimitExceeded, limits_apply, time_limit

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX")


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def spin(seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_what_takes_longer_is_interrupted() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"), time_limit(0.05):
        spin()
    assert time.monotonic() - start < 1


def test_what_is_done_in_time_is_left_alone() -> None:
    with time_limit(0.05):
        pass
    time.sleep(0.1)  # nothing rings any more


def test_none_is_no_limit() -> None:
    with time_limit(None):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"seconds must be a positive number, got {seconds}"):
        time_limit(seconds).__enter__()


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError, match="mine"), time_limit(5):
        raise KeyError("mine")


def test_an_outer_limit_outlasts_an_inner_one() -> None:
    @time_limit(0.3)
    def both() -> None:
        with pytest.raises(TimeLimitExceeded, match=r"0\.05"), time_limit(0.05):
            spin()
        spin()

    with pytest.raises(TimeLimitExceeded, match=r"0\.3"):
        both()


def test_an_outer_limit_counts_where_it_ends_first() -> None:
    with pytest.raises(TimeLimitExceeded, match=r"0\.05"), time_limit(0.05), time_limit(5):
        spin()


def test_a_limit_that_was_over_meanwhile_still_rings() -> None:
    @time_limit(0.1)
    def both() -> None:
        with time_limit(0.09):
            signal.setitimer(signal.ITIMER_REAL, 0)  # a candidate that sets the alarm itself
            spin(0.15)
        spin()

    with pytest.raises(TimeLimitExceeded, match=r"0\.1"):
        both()


def test_code_that_swallows_the_first_alarm_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verification.limits.AGAIN", 0.05)

    @time_limit(0.05)
    def stubborn() -> None:
        try:
            spin()
        except Exception:
            spin()

    with pytest.raises(TimeLimitExceeded):
        stubborn()


class Slow:
    """Something whose end takes longer than the limit."""

    def __del__(self) -> None:
        spin(0.2)


def let_go_and_spin() -> None:
    Slow()
    spin()


def test_an_alarm_in_a_destructor_waits_for_its_end() -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitExceeded), time_limit(0.05):  # an exception in it would be printed
        let_go_and_spin()
    assert 0.2 < time.monotonic() - start < 0.9  # before it would be raised again


def test_without_alarms_it_is_no_limit() -> None:
    found: list[bool] = []

    def work() -> None:
        with time_limit(0.02):
            spin(0.1)
            found.append(limits_apply())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert limits_apply()


def collect_slowly(phase: str, _info: dict[str, int]) -> None:
    spin(0.2 if phase == "stop" else 0.0)


def test_a_limit_that_is_over_in_a_callback_of_the_collector_rings_after_it() -> None:
    @time_limit(0.05)
    def collect_and_spin() -> None:
        gc.collect()
        spin()

    gc.callbacks.append(collect_slowly)
    try:
        with pytest.raises(TimeLimitExceeded):
            collect_and_spin()
    finally:
        gc.callbacks.remove(collect_slowly)

"""Parts in processes: order kept, and one that crashes, hangs or ends its process fails alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from verification.parts import Part, run, run_apart, run_here
from verification.report import Row

ROW = Row("x", "case", "output", "float64", 0.0, 0.0, 1e-11, "1e-11", "as good")


def good(name: str, count: int = 1) -> Iterator[list[Row]]:
    for i in range(count):
        yield [replace(ROW, subject=name, case=str(i))]


def crash() -> Iterator[list[Row]]:
    yield from good("bad")
    raise ValueError("no\nway")


def spin() -> Iterator[list[Row]]:
    yield from good("bad")
    while True:
        pass


def deaf() -> Iterator[list[Row]]:
    """Hang where no alarm is heard."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    yield from spin()


def leave() -> Iterator[list[Row]]:
    yield from good("bad")
    os.kill(os.getpid(), signal.SIGSEGV)


CRASHES = {
    crash: "ValueError: no",
    spin: "TimeLimitExceeded: more than 0.5 s",
    deaf: "TimeLimitExceeded: more than 0.5 s, and it could not be interrupted",
    leave: "its process was ended by SIGSEGV",
}


def several() -> list[Part]:
    found = [Part("first", 2, partial(good, "first", 2))]
    for crashing in CRASHES:
        found += [Part("bad", 2, crashing, "its case"), Part("good", 1, partial(good, "good"))]
    return found


def test_what_fails_fails_alone_and_the_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verification.parts.GRACE", 0.5)
    advanced: list[str] = []
    found = run_apart(several, limit=0.5, advance=lambda part: advanced.append(part.name))
    assert [row.case for row in found[0]] == ["0", "1"]
    for (_, note), bad, fine in zip(CRASHES.items(), found[1::2], found[2::2], strict=True):
        assert [(row.subject, row.passed) for row in bad] == [("bad", True), ("bad", False)]
        assert (bad[1].case, bad[1].note) == ("its case", note)
        assert [(row.subject, row.passed) for row in fine] == [("good", True)]
    assert len(advanced) == sum(map(len, found))


def numbered() -> list[Part]:
    return [Part(str(i), 1, partial(good, f"{i} in {os.getpid()}")) for i in range(4)]


def test_parts_may_be_started_in_any_order() -> None:
    found = run_apart(numbered, jobs=2, order=[3, 2, 1, 0])
    names = [rows[0].subject.split(" in ") for rows in found]
    assert [number for number, _ in names] == ["0", "1", "2", "3"]
    assert str(os.getpid()) not in {process for _, process in names}


def test_an_interrupt_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(part: Part) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_apart(several, advance=interrupted)
    assert time.monotonic() - start < 30


def test_no_parts_are_no_rows() -> None:
    assert run_apart(list, jobs=2) == run_here([]) == []


def test_the_limit_is_for_each_list_of_rows() -> None:
    def steady() -> Iterator[list[Row]]:
        for rows in good("slow", 4):
            time.sleep(0.1)
            yield rows

    assert [rows[0].passed for rows in run(Part("slow", 4, steady), 0.3)] == [True] * 4
    rows = [row for rows in run(Part("slow", 4, steady), 0.05) for row in rows]
    assert [row.note for row in rows] == ["TimeLimitExceeded: more than 0.05 s"]


def interrupt() -> Iterator[list[Row]]:
    yield from good("bad")
    raise KeyboardInterrupt("a candidate's own")


def interrupting() -> list[Part]:
    where = partial(good, f"in {os.getpid()}")
    return [Part("good", 1, where), Part("bad", 1, interrupt), Part("good", 1, where)]


def test_an_interrupt_of_the_candidates_own_leaves_the_process_alive() -> None:
    first, bad, last = run_apart(interrupting)
    assert [row.note for row in bad] == ["", "KeyboardInterrupt: a candidate's own"]
    assert first[0].subject == last[0].subject


def leaving() -> list[Part]:
    return [Part("bad", 1, leave, str(i)) for i in range(4)]


def test_where_one_process_after_the_other_ends_the_rest_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("verification.parts.ENOUGH", 2)
    advanced: list[str] = []
    found = run_apart(leaving, advance=lambda part: advanced.append(part.case))
    assert [rows[-1].note for rows in found[:2]] == ["its process was ended by SIGSEGV"] * 2
    note = "not begun: 2 processes were ended one after the other"
    assert [(r[-1].case, r[-1].verdict, r[-1].note) for r in found[2:]] == [
        ("2", "inconclusive", note), ("3", "inconclusive", note),
    ]  # fmt: skip
    assert advanced[-2:] == ["2", "3"]


def test_what_is_done_is_told_at_once() -> None:
    for way in (run_here, lambda parts, **options: run_apart(numbered, **options)):
        told: dict[int, list[Row]] = {}
        found = way(numbered(), done=told.__setitem__)
        assert [told[i] for i in range(4)] == found

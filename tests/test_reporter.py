"""Reports of a rank: at once where the last is long ago, else together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_petuum.runtime.reporter import REPORT_SECONDS, Reporter


class Desk:
    """Takes reports, and calls what is to be called later when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[list[Any]] = []
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.reporter = Reporter(
            lambda records: self.sent.append(list(records)),
            lambda seconds, function: self.waiting.append((seconds, function)),
            lambda: self.now,
        )


def test_records_that_come_soon_go_together() -> None:
    desk = Desk()
    one, two, three = ({"clock": float(k)} for k in (1, 2, 3))
    desk.reporter.add(one)
    assert desk.sent == [[one]], "the first at once"
    desk.now += 0.25 * REPORT_SECONDS
    desk.reporter.add(two)
    desk.reporter.note()
    desk.reporter.add(three)
    assert desk.sent == [[one]]
    assert repr(desk.reporter) == "<Reporter with 2 records to send>"
    ((seconds, flush),) = desk.waiting
    assert abs(seconds - 0.75 * REPORT_SECONDS) < 1e-9
    flush()
    assert desk.sent == [[one], [two, three]]


def test_a_clock_alone_is_left_out_soon_after_another() -> None:
    desk = Desk()
    desk.reporter.note()
    desk.reporter.note()
    assert (desk.sent, desk.waiting) == ([[]], [])
    desk.now += 2 * REPORT_SECONDS
    desk.reporter.note()
    assert desk.sent == [[], []]


def test_the_last_word_goes_at_once_and_takes_all_with_it() -> None:
    desk = Desk()
    desk.reporter.note()
    desk.reporter.add({"clock": 1.0})
    desk.reporter.note(now=True)
    assert desk.sent == [[], [{"clock": 1.0}]]
    desk.waiting[0][1]()
    assert len(desk.sent) == 2, "nothing is left to send later"

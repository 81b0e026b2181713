"""The table of the benchmarks: medians, ratios and verdicts."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import Row, to_json, to_markdown


def row(**fields: object) -> Row:
    return Row("work", **{"peer": "peer 1.0", "ours": [3.0, 1.0, 2.0], **fields})


@pytest.mark.parametrize(
    ("fields", "ratio", "reached"),
    [
        ({"theirs": [4.0, 8.0, 2.0], "target": "<= 0.5"}, 0.5, True),
        ({"theirs": [4.0, 8.0, 2.0], "target": "<= 0.49"}, 0.5, False),
        ({"theirs": [4.0, 8.0, 2.0], "target": ">= 0.5"}, 0.5, True),
        ({"theirs": [1.0], "target": "<= 4 ms", "unit": "ms"}, 2.0, True),
        ({"theirs": [100.0], "target": "<= 1 ms", "unit": "ms"}, 0.02, False),
        ({"peer": "-", "target": "<= 9 s"}, None, True),
        ({"ratio": 1.8, "target": ">= 1.7", "theirs": [9.0]}, 1.8, True),
        ({"theirs": [4.0]}, 0.5, None),
    ],
)
def test_verdicts(fields: dict[str, object], ratio: float | None, reached: bool | None) -> None:
    got = row(**fields)
    assert (got.measured_ratio, got.reached) == (ratio, reached)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ours": []}, "one figure at least"),
        ({"target": "fast"}, "must read like"),
        ({"target": "<= 3 minutes"}, "must read like"),
        ({"target": "<= 0.5"}, "there is no peer"),
    ],
)
def test_rows_that_could_not_be_judged_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row(**fields)


def test_the_report_has_raw_figures_notes_and_the_machine() -> None:
    rows = [row(theirs=[4.0, 8.0, 2.0], target="<= 0.1", note="bound by a|b")]
    page = to_markdown(rows, {"machine": "a laptop"})
    assert "- machine: a laptop" in page
    assert "| work | peer 1.0 | s | 2 (3, 1, 2) | 4 (4, 8, 2) | 0.5 | <= 0.1 | no |" in page
    assert "- **work**: bound by a|b" in page
    data = json.loads(json.dumps(to_json(rows, {"machine": "a laptop"})))
    assert data["rows"][0]["ours"] == [3.0, 1.0, 2.0]
    assert data["rows"][0]["reached"] is False

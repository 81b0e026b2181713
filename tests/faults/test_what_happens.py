"""Each row of docs/what_happens.md names a test, and there is one of that name."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TEXT = (TESTS.parent / "docs" / "what_happens.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "What happens" not in line]


def test_every_row_names_a_test() -> None:
    without = [row for row in ROWS if "test_" not in row and "the soak" not in row]
    assert len(ROWS) > 40
    assert not without


def test_every_test_that_is_named_is_there() -> None:
    files = [*TESTS.glob("test_*.py"), *TESTS.glob("faults/test_*.py")]
    there = {file.name for file in files}
    for file in files:
        there.update(re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))
    named = set(re.findall(r"\btest_\w+(?:\.py)?", "\n".join(ROWS)))
    assert not named - there

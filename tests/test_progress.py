"""Progress where there is no terminal: lines on standard error, and nothing on standard output."""

from __future__ import annotations

import subprocess
import sys

from maieutic.core.progress import Progress, duration, rate

CODE = """
import time
from maieutic.core.console import print_json
from maieutic.core.progress import track
with track(4, "judge", every=0.05) as progress:
    progress.advance(skipped=True)
    progress.advance(note="loss 1.5")
    time.sleep(0.4)
print_json({"done": progress.done})
"""


def test_lines_on_standard_error_while_an_item_takes_long() -> None:
    made = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert made.stdout.strip().replace(" ", "").replace("\n", "") == '{"done":2}'
    lines = made.stderr.splitlines()
    assert len(lines) >= 2 and all(line.startswith("judge: 2/4, ") for line in lines)
    assert all("left" in line and line.endswith("loss 1.5") for line in lines)


def test_skipped_items_do_not_count_for_the_rate() -> None:
    progress = Progress("x", 10)
    progress.advance(9, skipped=True)
    assert progress.done == 9 and progress.rate == 0 and "left" not in progress.line()
    progress.advance(note=lambda: "called")
    assert progress.rate > 0 and progress.line().endswith("; called")


def test_rates_and_durations_in_words() -> None:
    assert (rate(4), rate(0.1), rate(0)) == ("4.0 a second", "6.0 a minute", "0.0 a second")
    assert (duration(45.2), duration(600), duration(12_000)) == ("45 s", "10 min", "3 h 20 min")

"""Instructions and heap per segment stay below their targets, or below what was committed where a target is still missed.

`make bench-short` shows the same figures as a table.
"""

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent
if str(BENCH) not in sys.path:
    sys.path.insert(0, str(BENCH))

import counting  # noqa: E402
import figures  # noqa: E402


@pytest.fixture(scope="module")
def measured():
    """Every figure's value; a missing valgrind or interpreter fails all tests."""
    return {figure.name: value for figure, value in figures.measure()}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("figure", figures.FIGURES, ids=lambda figure: figure.name)
def test_no_more_than(measured, figure):
    before = figures.committed().get(figure.name)
    value = measured[figure.name]
    limit = figure.limit(before)
    assert limit is None or value <= limit, (
        f"{figure.name}: {value:,.0f} {figure.unit}, at most {limit:,.0f} (target {figure.target}, committed {before:,.0f}); "
        "where that is meant: make bench-short ARGS=--update"
    )


def test_a_count_repeats_to_the_instruction():
    first, second = (counting.count("request_reply") for _ in range(2))
    assert first == second


def test_the_far_end_of_the_cable_costs_nothing():
    idle, busy = counting.count("idle_poll_busy_peer")
    assert abs(busy.instructions - idle.instructions) < 400  # of 16,000 turns of a loop

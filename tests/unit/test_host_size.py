"""Barenet fits into a board's heap beside a program: the budget of `make size` holds."""

from host_tools import size


def test_the_budget_holds():
    figures = size.measure().figures
    past = {what: f"{value} of at most {size.GUARDS[what]} bytes" for what, value in figures.items() if value > size.GUARDS[what]}
    assert not past, "`make size` shows where they are"
    # A budget that is never lowered guards nothing.
    assert all(size.GUARDS[what] - value < 0.1 * size.GUARDS[what] + 100 for what, value in figures.items()), figures
    assert all(size.GUARDS[what] >= target or figures[what] <= target for what, target in size.TARGETS.items())

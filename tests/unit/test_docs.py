"""The pages of docs/ say what the source says."""

import ast

from host_tools import ROOT, docs


def _tests() -> set[str]:
    """Return every test as docs/rfc.md names it."""
    return {
        f"{path.parent.name}/{path.name}::{node.name}"
        for path in (ROOT / "tests").glob("*/test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_picture_of_the_states_is_that_of_the_table():
    assert docs.STATES.read_text() == docs.states_page(), "run: make docs"


def test_every_test_that_the_rules_name_exists():
    tests = _tests()
    missing = {test for row in docs.rules() for test in row["tests"]} - tests
    assert not missing, missing


def test_every_rule_has_a_level_a_status_and_a_test_or_a_reason():
    rows = docs.rules()
    assert len(rows) > 200
    for row in rows:
        assert docs.level(row) in docs.LEVELS, row
        assert row["status"] in docs.STATUSES, row
        if row["status"] == "met":
            assert row["tests"], row
        else:
            assert row["note"], row


def test_the_sums_of_the_rules_are_right():
    assert docs.RULES.read_text() == docs.rules_page(), "run: make docs"


def test_every_requirement_of_rfc_9293_is_there_once():
    names = [row["level"] for row in docs.rules() if row["rfc"].startswith("RFC 9293")]
    assert sorted(names) == sorted([f"MUST-{n}" for n in range(1, 70)] + [f"SHLD-{n}" for n in range(1, 32)])

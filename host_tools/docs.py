"""Writes the parts of docs/ that follow from the source: the picture of the state machine and the sums of docs/rfc.md. `make docs` runs it."""

import ast
import re

from host_tools import ROOT

STATES = ROOT / "docs" / "states.md"
RULES = ROOT / "docs" / "rfc.md"
LEVELS = ("MUST", "SHOULD", "MAY")
STATUSES = ("met", "partly", "not met", "does not apply")


def transitions() -> list[tuple[str, str, str]]:
    """Return the table of tcp/states.py as [(state, event, next state)], in its order."""
    tree = ast.parse((ROOT / "firmware" / "barenet" / "tcp" / "states.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "TRANSITIONS":
            break
    else:
        raise LookupError("tcp/states.py has no table TRANSITIONS")
    return [
        (state.id, event.value, after.id)
        for state, events in zip(node.value.keys, node.value.values, strict=True)
        for event, after in zip(events.keys, events.values, strict=True)
    ]


def states_page() -> str:
    """Return the text of docs/states.md."""
    lines = [
        "# The states of a connection",
        "",
        "Made by `make docs` from the table in `firmware/barenet/tcp/states.py`, where the essay about it stands.",
        "RST and an abort lead to CLOSED from every state.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> CLOSED",
    ]
    lines += [f"    {state} --> {after}: {event}" for state, event, after in transitions()]
    return "\n".join(lines) + "\n```\n"


def rules() -> list[dict]:
    """Return the rows of docs/rfc.md: rfc, section, level, rule, status, tests (["wire/test_x.py::test_y"]) and note."""
    rows = []
    rfc = None
    for line in RULES.read_text().splitlines():
        if line.startswith("## "):
            rfc = line[3:]
        elif rfc and line.startswith("| ") and not line.startswith("| section |"):
            section, level, rule, status, shown = (cell.strip() for cell in line.strip("|").split("|"))
            tests = re.findall(r"`(\w+/test_\w+\.py::test_\w+)`", shown)
            note = re.sub(r"`[^`]*::[^`]*`|<br>", "", shown).strip()
            rows.append(
                {"rfc": rfc, "section": section, "level": level, "rule": rule, "status": status, "tests": tests, "note": note}
            )
    return rows


def level(row: dict) -> str:
    """Return MUST, SHOULD or MAY for a row, whose own level may be a name such as MUST-14 or SHLD-5."""
    return {"SHLD": "SHOULD"}.get(name := row["level"].split("-")[0], name)


def sums() -> list[str]:
    """Return the lines of the table at the top of docs/rfc.md: how many rules of each level have each status."""
    lines = ["| level | " + " | ".join(STATUSES) + " |", "|---|" + "---|" * len(STATUSES)]
    rows = rules()
    for name in LEVELS:
        numbers = [sum(level(row) == name and row["status"] == status for row in rows) for status in STATUSES]
        lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + " |")
    return lines


def rules_page() -> str:
    """Return the text of docs/rfc.md with the sums as they are."""
    lines = RULES.read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("| level |"))
    table = sums()
    lines[at : at + len(table)] = table
    return "\n".join(lines)


if __name__ == "__main__":
    STATES.write_text(states_page())
    RULES.write_text(rules_page())

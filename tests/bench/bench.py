"""What barenet costs and how fast it is, beside the targets and the last committed figures.

    .venv/bin/python tests/bench/bench.py --help        (make bench ARGS="…")

Instructions are counted by callgrind and repeat to the instruction; what takes time is compared with something else
that ran at the same time. docs/performance.md explains both.
"""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import figures  # noqa: E402

from host_tools.errors import BarenetError  # noqa: E402


HZ = 240e6
LINE_RATE = 8127  # full frames a second of 100BASE-TX
CYCLES = (1.2, 2.0)  # an instruction, with what the flash cache misses: nobody has measured it yet


@click.command(help=__doc__.partition("\n")[0])
@click.option("--short", is_flag=True, help="Count instructions and heap only; exit code 1 past a limit.")
@click.option("--update", is_flag=True, help="Write what was counted into figures.json.")
@click.option("--only", metavar="TEXT", default="", help="Figures whose name contains this.")
@click.option("--profile", metavar="CASE[:BURST]", help="Show where the instructions of a case go, for example bulk-receive:8.")
@click.option("--json", "output", type=click.Path(dir_okay=False, writable=True), help="Also write all values to this file.")
def command(short: bool, update: bool, only: str, profile: str | None, output: str | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        if profile:
            import layers

            layers.show(profile, console)
            return
        values, worse = _count(console, only)
        if update:
            figures.commit(values)
        result = {"figures": values, "projected": _project(console, values)}
        if not short and not only:
            import wall

            result["wall"] = wall.show(console)
        if output:
            Path(output).write_text(json.dumps(result, indent=2) + "\n")
    except BarenetError as error:
        raise click.ClickException(str(error)) from None
    if worse and not update:
        raise click.ClickException("past the limit: " + ", ".join(worse))


def _count(console: Console, only: str) -> tuple[dict[str, float], list[str]]:
    chosen = [figure for figure in figures.FIGURES if only.lower() in figure.name.lower()]
    committed = figures.committed() if figures.COMMITTED.exists() else {}
    table = Table(title="Counted: instructions on x86-64, bytes of heap on the 32-bit interpreter")
    for name in ("figure", "what", "a poll", "now", "target", "committed", "change", ""):
        table.add_column(name, justify="left" if name in ("figure", "what", "") else "right")
    values: dict[str, float] = {}
    worse = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("counting", total=len(chosen))
        for figure, value in figures.measure(chosen):
            progress.advance(task)
            values[figure.name] = value
            before = committed.get(figure.name)
            limit = figure.limit(before)
            if limit is not None and value > limit:
                worse.append(figure.name)
            table.add_row(
                figure.name.partition(", 1 a poll")[0],
                figure.what,
                str(figure.burst),
                f"{value:,.0f}",
                "" if figure.target is None else f"{figure.target:,.0f}",
                "" if before is None else f"{before:,.0f}",
                f"{100 * (value / before - 1):+.1f} %" if before else "",
                _verdict(figure, value, figure.name in worse),
            )
    console.print(table)
    return values, worse


def _project(console: Console, values: dict[str, float]) -> dict[str, list[float]]:
    """Prints what the chip would do if it took as many instructions; returns the rows as [at CYCLES[0], at CYCLES[1]]."""
    rows: dict[str, list[float]] = {}
    for name in ("bulk receive", "bulk send"):
        if name in values:
            cycles = [values[name] * c for c in CYCLES]
            rows[f"{name}, Mbit/s of text"] = [min(HZ / n, LINE_RATE) * 1460 * 8 / 1e6 for n in cycles]
            rows[f"{name}, CPU left at line rate, %"] = [100 * (1 - n * LINE_RATE / HZ) for n in cycles]
    if rows:
        table = Table(title="Projected for a chip of 240 MHz, as many instructions as here, 8 frames a poll")
        table.add_column("what")
        for c in CYCLES:
            table.add_column(f"{c:.1f} cycles an instruction", justify="right")
        for name, pair in rows.items():
            table.add_row(name, *(f"{value:,.0f}" if value > 0 else "[yellow]none[/]" for value in pair))
        console.print(table)
    return rows


def _verdict(figure: figures.Figure, value: float, worse: bool) -> str:
    words = []
    if figure.target is not None:
        words.append("[green]met[/]" if value <= figure.target else "[yellow]target not met[/]")
    if worse:
        words.append("[red]past the limit[/]")
    return ", ".join(words)


if __name__ == "__main__":
    command()

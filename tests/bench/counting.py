"""Counts instructions: runs a case (device/cases.py) in the 64-bit MicroPython under callgrind.

Three things make the counts exact. The other end of the cable runs inside ffi_call, where callgrind does not collect
(`--toggle-collect`), so neither the peer nor a system call is in them. A case marks where its work begins and ends with
os.unsetenv(), at which callgrind writes out what it has counted and starts again (`--dump-before`). And each case does
its work twice, n and 2n units, so that what both have in common drops out of the difference. Random numbers and the
clock are the case's own: two runs differ by nothing.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from host_tools import deploy, setup_system
from host_tools.errors import BarenetError
from host_tools.virtual_board import interpreter

DEVICE = Path(__file__).parent / "device"
LAYOUTS = (0, 5, 34)  # names that the interpreter knows before: they move a count by up to 2 %, so a figure is the mean
_TIMEOUT = 300  # s; the longest case takes 10 s on an idle machine
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Phase:
    """One counted stretch of a case.

    Attributes:
        label: its name.
        units: how much work it was.
        calls: how often the TAP driver called libc.
        heap: bytes allocated; exact only in memory mode.
        instructions: counted; 0 in memory mode.
    """

    label: str
    units: float
    calls: int
    heap: int
    instructions: int


def instructions(case: str, burst: int = 1) -> float:
    """Returns how many instructions one unit of a case takes, without the driver's calls into libc.

    Raises BarenetError when the interpreter or valgrind cannot be had, or the case fails.
    """
    return statistics.fmean(per_unit(count(case, burst, layout), "instructions") for layout in LAYOUTS)


def heap(case: str, burst: int = 1) -> float:
    """Returns how many bytes of heap one unit of a case allocates, on the 32-bit interpreter. Raises BarenetError."""
    with firmware(32) as folder:
        phases = _run(command(32), folder, case, burst, "memory")
    return per_unit([Phase(*phase, 0) for phase in phases], "heap")


def count(case: str, burst: int = 1, layout: int = 0) -> list[Phase]:
    """Runs a case under callgrind; returns its phases. Raises BarenetError."""
    with firmware(64) as folder:
        output = folder / f"{case}-{burst}"
        phases = _run([*_valgrind(output), *command(64)], folder, case, burst, "instructions", layout)
        parts = _parts(output)
    # One part ends at each mark.
    if len(parts) != 2 * len(phases):
        raise BarenetError(f"callgrind has written {len(parts)} parts for {len(phases)} phases of {case}: does it know unsetenv()?")
    return [Phase(*phase, total) for phase, total in zip(phases, parts[1::2], strict=True)]


def per_unit(phases: list[Phase], what: str) -> float:
    """Returns instructions or heap of one unit: the slope over phases of different length, the mean over phases of the same.

    Instructions are without what a call of the driver into libc costs in the interpreter (`driver_call`).
    """

    def value(phase: Phase) -> float:
        amount = getattr(phase, what)
        return amount - phase.calls * driver_call() if what == "instructions" and phase.calls else amount

    if phases[-1].label == "empty":
        return _beside_the_loop(phases)
    first, last = phases[0], phases[-1]
    if first.units == last.units:
        return sum(map(value, phases)) / sum(phase.units for phase in phases)
    return (value(last) - value(first)) / (last.units - first.units)


@functools.cache
def driver_call() -> float:
    """Returns the instructions of one call through ffi with the arguments of read(2), without what it calls."""
    return _beside_the_loop(count("driver_call"))


def _beside_the_loop(phases: list[Phase]) -> float:
    run, longer, empty, longer_empty = (phase.instructions for phase in phases)
    return (longer - run - (longer_empty - empty)) / (phases[1].units - phases[0].units)


def _run(argv: list[str], folder: Path, case: str, burst: int, mode: str, layout: int = 0) -> list[list]:
    try:
        done = subprocess.run(
            [*argv, "-m", "cases", case, str(burst), mode, str(layout)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise BarenetError(f"the case {case} did not end within {_TIMEOUT} s") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise BarenetError(f"the case {case} failed:\n{done.stdout}{done.stderr}")
    return json.loads(lines[-1])["phases"]


def environment() -> dict[str, str]:
    """Returns the environment that cases run in: the same on every machine."""
    return {"MICROPYPATH": ".:.frozen", "LC_ALL": "C"}


def command(bits: int, heap: str = "4m") -> list[str]:
    """Returns the command line of an interpreter of that word size. Raises BarenetError."""
    found = interpreter.find(bits)
    if found.bits != bits:
        raise BarenetError(f"the bench needs a {bits}-bit MicroPython and found {found}")
    return [*found.command, "-X", f"heapsize={heap}"]


def _valgrind(output: Path) -> list[str]:
    return [
        setup_system.program("valgrind"),
        "--tool=callgrind",
        "--smc-check=all",  # viper code is written while the program runs
        "--toggle-collect=ffi_call",
        "--toggle-collect=unsetenv",
        "--collect-atstart=yes",
        "--dump-before=unsetenv",
        f"--callgrind-out-file={output}",
    ]


def _parts(output: Path) -> list[int]:
    files = sorted(output.parent.glob(f"{output.name}.*"), key=lambda file: int(file.suffix[1:]))
    return [int(_TOTALS.search(file.read_text())[1]) for file in files]


@contextmanager
def firmware(bits: int) -> Iterator[Path]:
    """A folder of its own with the compiled firmware and the cases."""
    compiled = _compiled(bits)
    with tempfile.TemporaryDirectory(prefix="barenet-bench-") as name:
        folder = Path(name, "f")
        shutil.copytree(compiled, folder)
        yield folder


def prepare() -> None:
    """Finds interpreters and valgrind and compiles the firmware, so that several threads may count. Raises BarenetError."""
    setup_system.program("valgrind")
    for bits in 64, 32:
        command(bits)
        _compiled(bits)
    driver_call()


@functools.cache
def _compiled(bits: int) -> Path:
    folder = Path(_scratch().name, str(bits))
    folder.mkdir()
    mpy = interpreter.find(bits).mpy
    # Compiled together: the cases use constants of the firmware, whose names a deploy takes out.
    files = deploy.sources() | {file.name: file.read_bytes() for file in DEVICE.glob("*.py")}
    architecture, _ = deploy.target(mpy)
    for name, content in (deploy.compile_all(files, architecture, 0) if architecture else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="barenet-bench-")

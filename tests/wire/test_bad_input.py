"""Damaged frames do no harm, in a heap as small as a board's (see fuzz.py)."""

from pathlib import Path

import pytest
from device import HEAP, run

from host_tools import deploy
from host_tools.virtual_board.interpreter import find

WIRE = Path(__file__).resolve().parent
# The heap is collected early, as main.py has it done on a board.
PROGRAM = "import gc; gc.threshold(16384); import barenet.stack; import fuzz; fuzz.run({}, {}, {})"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with firmware and fuzz test as a board gets them: compiled on the board, they would leave a heap too scattered to begin with."""
    folder = tmp_path_factory.mktemp("compiled")
    sources = deploy.sources() | {name: (WIRE / name).read_bytes() for name in ("rig.py", "fuzz.py")}
    architecture, why_not = deploy.target(find(bits=32).mpy)
    for name, content in (sources if why_not else deploy.compile_all(sources, architecture, 0)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _run(compiled: Path, seed: int, frames: int, observed: bool) -> None:
    # Where there is no 32-bit MicroPython, every object is twice as large.
    heap = HEAP if find(bits=32).bits == 32 else "320k"
    run(PROGRAM.format(seed, frames, observed), path=(compiled,), heap=heap)


def test_20000_damaged_frames_do_no_harm(compiled):
    _run(compiled, 1, 20000, False)


def test_damaged_frames_do_no_harm_while_somebody_observes(compiled):
    _run(compiled, 2, 4000, True)

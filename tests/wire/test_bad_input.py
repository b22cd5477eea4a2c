"""Damaged frames do no harm, in a heap as small as a board's (see fuzz.py)."""

from pathlib import Path

from device import HEAP, run

PATH = (Path(__file__).resolve().parent,)
PROGRAM = "import barenet.stack; import fuzz; fuzz.run({}, {}, {})"


def _run(seed: int, frames: int, observed: bool) -> None:
    from host_tools.virtual_board.interpreter import find

    # Where there is no 32-bit MicroPython, every object is twice as large.
    heap = HEAP if find(bits=32).bits == 32 else "320k"
    run(PROGRAM.format(seed, frames, observed), path=PATH, heap=heap)


def test_20000_damaged_frames_do_no_harm():
    _run(1, 20000, False)


def test_damaged_frames_do_no_harm_while_somebody_observes():
    _run(2, 4000, True)

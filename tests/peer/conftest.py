"""Makes linux.py and the other helpers importable for the peer tests, and gives each file a virtual board of its own."""

import sys
from pathlib import Path

import pytest

from host_tools.virtual_board import VirtualBoard

PEER = Path(__file__).resolve().parent
if str(PEER) not in sys.path:
    sys.path.insert(0, str(PEER))

from linux import Linux, value  # noqa: E402


@pytest.fixture(scope="module")
def board():
    """A board at 10.77.0.2. At the end of the file no handler of its stack may have raised an exception."""
    with VirtualBoard() as board:
        yield board
        assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)


@pytest.fixture(scope="module")
def linux(board):
    """The Linux side of the board's cable, at 10.77.0.1."""
    with Linux(board) as linux:
        yield linux

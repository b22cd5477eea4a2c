"""`barenet repl` and `barenet monitor` at a board's serial port, as a person at a terminal uses them."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from host_tools.connection import connect
from host_tools.virtual_board import VirtualBoard

BARENET = [sys.executable, "-m", "host_tools.cli"]


@pytest.fixture(scope="module")
def board():
    with VirtualBoard(main=False) as board:
        yield board


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *command):
        self.screen = b""
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)

    def type(self, text):
        os.write(self._end, text)

    def prompt(self, timeout=15):
        """Types Enter until there is a prompt: what comes before the program has set its terminal up is not passed on."""
        deadline = time.monotonic() + timeout
        while b">>> " not in self.screen:
            assert time.monotonic() < deadline, f"no prompt in {self.screen!r}"
            self.type(b"\r")
            if select.select([self._end], [], [], 1)[0]:
                self.screen += os.read(self._end, 1000)
                time.sleep(0.1)

    def wait_for(self, text, timeout=15):
        deadline = time.monotonic() + timeout
        while text not in self.screen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._end], [], [], left)[0], f"{text!r} not in {self.screen!r}"
            self.screen += os.read(self._end, 1000)

    def exit_code(self, timeout=15):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if select.select([self._end], [], [], 0.05)[0]:
                    self.screen += os.read(self._end, 1000)
            except OSError:
                pass  # the program has closed its terminal
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self._end)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"still running: {self.screen!r}")


def test_repl_is_a_prompt_that_evaluates_keeps_state_and_is_left_with_ctrl_bracket(board):
    with connect(board.serial) as connection:
        connection.run("kept = 40")
    terminal = Terminal(*BARENET, "repl", "--port", board.serial)
    terminal.wait_for(b"Ctrl-]")
    terminal.prompt()
    terminal.type(b"kept + 2\r")
    terminal.wait_for(b"42\r\n")
    terminal.type(b"\x1d")
    assert terminal.exit_code() == 0


def test_monitor_shows_what_the_board_prints_and_ends_well_with_ctrl_c(board, tmp_path):
    log = tmp_path / "log.txt"
    with connect(board.serial) as connection:
        connection.start("import time\nfor _ in range(100):\n    print('from the', 'board')\n    time.sleep_ms(150)")
    monitor = subprocess.Popen(
        [*BARENET, "monitor", "--port", board.serial, "--log", log], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and not (log.exists() and "from the board" in log.read_text()):
            time.sleep(0.1)
        monitor.send_signal(signal.SIGINT)
        out, errors = monitor.communicate(timeout=15)
    finally:
        if monitor.poll() is None:
            monitor.kill()
    assert b"from the board" in out
    assert (monitor.returncode, errors) == (0, b"")

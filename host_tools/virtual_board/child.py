"""One life of the board: an interpreter process from its boot to its reset, and the channels to it."""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

from host_tools.virtual_board.emac_model import RUNTIME as CHIP_RUNTIME
from host_tools.virtual_board.emac_model import RUNTIME_HEAP, Model
from host_tools.virtual_board.emac_model.memory import Layout
from host_tools.virtual_board.interpreter import Interpreter

RUNTIME = Path(__file__).with_name("runtime")

_PR_SET_PDEATHSIG = 1
_F_SETPIPE_SZ = 1031
_PIPE = 4096  # bytes; small, so that Ctrl-C does not wait behind a screenful of old output
_END_S = 2.0  # what the interpreter gets to end by itself
_TAG = 16  # bytes, as in _board.py
# What the runtime takes of the heap, measured; it is added, so that programs find what a board gives them.
_RUNTIME_HEAP = {32: 13 * 1024, 64: 20 * 1024}

_RUNTIME_FRAME = re.compile(rb'  File "%s/[^"]*", line \d+, in \S+\n' % re.escape(str(RUNTIME).encode()))
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """For subprocess's preexec_fn: the process is killed when the thread that starts it dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def heap_on_chip(interpreter: Interpreter, heap: int) -> int:
    """Returns how large the interpreter's heap is on the model of the chip, bytes, for `heap` bytes for programs."""
    return heap + _RUNTIME_HEAP[interpreter.bits] + RUNTIME_HEAP


def _prepare(layout: Layout | None) -> None:
    die_with_parent()
    if layout:
        layout.apply()
    # Ctrl-C in a terminal reaches the whole foreground group; the interpreter gets it from us alone, see _signals.py.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


class Child:
    """A running interpreter.

    Args:
        interpreter: which MicroPython.
        heap: bytes of heap for the board's programs.
        link: descriptor of the cable.
        boot: what the runtime is told, see _board.main; "tag" and "out" are added here.
        identity: the board's MAC address as text.
        files: descriptors of (stdin, stdout, stderr) of a program that runs in place of the REPL; None for the REPL,
            whose pipes are then `stdin` and `stdout`.
        chip: the model of the EMAC that it works on; the cable is the model's then.

    Raises:
        BarenetError: its heap cannot be laid where the chip has it.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        heap: int,
        link: int,
        boot: dict,
        identity: str,
        files: tuple[int, int, int] | None,
        chip: Model | None = None,
    ):
        self.console = files is None
        self.started = time.monotonic()
        self.armed = False  # Ctrl-C reaches the program that runs
        self._interrupt_wanted = False
        self._raw_left = 0
        self._tag = secrets.token_bytes(_TAG)
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        self._source = os.memfd_create("source")
        self._report = os.memfd_create("report")
        inherited = [control.fileno(), self._source, self._report]
        if chip:
            size = heap_on_chip(interpreter, heap)
            layout = chip.layout(interpreter.command, size)
            inherited += chip.descriptors
            joined = {**chip.environment, "MICROPYPATH": f"{CHIP_RUNTIME}:.frozen"}
        else:
            size = heap + _RUNTIME_HEAP[interpreter.bits]
            layout = None
            inherited += [link]
            joined = {"MICROPYPATH": ".frozen", "BARENET_LINK_FD": str(link)}
        if self.console:
            self._stdin_read, self.stdin = os.pipe()
            self.stdout, output = os.pipe()
            fcntl.fcntl(self.stdout, _F_SETPIPE_SZ, _PIPE)
            os.set_blocking(self.stdin, False)
            os.set_blocking(self.stdout, False)
            streams = (self._stdin_read, output, output)
            boot = dict(boot, tag=self._tag.hex(), out=None)
        else:
            # Until the program runs, boot.py and main.py print to our own stderr; its streams wait under other numbers.
            streams = (files[0], sys.stderr, sys.stderr)
            waiting = [os.dup(descriptor) for descriptor in files[1:]]
            boot = dict(boot, tag=None, out=waiting)
            inherited += waiting
        environment = dict(
            {name: value for name, value in os.environ.items() if name not in ("BARENET_CHIP_FD", "BARENET_LINK_FD")},
            BARENET_BOOT=json.dumps(boot),
            BARENET_CONTROL_FD=str(control.fileno()),
            BARENET_SOURCE_FD=str(self._source),
            BARENET_REPORT_FD=str(self._report),
            BARENET_UNIQUE_ID=identity,
            **joined,
        )
        self.process = subprocess.Popen(
            [*interpreter.command, "-X", f"heapsize={size}", str(RUNTIME / "start.py")],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            pass_fds=inherited,
            env=environment,
            start_new_session=self.console,
            preexec_fn=lambda: _prepare(layout),
        )
        control.close()
        for descriptor in [output] if self.console else waiting:
            os.close(descriptor)

    def send(self, letter: bytes, source: bytes | None = None) -> None:
        """Sends a command of _board.py, with the source that it is about, if any."""
        if source is not None:
            os.ftruncate(self._source, 0)
            os.pwrite(self._source, source, 0)
            os.lseek(self._source, 0, os.SEEK_SET)
        try:
            self.control.send(letter)
        except OSError:
            pass  # it has just died, which `receive` reports

    def receive(self) -> bytes | None:
        """Returns the next message of _board.py, b"" when the interpreter has ended, None when there is none yet."""
        try:
            message = self.control.recv(1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if message[:1] == b"B":
            self.armed = True
            if self._interrupt_wanted:
                self.interrupt()
        else:
            self.armed = False
        self._interrupt_wanted = False
        return message

    def error(self) -> bytes:
        """Returns the text of the exception that the runtime reported, without the runtime's own frames."""
        text = os.pread(self._report, 1 << 16, 0)
        os.ftruncate(self._report, 0)
        os.lseek(self._report, 0, os.SEEK_SET)
        return _RUNTIME_FRAME.sub(b"", text)

    def output(self) -> bytes:
        """Returns what the REPL's programs have printed, as it leaves a serial port: text with \\r\\n line ends."""
        try:
            data = os.read(self.stdout, 1 << 16)
        except BlockingIOError:
            return b""
        cooked = bytearray()
        while data:
            if self._raw_left:
                cooked += data[: self._raw_left]
                self._raw_left, data = max(0, self._raw_left - len(data)), data[self._raw_left :]
                continue
            text, mark, data = data.partition(self._tag)
            cooked += text.replace(b"\n", b"\r\n")
            if mark:
                self._raw_left, data = int.from_bytes(data[:2], "little"), data[2:]
        return bytes(cooked)

    def unread(self) -> bytes:
        """Takes back what the REPL's program has not read of its stdin."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self._stdin_read, termios.FIONREAD, waiting)
        return os.read(self._stdin_read, waiting[0]) if waiting[0] else b""

    def interrupt(self) -> bool:
        """Raises KeyboardInterrupt in the program, now or as soon as it runs; False when it wants Ctrl-C as data."""
        if not self.armed:
            self._interrupt_wanted = True
            return True
        if not self._wants_interrupt():
            return False
        self.process.send_signal(signal.SIGUSR1)
        return True

    def stop(self, gracefully: bool) -> None:
        """Ends the interpreter, by itself (finalisers run) or by force, and closes the channels."""
        if gracefully:
            self.send(b"Q")
            deadline = time.monotonic() + _END_S
            while self.process.poll() is None and time.monotonic() < deadline:
                if self.console:
                    self.output()
                time.sleep(0.002)
        self.process.kill()
        self.process.wait()
        self.control.close()
        for descriptor in (self._source, self._report):
            os.close(descriptor)
        if self.console:
            for descriptor in (self.stdin, self.stdout, self._stdin_read):
                os.close(descriptor)

    def _wants_interrupt(self) -> bool:
        # micropython.kbd_intr(-1) takes SIGINT's handler away, kbd_intr(3) installs it.
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return True
        return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) & 1 << signal.SIGINT - 1)

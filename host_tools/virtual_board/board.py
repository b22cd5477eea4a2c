"""VirtualBoard: a virtual board as an object, for tests and tools."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport

from host_tools import ROOT
from host_tools.errors import BarenetError
from host_tools.virtual_board.supervisor import BROKE_A_RULE

_MAKE_TIMEOUT = 600  # s; the first start may have to fetch the interpreter
_BOOT_TIMEOUT = 40  # s, above the supervisor's own bound
_END_TIMEOUT = 10  # s
_ANSWER_TIMEOUT = 5  # s for each answer of the raw REPL, which a loaded machine may need


class VirtualBoard:
    """A virtual board, for as long as the `with` block lasts.

    Args:
        driver: "emac" for the chip's driver on the model of the chip (32 bits only), or "tap"; None for emac where the
            model can run, else tap, which a line on stderr then says.
        heap: the board's heap, for example "160k".
        bits: word size of its interpreter, 32 or 64.
        network: "dhcp", or a dict with "ip" (with its prefix) and perhaps "gw" and "dns"; None for 10.77.0.2/24 with
            the Linux side, 10.77.0.1, as gateway and name server.
        host: the Linux side's address and prefix, where it is not the gateway's.
        fs: the board's folder; None for a temporary one.
        tap: an existing TAP device to attach to, in place of a namespace of its own.
        main: whether main.py runs.
        board: the board that the model of the chip is wired as.
        before: called with the board when its network is there and it has not booted: the place to start a DHCP server.

    Attributes:
        serial: path of the serial port.
        addresses: what the board reported when it booted last: ip, netmask, gw, dns, mac; empty when it had none.
        namespace: {"pid": …, "enter": [command prefix]}, or None with `tap`.
        fs: the board's folder on this PC.
        description: the line that `barenet virtual` prints.

    Raises:
        BarenetError: on entering, when the board cannot be made or does not boot; at the end, when the driver broke a rule of the chip.
    """

    def __init__(
        self,
        driver: str | None = None,
        heap: str = "160k",
        bits: int = 32,
        network: str | dict[str, str] | None = None,
        host: str | None = None,
        fs: Path | str | None = None,
        tap: str | None = None,
        main: bool = True,
        board: str | None = None,
        before: Callable[[VirtualBoard], None] | None = None,
    ):
        options = ["--heap", heap, "--bits", str(bits)]
        if driver:
            options += ["--driver", driver]
        if network == "dhcp":
            options += ["--dhcp"]
        elif network is not None:
            for name in ("ip", "gw", "dns"):
                options += [f"--{name}", network[name]] if name in network else []
        for name, value in (("host-ip", host), ("fs", fs), ("tap", tap)):
            if value is not None:
                options += [f"--{name}", str(value)]
        if board:
            options += ["--board", board]
        if not main:
            options += ["--no-main"]
        self._options = options
        self._before = before
        self._processes: list[subprocess.Popen] = []
        self.addresses: dict[str, str] = {}

    def __enter__(self) -> VirtualBoard:
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()
        path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        with control:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "host_tools.virtual_board", "--control", str(control.fileno()), *self._options],
                pass_fds=[control.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)),
                start_new_session=True,
            )
        try:
            self.description = self._receive("made", _MAKE_TIMEOUT)
            sys.stderr.write(self._said())
            self.serial: str = self.description["serial"]
            self.namespace: dict[str, Any] | None = self.description["namespace"]
            self.fs = Path(self.description["fs"])
            if self._before:
                self._before(self)
            self._order({"boot": True})
            self._booted()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the board and everything that was started in its namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._control.close()
        try:
            self._supervisor.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        said = self._said().strip()
        self._errors.close()
        if self._supervisor.returncode == BROKE_A_RULE:
            raise BarenetError(said)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen:
        """Starts a program of this PC in the board's namespace, as subprocess.Popen does; it ends with the board."""
        process = subprocess.Popen([*self._enter(), *map(str, argv)], **options)
        self._processes.append(process)
        return process

    run_in_namespace = popen

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
        """Runs a program of this PC in the board's namespace to its end, as subprocess.run does."""
        return subprocess.run([*self._enter(), *map(str, argv)], **options)

    def chip(self, **wishes: Any) -> dict[str, Any]:
        """Changes the model of the chip (faults={…}, partner={…}) and returns its state; see Model.order."""
        self._order({"chip": wishes})
        return self._receive("chip", _ANSWER_TIMEOUT)

    def exec(self, code: str, timeout: float = 10) -> str:
        """Runs code on the board over its serial port; globals stay until the next reset.

        Args:
            code: MicroPython source.
            timeout: s without output after which it is interrupted.

        Returns:
            what it printed, with \\n line ends.

        Raises:
            mpremote.transport.TransportExecError: it raised; the traceback is the second argument.
            mpremote.transport.TransportError: the board did not answer in time.
        """
        transport = SerialTransport(self.serial, timeout=_ANSWER_TIMEOUT)
        try:
            transport.enter_raw_repl(soft_reset=False)
            output, error = transport.exec_raw(code, timeout)
            if error:
                raise TransportExecError(output, error.decode())
            transport.exit_raw_repl()
        except TransportError:
            transport.serial.write(b"\r\x03\r\x02")
            raise
        finally:
            transport.close()
        return output.decode().replace("\r\n", "\n")

    def chip(self, **wishes: Any) -> dict[str, Any] | None:
        """Changes what surrounds the board's model of the chip, such as faults={"cable": False}; see Model.order.

        Returns what the model then reports; None when the board has the TAP driver.
        """
        self._order({"chip": wishes})
        return self._receive("chip", _ANSWER_TIMEOUT)

    def program(self, source: str, *arguments: str, name: str = "program.py") -> Program:
        """Restarts the board with a program in place of the REPL.

        Args:
            source: MicroPython source.
            arguments: its sys.argv[1:].
            name: its file name in tracebacks.
        """
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() as file, open(os.devnull) as nothing:
            file.write(source.encode())
            file.seek(0)
            order = {"program": name, "arguments": [name, *arguments]}
            files = [file.fileno(), os.dup(nothing.fileno()), writing, os.dup(writing)]
            socket.send_fds(self._control, [json.dumps(order).encode()], files)
            for descriptor in files[1:]:
                os.close(descriptor)
        self._booted()
        return Program(self, open(reading, encoding="utf-8", errors="backslashreplace"))

    def _said(self) -> str:
        """Returns what the supervisor has written to its stderr."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode(errors="replace")

    def _enter(self) -> list[str]:
        return self.namespace["enter"] if self.namespace else []

    def _booted(self) -> None:
        self.addresses = self._receive("up", _BOOT_TIMEOUT)
        self.description |= self.addresses

    def _order(self, order: dict) -> None:
        self._control.send(json.dumps(order).encode())

    def _receive(self, name: str, timeout: float) -> Any:
        """Returns the supervisor's message `name`; others, of resets in between, are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            self._control.settimeout(max(0.0, deadline - time.monotonic()) or 0.001)
            try:
                data = self._control.recv(1 << 16)
            except TimeoutError:
                raise BarenetError(f"the virtual board is not “{name}” after {timeout} s") from None
            if not data:
                self._supervisor.wait(_END_TIMEOUT)
                lines = self._said().strip().splitlines()
                raise BarenetError("the virtual board ended: " + (lines or ["without a word"])[-1])
            message = json.loads(data)
            if name in message:
                return message[name]


class Program:
    """A program that runs on the board in place of the REPL.

    Attributes:
        stdout: text stream with what it prints, stderr included.
    """

    def __init__(self, board: VirtualBoard, stdout):
        self._board = board
        self.stdout = stdout
        self.exit_code: int | None = None

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.exit_code is None:
            self.kill()
        self.stdout.close()

    def wait(self, timeout: float = 60) -> int:
        """Waits for its end and the REPL's return; returns its exit code. Raises BarenetError after `timeout` s."""
        if self.exit_code is None:
            self.exit_code = self._board._receive("exit", timeout)
            self._board._booted()
        return self.exit_code

    def output(self, timeout: float = 60) -> str:
        """Waits for its end and returns everything it printed that was not read yet."""
        text = self.stdout.read()
        self.wait(timeout)
        return text

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in it."""
        self._board._order({"interrupt": True})

    def kill(self) -> int:
        """Ends it at once; returns its exit code."""
        self._board._order({"kill": True})
        return self.wait()

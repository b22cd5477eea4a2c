"""Runs one virtual board: its interpreter, its serial port, its cable; one thread, one loop.

The interpreter is a child process that a soft reset replaces; serial port, link and files stay. The child's stdin and
stdout are pipes, so that what it has written is there, whole and in order, when it says that a program has ended.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pty
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from host_tools.errors import BarenetError
from host_tools.virtual_board import network
from host_tools.virtual_board.child import Child, die_with_parent
from host_tools.virtual_board.console import Console
from host_tools.virtual_board.emac_model import Model
from host_tools.virtual_board.firmware import Firmware
from host_tools.virtual_board.interpreter import Interpreter

MACHINE = "barenet virtual board with ESP32-like heap"
MAC = "02:ba:4e:00:00:02"

BROKE_A_RULE = 3  # exit code when the model of the chip saw what silicon does not forgive
# A real LAN8720 negotiates for 1.8 s; whoever starts a virtual board often does not want to wait for that.
PHY_TIMING = {"negotiation": 0.2}
BOOT_TIMEOUT = 30  # s until the board counts as up even if main.py still runs
_FAILED_BOOTS = 3
_BACKLOG = 4096  # bytes to the serial port; beyond, the board's print waits
_STALL_S = 1.0  # a serial port that takes nothing for this long has no reader
_GRACE_S = 2.0  # what a program gets to end after Ctrl-C


@dataclass
class Options:
    """What a virtual board is to be.

    Attributes:
        interpreter: the MicroPython that runs it.
        driver: name of the LAN driver.
        heap: size of the board's heap, bytes.
        tap: TAP device of the current namespace to attach to, or None for a namespace of its own.
        host: the Linux side's address and prefix.
        network: the entry "network" of a new board.json.
        config: entries of board.json that replace what the file says.
        fs: the board's folder, or None for a temporary one.
        main: whether main.py runs.
        program: file to run in place of the REPL, or None.
        arguments: sys.argv[1:] of the program.
        beside: shell commands to run in the namespace, from before the board boots until it ends.
    """

    interpreter: Interpreter
    driver: str
    heap: int = 160 * 1024
    tap: str | None = None
    host: ipaddress.IPv4Interface = ipaddress.IPv4Interface("10.77.0.1/24")
    network: dict | str = "dhcp"
    config: dict = field(default_factory=dict)
    fs: Path | None = None
    main: bool = True
    program: Path | None = None
    arguments: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass
class _Program:
    """A program that runs in place of the REPL; `files` are its stdin, stdout and stderr."""

    name: str
    source: bytes
    arguments: list[str]
    files: tuple[int, int, int]

    def close(self) -> None:
        for descriptor in self.files:
            os.close(descriptor)


class Supervisor:
    """One virtual board.

    Args:
        options: what the board is to be.
        announce: called once with the board's description, when it is up.
        control: socket to the program that drives the board (see board.py), or None.
    """

    def __init__(self, options: Options, announce: Callable[[dict], None], control: socket.socket | None = None):
        self.options = options
        self._announce = announce
        self._control = control
        self._exit_code: int | None = None
        self._cleanup = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._child: Child | None = None
        self._chip: Model | None = None
        self._booting = False
        self._program: _Program | None = None
        self._console = Console(self)
        self._to_port = bytearray()
        self._to_stdin = bytearray()
        self._progress_at = 0.0  # when the serial port last took something
        self._discarding = False
        self._announced = False
        self._failed_boots = 0
        self._tail = b""  # the last output, to explain a boot that fails
        self._grace_ends: float | None = None

    def serve(self) -> int:
        """Runs the board until a signal or the end of its program or controlling program; returns the exit code.

        Raises:
            BarenetError: the board cannot be made, or does not boot.
        """
        with self._cleanup:
            self._cleanup.callback(self._selector.close)
            self._catch_signals()
            self._make_files()
            self._make_serial_port()
            self._make_network()
            for command in self.options.beside:
                self._start_beside(command)
            if self.options.program:
                path = self.options.program
                arguments = [str(path), *self.options.arguments]
                self._program = _Program(path.name, path.read_bytes(), arguments, (0, 1, 2))
            if self._control is None:
                self._boot()
            else:
                self._take_orders()
            try:
                while self._exit_code is None:
                    self._loop_once()
            finally:
                self._stop_child(gracefully=False)
            if self._chip:
                self._report_breaches()
        return self._exit_code

    def _report_breaches(self) -> None:
        for breach in self._chip.breaches():
            print(f"barenet: the firmware broke a rule of the chip: {breach}", file=sys.stderr)
            self._exit_code = self._exit_code or BROKE_A_RULE

    # What the board is made of. Each part registers its own removal.

    def _catch_signals(self) -> None:
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._cleanup.callback(os.close, self._wake)
        self._cleanup.callback(os.close, wake)
        self._cleanup.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._cleanup.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        self._selector.register(self._wake, selectors.EVENT_READ, self._signalled)

    def _make_files(self) -> None:
        self._firmware = Firmware(self._temporary("firmware"), self.options.interpreter.mpy)
        self.fs = self.options.fs.resolve() if self.options.fs else self._temporary("fs")
        file = self.fs / "board.json"
        try:
            self.fs.mkdir(parents=True, exist_ok=True)
            config = json.loads(file.read_text()) if file.exists() else {"board": "virtual"}
            config = {"mac": MAC, "network": self.options.network, **config}
            config |= {"driver": self.options.driver, **self.options.config}
            file.write_text(json.dumps(config))
            self._config = config
        except (OSError, ValueError, TypeError) as error:
            raise BarenetError(f"cannot use {file} ({error}): correct or delete it, or name another folder") from None
        self._mac = config["mac"]

    def _temporary(self, name: str) -> Path:
        folder = tempfile.mkdtemp(prefix=f"barenet-{name}-")
        self._cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder).resolve()

    def _make_serial_port(self) -> None:
        self._port, board_end = pty.openpty()
        # Our own copy of the other end stays open: programs come and go without the port hanging up.
        self._cleanup.callback(os.close, self._port)
        self._cleanup.callback(os.close, board_end)
        tty.setraw(board_end)
        os.set_blocking(self._port, False)
        self.serial = os.ttyname(board_end)
        self._selector.register(self._port, selectors.EVENT_READ, self._port_ready)

    def _make_network(self) -> None:
        if self.options.tap:
            self.namespace = None
            self._link, self.link_kind = network.open_link(self.options.tap, None)
        else:
            kind = network.enter_namespace()
            pid = os.getpid()
            enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
            if kind == "user":
                enter = ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(pid)]
            self.namespace = {"pid": pid, "enter": enter}
            self._link, self.link_kind = network.open_link("tap0", self.options.host)
        self._cleanup.callback(os.close, self._link)
        if self.options.driver == "emac":
            self._chip = Model(self._link, self._config, PHY_TIMING)
            self._cleanup.callback(self._chip.stop)

    def _start_beside(self, command: str) -> None:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._cleanup.callback(_end_group, process)

    # The life of the interpreter

    def _boot(self) -> None:
        program = self._program
        try:
            self._firmware.refresh()
        except BarenetError as error:
            self._show(f"barenet: {error}; the firmware stays as it was\n".encode())
        boot = {
            "firmware": str(self._firmware.folder),
            "fs": str(self.fs),
            "main": self.options.main and (program is not None or not self._console.raw),
            "program": program and program.name,
            "arguments": program and program.arguments,
        }
        self._booting = True
        self._console.busy = True
        self._child = Child(
            self.options.interpreter, self.options.heap, self._link, boot, self._mac, program and program.files, self._chip
        )
        self._selector.register(self._child.control, selectors.EVENT_READ, self._message)
        self._watch()

    def _stop_child(self, gracefully: bool) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for key in list(self._selector.get_map().values()):
            if key.data in (self._message, self._child_printed, self._child_reads):
                self._selector.unregister(key.fileobj)
        self._to_stdin.clear()
        child.stop(gracefully)

    def _message(self, _events: int) -> None:
        child = self._child
        message = child.receive()
        if message is None:
            return
        if child.console:
            self._drain()
        kind, ending = message[:1], message[1:2]
        if kind == b"":
            self._died()
        elif kind == b"E":
            self._show(child.error())
            child.send(b"A")
        elif kind == b"U":
            self._up({name: _known(address) for name, address in json.loads(message[1:]).items()})
        elif kind == b"R":
            self._console.raw = False
            self._stop_child(gracefully=False)
            if self._chip:
                self._chip.reset()
            self._boot()
        elif kind == b"C":
            self._console.completed(json.loads(message[1:]))
            self._resume()
        elif kind == b"D" and self._booting:
            time.sleep(0.1)  # sys.exit() in main.py: a board boots again and again, here not quite that fast
            self.soft_reset()
        elif kind == b"D" and self._program:
            if ending == b"1":
                self._show(child.error())
            self._program_ended(int(message[2:]) if ending == b"2" else int(ending))
        elif ending == b"2":
            self._console.exited()
            self.soft_reset()
        elif kind == b"D":
            self._console.ended(_serial(child.error()) if ending == b"1" else b"")
            self._resume()

    def _up(self, addresses: dict) -> None:
        self._booting = False
        self._failed_boots = 0
        self._announce_once(addresses)
        if self._program:
            self._child.send(b"A", self._program.source)
            return
        version = self.options.interpreter
        self._console.banner = f"MicroPython v{version.version} on {version.date}; {MACHINE}"
        self._console.prompt()
        self._resume()

    def _announce_once(self, addresses: dict) -> None:
        self._tell(up=addresses)
        if not self._announced:
            self._announced = True
            self._announce(self.description(addresses))

    def description(self, addresses: dict) -> dict:
        """Returns what a program on the PC needs to know of the board."""
        interpreter = self.options.interpreter
        names = ("ip", "netmask", "gw", "dns", "mac")
        return {
            "serial": None if self.options.program else self.serial,
            **{name: addresses.get(name) for name in names},
            "namespace": self.namespace,
            "link": self.link_kind,
            "driver": self.options.driver,
            "heap": self.options.heap,
            "interpreter": {
                "bits": interpreter.bits,
                "version": interpreter.version,
                "origin": interpreter.origin,
            },
            "fs": str(self.fs),
        }

    def _died(self) -> None:
        """The interpreter has ended without being told to: say so and boot again, as a board does after a crash."""
        program, booting, child = self._program, self._booting, self._child
        self._stop_child(gracefully=False)
        code = child.process.returncode
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        text = f"barenet: the board's interpreter ended ({cause})\n"
        if program and not booting:
            self._show(text.encode())
            self._program_ended(1)
            return
        self._failed_boots += booting
        if self._failed_boots == _FAILED_BOOTS:
            last = self._tail.decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
            raise BarenetError(f"the virtual board does not boot: {last[0]}")
        self._show(text.encode())
        self._console.raw = False
        self._boot()

    def _program_ended(self, code: int) -> None:
        self._stop_child(gracefully=True)
        if self._control is None:
            self._exit_code = 128 + signal.SIGINT if self._grace_ends else code
            return
        self._program.close()
        self._program = None
        self._tell(exit=code)
        self._console.raw = False  # the Ctrl-B that left it may have come when the program had the port
        self._boot()

    def _show(self, text: bytes) -> None:
        """Shows a text of ours where the board's output goes."""
        if self._program:
            os.write(self._program.files[2], text)
        else:
            self.write(_serial(text))

    # The loop

    def _loop_once(self) -> None:
        now = time.monotonic()
        deadlines = []
        if self._booting and not self._announced:
            deadlines.append((self._child.started + BOOT_TIMEOUT, lambda: self._announce_once({})))
        if self._to_port:
            deadlines.append((self._progress_at + _STALL_S, self._discard))
        if self._grace_ends:
            deadlines.append((self._grace_ends, lambda: self._program_ended(128 + signal.SIGINT)))
        wait = None
        for deadline, action in deadlines:
            if deadline <= now:
                action()
                return
            wait = min(deadline - now, wait or deadline - now)
        for key, events in self._selector.select(wait):
            # What an earlier event of this round has closed or replaced is no longer registered.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)

    def _watch(self) -> None:
        """Watches what can be of use now: the board prints while the port keeps up, and reads while there is input."""
        events = selectors.EVENT_READ
        if self._to_port or self._discarding:
            events |= selectors.EVENT_WRITE
        if events != self._selector.get_key(self._port).events:
            self._selector.modify(self._port, events, self._port_ready)
        child = self._child
        if child is not None and child.console:
            self._want(child.stdout, selectors.EVENT_READ, self._child_printed, len(self._to_port) < _BACKLOG)
            self._want(child.stdin, selectors.EVENT_WRITE, self._child_reads, bool(self._to_stdin))

    def _want(self, descriptor: int, event: int, action: Callable[[int], None], wanted: bool) -> None:
        registered = descriptor in self._selector.get_map()
        if wanted and not registered:
            self._selector.register(descriptor, event, action)
        elif registered and not wanted:
            self._selector.unregister(descriptor)

    def _signalled(self, _events: int) -> None:
        for number in os.read(self._wake, 64):
            if number == signal.SIGINT and self._program and self._control is None and not self._grace_ends:
                self._grace_ends = time.monotonic() + _GRACE_S
                self._child.interrupt()
            else:
                self._exit_code = 128 + number if self._program else 0

    def _port_ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ:
            try:
                data = os.read(self._port, 4096)
            except OSError:
                return
            if self._program is None:
                self._console.feed(data)

    def _child_printed(self, _events: int) -> None:
        self._drain()

    def _drain(self) -> None:
        output = self._child.output()
        if output:
            self._tail = (self._tail + output)[-1000:]
            self.write(output)

    def _child_reads(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            del self._to_stdin[: os.write(self._child.stdin, self._to_stdin)]
        self._watch()

    def _resume(self) -> None:
        """Gives what the program has not read to the REPL."""
        unread = self._child.unread() + self._to_stdin
        self._to_stdin.clear()
        self._watch()
        self._console.feed(unread)

    def _flush(self) -> None:
        self._discarding = False
        with contextlib.suppress(BlockingIOError):
            del self._to_port[: os.write(self._port, self._to_port)]
            self._progress_at = time.monotonic()
        self._watch()

    def _discard(self) -> None:
        # Nobody reads the serial port. A UART would send into the void: the board must not stand still.
        self._discarding = True
        self._to_port.clear()
        self._watch()

    # What the console asks of the board (console.Board)

    def write(self, data: bytes) -> None:
        if data and not self._discarding:
            if not self._to_port:
                self._progress_at = time.monotonic()
            self._to_port += data
            self._flush()

    def run(self, source: bytes, interactive: bool) -> None:
        self._child.send(b"S" if interactive else b"X", source)

    def type_ahead(self, data: bytes) -> None:
        self._to_stdin += data
        self._watch()

    def interrupt(self) -> bool:
        return self._child.interrupt()

    def complete(self, name: bytes) -> None:
        self._child.send(b"C", name)

    def soft_reset(self) -> None:
        self._stop_child(gracefully=True)
        self._show(b"MPY: soft reboot\n")
        self._boot()

    # The program that drives the board (board.py)

    def _take_orders(self) -> None:
        self._cleanup.callback(self._control.close)
        self._selector.register(self._control, selectors.EVENT_READ, self._order)
        self._tell(made=self.description({}))

    def _tell(self, **message) -> None:
        if self._control is not None:
            try:
                self._control.send(json.dumps(message).encode())
            except OSError:
                self._exit_code = 0

    def _order(self, _events: int) -> None:
        data, files, _, _ = socket.recv_fds(self._control, 1 << 16, 4)
        order = json.loads(data or "null")
        if order is None:
            self._exit_code = 0
        elif "boot" in order:
            self._boot()
        elif "program" in order:
            source, *streams = files
            with open(source, "rb") as file:
                self._program = _Program(order["program"], file.read(), order["arguments"], tuple(streams))
            self._stop_child(gracefully=True)
            self._boot()
        elif "chip" in order:
            self._tell(chip=self._chip.order(**order["chip"]))
        elif "interrupt" in order and self._program:
            self._child.interrupt()
        elif "chip" in order:
            self._tell(chip=self._chip.order(**order["chip"]) if self._chip else None)
        elif "kill" in order and self._program:
            self._child.process.kill()


def _known(address: str) -> str | None:
    return None if address == "0.0.0.0" else address


def _serial(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def _end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

"""A board for tests of the EMAC driver: the model in a thread of the test, and interpreters that run device code on it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from host_tools import deploy
from host_tools.virtual_board import interpreter
from host_tools.virtual_board.emac_model import BUS_TIMEOUT, RUNTIME, memory
from host_tools.virtual_board.emac_model.chip import Chip
from host_tools.virtual_board.emac_model.phy import Timing
from host_tools.virtual_board.emac_model.server import Server
from host_tools.virtual_board.emac_model.wiring import Wiring

HEAP = 160 * 1024
CONFIG = {
    "board": "test",
    "driver": "emac",
    "phy": {"type": "LAN8720", "address": 1},
    "mdc": 23,
    "mdio": 18,
    "ref_clk": "gpio0_in",
    "pins": [{"gpio": 16, "role": "oscillator", "active": 1, "hold_ms": 0, "delay_ms": 2}],
    "startup_ms": 0,
    "psram": False,
}
# So fast that the first look at the link finds it.
FAST = Timing(soft_reset=0.002, negotiation=0.001, parallel_detection=0.001, settle=0.001)
PEER_MAC = bytes.fromhex("02ba4e000001")
MAC = bytes.fromhex("02ba4e000005")  # by the factory convention: the base address's last byte and 3

# What runs before each program: the board's module machine, and a board that is up on the link.
PRELUDE = """
import sys, os
import _chip
class machine:
    mem32 = _chip.mem32
    Pin = _chip.Pin
    @staticmethod
    def unique_id(): return bytes.fromhex("02ba4e000002")
sys.modules["machine"] = machine
import json, time
from barenet import fast
from barenet.pool import Pool
from barenet.driver.emac import EMAC
config = json.loads(os.getenv("CONFIG"))
mem32 = machine.mem32
def line(): return sys.stdin.readline().strip()
def now(): return time.ticks_ms() & 0x3FFFFFFF
def poll(lan, ms, until=lambda: False):
    end = time.ticks_add(time.ticks_ms(), ms)
    while time.ticks_diff(end, time.ticks_ms()) > 0:
        lan.poll(now())
        if until(): return True
        time.sleep_ms(1)
    return until()
def up(pool=None, ms=5000):
    pool = pool or Pool()
    pool.objects[fast.O_KEYS] = bytearray(8)  # of connections there are none
    lan = EMAC(config)
    lan.start(pool)
    assert poll(lan, ms, lan.link), "no link"
    return lan, pool
"""


@functools.cache
def firmware() -> Path:
    """Returns a folder with the firmware, compiled once for all tests; its constants keep the names that the programs here use."""
    folder = Path(tempfile.mkdtemp(prefix="barenet-firmware-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    architecture, _ = deploy.target(interpreter.find(32).mpy)
    files = deploy.sources()
    for name, content in (deploy.compile_folded(files, architecture, 0) if architecture else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class Board:
    """The model and the far end of its cable (`peer`, a packet socket).

    config: board.json as the driver gets it. wired: the same of the board as it really is. different: attributes of
    Wiring.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        wired: dict[str, Any] | None = None,
        timing: Timing = FAST,
        **different: Any,
    ):
        self.config = {**CONFIG, **(config or {})}
        wiring = Wiring.of({**self.config, **(wired or {})}, **different)
        self.chip = Chip(wiring, timing=timing)
        self.peer, link = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.peer, link):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.peer.settimeout(5)
        self.bus, bus = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.bus.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, BUS_TIMEOUT)
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ends = (link, bus, control)
        self.server = Server(self.chip, bus, link.fileno(), control)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def start(self, program: str, heap: int = HEAP, psram: bool = False, prelude: str = PRELUDE) -> subprocess.Popen:
        """Starts an interpreter on the board."""
        command = interpreter.find(32).command
        layout = memory.layout(command, heap, psram)
        return subprocess.Popen(
            [*command, "-X", f"heapsize={heap}", "-c", prelude + program],
            env=dict(
                os.environ,
                MICROPYPATH=f"{RUNTIME}:{firmware()}:.frozen",
                BARENET_CHIP_FD=str(self.bus.fileno()),
                CONFIG=json.dumps(self.config),
            ),
            preexec_fn=layout.apply,
            pass_fds=[self.bus.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, program: str, timeout: float = 30, **options: Any) -> str:
        """Runs a program to its end; returns what it printed. Fails the test when it raises."""
        process = self.start(program, **options)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"the program did not end within {timeout} s\n{output}", pytrace=False)
        if process.returncode:
            pytest.fail(f"on the board:\n{output}\n{self.breaches()}", pytrace=False)
        return output

    def error(self, program: str = "EMAC(config).start(Pool())", **options: Any) -> str:
        """Runs a program that must raise OSError; returns its text."""
        indented = "\n    ".join(program.splitlines())
        return self.run(
            f"try:\n    {indented}\nexcept OSError as e:\n    print('OSError', *e.args)\nelse:\n    print('no error')\n",
            **options,
        )

    def breaches(self) -> list[str]:
        """The names of the rules broken so far."""
        return [breach.rule for breach in self.chip.breaches]

    def wait(self, condition, seconds: float = 5) -> bool:
        """Waits until condition() holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.002)
        return condition()

    def close(self) -> None:
        """Ends the model."""
        self._control.close()
        self._thread.join(5)
        for end in (self.peer, self.bus, *self._ends):
            end.close()


@contextlib.contextmanager
def board(*arguments: Any, **options: Any):
    """A Board that is closed at the end."""
    one = Board(*arguments, **options)
    try:
        yield one
    finally:
        one.close()

"""A strict model of the ESP32's Ethernet MAC with its DMA, of the chip around it and of the PHY: what fails on silicon
fails here.

Where it runs. The model is a process of its own (CPython), beside the interpreter that plays the CPU:

* A soft reset replaces the interpreter, as it replaces the heap on the chip, while the MAC goes on: the DMA writes into
  whatever lies at the old addresses in the new interpreter. A model inside the interpreter would die with it, and would
  take its heap from the program.
* The DMA works on the interpreter's own memory while Python runs, without the interpreter's help (memory.py):
  descriptors and frames lie in the ordinary heap, at the chip's addresses. The driver's hot path, which looks at
  descriptors only, costs what it costs on the board.
* Register accesses are messages (server.py): a write is posted, as on the chip's bus, a read waits for its answer, some
  30 µs. That gives each access its exact side effect, in order, and the driver has few of them. Mapping the registers
  as shared memory would be faster but could not see a write that stores the same value, a read that clears, or an
  access with the clock gate closed.
* Idle round trips pay for two process switches, which a ping measures in fractions of a millisecond; bulk data pays
  once a frame, far from the 123 µs that a full frame takes on the cable. The model paces the cable at its 10 or 100
  Mb/s: an unpaced one would lose frames for want of descriptors that a real cable does not lose.

`Chip` is the model, `Wiring` the board around it, `Faults` what is wrong on demand, `Breach` a rule broken by the
software. `Model` starts the process; an interpreter joins with `Model.environment`, `Model.descriptors` and
`Model.layout`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from host_tools import ROOT
from host_tools.virtual_board.emac_model import memory

RUNTIME = Path(__file__).with_name("runtime")
RUNTIME_HEAP = 6 * 1024  # what runtime/ takes of the interpreter's heap
_END_S = 5.0
_ANSWER_S = 10.0


class Model:
    """The model in a process of its own, for one board's whole life.

    link: descriptor of the cable. config: the board file's content as in board.json: the model is wired as that board.
    timing: attributes of phy.Timing, seconds, where a PHY's real ones are too long. different: attributes of Wiring
    that differ.
    """

    def __init__(self, link: int, config: dict[str, Any], timing: dict[str, float] | None = None, **different: Any):
        self.config = config
        self.bus, bus = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_ANSWER_S)
        self.bus.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, BUS_TIMEOUT)
        order = {"config": config, "timing": timing or {}, "different": different}
        order |= {"bus": bus.fileno(), "link": link, "control": control.fileno()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(order)],
            pass_fds=[bus.fileno(), control.fileno(), link],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])),
            start_new_session=True,
        )
        bus.close()
        control.close()

    @property
    def environment(self) -> dict[str, str]:
        """What the interpreter's environment needs."""
        return {"BARENET_CHIP_FD": str(self.bus.fileno())}

    @property
    def descriptors(self) -> list[int]:
        """What the interpreter inherits."""
        return [self.bus.fileno()]

    def layout(self, command: tuple[str, ...], heap: int) -> memory.Layout:
        """Where the interpreter's heap of `heap` bytes shall lie; see memory.layout."""
        return memory.layout(command, heap, bool(self.config.get("psram")))

    def order(self, **wishes: Any) -> dict[str, Any]:
        """Changes faults={…} or partner={…} (attributes of Faults and Partner) and returns breaches, frame counts and
        the link's state.

        Raises OSError when the model does not answer.
        """
        self._control.send(json.dumps(wishes).encode())
        return json.loads(self._control.recv(1 << 20))

    def reset(self) -> None:
        """Resets the chip, as machine.reset() and the EN button do; a soft reset of the interpreter does not."""
        self.order(reset=True)

    def breaches(self) -> list[str]:
        """The rules broken so far."""
        return self.order()["breaches"]

    def stop(self) -> None:
        """Ends the model."""
        self._control.close()
        self.bus.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


# struct timeval of 5 ms: a read whose answer an interrupting callback has taken looks again after that.
BUS_TIMEOUT = (0).to_bytes(8, sys.byteorder) + (5000).to_bytes(8, sys.byteorder)

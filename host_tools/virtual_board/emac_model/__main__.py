"""The model's process; started by Model."""

import ctypes
import json
import signal
import socket
import sys

from host_tools.virtual_board.emac_model.chip import Chip
from host_tools.virtual_board.emac_model.phy import Timing
from host_tools.virtual_board.emac_model.server import Server
from host_tools.virtual_board.emac_model.wiring import Wiring

_PR_SET_PDEATHSIG = 1


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    order = json.loads(sys.argv[1])
    chip = Chip(Wiring.of(order["config"], **order["different"]), timing=Timing(**order["timing"]))
    Server(chip, socket.socket(fileno=order["bus"]), order["link"], socket.socket(fileno=order["control"])).run()


main()

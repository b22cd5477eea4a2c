"""Runs the model: serves the interpreter's register accesses, and moves frames between the cable and the DMA at the
speed of the cable.

One loop on three descriptors. The bus is a packet socket that outlives the interpreters on its other end; the messages
are

    W address value          a posted write, without an answer        } little-endian words behind
    R number address         a read; the answer is number, value       } the letter
    S number                 let the DMA take what the transmit ring has; the answer is number, 0
    H nonce pid              a new interpreter; the answer is nonce
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from dataclasses import asdict

from host_tools.virtual_board.emac_model.chip import Chip

_WRITE = struct.Struct("<BxxxII")
_READ = struct.Struct("<BBxxI")
_ANSWER = struct.Struct("<II")
_FRAME = 2048
_GAP = 24  # preamble, FCS and gap, in bytes of wire time
_CREDIT_S = 0.0005  # how far the cable may catch up after the loop has slept too long
_BATCH = 16
_IDLE_S = 1.0


class Server:
    """The loop.

    chip: the model; its `send` is taken over. bus: this end of the bus. link: descriptor of the cable, one frame a read
    or write. control: packet socket for JSON orders (see `_obey`); its end of file ends the loop.
    """

    def __init__(self, chip: Chip, bus: socket.socket, link: int, control: socket.socket):
        self.chip = chip
        self.bus = bus
        self.link = link
        self.control = control
        bus.setblocking(False)
        os.set_blocking(link, False)
        chip.send = self._send
        self._rx_at = self._tx_at = 0.0
        self.link_errors = 0

    def run(self) -> None:
        """Serves until the control socket is closed.

        Closes the bus at the end, so that no interpreter waits for an answer.
        """
        try:
            self._loop()
        finally:
            self.bus.close()

    def _loop(self) -> None:
        bus, link, control = self.bus.fileno(), self.link, self.control.fileno()
        while True:
            emac = self.chip.emac
            now = time.monotonic()
            wanted = [bus, control]
            if self._rx_at <= now:
                wanted.append(link)
                timeout = _IDLE_S
            else:
                timeout = self._rx_at - now
            if emac.tx_waiting:
                timeout = min(timeout, max(0.0, self._tx_at - now))
            ready = select.select(wanted, (), (), timeout)[0]
            if bus in ready:
                self._serve()
            if control in ready and not self._obey():
                return
            self._transmit()
            if link in ready:
                self._receive()

    def _serve(self) -> None:
        chip, bus = self.chip, self.bus
        try:
            for _ in range(_BATCH):
                message = bus.recv(64)
                letter = message[:1]
                if letter == b"W":
                    chip.write(*_WRITE.unpack(message)[1:])
                elif letter == b"R":
                    _, number, address = _READ.unpack(message)
                    bus.send(_ANSWER.pack(number, chip.read(address)))
                elif letter == b"S":
                    self._transmit()
                    bus.send(_ANSWER.pack(message[1], 0))
                elif letter == b"H":
                    _, nonce, pid = _WRITE.unpack(message)
                    chip.memory.attach(pid)
                    bus.send(_ANSWER.pack(nonce, 0))
                else:
                    return
        except BlockingIOError:
            pass
        except ConnectionError:
            pass

    def _transmit(self) -> None:
        emac = self.chip.emac
        for _ in range(_BATCH):
            if not emac.tx_waiting or self._tx_at > time.monotonic():
                return
            emac.transmit()

    def _send(self, frame: bytes) -> None:
        self._tx_at = self._after(self._tx_at, len(frame))
        try:
            os.write(self.link, frame)
        except OSError:
            self.link_errors += 1

    def _receive(self) -> None:
        receive = self.chip.emac.receive
        for _ in range(_BATCH):
            try:
                frame = os.read(self.link, _FRAME)
            except OSError:
                return
            if not frame:
                return
            self._rx_at = self._after(self._rx_at, len(frame))
            receive(frame)
            if self._rx_at > time.monotonic():
                return

    def _after(self, free_at: float, length: int) -> float:
        """When the cable is free again after one more frame."""
        start = max(free_at, time.monotonic() - _CREDIT_S)
        return start + (max(length, 60) + _GAP) * 8e-6 / self.chip.emac.speed()

    def _obey(self) -> bool:
        """An order is {"faults": {…}, "partner": {…}} to change things, {"reset": true} to reset the chip; each is
        answered with what is seen.

        Returns False at the end of file.
        """
        try:
            order = self.control.recv(1 << 16)
        except ConnectionError:
            return False
        if not order:
            return False
        chip = self.chip
        wishes = json.loads(order)
        for part in ("faults", "partner"):
            for name, value in wishes.get(part, {}).items():
                setattr(getattr(chip, part), name, value)
        if wishes.get("reset"):
            chip.power_on()
        answer = {
            "breaches": [str(breach) for breach in chip.breaches],
            "frames in": chip.emac.frames_in,
            "frames out": chip.emac.frames_out,
            "lost": chip.emac.lost,
            "link": chip.phy.link,
            "faults": asdict(chip.faults),
        }
        self.control.send(json.dumps(answer).encode())
        return True

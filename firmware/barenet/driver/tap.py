"""The virtual board's cable: a Linux TAP device (or packet socket) behind the same rings that the EMAC's DMA works on.

read(2) on the descriptor gives one frame, write(2) sends one; both never block. `poll` and `transmit` do what the DMA
does on the chip. The descriptor is read through ffi: FileIO.readinto would loop until its buffer is full and so swallow
every second frame.
"""

import os
from array import array

import ffi
from barenet import fast
from barenet.driver import mac_address
from barenet.errors import ENODEV
from micropython import const

_FCS = const(4)
_POLLIN = const(1)
_libc = ffi.open("libc.so.6")
_read = _libc.func("i", "read", "ipi")
_write = _libc.func("i", "write", "ipi")
_poll = _libc.func("i", "poll", "pii")


@micropython.viper
def _received(ring, i: int, length: int):
    """Marks receive descriptor i as the DMA does after a good frame: length with FCS, first and last descriptor."""
    d = ptr32(int(ptr32(ring)) + (i << 5))
    d[0] = (length + int(_FCS)) << 16 | 0x0300


@micropython.viper
def _length(ring, i: int) -> int:
    d = ptr32(int(ptr32(ring)) + (i << 5))
    return d[1] & 0x1FFF


@micropython.viper
def _sent(ring, i: int):
    d = ptr32(int(ptr32(ring)) + (i << 5))
    d[0] = 0


class TAP:
    """A driver (see docs/architecture.md) on the file descriptor named by config["fd"], else by BARENET_LINK_FD.

    config["mac"], text "02:…", replaces the default address. BARENET_LINK_FD is in the environment.
    Raises OSError when there is no descriptor, or for a wrong address.
    """

    def __init__(self, config):
        fd = config.get("fd", os.getenv("BARENET_LINK_FD"))
        if fd is None:
            raise OSError(ENODEV, "no cable: BARENET_LINK_FD is not set; start the board with `barenet virtual`")
        self.fd = int(fd)
        mac = config.get("mac")
        self.mac = mac_address(mac) if mac else b"\x02\xba\x4e\x00\x00\x02"
        self.pool = None
        self.write_errors = 0
        self._fill = 0
        self._drain = 0
        self._wait = array("i", [self.fd, _POLLIN])

    def start(self, pool):
        pool.reset()
        self._fill = self._drain = 0
        self.pool = pool

    def stop(self):
        self.pool = None

    def poll(self, now):
        pool = self.pool
        if pool is None:
            return
        ring = pool.rx_ring
        i = self._fill
        while fast.owned_by_dma(ring, i):
            length = _read(self.fd, pool.frames[i], fast.FRAME_SIZE)
            if length <= 0:
                break
            _received(ring, i, length)
            i += 1
            if i == pool.receive:
                i = 0
        self._fill = i

    def refill(self):
        pass

    def transmit(self):
        pool = self.pool
        if pool is None:
            return
        ring = pool.tx_ring
        i = self._drain
        while fast.owned_by_dma(ring, i):
            if _write(self.fd, pool.frames[pool.receive + i], _length(ring, i)) < 0:
                self.write_errors += 1
            _sent(ring, i)
            i += 1
            if i == pool.transmit:
                i = 0
        self._drain = i

    def wait(self, ms):
        _poll(self._wait, 1, ms)

    def link(self):
        return self.pool is not None

    def status(self):
        return {"driver": "tap", "speed": 100, "duplex": "full", "write errors": self.write_errors}

    def filter(self, multicast):
        pass

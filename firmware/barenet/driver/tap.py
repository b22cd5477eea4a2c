"""The virtual board's cable: a Linux TAP device (or packet socket) behind the same rings that the EMAC's DMA works on.

read(2) on the descriptor gives one frame, writev(2) sends one, in two pieces where its text lies in a send buffer; both never block. `dma` and `transmit` do what the DMA
does on the chip, where it costs no CPU: therefore viper. The descriptor is read through ffi: FileIO.readinto would loop
until its buffer is full and so swallow every second frame.
"""

import os
from array import array

import ffi
import micropython
from barenet import fast
from barenet.driver import mac_address
from barenet.errors import ENODEV
from micropython import const

_POLLIN = const(1)
_FAR = const(60_000)  # ms
_WIDE = const(0)
_libc = ffi.open("libc.so.6")
_read = _libc.func("i", "read", "ipi")
_write = _libc.func("i", "writev", "ipi")
_poll = _libc.func("i", "poll", "pii")


class TAP:
    """A driver (see docs/architecture.md) on the file descriptor named by config["fd"], else by BARENET_LINK_FD.

    config["mac"], text "02:…", replaces the default address. BARENET_LINK_FD is in the environment.
    Raises OSError when there is no descriptor, or for a wrong address.
    """

    transmit = None  # until start()
    refill = bool  # there is nothing to do, and this does nothing in the fewest instructions

    def __init__(self, config):
        fd = config.get("fd", os.getenv("BARENET_LINK_FD"))
        if fd is None:
            raise OSError(ENODEV, "no cable: start the board with `barenet virtual`")
        mac = config.get("mac")
        self.mac = mac_address(mac) if mac else b"\x02\xba\x4e\x00\x00\x02"
        self.pool = None
        self.write_errors = 0
        self._wait = array("i", [int(fd), _POLLIN])

    def start(self, pool):
        pool.reset()
        self.pool = pool
        words = pool.words
        words[fast.C_DMA_RX] = words[fast.C_DMA_TX] = 0
        words[fast.C_DMA] = 1
        fd = self._wait[0]
        words[fast.C_GATHER] = 1
        frames = pool.frames
        # What these find as variables of a closure would as attributes and globals cost transmit() 600 instructions more, dma() 300.
        read = _read
        write = _write
        pieces = array("I", [0] * 8)  # struct iovec of header and text

        @micropython.viper
        def dma():
            c = ptr32(words)
            ring = c[int(fast.C_RX_RING)] | c[int(fast.C_RX_RING) + 1] << 32
            i = c[int(fast.C_DMA_RX)]
            d = ptr32(ring + (i << 5))
            while d[0] >> 31 & 1:
                length = int(read(fd, frames[i], fast.FRAME_SIZE))
                if length <= 0:
                    break
                # As the DMA marks a good frame: length with FCS, first and last descriptor.
                d[0] = (length + int(fast.FCS)) << 16 | 0x0300
                i += 1
                if i == c[int(fast.C_RX_COUNT)]:
                    i = 0
                d = ptr32(ring + (i << 5))
            c[int(fast.C_DMA_RX)] = i

        @micropython.viper
        def transmit():
            c = ptr32(words)
            if not c[int(fast.C_DMA)]:
                return
            ring = c[int(fast.C_TX_RING)] | c[int(fast.C_TX_RING) + 1] << 32
            i = c[int(fast.C_DMA_TX)]
            d = ptr32(ring + (i << 5))
            p = ptr32(pieces)
            while d[0] >> 31 & 1:
                k = int(fast.C_FRAMES) + (c[int(fast.C_RX_COUNT)] + i << 1)
                p[0] = c[k]
                if _WIDE:
                    p[1] = c[k + 1]
                    p[2] = d[1] & 0x1FFF
                    p[4] = d[3]
                    p[5] = d[4]
                    p[6] = d[1] >> 16
                else:
                    p[1] = d[1] & 0x1FFF
                    p[2] = d[3]
                    p[3] = d[1] >> 16
                if int(write(fd, pieces, 2)) < 0:
                    self.write_errors = int(self.write_errors) + 1
                d[0] = 0
                i += 1
                if i == c[int(fast.C_TX_COUNT)]:
                    i = 0
                d = ptr32(ring + (i << 5))
            c[int(fast.C_DMA_TX)] = i

        pool.objects[fast.O_DMA] = dma
        pool.objects[fast.O_TRANSMIT] = transmit

    def stop(self):
        if self.pool is not None:
            self.pool.words[fast.C_DMA] = 0
            self.pool = None

    def poll(self, now):
        # There is no hardware to look after.
        if self.pool is not None:
            self.pool.words[fast.C_DRIVER_AT] = now + _FAR & 0x3FFFFFFF

    def wait(self, ms):
        _poll(self._wait, 1, ms)

    def link(self):
        return self.pool is not None

    def status(self):
        return {"driver": "tap", "speed": 100, "duplex": "full", "write errors": self.write_errors}

    def filter(self, multicast):
        pass

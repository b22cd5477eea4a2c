"""The ESP32's Ethernet MAC while it runs: DMA rings, address filter, and the watch that keeps the link alive.

bring_up.py starts it.

The stack and the DMA meet only in the descriptors; the registers are written for poll demand and looked at a few times
a second. Register names are those of the ESP32 Technical Reference Manual, chapter Ethernet MAC.
"""

import sys
from errno import EINVAL, EIO
from time import sleep_ms, sleep_us, ticks_add, ticks_diff, ticks_ms

from barenet import driver as package
from barenet import fast
from barenet.driver import phy as mdio
from barenet.driver.registers import get, wait_clear
from machine import mem32, unique_id
from micropython import const
from uctypes import addressof

_DPORT_WIFI_CLK_EN = const(0x3FF000CC)
_EMAC_CLK_EN = const(0x4000)
_DPORT_CORE_RST_EN = const(0x3FF000D0)
_EMAC_RST = const(0x80)

_BUSMODE = const(0x3FF69000)
_SWR = const(1)
_BUSMODE_VALUE = const(0x02C12080)  # AAL, USP, RPBL 32, FB, PBL 32, ATDS
_TXPOLLDEMAND = const(0x3FF69004)
_RXPOLLDEMAND = const(0x3FF69008)
_RXBASEADDR = const(0x3FF6900C)
_TXBASEADDR = const(0x3FF69010)
_STATUS = const(0x3FF69014)
_STATUS_ALL = const(0x0001E7FF)
_OVF = const(0x0010)
_RU = const(0x0080)
_FBI = const(0x2000)
_OPMODE = const(0x3FF69018)
_OPMODE_IDLE = const(0x02200004)  # RSF, TSF, OSF
_SR = const(0x0002)
_ST = const(0x2000)
_FTF = const(0x00100000)
_INTEN = const(0x3FF6901C)
_MISSEDFR = const(0x3FF69020)

_CONFIG = const(0x3FF6A000)
_CONFIG_PS = const(0x8000)
_FES = const(0x4000)
_DO = const(0x2000)
_DM = const(0x0800)
_TE = const(0x0008)
_RE = const(0x0004)
_FRAMEFILTER = const(0x3FF6A004)
_PROMISCUOUS = const(1)
_HASH_MULTICAST = const(4)
_HASHHIGH = const(0x3FF6A008)
_HASHLOW = const(0x3FF6A00C)
_FLOWCTRL = const(0x3FF6A018)
_DEBUG = const(0x3FF6A024)
_INTMASK = const(0x3FF6A03C)
_ADDR0HIGH = const(0x3FF6A040)
_ADDR0LOW = const(0x3FF6A044)

_STEP_MS = const(2)  # between the steps of a look at the link
_LOOK_MS = const(250)
_HEALTH_LOOKS = const(4)  # one check of the DMA for so many looks
_DEAF_CHECKS = const(2)
_LOST_LOOKS = const(2)
_BUSY_WAIT_US = const(1000)
_NAP_US = const(50)

# What poll() does next.
_LOOK = const(0)
_LATCHED = const(1)
_CURRENT = const(2)
_RESETTING = const(3)


def stop_dma():
    """Holds the EMAC in reset: from the next line on it writes to no memory.

    The first thing after a soft reset; needs no clock and no gate.
    """
    mem32[_DPORT_CORE_RST_EN] = get(_DPORT_CORE_RST_EN) | _EMAC_RST
    get(_DPORT_CORE_RST_EN)  # when this returns, the write before it has been done


def factory_mac():
    """Returns the Ethernet address by Espressif's convention: the base address in eFuse with 3 added to its last byte,
    without carry.
    """
    base = unique_id()
    return bytes(base[:5]) + bytes((base[5] + 3 & 255,))


def hash_index(address):
    """Returns which of the 64 bits of HASHHIGH and HASHLOW lets a multicast address (6 bytes) through: the upper 6 bits
    of its CRC-32, bits reversed.
    """
    crc = 0xFFFFFFFF
    for byte in address:
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if (crc >> 31 ^ byte) & 1 else 0)) & 0xFFFFFFFF
            byte >>= 1
    return ~crc >> 26 & 63


class EMAC:
    """A driver (see docs/architecture.md) for the ESP32's EMAC and an RMII PHY.

    config: the board file's content as `barenet deploy` leaves it: "phy" {"type", "address", "mode"}, "mdc", "mdio",
    "ref_clk", "pins", "startup_ms"; "mac" (text) replaces the factory address, "promiscuous" takes every frame,
    "dma_memory" says where rings and frames lie when the heap is in PSRAM (psram.py). The constructor stops a MAC that
    an earlier program left running (left_running). Raises OSError(EINVAL) for a config that cannot work.
    """

    def __init__(self, config):
        # An earlier program's DMA is on: boot.py has not stopped it.
        self.left_running = bool(
            get(_DPORT_WIFI_CLK_EN) & _EMAC_CLK_EN and not get(_DPORT_CORE_RST_EN) & _EMAC_RST and get(_OPMODE) & _SR
        )
        stop_dma()
        self.running = False
        self.pool = None
        _borrow("check", config)
        self.board = config
        self.phy = mdio.PHY(config["phy"]["address"], config["phy"].get("mode", "auto"))
        mac = config.get("mac")
        self.mac = bytes(int(x, 16) for x in mac.split(":")) if mac else factory_mac()
        if len(self.mac) != 6 or self.mac[0] & 1:
            raise OSError(EINVAL, "a MAC address has 6 bytes and bit 0 of the first is 0")
        self._filter = _PROMISCUOUS if config.get("promiscuous") else 0
        self._hash = [0, 0]
        self.config = _CONFIG_PS | _FES | _DM  # the register CONFIG without RE and TE
        self._up = False
        self._mode = 0
        self._state = _LOOK
        self._next = 0
        self._bmsr = 0
        self.clear_counters()

    def clear_counters(self):
        """Sets everything that status() counts to 0."""
        self.starved = 0  # looks that found the receiver without a descriptor
        self.missed = 0  # frames lost for want of a descriptor
        self.overflows = 0  # frames lost in the FIFO
        self.restarts = 0  # of the MAC, because it had gone deaf, mute or into a bus error
        self.link_changes = 0
        self.phy_lost = 0
        self._looks = 0
        self._silent = 0
        self._deaf = 0
        self.last_error = None
        self._rx_before = self._tx_before = 0

    def start(self, pool):
        """Brings everything up and starts the DMA on the pool's rings. Does not wait for the link: poll() follows it.

        Raises OSError whose text names the step that failed and the remedy; the hardware is stopped then.
        """
        self.stop()
        self.clear_counters()
        try:
            for _, step in _borrow("steps", self, pool):
                step()
        except Exception:
            self.stop()
            raise
        finally:
            _give_back()

    def stop(self):
        """Stops transmitter, receiver and DMA; afterwards the rings' memory is free.

        Safe to call twice, and before start().
        """
        if self.running:
            self.running = False
            mem32[_OPMODE] = get(_OPMODE) & ~_ST
            wait_clear(_DEBUG, 0x00060000, 2500)
            mem32[_CONFIG] = self.config
            wait_clear(_DEBUG, 0x00000060, 2500)
            mem32[_OPMODE] = _OPMODE_IDLE
        # The reset holds whatever state the DMA is in, and stays until the next start.
        stop_dma()
        self.pool = None
        self._up = False
        self._mode = 0

    def run(self, pool):
        """Sets MAC, DMA and rings up after a reset of the MAC, and starts them.

        The last step of the bring-up. Raises OSError(EIO).
        """
        self.pool = pool
        self._configure(True)
        self._start_dma()
        self._state = _LOOK
        self._next = ticks_ms() & 0x3FFFFFFF

    def hold(self):
        """Lets poll() do nothing but wait for the end of a reset of the MAC, until run()."""
        self.running = False
        self._state = _RESETTING

    def _configure(self, check):
        """Writes MAC and DMA registers after a soft reset, and makes the rings new."""
        pool = self.pool
        mem32[_INTMASK] = 0xFFFFFFFF
        self._write_filter()
        mem32[_FLOWCTRL] = 0
        mem32[_CONFIG] = self.config
        mac = self.mac
        # The filter takes the address over when LOW is written.
        mem32[_ADDR0HIGH] = 0x80000000 | mac[5] << 8 | mac[4]
        mem32[_ADDR0LOW] = mac[3] << 24 | mac[2] << 16 | mac[1] << 8 | mac[0]
        mem32[_BUSMODE] = _BUSMODE_VALUE
        mem32[_INTEN] = 0
        mem32[_OPMODE] = _OPMODE_IDLE
        mem32[_OPMODE] = _OPMODE_IDLE | _FTF
        flushed = wait_clear(_OPMODE, _FTF, 1000)
        pool.reset()
        _chain(pool.rx_ring, pool.frames, 0, pool.receive)
        _chain(pool.tx_ring, pool.frames, pool.receive, pool.transmit)
        mem32[_RXBASEADDR] = addressof(pool.rx_ring)
        mem32[_TXBASEADDR] = addressof(pool.tx_ring)
        mem32[_STATUS] = _STATUS_ALL
        if check:
            _expect(_CONFIG, self.config, 0xFFFF, "CONFIG")
            _expect(_ADDR0HIGH, mac[5] << 8 | mac[4], 0xFFFF, "ADDR0HIGH")
            _expect(_ADDR0LOW, mac[3] << 24 | mac[2] << 16 | mac[1] << 8 | mac[0], 0xFFFFFFFF, "ADDR0LOW")
            _expect(_BUSMODE, _BUSMODE_VALUE, 0x02FF3F81, "BUSMODE")
            _expect(_RXBASEADDR, addressof(pool.rx_ring), 0xFFFFFFFC, "RXBASEADDR")
            _expect(_TXBASEADDR, addressof(pool.tx_ring), 0xFFFFFFFC, "TXBASEADDR")
            if not flushed:
                raise OSError(EIO, "OPMODE: the transmit FIFO does not flush; run `barenet doctor`")

    def _start_dma(self):
        mem32[_CONFIG] = self.config | _TE
        mem32[_OPMODE] = _OPMODE_IDLE | _ST
        mem32[_OPMODE] = _OPMODE_IDLE | _ST | _SR
        mem32[_CONFIG] = self.config | _TE | _RE
        mem32[_RXPOLLDEMAND] = 0
        self.running = True

    def poll(self, now):
        """Looks at link and DMA a few times a second; costs a comparison otherwise. Never raises, never waits."""
        if self.pool is None or (now - self._next) & 0x20000000:
            return
        try:
            self._step(now)
        except Exception as e:
            # MDIO that does not answer, or no memory: the next look is soon enough.
            self.last_error = e
            self._state = _LOOK
            self._next = (now + _LOOK_MS) & 0x3FFFFFFF

    def _step(self, now):
        state = self._state
        pause = _STEP_MS
        if state == _LOOK:
            self._looks += 1
            if self._looks % _HEALTH_LOOKS == 0 and not self._healthy():
                self._restart()
            elif mdio.start_read(self.phy.address, mdio.BMSR):
                self._state = _LATCHED
        elif state == _RESETTING:
            if mem32[_BUSMODE] & _SWR:
                pause = _LOOK_MS
            else:
                self.phy.negotiate()
                self._configure(False)
                self._start_dma()
                self._state = _LOOK
        else:
            value = mdio.result(self.phy.address, mdio.BMSR)
            if value < 0:
                self._state = _LOOK
            elif state == _LATCHED:
                # The link bit keeps a loss until it is read, so the first value is the past and the second the present.
                self._bmsr = value
                self._state = _CURRENT if mdio.start_read(self.phy.address, mdio.BMSR) else _LOOK
            else:
                self._state = _LOOK
                pause = _LOOK_MS
                self._judge(self._bmsr, value)
        self._next = (now + pause) & 0x3FFFFFFF

    def _judge(self, latched, bmsr):
        if bmsr == 0xFFFF or bmsr == 0:
            self._silent += 1
            if self._silent == _LOST_LOOKS:
                self.phy_lost += 1
                self._set_link(0)
            return
        if self._silent >= _LOST_LOOKS:
            # It lost power or clock, and with it its settings; the MAC may have lost its clock in the middle of a
            # frame.
            self._silent = 0
            self._restart()
            return
        self._silent = 0
        phy = self.phy
        if not phy.settled(bmsr):
            self._set_link(0)
        elif not self._up or not phy.settled(latched):
            self._set_link(0)
            self._set_link(phy.mode())

    def _set_link(self, mode):
        if mode == self._mode:
            return
        self._mode = mode
        self.link_changes += 1
        if mode == 0:
            self._up = False
            return
        config = _CONFIG_PS
        if mode >= 200:
            config |= _FES
        # In half duplex the PHY may echo what we send.
        config |= _DM if mode & 1 else _DO
        if config != self.config:
            self.config = config
            mem32[_CONFIG] = config | _TE
            mem32[_CONFIG] = config | _TE | _RE
        self._up = True

    def _healthy(self):
        """Counts what was lost; returns False when only a restart helps."""
        status = mem32[_STATUS]
        lost = mem32[_MISSEDFR]
        mem32[_STATUS] = status & _STATUS_ALL
        missed = lost & 0xFFFF
        overflowed = lost >> 17 & 0x7FF
        self.missed += missed
        self.overflows += overflowed
        pool = self.pool
        words = pool.words
        rx = words[fast.C_RX_NEXT]
        tx = words[fast.C_TX_NEXT]
        waiting = fast.owned_by_dma(pool.rx_ring, rx)
        if status & _RU:
            self.starved += 1
            if waiting:
                # Suspended although there is a descriptor: the poll demand came while the DMA was still looking.
                mem32[_RXPOLLDEMAND] = 0
        stuck = self._up and tx == self._tx_before and fast.owned_by_dma(pool.tx_ring, tx)
        deaf = (missed or overflowed or status & _OVF) and waiting and rx == self._rx_before
        self._rx_before = rx
        self._tx_before = tx
        if status & _FBI or not status & 0x000E0000:
            return False
        self._deaf = self._deaf + 1 if stuck or deaf else 0
        return self._deaf < _DEAF_CHECKS

    def _restart(self):
        """Resets the MAC; poll() goes on when the reset has ended, which it does not before there is a clock."""
        self.running = False
        self._deaf = 0
        self.restarts += 1
        self._set_link(0)
        if not mem32[_BUSMODE] & _SWR:
            mem32[_OPMODE] = 0
            mem32[_BUSMODE] = _SWR
        self._state = _RESETTING

    def refill(self):
        """Receive poll demand: a receiver that found no descriptor stays suspended without."""
        if self.running:
            mem32[_RXPOLLDEMAND] = 0

    def transmit(self):
        """Transmit poll demand."""
        if self.running:
            mem32[_TXPOLLDEMAND] = 0

    def wait(self, ms):
        """Sleeps until the DMA has given a frame, at most `ms`.

        The first millisecond in short naps: an answer is often on its way.
        """
        pool = self.pool
        if pool is None:
            sleep_ms(ms)
            return
        ring = pool.rx_ring
        i = pool.words[fast.C_RX_NEXT]
        end = ticks_add(ticks_ms(), ms)
        naps = _BUSY_WAIT_US // _NAP_US
        while fast.owned_by_dma(ring, i):
            if ticks_diff(end, ticks_ms()) <= 0:
                return
            if naps:
                naps -= 1
                sleep_us(_NAP_US)
            else:
                sleep_ms(1)

    def link(self):
        """True when the cable is connected and the PHY has agreed on a mode."""
        return self._up

    def filter(self, multicast):
        """Lets these multicast addresses (an iterable of 6 bytes each) through, besides our own and broadcast.

        Hash collisions pass, too.
        """
        table = [0, 0]
        used = 0
        for address in multicast:
            i = hash_index(address)
            table[i >> 5] |= 1 << (i & 31)
            used = _HASH_MULTICAST
        self._hash = table
        self._filter = self._filter & _PROMISCUOUS | used
        if self.running:
            self._write_filter()

    def _write_filter(self):
        mem32[_HASHHIGH] = self._hash[1]
        mem32[_HASHLOW] = self._hash[0]
        mem32[_FRAMEFILTER] = self._filter

    def status(self):
        """Returns a dict for people: link, speed, duplex, PHY, and counters since start()."""
        mode = self._mode
        return {
            "driver": "emac",
            "link": self._up,
            "speed": mode >> 1,
            "duplex": "full" if mode & 1 else "half",
            "memory": getattr(self.pool, "memory", "heap"),
            "phy": self.phy.name,
            "phy address": self.phy.address,
            "starved": self.starved,
            "missed": self.missed,
            "FIFO overflows": self.overflows,
            "restarts": self.restarts,
            "link changes": self.link_changes,
            "PHY lost": self.phy_lost,
            "last error": self.last_error and str(self.last_error),
        }


def _borrow(name, *arguments):
    """Calls a function of bring_up.py."""
    from barenet.driver import bring_up

    return getattr(bring_up, name)(*arguments)


def _give_back():
    """Forgets the modules that only the start needs, some 10 KB."""
    for name in ("bring_up", "rmii_clock", "psram"):
        if sys.modules.pop("barenet.driver." + name, None):
            delattr(package, name)


def _chain(ring, frames, first, count):
    base = addressof(ring)
    for i in range(count):
        ring[i * 8 + 2] = addressof(frames[first + i])
        ring[i * 8 + 3] = base + (i + 1) % count * 32


def _expect(address, value, mask, name):
    back = get(address)
    if (back ^ value) & mask:
        raise OSError(
            EIO, "%s (0x%08X) reads 0x%08X after writing 0x%08X; run `barenet doctor`" % (name, address, back, value)
        )

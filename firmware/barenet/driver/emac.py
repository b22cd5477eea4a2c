"""The ESP32's Ethernet MAC while it runs: DMA rings and the watch that keeps the link alive.

What is needed at the start, when the link changes, or when somebody asks lies in modules that are loaded for it and
then forgotten, because a board is short of RAM: bring_up.py and rmii_clock.py start everything, link.py sets MAC and
DMA up, phy.py talks to the PHY.

The stack and the DMA meet only in the descriptors; the registers are written for poll demand and looked at a few times
a second. Register names are those of the ESP32 Technical Reference Manual, chapter Ethernet MAC.
"""

from time import sleep_ms, sleep_us, ticks_add, ticks_diff, ticks_ms

from barenet import driver as package
from barenet import fast
from machine import mem32
from micropython import const

_DPORT_WIFI_CLK_EN = const(0x3FF000CC)
_EMAC_CLK_EN = const(0x4000)
_DPORT_CORE_RST_EN = const(0x3FF000D0)
_EMAC_RST = const(0x80)

_BUSMODE = const(0x3FF69000)
_SWR = const(1)
_TXPOLLDEMAND = const(0x3FF69004)
_RXPOLLDEMAND = const(0x3FF69008)
_STATUS = const(0x3FF69014)
_STATUS_ALL = const(0x0001E7FF)
_OVF = const(0x0010)
_RU = const(0x0080)
_FBI = const(0x2000)
_OPMODE = const(0x3FF69018)
_SR = const(0x0002)
_MISSEDFR = const(0x3FF69020)
_MIIADDR = const(0x3FF6A010)
_MIIDATA = const(0x3FF6A014)
_MII_BUSY = const(1)
_CONFIG_100_FULL = const(0xC800)  # PS, FES, DM

_BMSR = const(1)
_LINK = const(0x0004)
_AN_DONE = const(0x0020)

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
    mem32[_DPORT_CORE_RST_EN] |= _EMAC_RST
    mem32[_DPORT_CORE_RST_EN]  # when this returns, the write before it has been done


class EMAC:
    """A driver (see docs/architecture.md) for the ESP32's EMAC and an RMII PHY.

    config: the board file's content as `barenet deploy` leaves it: "phy" {"type", "address", "mode"}, "mdc", "mdio",
    "ref_clk", "pins", "startup_ms"; "mac" (text) replaces the factory address, "promiscuous" takes every frame,
    "dma_memory" says where rings and frames lie when the heap is in PSRAM (psram.py), "gather": false that text is copied
    into them, not sent from the send buffer. The constructor stops a MAC that an earlier program left running
    (left_running). Raises OSError(EINVAL) for a config that cannot work.
    """

    def __init__(self, config):
        # An earlier program's DMA is on: boot.py has not stopped it.
        self.left_running = bool(
            mem32[_DPORT_WIFI_CLK_EN] & _EMAC_CLK_EN
            and not mem32[_DPORT_CORE_RST_EN] & _EMAC_RST
            and mem32[_OPMODE] & _SR
        )
        stop_dma()
        self.running = False
        self.refill = fast.poll_demand(self, mem32, _RXPOLLDEMAND)  # a receiver that found no descriptor stays suspended without
        self.transmit = fast.poll_demand(self, mem32, _TXPOLLDEMAND)
        self.pool = None
        self._looking = False  # poll() is at work
        self.board = config
        self.found = (0, None, None, 0)  # of the PHY: id, type, name, how it tells its mode
        self.gather = bool(config.get("gather", "dma_memory" not in config))
        self.groups = ()  # multicast addresses to let through
        self.config = _CONFIG_100_FULL  # the register CONFIG without RE and TE
        self.mode = 0  # speed * 2 + full duplex; 0 while the link is down
        self.hold()
        self._next = 0
        self._bmsr = 0
        self.clear_counters()
        package.borrow("bring_up", "prepare", self)
        phy = config["phy"]
        self._bmsr_frame = phy["address"] << 11 | _BMSR << 6
        self._settled = _LINK | _AN_DONE if phy.get("mode", "auto") == "auto" else _LINK

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

    @property
    def phy(self):
        """The PHY, a phy.PHY; loads that module."""
        return package.borrow("phy", "PHY", self)

    def start(self, pool):
        """Brings everything up and starts the DMA on the pool's rings. Does not wait for the link: poll() follows it.

        Raises OSError whose text names the step that failed and the remedy; the hardware is stopped then.
        """
        self.stop()
        self.clear_counters()
        try:
            package.borrow("bring_up", "start", self, pool)
        except Exception:
            self.stop()
            raise

    def stop(self):
        """Stops transmitter, receiver and DMA; afterwards the rings' memory is free.

        Safe to call twice, and before start(). A callback that interrupts poll() leaves the work to that poll()'s end.
        """
        self.pool = None
        self.mode = 0
        if self._looking:
            return
        try:
            if self.running:
                self.running = False
                package.borrow("link", "stop", self)
        except MemoryError:
            pass  # the frames that are under way get lost
        # The reset holds whatever state the DMA is in, and stays until the next start.
        stop_dma()

    def hold(self):
        """Lets poll() do nothing but wait for the end of a reset of the MAC, until go()."""
        self.running = False
        self._state = _RESETTING

    def go(self):
        """MAC and DMA run: poll() watches them from now on."""
        self.running = True
        self._state = _LOOK
        self._next = ticks_ms() & 0x3FFFFFFF

    def poll(self, now):
        """Looks at link and DMA a few times a second, and says in C_DRIVER_AT when it wants to look again. Never raises, never waits."""
        if self.pool is None:
            return
        if not (now - self._next) & 0x20000000:
            self._looking = True
            try:
                self._next = (now + self._step()) & 0x3FFFFFFF
            except Exception as e:
                # MDIO that does not answer, or no memory: the next look is soon enough.
                self.last_error = e
                self._state = _LOOK
                self._next = (now + _LOOK_MS) & 0x3FFFFFFF
            self._looking = False
            if self.pool is None:
                self.stop()
                return
        self.pool.words[fast.C_DRIVER_AT] = self._next

    def _step(self):
        state = self._state
        if state == _LOOK:
            self._looks += 1
            if self._looks % _HEALTH_LOOKS == 0 and not self._healthy():
                self._restart()
            else:
                self._ask(_LATCHED)
        elif state == _RESETTING:
            if mem32[_BUSMODE] & _SWR:
                return _LOOK_MS
            package.borrow("link", "resume", self)
        else:
            self._state = _LOOK
            # Nothing when it is still on the wire, or replaced by another access.
            if not package.mdio_claimed and mem32[_MIIADDR] & 0xFFFF == self._bmsr_frame:
                value = mem32[_MIIDATA] & 0xFFFF
                if state == _CURRENT:
                    self._judge(self._bmsr, value)
                    return _LOOK_MS
                # The link bit keeps a loss until it is read, so the first value is the past and the second the present.
                self._bmsr = value
                self._ask(_CURRENT)
        return _STEP_MS

    def _ask(self, state):
        """Starts reading BMSR, which takes 34 µs, and goes on to `state`, unless the bus is not free."""
        if not (package.mdio_claimed or mem32[_MIIADDR] & _MII_BUSY):
            mem32[_MIIADDR] = self._bmsr_frame | _MII_BUSY
            self._state = state

    def _judge(self, latched, bmsr):
        settled = self._settled
        if bmsr == 0xFFFF or bmsr == 0:
            self._silent += 1
            if self._silent == _LOST_LOOKS:
                self.phy_lost += 1
                self._link_down()
        elif self._silent >= _LOST_LOOKS:
            # It lost power or clock, and with it its settings; the MAC may have lost its clock in the middle of a
            # frame.
            self._silent = 0
            self._restart()
        else:
            self._silent = 0
            if not (self.mode and latched & bmsr & settled == settled):
                self._link_down()
                if bmsr & settled == settled:
                    package.borrow("link", "up", self)

    def _link_down(self):
        if self.mode:
            self.mode = 0
            self.link_changes += 1

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
        stuck = self.mode and tx == self._tx_before and fast.owned_by_dma(pool.tx_ring, tx)
        deaf = (missed or overflowed or status & _OVF) and waiting and rx == self._rx_before
        self._rx_before = rx
        self._tx_before = tx
        if status & _FBI:
            self.gather = False  # a send buffer may lie where the DMA does not reach
            return False
        if not status & 0x000E0000:
            return False
        self._deaf = self._deaf + 1 if stuck or deaf else 0
        return self._deaf < _DEAF_CHECKS

    def _restart(self):
        """Resets the MAC; poll() goes on when the reset has ended, which it does not before there is a clock."""
        self.hold()
        self._deaf = 0
        self.restarts += 1
        self._link_down()
        if not mem32[_BUSMODE] & _SWR:
            mem32[_OPMODE] = 0
            mem32[_BUSMODE] = _SWR

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
        return self.mode != 0

    def filter(self, multicast):
        """Lets these multicast addresses (an iterable of 6 bytes each) through, besides our own and broadcast.

        Hash collisions pass, too.
        """
        self.groups = list(multicast)
        if self.running:
            package.borrow("link", "write_filter", self)

    def status(self):
        """Returns a dict for people: link, speed, duplex, PHY, and counters since start()."""
        return package.borrow("link", "status", self)

"""The ESP32's Ethernet MAC: bring-up, DMA rings, address filter, and the watch that keeps a running link alive.

The order of bring-up is the order in which the hardware depends on itself: power, clock gate, reference clock, pads, release of the PHY's
reset, the MAC's own reset (which ends only when the 50 MHz clock runs), PHY, MAC, DMA. Each step is read back, each wait is bounded, and an
error names the step that failed.

While the link runs, the stack and the DMA meet only in the descriptors; the registers are written for poll demand and looked at a few
times a second. Register names are those of the ESP32 Technical Reference Manual, chapter Ethernet MAC.
"""

from errno import EINVAL, EIO, ENODEV, ENOMEM
from time import sleep_ms, sleep_us, ticks_add, ticks_diff, ticks_ms

from barenet import fast
from barenet.driver import phy as mdio
from barenet.driver import rmii_clock
from barenet.driver.registers import change, get, put, wait_clear
from machine import Pin, mem32, unique_id
from micropython import const
from uctypes import addressof

_DPORT_WIFI_CLK_EN = const(0x3FF000CC)
_EMAC_CLK_EN = const(0x4000)
_WIFI_CLK_EN = const(0x0406)
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

_EX_PHYINF_CONF = const(0x3FF6980C)
_PHY_INTF_SEL = const(0xE000)
_RMII = const(0x8000)
_PD_SEL = const(0x3FF69810)

_CONFIG = const(0x3FF6A000)
_CONFIG_PS = const(0x8000)
_FES = const(0x4000)
_DO = const(0x2000)
_LM = const(0x1000)
_DM = const(0x0800)
_TE = const(0x0008)
_RE = const(0x0004)
_FRAMEFILTER = const(0x3FF6A004)
_PROMISCUOUS = const(1)
_HASH_MULTICAST = const(4)
_HASHHIGH = const(0x3FF6A008)
_HASHLOW = const(0x3FF6A00C)
_FLOWCTRL = const(0x3FF6A018)
_VERSION = const(0x3FF6A020)
_DEBUG = const(0x3FF6A024)
_INTMASK = const(0x3FF6A03C)
_ADDR0HIGH = const(0x3FF6A040)
_ADDR0LOW = const(0x3FF6A044)

_DMA_LOW = const(0x3FFAE000)
_DMA_HIGH = const(0x40000000)

# IO_MUX words of the RMII pads: function 5, inputs with input enable, no pulls.
PADS = ((19, 0x3FF49074, 0x5800), (21, 0x3FF4907C, 0x5800), (22, 0x3FF49080, 0x5800),
         (25, 0x3FF49024, 0x5A00), (26, 0x3FF49028, 0x5A00), (27, 0x3FF4902C, 0x5A00))  # fmt: skip
_IO_MUX = const(0x3FF49000)
# Offset of each GPIO's IO_MUX register, 0 where the pin cannot drive MDC or MDIO.
_IO_MUX_OFFSETS = b"\x44\x88\x40\x84\x48\x6c\0\0\0\0\0\0\x34\x38\x30\x3c\x4c\x50\x70\x74\x78\x7c\x80\x8c\0\x24\x28\x2c\0\0\0\0\x1c\x20"
_FUNC_OUT_SEL = const(0x3FF44530)
_FUNC_IN_SEL = const(0x3FF44130)
_ENABLE_W1TS = const(0x3FF44024)
_ENABLE1_W1TS = const(0x3FF44030)
_MDC_O = const(200)
_MDI_I_MDO_O = const(201)

_SWR_MS = const(1000)  # slow oscillators; normally microseconds
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
    """Holds the EMAC in reset: from the next line on it writes to no memory. The first thing after a soft reset; needs no clock and no gate."""
    mem32[_DPORT_CORE_RST_EN] = get(_DPORT_CORE_RST_EN) | _EMAC_RST
    get(_DPORT_CORE_RST_EN)  # when this returns, the write before it has been done


def factory_mac():
    """Returns the Ethernet address by Espressif's convention: the base address in eFuse with 3 added to its last byte, without carry."""
    base = unique_id()
    return bytes(base[:5]) + bytes((base[5] + 3 & 255,))


def hash_index(address):
    """Returns which of the 64 bits of HASHHIGH and HASHLOW lets a multicast address (6 bytes) through: the upper 6 bits of its CRC-32, bits reversed."""
    crc = 0xFFFFFFFF
    for byte in address:
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if (crc >> 31 ^ byte) & 1 else 0)) & 0xFFFFFFFF
            byte >>= 1
    return ~crc >> 26 & 63


class EMAC:
    """A driver (see docs/architecture.md) for the ESP32's EMAC and an RMII PHY.

    config: the board file's content as `barenet deploy` leaves it: "phy" {"type", "address", "mode"}, "mdc", "mdio", "ref_clk", "pins",
    "startup_ms"; "mac" (text) replaces the factory address, "promiscuous" takes every frame.
    The constructor stops a MAC that an earlier program left running. Raises OSError(EINVAL) for a config that cannot work.
    """

    def __init__(self, config):
        stop_dma()
        self._running = False
        self._pool = None
        try:
            self._mdc = config["mdc"]
            self._mdio = config["mdio"]
            self.clock_mode = config["ref_clk"]
            self.phy = mdio.PHY(config["phy"]["address"], config["phy"].get("mode", "auto"))
        except KeyError as e:
            raise OSError(EINVAL, "the board file has no %s: deploy it again" % e.args[0])
        self._pins = config.get("pins", ())
        self._psram = config.get("psram", False)
        self._startup_ms = config.get("startup_ms", 0)
        self._check_pins()
        mac = config.get("mac")
        self.mac = bytes(int(x, 16) for x in mac.split(":")) if mac else factory_mac()
        if len(self.mac) != 6 or self.mac[0] & 1:
            raise OSError(EINVAL, "a MAC address has 6 bytes and bit 0 of the first is 0")
        self._filter = _PROMISCUOUS if config.get("promiscuous") else 0
        self._hash = [0, 0]
        self._config = _CONFIG_PS | _FES | _DM
        self._up = False
        self._mode = 0
        self._state = _LOOK
        self._next = 0
        self._bmsr = 0
        self._clear_counters()

    def _clear_counters(self):
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

    def _check_pins(self):
        if self.clock_mode not in rmii_clock.MODES:
            raise OSError(EINVAL, "ref_clk %r: use one of %s" % (self.clock_mode, ", ".join(sorted(rmii_clock.MODES))))
        used = {pad[0]: "RMII data" for pad in PADS}
        if self._psram:
            used[16] = used[17] = "PSRAM"
        wanted = [("ref_clk", rmii_clock.MODES[self.clock_mode][0]), ("mdc", self._mdc), ("mdio", self._mdio)]
        wanted += [(pin["role"], pin["gpio"]) for pin in self._pins]
        for name, gpio in wanted:
            if gpio in used:
                raise OSError(EINVAL, "GPIO%s is both %s and %s" % (gpio, used[gpio], name))
            if not (0 <= gpio < len(_IO_MUX_OFFSETS) and _IO_MUX_OFFSETS[gpio]):
                raise OSError(EINVAL, "GPIO%s cannot be %s: it does not exist, belongs to the flash or is an input only" % (gpio, name))
            used[gpio] = name

    def start(self, pool):
        """Brings everything up and starts the DMA on the pool's rings. Does not wait for the link: poll() follows it.

        Raises OSError whose text names the step that failed and the remedy; the hardware is stopped then.
        """
        self.stop()
        try:
            for _, step in self.steps(pool):
                step()
        except Exception:
            self.stop()
            raise

    def steps(self, pool):
        """Returns the bring-up as (name, function) pairs, to be called in order after stop(). start() and the doctor walk the same list."""
        return (
            ("memory", lambda: _check_memory(pool)),
            ("power", self._power_on),
            ("clock gate", self._open_gate),
            ("RMII mode", _select_rmii),
            ("reference clock", lambda: rmii_clock.start(self.clock_mode)),
            ("pads", self._connect_pads),
            ("PHY reset pin", self._release_phy),
            ("MAC reset", self._soft_reset),
            ("PHY", self._start_phy),
            ("MAC and DMA", lambda: self._set_up(pool)),
        )

    def stop(self):
        """Stops transmitter, receiver and DMA; afterwards the rings' memory is free. Safe to call twice, and before start()."""
        if self._running:
            self._running = False
            mem32[_OPMODE] = get(_OPMODE) & ~_ST
            wait_clear(_DEBUG, 0x00060000, 2500)
            mem32[_CONFIG] = self._config
            wait_clear(_DEBUG, 0x00000060, 2500)
            mem32[_OPMODE] = _OPMODE_IDLE
        # The reset holds whatever state the DMA is in, and stays until the next start.
        stop_dma()
        self._pool = None
        self._up = False
        self._mode = 0

    def _power_on(self):
        self._clear_counters()
        for p in self._pins:
            if p["role"] == "reset":
                Pin(p["gpio"], Pin.OUT, value=p["active"])
        rest = self._startup_ms - ticks_ms()
        if rest > 0:
            sleep_ms(rest)
        self._switch_on("oscillator")
        if not rmii_clock.uses_apll(self.clock_mode):
            self._switch_on("power")

    def _switch_on(self, role):
        for p in self._pins:
            if p["role"] == role:
                pin = Pin(p["gpio"], Pin.OUT, value=1 - p["active"])
                sleep_ms(p.get("hold_ms", 0))
                pin.value(p["active"])
                sleep_ms(p.get("delay_ms", 0))

    def _release_phy(self):
        # A PHY must not come out of reset or power-up without its clock, so where the chip makes it, it comes first.
        if rmii_clock.uses_apll(self.clock_mode):
            self._switch_on("power")
        for p in self._pins:
            if p["role"] == "reset":
                sleep_ms(max(1, p.get("hold_ms", 0)))
                Pin(p["gpio"], Pin.OUT, value=1 - p["active"])
                sleep_ms(max(10, p.get("delay_ms", 0)))

    def _open_gate(self):
        # One read and one write: on old revisions a DPORT access may collide with the other CPU.
        gates = get(_DPORT_WIFI_CLK_EN)
        if gates & _WIFI_CLK_EN and rmii_clock.uses_apll(self.clock_mode):
            raise OSError(
                EINVAL, "Wi-Fi is on, which disturbs the APLL that makes this board's Ethernet clock: WLAN().active(False), then reset the board"
            )
        mem32[_DPORT_WIFI_CLK_EN] = gates | _EMAC_CLK_EN
        if not get(_DPORT_WIFI_CLK_EN) & _EMAC_CLK_EN:
            raise OSError(ENODEV, "the EMAC's clock gate does not open (0x3FF000CC bit 14): this is an emulator, not an ESP32")
        resets = get(_DPORT_CORE_RST_EN)
        mem32[_DPORT_CORE_RST_EN] = resets | _EMAC_RST
        mem32[_DPORT_CORE_RST_EN] = resets & ~_EMAC_RST
        version = get(_VERSION)
        if version & 0xFF != 0x37:
            raise OSError(EIO, "no EMAC: its version register reads 0x%08X in place of 0x..37 (gate closed or reset held)" % version)

    def _connect_pads(self):
        for gpio, pad, word in PADS:
            Pin(gpio, Pin.IN, None)
            put(pad, word, "IO_MUX_GPIO%d" % gpio)
        _enable_output(self._mdc, 0x2800, _MDC_O)
        _enable_output(self._mdio, 0x2B00, _MDI_I_MDO_O)
        put(_FUNC_IN_SEL + 4 * _MDI_I_MDO_O, 0x80 | self._mdio, "GPIO_FUNC201_IN_SEL_CFG", 0xFF)

    def _soft_reset(self):
        if not get(_BUSMODE) & _SWR:
            mem32[_BUSMODE] = _SWR
        if not wait_clear(_BUSMODE, _SWR, _SWR_MS * 1000):
            raise OSError(EIO, "no RMII clock: the MAC's reset does not end. " + self.clock_remedy())

    def clock_remedy(self):
        """Returns what to do when the MAC has no clock."""
        if rmii_clock.uses_apll(self.clock_mode):
            return "The APLL runs, but the MAC does not get it: run `barenet doctor`"
        return "No 50 MHz arrives at GPIO0: check the oscillator or power pin, that nothing else (DTR, a wire for flashing) is on GPIO0, and ref_clk"

    def _start_phy(self):
        try:
            self.phy.find()
        except OSError:
            if not any(p["role"] in ("power", "reset") for p in self._pins):
                raise
            # It may have come out of reset without a clock; now there is one.
            self._cycle_phy()
            self.phy.find()
        self.phy.reset()

    def _cycle_phy(self):
        for p in self._pins:
            if p["role"] == "power":
                Pin(p["gpio"], Pin.OUT, value=1 - p["active"])
                sleep_ms(max(500, p.get("hold_ms", 0)))
                Pin(p["gpio"], Pin.OUT, value=p["active"])
                sleep_ms(max(50, p.get("delay_ms", 0)))
            elif p["role"] == "reset":
                Pin(p["gpio"], Pin.OUT, value=p["active"])
                sleep_ms(max(10, p.get("hold_ms", 0)))
                Pin(p["gpio"], Pin.OUT, value=1 - p["active"])
                sleep_ms(max(50, p.get("delay_ms", 0)))

    def _set_up(self, pool):
        self._pool = pool
        self._configure(True)
        self._run()
        self._state = _LOOK
        self._next = ticks_ms() & 0x3FFFFFFF

    def _configure(self, check):
        """Writes MAC and DMA registers after a soft reset, and makes the rings new."""
        pool = self._pool
        mem32[_INTMASK] = 0xFFFFFFFF
        self._write_filter()
        mem32[_FLOWCTRL] = 0
        mem32[_CONFIG] = self._config
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
            _expect(_CONFIG, self._config, 0xFFFF, "CONFIG")
            _expect(_ADDR0HIGH, mac[5] << 8 | mac[4], 0xFFFF, "ADDR0HIGH")
            _expect(_ADDR0LOW, mac[3] << 24 | mac[2] << 16 | mac[1] << 8 | mac[0], 0xFFFFFFFF, "ADDR0LOW")
            _expect(_BUSMODE, _BUSMODE_VALUE, 0x02FF3F81, "BUSMODE")
            _expect(_RXBASEADDR, addressof(pool.rx_ring), 0xFFFFFFFC, "RXBASEADDR")
            _expect(_TXBASEADDR, addressof(pool.tx_ring), 0xFFFFFFFC, "TXBASEADDR")
            if not flushed:
                raise OSError(EIO, "OPMODE: the transmit FIFO does not flush; run `barenet doctor`")

    def _run(self):
        mem32[_CONFIG] = self._config | _TE
        mem32[_OPMODE] = _OPMODE_IDLE | _ST
        mem32[_OPMODE] = _OPMODE_IDLE | _ST | _SR
        mem32[_CONFIG] = self._config | _TE | _RE
        mem32[_RXPOLLDEMAND] = 0
        self._running = True

    def poll(self, now):
        """Looks at link and DMA a few times a second; costs a comparison otherwise. Never raises, never waits."""
        if self._pool is None or (now - self._next) & 0x20000000:
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
                self._run()
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
            # It lost power or clock, and with it its settings; the MAC may have lost its clock in the middle of a frame.
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
        if config != self._config:
            self._config = config
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
        pool = self._pool
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
        self._running = False
        self._deaf = 0
        self.restarts += 1
        self._set_link(0)
        if not mem32[_BUSMODE] & _SWR:
            mem32[_OPMODE] = 0
            mem32[_BUSMODE] = _SWR
        self._state = _RESETTING

    def refill(self):
        """Receive poll demand: a receiver that found no descriptor stays suspended without."""
        if self._running:
            mem32[_RXPOLLDEMAND] = 0

    def transmit(self):
        """Transmit poll demand."""
        if self._running:
            mem32[_TXPOLLDEMAND] = 0

    def wait(self, ms):
        """Sleeps until the DMA has given a frame, at most `ms`. The first millisecond in short naps: an answer is often on its way."""
        pool = self._pool
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
        """Lets these multicast addresses (an iterable of 6 bytes each) through, besides our own and broadcast. Hash collisions pass, too."""
        table = [0, 0]
        used = 0
        for address in multicast:
            i = hash_index(address)
            table[i >> 5] |= 1 << (i & 31)
            used = _HASH_MULTICAST
        self._hash = table
        self._filter = self._filter & _PROMISCUOUS | used
        if self._running:
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

    def loopback(self, length=64):
        """Sends a frame of `length` bytes inside the MAC, without PHY and cable, and compares what comes back. For self-tests, after start().

        Frames in the rings are lost. Raises OSError(EIO) that says on which side it failed.
        """
        pool = self._pool
        config = self._config
        up, self._up = self._up, False
        try:
            self._config = _CONFIG_PS | _FES | _DM | _LM
            self.restart_now()
            frame = pool.transmit_frame()
            for i in range(length):
                frame[i] = i & 255 if i > 11 else (self.mac[i] if i < 6 else self.mac[i - 6])
            pool.send(length)
            self.transmit()
            for _ in range(50):
                if not fast.owned_by_dma(pool.rx_ring, 0):
                    break
                sleep_ms(1)
            else:
                if fast.owned_by_dma(pool.tx_ring, 0):
                    raise OSError(EIO, "loopback: the transmitter does not send; see STATUS, DEBUG and the descriptors in `barenet doctor`")
                raise OSError(EIO, "loopback: the frame was sent inside the MAC and did not come back")
            n = fast.received_length(pool.words, pool.objects)
            if n != length or pool.frames[0][:length] != frame[:length]:
                raise OSError(EIO, "loopback: the frame came back changed (%d bytes for %d)" % (n, length))
        finally:
            self._config = config
            self.restart_now()
            self._up = up

    def restart_now(self):
        """Resets MAC and DMA and sets them up again, waiting for it. Frames in the rings are lost. Raises OSError as start() does."""
        self._running = False
        if not get(_BUSMODE) & _SWR:
            mem32[_OPMODE] = 0
        self._soft_reset()
        self._configure(True)
        self._run()


def _select_rmii():
    change(_PD_SEL, 3, 0, "PD_SEL")
    change(_EX_PHYINF_CONF, _PHY_INTF_SEL, _RMII, "EX_PHYINF_CONF")


def _enable_output(gpio, pad_word, signal):
    put(_IO_MUX + _IO_MUX_OFFSETS[gpio], pad_word, "IO_MUX_GPIO%d" % gpio)
    put(_FUNC_OUT_SEL + 4 * gpio, signal, "GPIO_FUNC%d_OUT_SEL_CFG" % gpio, 0xFFF)
    if gpio < 32:
        mem32[_ENABLE_W1TS] = 1 << gpio
    else:
        mem32[_ENABLE1_W1TS] = 1 << gpio - 32


def _check_memory(pool):
    """Raises OSError(ENOMEM) when the DMA cannot reach a frame or a ring, or could not use it."""
    for buffer in [pool.rx_ring, pool.tx_ring] + pool.frames:
        address = addressof(buffer)
        if not _DMA_LOW <= address <= _DMA_HIGH - fast.FRAME_SIZE or address & 3:
            where = "in PSRAM" if 0x3F800000 <= address < 0x3FC00000 else "at 0x%08X" % address
            raise OSError(
                ENOMEM,
                "the heap of this firmware is %s, out of the Ethernet DMA's reach (0x3FFAE000 to 0x3FFFFFFF): "
                "flash the ESP32_GENERIC firmware without SPIRAM, whose heap is internal" % where,
            )


def _chain(ring, frames, first, count):
    base = addressof(ring)
    for i in range(count):
        ring[i * 8 + 2] = addressof(frames[first + i])
        ring[i * 8 + 3] = base + (i + 1) % count * 32


def _expect(address, value, mask, name):
    back = get(address)
    if (back ^ value) & mask:
        raise OSError(EIO, "%s (0x%08X) reads 0x%08X after writing 0x%08X; run `barenet doctor`" % (name, address, back, value))

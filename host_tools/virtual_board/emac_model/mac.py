"""The EMAC: its registers with their side effects, the MAC's filter and modes, and the DMA that walks the descriptor
rings.

Register names, offsets and bits: ESP32 Technical Reference Manual, chapter Ethernet MAC (a Synopsys DWMAC 3.7).
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from host_tools.virtual_board.emac_model.memory import DMA_HIGH, DMA_LOW

if TYPE_CHECKING:
    from host_tools.virtual_board.emac_model.chip import Chip

DMA, EXT, MAC = 0x3FF69000, 0x3FF69800, 0x3FF6A000

BUSMODE, TXPOLLDEMAND, RXPOLLDEMAND, RXBASEADDR, TXBASEADDR, STATUS, OPMODE, INTEN, MISSEDFR = (
    DMA + 4 * n for n in range(9)
)
CURTXDESC, CURRXDESC, CURTXBUF, CURRXBUF, HWFEATURE = (DMA + 0x48 + 4 * n for n in range(5))
EX_CLKOUT_CONF, EX_OSCCLK_CONF, EX_CLK_CTRL, EX_PHYINF_CONF, PD_SEL = (EXT + 4 * n for n in range(5))
EX_DATE = EXT + 0xFC
CONFIG, FRAMEFILTER, HASHHIGH, HASHLOW, MIIADDR, MIIDATA, FLOWCTRL, VLANTAG, VERSION, DEBUG = (
    MAC + 4 * n for n in range(10)
)
INTSTATUS, INTMASK, ADDR0HIGH, ADDR0LOW = MAC + 0x38, MAC + 0x3C, MAC + 0x40, MAC + 0x44


@dataclass(frozen=True)
class Register:
    """A register: its name, the bits that can be written, and how ("rw", "ro", "wo", "w1c", "rc")."""

    name: str
    mask: int = 0xFFFFFFFF
    kind: str = "rw"
    reset: int = 0


REGISTERS: dict[int, Register] = {
    BUSMODE: Register("BUSMODE", 0x07FFFFFF, reset=0x00020100),
    TXPOLLDEMAND: Register("TXPOLLDEMAND", kind="wo"),
    RXPOLLDEMAND: Register("RXPOLLDEMAND", kind="wo"),
    RXBASEADDR: Register("RXBASEADDR"),
    TXBASEADDR: Register("TXBASEADDR"),
    STATUS: Register("STATUS", 0x0001E7FF, "w1c"),
    OPMODE: Register("OPMODE", 0x0731E0FE),
    INTEN: Register("INTEN", 0x0001E7FF),
    MISSEDFR: Register("MISSEDFR", kind="rc"),
    DMA + 0x24: Register("RINTWDT", 0xFF),
    CURTXDESC: Register("CURTXDESC", kind="ro"),
    CURRXDESC: Register("CURRXDESC", kind="ro"),
    CURTXBUF: Register("CURTXBUF", kind="ro"),
    CURRXBUF: Register("CURRXBUF", kind="ro"),
    HWFEATURE: Register("HWFEATURE", kind="ro", reset=0x01000F17),
    EX_CLKOUT_CONF: Register("EX_CLKOUT_CONF", 0x3FF, reset=0x24),
    EX_OSCCLK_CONF: Register("EX_OSCCLK_CONF", 0x01FFFFFF),
    EX_CLK_CTRL: Register("EX_CLK_CTRL", 0x3F),
    EX_PHYINF_CONF: Register("EX_PHYINF_CONF", 0x001FFFFF),
    PD_SEL: Register("PD_SEL", 0x3, reset=0x3),
    EX_DATE: Register("EX_DATE", kind="ro", reset=0x16042200),
    CONFIG: Register("CONFIG", 0x78DFFFFF, reset=0x8000),
    FRAMEFILTER: Register("FRAMEFILTER", 0x800107FF),
    HASHHIGH: Register("HASHHIGH"),
    HASHLOW: Register("HASHLOW"),
    MIIADDR: Register("MIIADDR", 0xFFFF),
    MIIDATA: Register("MIIDATA", 0xFFFF),
    FLOWCTRL: Register("FLOWCTRL", 0xFFFF00BF),
    VLANTAG: Register("VLANTAG", 0x1FFFF),
    VERSION: Register("VERSION", kind="ro", reset=0x1137),
    DEBUG: Register("DEBUG", kind="ro"),
    INTSTATUS: Register("INTSTATUS", kind="ro"),
    INTMASK: Register("INTMASK"),
    ADDR0HIGH: Register("ADDR0HIGH", 0x8000FFFF, reset=0x8000FFFF),
    ADDR0LOW: Register("ADDR0LOW", reset=0xFFFFFFFF),
    MAC + 0xDC: Register("RXWATCHDOG", 0x13FFF),
}
for _n in range(1, 9):
    REGISTERS[MAC + 0x40 + 8 * _n] = Register(f"ADDR{_n}HIGH", 0xFF00FFFF, reset=0xFFFF)
    REGISTERS[MAC + 0x44 + 8 * _n] = Register(f"ADDR{_n}LOW", reset=0xFFFFFFFF)

SWR, ATDS = 1, 0x80
SR, ST, DFF, FEF, FTF, TSF, RSF = 0x2, 0x2000, 1 << 24, 0x80, 1 << 20, 1 << 21, 1 << 25
TI, TPS, TU, TJT, OVF, UNF, RI, RU, RPS, RWT, FBI, ERI = (1 << n for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14))
RE, TE, ACS, IPC, DM, LM, FES, PS, JD, WD = (1 << n for n in (2, 3, 7, 10, 11, 12, 14, 15, 22, 23))
PR, HUC, HMC, DAIF, PM, DBF, HPF, RA = (1 << n for n in (0, 1, 2, 3, 4, 5, 10, 31))
OWN = 1 << 31

_STOPPED, _FETCHING, _WAITING, _SUSPENDED = 0, 1, 3, 4
_MDC_DIVIDERS = {0: 42, 1: 62, 2: 16, 3: 26, 4: 102, 5: 124}
_APB_MHZ = 80
_MDC_LIMIT_MHZ = 2.5
_WORDS = struct.Struct("<4I")
_WORD = struct.Struct("<I")
_BROADCAST = b"\xff" * 6
_PATH_S = 0.002  # how long what the wire is like is taken for granted
_DESCRIPTORS = 64  # in a ring, at most, before it is taken for endless


class EMAC:
    """The MAC and its DMA inside a Chip."""

    def __init__(self, chip: Chip):
        self.chip = chip
        self.frames_in = self.frames_out = 0
        self.lost: dict[str, int] = {}
        self._resets = 0
        self._words: dict[int, int] = {}
        self.core_reset()

    def core_reset(self) -> None:
        """What CORE_RST_EN and power-on do: every register, the EXT block included, as at the beginning."""
        self._words = {address: register.reset for address, register in REGISTERS.items()}
        self._reset_core_state()
        self.chip.memory.forget()

    def gate_closed(self) -> None:
        """EX_CLKOUT_CONF falls back while the gate is closed."""
        self._words[EX_CLKOUT_CONF] = REGISTERS[EX_CLKOUT_CONF].reset

    def _soft_reset(self) -> None:
        for address, register in REGISTERS.items():
            if not EXT <= address < MAC:
                self._words[address] = register.reset
        self._reset_core_state()

    def _reset_core_state(self) -> None:
        self._rx_state = self._tx_state = _STOPPED
        self._rx_at = self._tx_at = 0
        self._missed = self._overflowed = 0
        self._fifo: deque[bytes] = deque()
        self._filter_address: bytes | None = None
        self._address_high_after_low = False
        self._mdio_until = 0.0
        self._mdio_read: tuple[int, int] | None = None
        self._swr_reads = self._ftf_reads = 0
        self._ftf_seen_clear = True
        self._loop = self._returned = False
        self._path_until = 0.0
        self._receives = self._transmits = False
        self.tx_waiting = False
        self.chip.faults.deaf = False
        self.chip.faults.mute = False

    # What the chip around wants to know.

    @property
    def phy_interface(self) -> int:
        return self._words[EX_PHYINF_CONF] >> 13 & 7

    @property
    def external_clock(self) -> bool:
        return bool(self._words[EX_OSCCLK_CONF] >> 24 & 1 and self._words[EX_CLK_CTRL] & 3 == 1)

    @property
    def internal_clock(self) -> bool:
        return bool(not self._words[EX_OSCCLK_CONF] >> 24 & 1 and self._words[EX_CLK_CTRL] & 3 == 2)

    @property
    def clkout_divider(self) -> int:
        return self._words[EX_CLKOUT_CONF] & 15

    @property
    def receiving(self) -> bool:
        """Whether the DMA may write into RAM."""
        return self._rx_state != _STOPPED

    def name(self, address: int) -> str:
        """A register's name."""
        register = REGISTERS.get(address)
        return register.name if register else f"EMAC+0x{address - DMA:X}"

    # Registers.

    def read(self, address: int) -> int:
        """A CPU read; the chip has made sure that the block can be reached."""
        register = REGISTERS.get(address)
        if register is None:
            self.chip.breach("unmapped", self.name(address), 0, "no register of the EMAC")
            return 0
        if self._resetting() and address not in (BUSMODE, VERSION) and not EXT <= address < MAC:
            self.chip.breach("swr-pending", register.name, 0, "the software reset (BUSMODE bit 0) has not ended")
            return 0
        words = self._words
        if address == BUSMODE:
            return self._read_busmode()
        if address == STATUS:
            return self._read_status()
        if address == MISSEDFR:
            missed, overflowed = self._missed, self._overflowed
            self._missed = self._overflowed = 0
            return (
                min(missed, 0xFFFF)
                | (missed > 0xFFFF) << 16
                | min(overflowed, 0x7FF) << 17
                | (overflowed > 0x7FF) << 28
            )
        if address == OPMODE:
            if words[OPMODE] & FTF:
                self._ftf_reads += 1
                if self._ftf_reads > 1 and self._clocked():
                    words[OPMODE] &= ~FTF
                    self._ftf_seen_clear = True
            return words[OPMODE]
        if address == MIIADDR:
            return words[MIIADDR] | (1 if self._mdio_busy() else 0)
        if address == MIIDATA:
            if self._mdio_busy():
                self.chip.breach("mdio-busy", "MIIDATA", 0, "read before the frame had ended (MIIADDR bit 0)")
                return 0
            return words[MIIDATA]
        if address == HWFEATURE:
            return words[address] | self.phy_interface << 28
        if address == DEBUG:
            fill = 3 if self.chip.faults.deaf else 0
            return fill << 8 | (1 << 24 | 2 << 17 if self.tx_waiting else 0)
        if address in (CURTXDESC, CURRXDESC):
            return self._tx_at if address == CURTXDESC else self._rx_at
        if register.kind == "wo":
            return 0
        return words[address]

    def _read_busmode(self) -> int:
        value = self._words[BUSMODE]
        if value & SWR:
            self._swr_reads += 1
            if self._swr_reads > 1 and self._clocked() and not (self.chip.faults.marginal and self._resets & 1):
                self._soft_reset()
                return self._words[BUSMODE]
        return value

    def _read_status(self) -> int:
        rx, tx = self._rx_state, self._tx_state
        if rx == _WAITING and not self._clocked():
            rx = 7
        return self._words[STATUS] | rx << 17 | tx << 20

    def _resetting(self) -> bool:
        return bool(self._words[BUSMODE] & SWR)

    def _clocked(self) -> bool:
        return self.chip.clock_ok(self.chip.mac_clock())

    def write(self, address: int, value: int) -> None:
        """A CPU write."""
        breach = self.chip.breach
        register = REGISTERS.get(address)
        if register is None:
            breach("unmapped", self.name(address), value, "no register of the EMAC")
            return
        if register.kind in ("ro", "rc"):
            breach("read-only", register.name, value, "this register cannot be written")
            return
        if self._resetting() and not EXT <= address < MAC:
            breach("swr-pending", register.name, value, "the software reset (BUSMODE bit 0) has not ended")
            return
        if register.kind in ("rw", "w1c") and value & ~register.mask:
            breach(
                "reserved-bits", register.name, value, f"bits 0x{value & ~register.mask & 0xFFFFFFFF:X} are reserved"
            )
            value &= register.mask
        self._path_until = 0.0
        handler = _WRITERS.get(address)
        if handler:
            handler(self, value)
        else:
            self._words[address] = value

    def _write_busmode(self, value: int) -> None:
        if value & SWR:
            self._swr_reads = 0
            self._resets += 1
            self._rx_state = self._tx_state = _STOPPED
            if self.phy_interface != 4:
                self.chip.breach(
                    "swr-before-rmii", "BUSMODE", value, "software reset before EX_PHYINF_CONF selects RMII"
                )
        self._words[BUSMODE] = value

    def _write_base(self, address: int, value: int) -> None:
        running = self._rx_state if address == RXBASEADDR else self._tx_state
        if running != _STOPPED:
            self.chip.breach(
                "base-while-running",
                self.name(address),
                value,
                "the base may be written only while its engine is stopped",
            )
            return
        if value & 3:
            self.chip.breach("descriptor-alignment", self.name(address), value, "descriptors lie at multiples of 4")
        self._words[address] = value & ~3

    def _write_status(self, value: int) -> None:
        self._words[STATUS] &= ~value

    def _write_opmode(self, value: int) -> None:
        words = self._words
        if not self._ftf_seen_clear:
            self.chip.breach("opmode-while-flushing", "OPMODE", value, "written before FTF (bit 20) had been read as 0")
            return
        before = words[OPMODE]
        words[OPMODE] = value
        if value & FTF:
            self._ftf_reads = 0
            self._ftf_seen_clear = False
        if value & ST and not before & ST:
            if not words[CONFIG] & TE:
                self.chip.breach(
                    "dma-before-mac", "OPMODE", value, "transmit DMA started before CONFIG.TE: it may hang"
                )
                self._tx_state = _FETCHING
                self.chip.faults.mute = True
            else:
                self._tx_at = words[TXBASEADDR]
                self._tx_state = _FETCHING
                self.tx_waiting = True
        elif before & ST and not value & ST:
            self._tx_state = _STOPPED
            self.tx_waiting = False
            words[STATUS] |= TPS
        if value & SR and not before & SR:
            if words[CONFIG] & RE:
                self.chip.breach("mac-before-dma", "OPMODE", value, "CONFIG.RE was set before the receive DMA started")
            if not words[BUSMODE] & ATDS:
                self.chip.breach(
                    "descriptor-size",
                    "BUSMODE",
                    words[BUSMODE],
                    "4-word descriptors (ATDS = 0) are not decoded reliably",
                )
            self._rx_at = words[RXBASEADDR]
            self._rx_state = _WAITING
            self._remember_ring()
            self._fetch_receive(True)
        elif before & SR and not value & SR:
            self._rx_state = _STOPPED
            self.chip.memory.forget()
            words[STATUS] |= RPS

    def _write_txpoll(self, value: int) -> None:
        if self._tx_state == _STOPPED:
            return
        self._words[TXPOLLDEMAND] = 0
        self.tx_waiting = True

    def _write_rxpoll(self, value: int) -> None:
        if self._rx_state == _SUSPENDED:
            self._fetch_receive(False)

    def _write_config(self, value: int) -> None:
        breach = self.chip.breach
        before = self._words[CONFIG]
        if value & IPC and not self._words[OPMODE] >> 26 & 1:
            breach("receive-checksum", "CONFIG", value, "IPC = 1 drops valid frames (errata of the checksum engine)")
        if value & ACS:
            breach("auto-strip", "CONFIG", value, "ACS = 1 makes the frame length inconsistent")
        if not value & PS:
            breach("port-select", "CONFIG", value, "PS must be 1 for 10 and 100 Mb/s")
        if value & RE and not before & RE:
            if not self._words[OPMODE] & SR:
                breach("mac-before-dma", "CONFIG", value, "CONFIG.RE before the receive DMA (OPMODE.SR)")
            if self._address_high_after_low:
                breach(
                    "address-order",
                    "ADDR0LOW",
                    self._words[ADDR0LOW],
                    "the filter takes the address over when LOW is written: HIGH comes first",
                )
            if self._words[INTMASK] != 0xFFFFFFFF:
                breach("interrupts-open", "INTMASK", self._words[INTMASK], "nobody serves the MAC's interrupts")
            pads = self.chip.rmii_pads()
            if pads:
                breach("rmii-pads", "IO_MUX", 0, f"not connected to the MAC: {pads}")
        self._words[CONFIG] = value

    def _write_miiaddr(self, value: int) -> None:
        chip = self.chip
        if self._mdio_busy():
            chip.breach("mdio-busy", "MIIADDR", value, "the last frame is still on the wire")
            return
        self._words[MIIADDR] = value & ~1
        if not value & 1:
            return
        divider = _MDC_DIVIDERS.get(value >> 2 & 15)
        if divider is None or _APB_MHZ / divider > _MDC_LIMIT_MHZ:
            chip.breach(
                "mdc-too-fast", "MIIADDR", value, f"MDC above {_MDC_LIMIT_MHZ} MHz with the APB clock of 80 MHz"
            )
            divider = 42
        self._mdio_until = chip.clock() + 64 * divider / _APB_MHZ * 1e-6
        phy, register = value >> 11 & 31, value >> 6 & 31
        if value & 2:
            chip.management_write(phy, register, self._words[MIIDATA])
        else:
            self._words[MIIDATA] = chip.management_read(phy, register)

    def _write_miidata(self, value: int) -> None:
        if self._mdio_busy():
            self.chip.breach("mdio-busy", "MIIDATA", value, "written while a frame is on the wire")
            return
        self._words[MIIDATA] = value

    def _mdio_busy(self) -> bool:
        return self.chip.clock() < self._mdio_until or self.chip.faults.mdio_busy

    def _write_addr0high(self, value: int) -> None:
        self._words[ADDR0HIGH] = value | 0x80000000
        self._address_high_after_low = True
        if not value & 0x80000000:
            self.chip.breach("address-enable", "ADDR0HIGH", value, "AE (bit 31) is not guaranteed to read 1: write it")

    def _write_addr0low(self, value: int) -> None:
        self._words[ADDR0LOW] = value
        self._address_high_after_low = False
        self._filter_address = _WORD.pack(value) + _WORD.pack(self._words[ADDR0HIGH])[:2]
        if self._filter_address[0] & 1:
            self.chip.breach("multicast-address", "ADDR0LOW", value, "the own address must be unicast")

    # The wire.

    def _look_at_path(self, now: float) -> None:
        """Finds out, a few hundred times a second at most, whether frames get through between MAC and cable."""
        chip = self.chip
        self._path_until = now + _PATH_S
        chip.advance()
        config = self._words[CONFIG]
        phy = chip.phy
        self._loop = bool(config & LM)
        self._returned = False
        self._receives = self._transmits = False
        if not self._clocked():
            self._why = "no clock"
            return
        if self._loop:
            self._transmits = True
            return
        self._returned = phy.looped
        if not phy.looped and (not phy.link or not phy.running):
            self._why = "no link"
            self._transmits = True
            return
        if self._words[PD_SEL] & 3:
            self._why = "EMAC RAM powered down"
            chip.breach("ram-off", "PD_SEL", self._words[PD_SEL], "the EMAC's FIFOs have no power")
            return
        if chip.rmii_pads():
            self._why = "pads"
            self._transmits = True
            return
        broken = chip.faults.broken
        if bool(config & FES) != (phy.speed == 100):
            self._why = "speed mismatch"
            self._transmits = True
            return
        if chip.wiring.clock == "gpio0_in" and not self.external_clock:
            self._why = "two clocks"
            chip.breach(
                "two-clocks",
                "EX_OSCCLK_CONF",
                self._words[EX_OSCCLK_CONF],
                "MAC and PHY run from different oscillators: periodic loss",
            )
        self._why = f"{', '.join(broken)} broken" if broken else ""
        self._receives = not {"CRS_DV", "RXD0", "RXD1"}.intersection(broken)
        self._transmits = True

    def speed(self) -> int:
        """Mb/s on the cable now."""
        return self.chip.phy.speed

    def receive(self, frame: bytes) -> None:
        """A frame (without FCS) arrives on the cable."""
        now = self.chip.clock()
        if now >= self._path_until:
            self._look_at_path(now)
        if not self._receives or self._returned:
            self._lose(self._why or "receiver off")
            return
        self._take(frame)

    def _take(self, frame: bytes) -> None:
        words = self._words
        config = words[CONFIG]
        if not config & RE:
            self._lose("receiver off")
            return
        faults = self.chip.faults
        if faults.deaf:
            self._overflowed += 1
            words[STATUS] |= OVF
            return
        passed = self._filter(frame)
        if not passed and not words[FRAMEFILTER] & (RA | PR):
            self._lose("address filter")
            return
        if len(frame) < 60:
            frame = frame.ljust(60, b"\0")
        flags = 0 if passed else 1 << 30
        if len(frame) > 1518 and not config & 1 << 27 and not config & 1 << 20 or len(frame) > 2044:
            self._lose("giant")
            return
        data = frame + _WORD.pack(zlib.crc32(frame))
        if frame[12:14] >= b"\x06\x00":
            flags |= 1 << 5
        if faults.bad_frames:
            flags, data = self._damage(flags, data)
        self._store(data, flags)

    def _damage(self, flags: int, data: bytes) -> tuple[int, bytes]:
        kind = next(iter(self.chip.faults.bad_frames))
        self.chip.faults.bad_frames[kind] -= 1
        if self.chip.faults.bad_frames[kind] <= 0:
            del self.chip.faults.bad_frames[kind]
        if kind == "crc":
            return flags | 1 << 15 | 1 << 1, data[:-4] + bytes(4)
        if kind == "overflow":
            self._words[STATUS] |= OVF
            self._overflowed += 1
            return flags | 1 << 15 | 1 << 11, data[: len(data) // 2]
        return flags | 1 << 16, data  # bit 16 is FL's lowest: a marker for _store, never stored

    def _store(self, data: bytes, flags: int) -> None:
        """Moves a frame into the descriptors: the DMA's receive process."""
        words = self._words
        if self._rx_state == _STOPPED:
            self._overflowed += 1
            words[STATUS] |= OVF
            return
        if self._rx_state == _SUSPENDED and self.chip.wiring.resumes_on_frame:
            self._fetch_receive(False)
        if self._rx_state == _SUSPENDED:
            self._missed += 1
            return
        headless = bool(flags & 1 << 16)
        flags &= ~(1 << 16)
        memory = self.chip.memory
        first = 1 << 9
        left = data
        while True:
            at = self._rx_at
            word0, word1, buffer, following = _WORDS.unpack(memory.read(at, 16))
            if not word0 & OWN:
                # Only possible behind the first descriptor: the frame did not fit and the next one is not ours.
                words[STATUS] |= RU
                self._rx_state = _SUSPENDED
                return
            size = word1 & 0x1FFF
            if not size:
                self.chip.breach("receive-size", "RDES1", word1, f"descriptor at 0x{at:08X} has a buffer of no bytes")
                self._bus_error(0)
                return
            if size & 3 or buffer & 3:
                self.chip.breach(
                    "receive-alignment", "RDES2", buffer, "receive buffers are multiples of 4 in place and size"
                )
            piece = left[:size]
            if not self._reachable(buffer, size, 0, "receive buffer"):
                return
            memory.write(buffer, piece)
            left = left[size:]
            following = self._next(at, word1, following, 14, 15, words[RXBASEADDR])
            last = not left
            if last:
                close = len(data) << 16 | first | 1 << 8 | flags
                if headless:
                    close &= ~(1 << 8)
            else:
                close = first
                if not _WORD.unpack(memory.read(following, 4))[0] & OWN:
                    close |= 1 << 8 | 1 << 15 | 1 << 14 | len(data) << 16
                    last = True
            self._close(at, close)
            first = 0
            self._rx_at = following
            if last:
                break
        self.frames_in += 1
        words[STATUS] |= RI
        self._fetch_receive(True)

    def _close(self, at: int, word0: int) -> None:
        self.chip.memory.write(at, _WORD.pack(word0))

    def _next(self, at: int, word1: int, following: int, chained: int, end_of_ring: int, base: int) -> int:
        if word1 >> chained & 1:
            return following & ~3
        if word1 >> end_of_ring & 1:
            return base
        return at + 32 + 4 * (self._words[BUSMODE] >> 2 & 31)

    def _fetch_receive(self, was_owned: bool) -> None:
        """Looks at the next receive descriptor; without one the receiver is suspended until a poll demand."""
        at = self._rx_at
        if not self._reachable(at, 16, 6, "receive descriptor"):
            return
        if _WORD.unpack(self.chip.memory.read(at, 4))[0] & OWN:
            self._rx_state = _WAITING
        else:
            self._rx_state = _SUSPENDED
            if was_owned:
                self._words[STATUS] |= RU

    def _remember_ring(self) -> None:
        """Lets the memory know the ring, so that a soft reset can leave it as RAM does."""
        memory = self.chip.memory
        at = self._rx_at
        for _ in range(_DESCRIPTORS):
            words = memory.read(at, 32)
            memory.remember(at, words)
            _, word1, _, following = _WORDS.unpack_from(words)
            at = self._next(at, word1, following, 14, 15, self._words[RXBASEADDR])
            if at == self._rx_at:
                return

    def _reachable(self, address: int, size: int, code: int, what: str) -> bool:
        if DMA_LOW <= address and address + size <= DMA_HIGH:
            return True
        self.chip.breach(
            "outside-dma-memory", what, address, f"the DMA reaches 0x{DMA_LOW:08X} to 0x{DMA_HIGH - 1:08X}"
        )
        self._bus_error(code)
        return False

    def _bus_error(self, code: int) -> None:
        self._words[STATUS] = self._words[STATUS] & ~(7 << 23) | FBI | code << 23
        self._rx_state = self._tx_state = _STOPPED
        self.tx_waiting = False

    def _filter(self, frame: bytes) -> bool:
        control = self._words[FRAMEFILTER]
        destination = frame[:6]
        if destination == _BROADCAST:
            return not control & DBF
        if destination[0] & 1:
            if control & PM or control & HMC and self._hashed(destination):
                return True
        elif destination == self._filter_address or control & HUC and self._hashed(destination):
            return True
        for n in range(1, 9):
            high = self._words[MAC + 0x40 + 8 * n]
            if high >> 31 and destination == _WORD.pack(self._words[MAC + 0x44 + 8 * n]) + _WORD.pack(high)[:2]:
                return True
        return False

    def _hashed(self, destination: bytes) -> bool:
        index = int(f"{zlib.crc32(destination):032b}"[:25:-1], 2)
        return bool(self._words[HASHHIGH if index & 32 else HASHLOW] >> (index & 31) & 1)

    def transmit(self) -> bool:
        """Sends one waiting frame; returns whether another may follow."""
        words = self._words
        now = self.chip.clock()
        if now >= self._path_until:
            self._look_at_path(now)
        if self._tx_state == _STOPPED or self.chip.faults.mute or not self._clocked_lately():
            self.tx_waiting = False
            return False
        memory = self.chip.memory
        segments = []
        at = self._tx_at
        for _ in range(_DESCRIPTORS):
            if not self._reachable(at, 16, 7, "transmit descriptor"):
                return False
            word0, word1, buffer, following = _WORDS.unpack(memory.read(at, 16))
            if not word0 & OWN:
                if segments:
                    self.chip.breach(
                        "transmit-segments",
                        "TDES0",
                        word0,
                        "the DMA owns the first descriptor of a frame but not all of them",
                    )
                words[STATUS] |= TU
                self._tx_state = _SUSPENDED
                self.tx_waiting = False
                return False
            self._check_transmit(word0, word1, not segments)
            size = word1 & 0x1FFF
            if not self._reachable(buffer, size, 3, "transmit buffer"):
                return False
            piece = memory.read(buffer, size)
            if not word0 >> 20 & 1 and word1 >> 16 & 0x1FFF and self.chip.faults.second_buffer:
                size = word1 >> 16 & 0x1FFF
                if not self._reachable(following, size, 3, "second transmit buffer"):
                    return False
                piece += memory.read(following, size)
            segments.append((at, word0, piece))
            at = self._next(at, word0, following, 20, 21, words[TXBASEADDR])
            if word0 >> 29 & 1:
                break
        frame = b"".join(segment[2] for segment in segments)
        word0 = segments[0][1]
        status = self._send(frame, word0)
        for where, control, _ in segments:
            memory.write(where, _WORD.pack(control & 0x7FFC0000 | status))
        self._tx_at = at
        self._tx_state = _WAITING
        if word0 >> 30 & 1:
            words[STATUS] |= TI
        return True

    def _clocked_lately(self) -> bool:
        return self._transmits or self._receives

    def _check_transmit(self, word0: int, word1: int, first: bool) -> None:
        breach = self.chip.breach
        if bool(word0 >> 28 & 1) != first:
            breach(
                "transmit-segments",
                "TDES0",
                word0,
                "FS (bit 28) belongs on the first descriptor of a frame and no other",
            )
        if word0 >> 22 & 3:
            breach("transmit-checksum", "TDES0", word0, "CIC: the checksum engine spoils every second packet")
        if not word1 & 0x1FFF:
            breach("transmit-size", "TDES1", word1, "a frame of no bytes")
        if word0 >> 20 & 1 and word1 >> 16 & 0x1FFF:
            breach("transmit-second-buffer", "TDES1", word1, "TCH (bit 20) makes word 3 the next descriptor: there is no second buffer")

    def _send(self, frame: bytes, word0: int) -> int:
        """Puts a frame on the wire; returns the status bits of word 0."""
        config = self._words[CONFIG]
        if len(frame) > 2044 and not config & JD:
            self._words[STATUS] |= TJT
            return 1 << 15 | 1 << 14
        if len(frame) > 1518:
            self.chip.breach(
                "transmit-giant", "TDES1", len(frame), "longer than an Ethernet frame: every partner drops it"
            )
            return 0
        if len(frame) < 60:
            if word0 >> 26 & 1:
                self.chip.breach(
                    "transmit-runt", "TDES0", word0, "DP = 1 leaves a frame of less than 60 bytes unpadded"
                )
                return 0
            frame = frame.ljust(60, b"\0")
        if word0 >> 27 & 1:
            self.chip.breach("transmit-crc", "TDES0", word0, "DC = 1: a frame without FCS")
            return 0
        self.frames_out += 1
        if self._loop:
            self._take(frame)
            return 0
        phy = self.chip.phy
        if self._returned:
            if not self._why:
                self._take(frame)
            return 0
        if {"TX_EN", "TXD0", "TXD1"}.intersection(self.chip.faults.broken):
            self._lose(f"sent with {self._why}")
            return 0
        if not self._receives and not self.chip.faults.broken:
            self._lose(f"sent with {self._why}")
            return 1 << 15 | 3 << 10 if not config & DM else 0
        if bool(config & DM) != phy.full_duplex:
            self.chip.breach(
                "duplex-mismatch",
                "CONFIG",
                config,
                f"DM = {config >> 11 & 1} on a {'full' if phy.full_duplex else 'half'}-duplex link",
            )
            if not config & DM:
                self.chip.send(frame)
                return 1 << 15 | 1 << 11
            if self.frames_out % 4 == 0:
                self._lose("late collision")
                return 0
        self.chip.send(frame)
        return 0

    def _lose(self, why: str) -> None:
        self.lost[why] = self.lost.get(why, 0) + 1


_WRITERS = {
    BUSMODE: EMAC._write_busmode,
    RXBASEADDR: lambda emac, value: emac._write_base(RXBASEADDR, value),
    TXBASEADDR: lambda emac, value: emac._write_base(TXBASEADDR, value),
    STATUS: EMAC._write_status,
    OPMODE: EMAC._write_opmode,
    TXPOLLDEMAND: EMAC._write_txpoll,
    RXPOLLDEMAND: EMAC._write_rxpoll,
    CONFIG: EMAC._write_config,
    MIIADDR: EMAC._write_miiaddr,
    MIIDATA: EMAC._write_miidata,
    ADDR0HIGH: EMAC._write_addr0high,
    ADDR0LOW: EMAC._write_addr0low,
}

"""Everything of the ESP32 around its EMAC that Ethernet depends on: gates, pads, GPIO matrix, APLL, eFuse, and the bus
to all of it.

`Chip.read` and `Chip.write` are what the CPU does. A breach of one of the chip's rules is recorded by name, with the
register and the value, and has the effect it has on silicon.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from host_tools.virtual_board.emac_model.mac import EMAC
from host_tools.virtual_board.emac_model.memory import Memory
from host_tools.virtual_board.emac_model.phy import PHY, Timing
from host_tools.virtual_board.emac_model.wiring import Faults, Partner, Wiring

WIFI_CLK_EN = 0x3FF000CC
CORE_RST_EN = 0x3FF000D0
GPIO = 0x3FF44000
RTC = 0x3FF48000
IO_MUX = 0x3FF49000
EFUSE = 0x3FF5A000
ANA_MASTER = 0x6000E000
ANA_CONFIG = 0x6000E044

_EMAC_CLK_EN = 0x4000
_EMAC_RST = 0x80
_WIFI_BITS = 0x0406
_APLL_HOST = 3
_APLL_BLOCK = 0x6D

IO_MUX_OFFSETS = {
    0: 0x44, 1: 0x88, 2: 0x40, 3: 0x84, 4: 0x48, 5: 0x6C, 6: 0x60, 7: 0x64, 8: 0x68, 9: 0x54, 10: 0x58, 11: 0x5C, 12: 0x34, 13: 0x38,
    14: 0x30, 15: 0x3C, 16: 0x4C, 17: 0x50, 18: 0x70, 19: 0x74, 20: 0x78, 21: 0x7C, 22: 0x80, 23: 0x8C, 25: 0x24, 26: 0x28, 27: 0x2C,
    32: 0x1C, 33: 0x20, 34: 0x14, 35: 0x18, 36: 0x04, 37: 0x08, 38: 0x0C, 39: 0x10,
}  # fmt: skip
_PAD_OF = {IO_MUX + offset: gpio for gpio, offset in IO_MUX_OFFSETS.items()}
RTC_MUX = {25: (0x3FF48484, 17), 26: (0x3FF48488, 17), 27: (0x3FF484B0, 19), 0: (0x3FF48498, 19)}
RMII_OUT, RMII_IN = (19, 21, 22), (25, 26, 27)

PIN_NAMES = {19: "TXD0", 21: "TX_EN", 22: "TXD1", 25: "RXD0", 26: "RXD1", 27: "CRS_DV"}


@dataclass(frozen=True)
class Breach:
    """A rule of the chip that the software broke."""

    rule: str
    register: str
    value: int
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.register} = 0x{self.value:08X}: {self.detail}"


class Chip:
    """An ESP32 with a PHY on a board.

    Args:
        wiring: the board. partner: the other end of the cable. memory: the RAM that the DMA sees.
        send: takes each frame (without FCS) that leaves on the cable.
        timing: of the PHY. clock: seconds, for all waiting.
    """

    def __init__(
        self,
        wiring: Wiring | None = None,
        memory: Memory | None = None,
        send: Callable[[bytes], None] = lambda frame: None,
        partner: Partner | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.wiring = wiring or Wiring()
        self.partner = partner or Partner()
        self.faults = Faults()
        self.clock = clock
        self.breaches: list[Breach] = []
        self.memory = memory or Memory()
        self.send = send
        self.phy = PHY(self.wiring, self.partner, self.faults, timing or Timing())
        self._seen: set[tuple[str, str]] = set()
        self.power_on()

    def power_on(self) -> None:
        """Everything as after power-on and the start-up code of the firmware, which closes the EMAC's clock gate."""
        self._started = self.clock()
        self._words: dict[int, int] = {
            WIFI_CLK_EN: 0xFFFCE030 & ~_EMAC_CLK_EN | (_WIFI_BITS if self.wiring.wifi else 0),
            CORE_RST_EN: 0,
            RTC + 0x30: 1 << 23,
            RTC + 0x00: 0,
            RTC + 0xB0: self.wiring.crystal << 16 | self.wiring.crystal,
            IO_MUX: 0,
            ANA_CONFIG: 0x0003FF00 | 1 << 14,
            EFUSE + 0x0C: 0x8000 if self.wiring.revision else 0,
        }
        for offset in IO_MUX_OFFSETS.values():
            self._words[IO_MUX + offset] = 0x2A00
        for gpio in range(40):
            self._words[GPIO + 0x530 + 4 * gpio] = 256
        for signal in range(256):
            self._words[GPIO + 0x130 + 4 * signal] = 0x30
        self._apll = [0] * 16
        self._apll[4] = 0x60
        self._analog_answer = 0
        self._analog_busy_until = 0.0
        self._calibrated = False
        self._calibration: tuple[int, ...] = ()
        self.emac = EMAC(self)
        self._sense(True)

    def breach(self, rule: str, register: str, value: int, detail: str) -> None:
        """Records a breach; the same rule at the same register once."""
        if (rule, register) not in self._seen:
            self._seen.add((rule, register))
            self.breaches.append(Breach(rule, register, value & 0xFFFFFFFF, detail))

    def take_breaches(self) -> list[Breach]:
        """Returns the breaches so far and forgets them."""
        found, self.breaches = self.breaches, []
        self._seen.clear()
        return found

    # The bus.

    def read(self, address: int) -> int:
        """What the CPU reads at an address."""
        if address & 3:
            self.breach("unaligned", f"0x{address:08X}", 0, "peripheral registers are aligned 32-bit words")
            return 0
        if 0x3FF69000 <= address < 0x3FF6B000:
            if not self._emac_reachable(address, 0):
                return 0
            return self.emac.read(address)
        if ANA_MASTER <= address < ANA_MASTER + 0x40:
            return self._analog_read(address)
        if address == WIFI_CLK_EN and self.faults.emulator:
            return 0
        if address in (GPIO + 0x3C, GPIO + 0x40):
            first = 0 if address == GPIO + 0x3C else 32
            clock = 0 if first or not self.pad(0) & 0x200 or not self.source_at_gpio0() else random.getrandbits(1)
            return clock | sum(
                1 << gpio - first for gpio in IO_MUX_OFFSETS if 0 <= gpio - first < 32 and self.level(gpio)
            )
        if not self._known(address):
            self.breach("unmapped", f"0x{address:08X}", 0, "nothing answers at this address")
            return 0
        if address == RTC + 0xB0 or address in self._words:
            return self._words[address]
        return 0

    def write(self, address: int, value: int) -> None:
        """What happens when the CPU writes a word."""
        value &= 0xFFFFFFFF
        if address & 3:
            self.breach("unaligned", f"0x{address:08X}", value, "peripheral registers are aligned 32-bit words")
            return
        if 0x3FF69000 <= address < 0x3FF6B000:
            if self._emac_reachable(address, value):
                self.emac.write(address, value)
                if address < 0x3FF6A000 and address >= 0x3FF69800:
                    self._sense()
            return
        if ANA_MASTER <= address < ANA_MASTER + 0x40:
            self._analog_write(address, value)
            return
        if not self._known(address):
            self.breach("unmapped", f"0x{address:08X}", value, "nothing answers at this address")
            return
        if EFUSE <= address < EFUSE + 0x400:
            self.breach("read-only", f"EFUSE+0x{address - EFUSE:X}", value, "a write may burn fuses")
            return
        self._store(address, value)
        self._sense()

    def _known(self, address: int) -> bool:
        return (
            0x3FF00000 <= address < 0x3FF01000
            or GPIO <= address < GPIO + 0x1000
            or RTC <= address < RTC + 0x800
            or IO_MUX <= address < IO_MUX + 0x100
            or EFUSE <= address < EFUSE + 0x400
            or address == ANA_CONFIG
        )

    def _store(self, address: int, value: int) -> None:
        words = self._words
        if address == WIFI_CLK_EN:
            lost = words[address] & ~value & ~_EMAC_CLK_EN
            if lost:
                self.breach(
                    "gate-neighbours",
                    "WIFI_CLK_EN",
                    value,
                    f"the same word gates Wi-Fi and Bluetooth: bits 0x{lost:X} were lost",
                )
            if not self.faults.emulator:
                if not value & _EMAC_CLK_EN:
                    self.emac.gate_closed()
                words[address] = value
        elif address == CORE_RST_EN:
            others = value & ~_EMAC_RST & ~words[address]
            if others:
                self.breach("reset-neighbours", "CORE_RST_EN", value, f"bits 0x{others:X} reset something else")
            if self.faults.reset_held:
                value |= _EMAC_RST
            words[address] = value
            if value & _EMAC_RST:
                self.emac.core_reset()
        elif address in _PAD_OF:
            gpio = _PAD_OF[address]
            if 6 <= gpio <= 11:
                self.breach("flash-pin", f"IO_MUX_GPIO{gpio}", value, "this pad belongs to the flash")
            if self.wiring.psram and gpio in (16, 17):
                self.breach("psram-pin", f"IO_MUX_GPIO{gpio}", value, "this pad belongs to the PSRAM")
            words[address] = value
        elif address in (GPIO + 0x24, GPIO + 0x30):
            base = GPIO + (0x20 if address == GPIO + 0x24 else 0x2C)
            words[base] = words.get(base, 0) | value
        elif address in (GPIO + 0x28, GPIO + 0x34):
            base = GPIO + (0x20 if address == GPIO + 0x28 else 0x2C)
            words[base] = words.get(base, 0) & ~value
        elif address in (GPIO + 0x08, GPIO + 0x14):
            words[address - 4] = words.get(address - 4, 0) | value
        elif address in (GPIO + 0x0C, GPIO + 0x18):
            words[address - 8] = words.get(address - 8, 0) & ~value
        else:
            words[address] = value

    def _emac_reachable(self, address: int, value: int) -> bool:
        name = self.emac.name(address)
        if not self._words[WIFI_CLK_EN] & _EMAC_CLK_EN:
            self.breach("gate-closed", name, value, "the EMAC's clock gate (WIFI_CLK_EN bit 14) is closed")
            return False
        if self._words[CORE_RST_EN] & _EMAC_RST:
            self.breach("in-reset", name, value, "the EMAC is held in reset (CORE_RST_EN bit 7)")
            return False
        return True

    @property
    def gate_open(self) -> bool:
        return bool(self._words[WIFI_CLK_EN] & _EMAC_CLK_EN) and not self._words[CORE_RST_EN] & _EMAC_RST

    # Pads.

    def pad(self, gpio: int) -> int:
        """The IO_MUX word of a pin."""
        return self._words[IO_MUX + IO_MUX_OFFSETS[gpio]]

    def function(self, gpio: int) -> int:
        """Which function a pad has, -1 while the RTC holds it."""
        if gpio in RTC_MUX:
            address, bit = RTC_MUX[gpio]
            if self._words.get(address, 0) >> bit & 1:
                return -1
        return self.pad(gpio) >> 12 & 7

    def output_signal(self, gpio: int) -> int:
        """The matrix signal that a pad drives, -1 when it drives none."""
        if self.function(gpio) != 2:
            return -1
        select = self._words[GPIO + 0x530 + 4 * gpio]
        signal = select & 0x1FF
        enable = self._words.get(GPIO + (0x20 if gpio < 32 else 0x2C), 0) >> (gpio & 31) & 1
        if signal == 256 and not enable:
            return -1
        return signal

    def level(self, gpio: int) -> int | None:
        """The level that the chip drives on a pin by plain GPIO, None when it does not."""
        if self.output_signal(gpio) != 256:
            return None
        return self._words.get(GPIO + (4 if gpio < 32 else 0x10), 0) >> (gpio & 31) & 1

    def _on(self, role: str) -> bool:
        """Whether all pins of this role are active; undriven ones rest inactive, and supplies without a pin are on."""
        pins = [pin for pin in self.wiring.pins if pin.role == role]
        if role == "reset":
            return any(self.level(pin.gpio) == pin.active for pin in pins)
        return all(self.level(pin.gpio) == pin.active for pin in pins)

    # Clocks.

    def apll(self) -> float:
        """The APLL's frequency in MHz, 0 while it does not run."""
        control = self._words[RTC + 0x30]
        if not self._calibrated or control >> 23 & 1 or not control >> 24 & 1 or not self.faults.apll:
            return 0.0
        r = self._apll
        sdm = (r[7] & 0x3F) + r[8] / 256 + r[9] / 65536
        if not self.wiring.revision:
            sdm = r[7] & 0x3F
        return self.wiring.crystal * (4 + sdm) / (2 * ((r[4] & 0x1F) + 2))

    def source_at_gpio0(self) -> float:
        """MHz that the board drives into GPIO0."""
        if (
            self.wiring.clock != "gpio0_in"
            or not self.faults.clock
            or not self._on("oscillator")
            or not self._on("power")
        ):
            return 0.0
        return self.faults.oscillator if self.clock() - self._started >= self.wiring.startup_ms / 1000 else 0.0

    def mac_clock(self) -> float:
        """MHz of the RMII clock inside the MAC."""
        emac = self.emac
        if emac.phy_interface != 4 or not self.gate_open:
            return 0.0
        if emac.external_clock:
            if self.function(0) == 5 and self.pad(0) & 0x200:
                return self.source_at_gpio0()
            return 0.0
        return self.apll() if emac.internal_clock else 0.0

    def clock_on_pin(self, mode: str) -> float:
        """MHz that the chip drives out on the pin of an output mode."""
        if mode == "gpio0_out":
            return self.apll() if self.function(0) == 1 and self._words[IO_MUX] & 15 == 6 else 0.0
        gpio = 16 if mode == "gpio16_out" else 17
        if self.function(gpio) != 5 or not self.emac.internal_clock or not self._words[WIFI_CLK_EN] & _EMAC_CLK_EN:
            return 0.0
        return self.apll() / (1 + self.emac.clkout_divider)

    def phy_clock(self) -> float:
        """MHz at the PHY."""
        if self.wiring.clock == "gpio0_in":
            return self.source_at_gpio0()
        return self.clock_on_pin(self.wiring.clock) if self.faults.clock else 0.0

    def clock_ok(self, mhz: float) -> bool:
        """50 MHz within the 50 ppm of the RMII specification."""
        return abs(mhz - 50.0) <= 50.0 * 50e-6

    def _sense(self, first: bool = False) -> None:
        """Tells the PHY what its pins see, and looks for two drivers on one wire."""
        now = self.clock()
        up = now - self._started >= self.wiring.startup_ms / 1000
        self.phy.supply(now, self._on("power") and up, self._on("reset"), self.clock_ok(self.phy_clock()))
        self.phy.advance(now)
        if first:
            return
        if self.wiring.clock == "gpio0_in" and (self.function(0) == 1 or self.level(0) is not None):
            self.breach(
                "contention", "IO_MUX_GPIO0", self.pad(0), "the chip drives GPIO0 against the board's oscillator"
            )
        for gpio in RMII_IN:
            if self.output_signal(gpio) >= 0:
                self.breach(
                    "contention",
                    f"IO_MUX_GPIO{gpio}",
                    self.pad(gpio),
                    f"the chip drives {PIN_NAMES[gpio]} against the PHY",
                )

    def advance(self) -> float:
        """Moves the PHY on to now; returns now."""
        self._sense()
        return self.clock()

    # Management frames.

    def management_read(self, address: int, register: int) -> int:
        """What the MAC sees on MDI after a read frame."""
        now = self.advance()
        select = self._words[GPIO + 0x130 + 4 * 201]
        if self.faults.mdio_low:
            return 0
        if not select & 0x80 or select & 0x3F == 0x30:
            return 0
        if select & 0x3F == 0x38:
            return 0xFFFF
        gpio = select & 0x3F
        if gpio not in IO_MUX_OFFSETS or not self.pad(gpio) & 0x200:
            return 0
        if (
            gpio != self.wiring.mdio
            or not self._management_wired()
            or address != self.wiring.address
            or not self.phy.answers(now)
        ):
            return 0xFFFF
        return self.phy.read(register, now)

    def management_write(self, address: int, register: int, value: int) -> None:
        """A write frame on MDC and MDO."""
        now = self.advance()
        if self._management_wired() and address == self.wiring.address and self.phy.answers(now):
            self.phy.write(register, value, now)

    def _management_wired(self) -> bool:
        mdio = GPIO + 0x530 + 4 * self.wiring.mdio
        if self.output_signal(self.wiring.mdio) == 201 and self._words[mdio] & 0x400:
            self.breach(
                "mdio-output-enable",
                f"FUNC{self.wiring.mdio}_OUT_SEL",
                self._words[mdio],
                "OEN_SEL = 1: the pad drives against the PHY",
            )
        return self.output_signal(self.wiring.mdc) == 200 and self.output_signal(self.wiring.mdio) == 201

    def rmii_pads(self) -> str:
        """The names of the RMII pads that are not what they must be."""
        wrong = [PIN_NAMES[gpio] for gpio in RMII_OUT if self.function(gpio) != 5]
        wrong += [PIN_NAMES[gpio] for gpio in RMII_IN if self.function(gpio) != 5 or not self.pad(gpio) & 0x200]
        return ", ".join(wrong)

    # The analog I2C masters.

    def _analog_read(self, address: int) -> int:
        host = (address - ANA_MASTER) // 4
        if host != _APLL_HOST:
            self.breach("unmapped", f"0x{address:08X}", 0, "no analog master that Ethernet needs")
            return 0
        busy = self.clock() < self._analog_busy_until
        return self._analog_answer | (1 << 25 if busy or self.faults.emulator else 0)

    def _analog_write(self, address: int, value: int) -> None:
        host = (address - ANA_MASTER) // 4
        if host != _APLL_HOST:
            self.breach("unmapped", f"0x{address:08X}", value, "no analog master that Ethernet needs")
            return
        if self.clock() < self._analog_busy_until:
            self.breach("analog-busy", "0x6000E00C", value, "the master is busy (bit 25)")
            return
        block, register, data = value & 0xFF, value >> 8 & 0xFF, value >> 16 & 0xFF
        self._analog_busy_until = self.clock() + 5e-6
        on_bus = self.faults.analog_bus and not self._words[ANA_CONFIG] >> 14 & 1 and not self._words[RTC] >> 18 & 1
        if block != _APLL_BLOCK or not on_bus or register > 9:
            self._analog_answer = block | register << 8
            return
        if value >> 24 & 1:
            if register == 3:
                self.breach("read-only", "APLL r3", value, "calibration result")
            else:
                self._apll[register] = data
                if register == 0:
                    self._calibrate(data)
            self._analog_answer = value & 0x01FFFFFF
            return
        answer = self._apll[register]
        if register == 3:
            answer = 0x8A if self._calibrated and self.faults.apll else 0
        self._analog_answer = block | register << 8 | answer << 16

    def _calibrate(self, data: int) -> None:
        self._calibration = (*self._calibration[-2:], data)
        if self._calibration == (0x0F, 0x3F, 0x1F):
            control = self._words[RTC + 0x30]
            powered = control >> 24 & 1 and not control >> 23 & 1
            r = self._apll
            multiplied = self.wiring.crystal * (4 + (r[7] & 0x3F) + r[8] / 256 + r[9] / 65536)
            if powered and 350 <= multiplied <= 500 and r[5] & 0x40:
                self._calibrated = True
                if self.wiring.wifi:
                    self.breach("apll-with-wifi", "APLL", data, "Wi-Fi disturbs the APLL (erratum CLK-3.22)")
            elif powered:
                self.breach("apll-range", "APLL", data, f"{multiplied:.1f} MHz inside, it must be 350 to 500")
        else:
            self._calibrated = False

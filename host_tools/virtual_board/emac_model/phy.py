"""The PHY of the model: clause 22 registers, negotiation and its timing, and what is peculiar to the families found on
ESP32 boards.
"""

from __future__ import annotations

from dataclasses import dataclass

from host_tools.virtual_board.emac_model.wiring import Faults, Partner, Wiring

_IDS = {
    "LAN8720": (0x0007, 0xC0F1),
    "IP101": (0x0243, 0x0C54),
    "RTL8201": (0x001C, 0xC816),
    "DP83848": (0x2000, 0x5C90),
    "KSZ80XX": (0x0022, 0x1561),
    "KSZ8041": (0x0022, 0x1512),
    "JL1101": (0x937C, 0x4023),
    "generic": (0x1234, 0x5670),
}
_CODES = {(10, False): 1, (100, False): 2, (10, True): 5, (100, True): 6}


@dataclass
class Timing:
    """How long a PHY takes, in seconds. The defaults are a LAN8720's; tests shorten them."""

    soft_reset: float = 0.05
    negotiation: float = 1.8
    parallel_detection: float = 0.8
    settle: float = 0.002  # from power and reset release to the first answer


class PHY:
    """One PHY; `advance(now)` before each look at it.

    `running` says whether supply, reset pin and clock let it work; `link`, `speed`, `full_duplex` are its state on the
    cable.
    """

    def __init__(self, wiring: Wiring, partner: Partner, faults: Faults, timing: Timing):
        self.wiring = wiring
        self.partner = partner
        self.faults = faults
        self.timing = timing
        self.running = False
        self.hung = False
        self._released = False
        self.link = False
        self.speed = 100
        self.full_duplex = True
        self.registers = [0] * 32
        self._ready_at = 0.0
        self._resetting_until = 0.0
        self._link_at: float | None = None
        self._latched_down = True
        self._mode = wiring.strap_mode
        self._heard = None
        self._power_on()

    def _power_on(self) -> None:
        self._mode = self.wiring.strap_mode
        self._smr = self._mode << 5 | self.wiring.address
        self._load_defaults()

    def _load_defaults(self) -> None:
        r = self.registers = [0] * 32
        r[2], r[3] = _IDS[self.wiring.phy]
        r[1] = 0x7809
        self.link = False
        self._latched_down = True
        self._link_at = None
        mode = self._mode
        if self.wiring.phy == "LAN8720" and mode != 7:
            r[0] = {0: 0x0000, 1: 0x0100, 2: 0x2000, 3: 0x2100, 6: 0x0800}.get(mode, 0x1000)
            r[4] = 0x0081 if mode == 4 else 0x0001
        else:
            r[0] = 0x3100
            # After a cold start the LAN8720 may advertise less than all.
            r[4] = 0x00E1 if self.wiring.phy == "LAN8720" else 0x01E1

    def supply(self, now: float, powered: bool, reset: bool, clock: bool) -> None:
        """Tells the PHY what its pins see."""
        if not powered or reset or not self.faults.phy:
            self.running = self.link = self.hung = self._released = False
            return
        if not self._released:
            self._released = True
            self._power_on()
            self._ready_at = now + self.timing.settle
            self.hung = not clock and bool(self.wiring.hangs_without_clock)
        if not clock:
            self.running = False
            self.link = False
            return
        if not self.running:
            self.running = True
            if not self.hung:
                self._restart_link(now)

    def answers(self, now: float) -> bool:
        """Whether it takes part in management."""
        return self.running and now >= self._ready_at and not (self.hung and self.wiring.hangs_without_clock == "power")

    def advance(self, now: float) -> None:
        """Moves negotiation on to `now`."""
        if self._resetting_until and now >= self._resetting_until:
            self._resetting_until = 0.0
            self._load_defaults()
            self.hung = False
            self._restart_link(now)
        partner = (self.partner.speed, self.partner.full_duplex, self.partner.negotiates) if self.faults.cable else None
        if partner != self._heard:
            self._heard = partner
            self._drop()
            if partner:
                self._restart_link(now)
        if not self.running or self.hung or self._resetting_until or self.registers[0] & 0x4C00 or not partner:
            self._drop()
            return
        if not self.link and self._link_at is not None and now >= self._link_at:
            self._settle()

    @property
    def looped(self) -> bool:
        """Whether it returns what it is sent, in the mode of BMCR (clause 22.2.4.1.2)."""
        working = self.running and not self.hung and not self._resetting_until
        return working and self.registers[0] & 0x4C00 == 0x4000

    def _drop(self) -> None:
        self.link = False
        self._latched_down = True
        self.registers[5] = 0
        self.registers[6] &= ~1
        self.registers[1] &= ~0x24

    def _restart_link(self, now: float) -> None:
        self._drop()
        negotiates = self.registers[0] & 0x1000 and self.partner.negotiates
        self._link_at = now + (self.timing.negotiation if negotiates else self.timing.parallel_detection)

    def _settle(self) -> None:
        r = self.registers
        partner = self.partner
        if r[0] & 0x1000:
            if partner.negotiates:
                theirs = 0x4001
                for bit, speed, full in ((0x100, 100, True), (0x80, 100, False), (0x40, 10, True), (0x20, 10, False)):
                    if speed <= partner.speed and full <= partner.full_duplex:
                        theirs |= bit
                common = r[4] & theirs
                for bit, speed, full in ((0x100, 100, True), (0x80, 100, False), (0x40, 10, True), (0x20, 10, False)):
                    if common & bit:
                        break
                else:
                    return
                r[5] = theirs
                r[6] |= 1
            else:
                speed, full = partner.speed, False
                if not r[4] & (0x80 if speed == 100 else 0x20):
                    return
                r[5] = 0x80 if speed == 100 else 0x20
            r[1] |= 0x20
            r[0] = r[0] & ~0x2100 | (0x2000 if speed == 100 else 0) | (0x0100 if full else 0)
        else:
            speed, full = (100 if r[0] & 0x2000 else 10), bool(r[0] & 0x0100)
            if partner.speed != speed and not partner.negotiates:
                return
        self.speed, self.full_duplex = speed, full
        self.link = True

    def read(self, register: int, now: float) -> int:
        """A management read."""
        if self._resetting_until:
            return self.registers[0] | 0x8000 if register == 0 else 0xFFFF
        r = self.registers
        code = _CODES[self.speed, self.full_duplex] if self.link else 0
        family = self.wiring.phy
        if register == 1:
            value = r[1] | (0x04 if self.link and not self._latched_down else 0)
            self._latched_down = not self.link
            return value
        if family == "LAN8720":
            if register == 17:
                return 0x0002 if self.faults.cable else 0
            if register == 18:
                return self._smr
            if register == 26:
                r[26] = r[26] + self.faults.symbol_errors & 0xFFFF
            if register == 31:
                return 0x1000 | code << 2
        elif family == "IP101" and register == 30:
            return code | (0x100 if self.link else 0) if r[20] == 16 else 0
        elif family in ("RTL8201", "JL1101") and register == 0 and r[31] != 0:
            return 0
        elif family == "DP83848" and register == 16:
            return (1 | (2 if self.speed == 10 else 0) | (4 if self.full_duplex else 0) | 0x10) if self.link else 0
        elif family == "KSZ80XX" and register == 30:
            return code
        elif family == "KSZ8041" and register == 31:
            return code << 2
        return r[register]

    def write(self, register: int, value: int, now: float) -> None:
        """A management write."""
        r = self.registers
        if self._resetting_until or register in (1, 2, 3, 5, 6):
            return
        if register == 0:
            if value & 0x8000:
                self._mode = self._smr >> 5 & 7 if self.wiring.phy == "LAN8720" else self._mode
                self._drop()
                self._resetting_until = now + self.timing.soft_reset
                return
            restart = value & 0x0200 or (value ^ r[0]) & 0x7D00
            r[0] = value & ~0x8200
            if value & 0x4000:
                self.speed, self.full_duplex = 100 if value & 0x2000 else 10, bool(value & 0x0100)
            if restart:
                self._restart_link(now)
        elif register == 18 and self.wiring.phy == "LAN8720":
            self._smr = value & 0x40FF
        else:
            r[register] = value

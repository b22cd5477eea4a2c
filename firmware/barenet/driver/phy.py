"""The PHY: clause 22 management (IEEE 802.3, 22.2.4) over the EMAC's MDIO, and what differs between the PHYs found on ESP32 boards."""

from errno import EINVAL, EIO, ENODEV, ETIMEDOUT
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from barenet.driver.registers import get, wait_clear
from machine import mem32
from micropython import const

_MIIADDR = const(0x3FF6A010)
_MIIDATA = const(0x3FF6A014)
_BUSY = const(1)
_START_READ = const(1)  # with CR = 0: APB / 42, 1.9 MHz at 80 MHz
_START_WRITE = const(3)
_MDIO_US = const(2000)  # a frame takes 34

BMCR = const(0)
BMSR = const(1)
PHYID1 = const(2)
PHYID2 = const(3)
ANAR = const(4)
ANLPAR = const(5)
ANER = const(6)
_RESET = const(0x8000)
_AUTONEGOTIATE = const(0x1200)  # enable and restart
_SPEED_100 = const(0x2000)
_FULL_DUPLEX = const(0x0100)
_AN_ENABLE = const(0x1000)
_LINK = const(0x0004)
_AN_DONE = const(0x0020)
_ALL_MODES = const(0x01E1)

_LAN_SMR = const(18)
_LAN_MODE_ALL = const(0x00E0)

_RESET_MS = const(500)
_FIRST_ANSWER_MS = const(100)

# How a PHY tells speed and duplex.
_CODE_31 = const(0)  # register 31 bits 4:2
_CODE_30 = const(1)  # register 30 bits 2:0
_CODE_30_PAGED = const(2)  # the same on page 16 of register 20
_BMCR_PAGED = const(3)  # BMCR, on page 0 of register 31
_BITS_16 = const(4)  # register 16: bit 1 is 10 Mb/s, bit 2 full duplex
_ADVERTISED = const(5)  # what both sides advertise

# PHYID1, PHYID2 without the revision, type of the board files, name, how it tells its mode
_KNOWN = (
    (0x0007, 0xC0F0, "LAN8720", "LAN8710A/LAN8720A", _CODE_31),
    (0x0007, 0xC110, "LAN8720", "LAN8740A", _CODE_31),
    (0x0007, 0xC120, "LAN8720", "LAN8741A", _CODE_31),
    (0x0007, 0xC130, "LAN8720", "LAN8742A", _CODE_31),
    (0x0243, 0x0C50, "IP101", "IP101G", _CODE_30_PAGED),
    (0x001C, 0xC810, "RTL8201", "RTL8201F", _BMCR_PAGED),
    (0x2000, 0x5C90, "DP83848", "DP83848", _BITS_16),
    (0x2000, 0xA210, "DP83848", "TLK110", _BITS_16),
    (0x0022, 0x1510, "KSZ80XX", "KSZ8041", _CODE_31),
    (0x0022, 0x1530, "KSZ80XX", "KSZ8041RNLI", _CODE_31),
    (0x0022, 0x1550, "KSZ80XX", "KSZ8021/8031/8051", _CODE_30),
    (0x0022, 0x1560, "KSZ80XX", "KSZ8081/8091", _CODE_30),
    (0x0022, 0x1570, "KSZ80XX", "KSZ8061", _CODE_30),
    (0x937C, 0x4020, "JL1101", "JL1101", _BMCR_PAGED),
)

# The field's code: 10 or 100 Mb/s, full duplex or not. As one number speed * 2 + duplex, because a tuple would be allocated at run time.
_MODE_OF_CODE = (0, 20, 200, 0, 0, 21, 201, 0)

# Forced modes: BMCR.
FORCED = {"100_full": 0x2100, "100_half": 0x2000, "10_full": 0x0100, "10_half": 0x0000}


_claimed = False  # a read or write is in progress; one that a timer starts must not disturb it


def start_read(address, register):
    """Starts reading a register of the PHY, which takes 34 µs; result() fetches it. Returns False when the bus is not free."""
    if _claimed or mem32[_MIIADDR] & _BUSY:
        return False
    mem32[_MIIADDR] = address << 11 | register << 6 | _START_READ
    return True


def result(address, register):
    """Returns what start_read() asked for, or -1 when it is not there: still on the wire, or replaced by another access."""
    if _claimed or mem32[_MIIADDR] & 0xFFFF != address << 11 | register << 6:
        return -1
    return mem32[_MIIDATA] & 0xFFFF


def read(address, register):
    """Returns a register of the PHY at `address`, 0xFFFF when none answers. Raises OSError(EIO) when the MAC does not finish."""
    global _claimed
    _claimed = True
    try:
        _wait()
        mem32[_MIIADDR] = address << 11 | register << 6 | _START_READ
        _wait()
        return mem32[_MIIDATA] & 0xFFFF
    finally:
        _claimed = False


def write(address, register, value):
    """Writes a register of the PHY at `address`. Raises OSError(EIO) as read() does."""
    global _claimed
    _claimed = True
    try:
        _wait()
        mem32[_MIIDATA] = value
        mem32[_MIIADDR] = address << 11 | register << 6 | _START_WRITE
        _wait()
    finally:
        _claimed = False


def _wait():
    if not wait_clear(_MIIADDR, _BUSY, _MDIO_US):
        raise OSError(EIO, "MDIO stays busy (MIIADDR bit 0): the MAC's clock gate is closed or the MAC is in reset; run `barenet doctor`")


def answers(address):
    """Returns PHYID1 << 16 | PHYID2 of the PHY at this address, 0 when there is none."""
    first = read(address, PHYID1)
    if first in (0, 0xFFFF):
        return 0
    return first << 16 | read(address, PHYID2)


def scan():
    """Returns the addresses at which a PHY answers."""
    return [a for a in range(32) if answers(a)]


class PHY:
    """One PHY.

    address: its MDIO address, 0 to 31. mode: "auto" or one of FORCED.
    Raises OSError(EINVAL) for another mode.
    """

    def __init__(self, address, mode="auto"):
        if mode != "auto" and mode not in FORCED:
            raise OSError(EINVAL, "phy mode %r: use auto or one of %s" % (mode, ", ".join(sorted(FORCED))))
        self.address = address
        self.forced = mode
        self.id = 0
        self.type = self.name = None
        self._how = _ADVERTISED

    def read(self, register):
        """Returns one of the PHY's registers."""
        return read(self.address, register)

    def write(self, register, value):
        """Writes one of the PHY's registers."""
        write(self.address, register, value)

    def find(self):
        """Waits for the PHY's first answer, at most 100 ms, and tells it by its id.

        Raises OSError(ENODEV) that says which addresses answer, if any.
        """
        end = ticks_add(ticks_ms(), _FIRST_ANSWER_MS)
        while True:
            self.id = answers(self.address)
            if self.id:
                break
            if ticks_diff(end, ticks_ms()) < 0:
                raise OSError(ENODEV, self._nobody())
            sleep_ms(10)
        self.type, self.name, self._how = "generic", "unknown PHY 0x%08X" % self.id, _ADVERTISED
        for first, second, kind, name, how in _KNOWN:
            if self.id & 0xFFFFFFF0 == first << 16 | second:
                self.type, self.name, self._how = kind, name, how

    def _nobody(self):
        others = scan()
        if others:
            return "no PHY at address %d, but one answers at %s: set phy.address to that" % (self.address, ", ".join(str(a) for a in others))
        if read(self.address, PHYID1) == 0:
            return "all MDIO reads are 0: MDIO is held low or wired to another pin than the board file's mdio"
        return (
            "no PHY answers (all MDIO reads are 0xFFFF): check mdc, mdio and the PHY's power and reset pins; "
            "a PHY that started without a clock needs its power taken away once"
        )

    def reset(self):
        """Resets the PHY and starts negotiation (or the forced mode). Raises OSError(ETIMEDOUT) when it does not come back, EIO when it ignores writes."""
        self._soft_reset()
        if self.type == "LAN8720":
            modes = self.read(_LAN_SMR)
            if modes & _LAN_MODE_ALL != _LAN_MODE_ALL:
                # The straps were loaded low when the PHY started; the new mode takes effect with a reset.
                self.write(_LAN_SMR, modes | _LAN_MODE_ALL)
                self._soft_reset()
        self.negotiate()
        if self.forced == "auto" and self.read(ANAR) != _ALL_MODES:
            raise OSError(EIO, "the PHY does not take writes: ANAR reads 0x%04X in place of 0x01E1" % self.read(ANAR))

    def negotiate(self):
        """Advertises all modes and starts negotiation, or sets the forced mode; needs no waiting."""
        if self.forced == "auto":
            self.write(ANAR, _ALL_MODES)
            self.write(BMCR, _AUTONEGOTIATE)
        else:
            self.write(BMCR, FORCED[self.forced])

    def _soft_reset(self):
        self.write(BMCR, _RESET)
        end = ticks_add(ticks_ms(), _RESET_MS)
        while True:
            sleep_ms(10)
            value = self.read(BMCR)  # 0xFFFF while the PHY is away
            if not value & _RESET:
                return
            if ticks_diff(end, ticks_ms()) < 0:
                raise OSError(ETIMEDOUT, "the PHY's reset does not end (BMCR = 0x%04X): it has no clock or no stable supply" % value)

    def settled(self, bmsr):
        """True when this BMSR says that the link is up and its mode is agreed."""
        return bmsr & _LINK and (bmsr & _AN_DONE or self.forced != "auto")

    def mode(self):
        """Returns speed * 2 + full duplex of the link (200, 201, 20, 21), 0 while the PHY cannot tell. Allocates nothing."""
        how = self._how
        found = 0
        if self.forced != "auto":
            found = self._from_bmcr()
        elif how == _CODE_31:
            found = _MODE_OF_CODE[self.read(31) >> 2 & 7]
        elif how == _CODE_30:
            found = _MODE_OF_CODE[self.read(30) & 7]
        elif how == _CODE_30_PAGED:
            self.write(20, 16)
            found = _MODE_OF_CODE[self.read(30) & 7]
        elif how == _BMCR_PAGED:
            self.write(31, 0)
            found = self._from_bmcr()
        elif how == _BITS_16:
            status = self.read(16)
            found = (20 if status & 2 else 200) | (1 if status & 4 else 0)
        return found or self._from_advertisement()

    def _from_bmcr(self):
        control = self.read(BMCR)
        return (200 if control & _SPEED_100 else 20) | (1 if control & _FULL_DUPLEX else 0)

    def _from_advertisement(self):
        common = self.read(ANAR) & self.read(ANLPAR)
        if not self.read(ANER) & 1:
            # A partner that does not negotiate: parallel detection finds its speed, and half duplex is the rule.
            common &= 0x00A0
        if common & 0x0100:
            return 201
        if common & 0x0080:
            return 200
        if common & 0x0040:
            return 21
        return 20 if common & 0x0020 else 0

    def registers(self):
        """Returns {number: value} of the registers that tell a person what is wrong."""
        numbers = [0, 1, 2, 3, 4, 5, 6] + {"LAN8720": [17, 18, 26, 27, 31], "DP83848": [16], "KSZ80XX": [30, 31]}.get(self.type, [])
        return {n: self.read(n) for n in numbers}

"""The PHY: clause 22 management (IEEE 802.3, 22.2.4) over the EMAC's MDIO, and how each kind tells speed and
duplex.
"""

from errno import EIO

from barenet import driver as package
from barenet.driver.registers import wait_clear
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
ALL_MODES = const(0x01E1)  # of ANAR
_AUTONEGOTIATE = const(0x1200)  # enable and restart
_SPEED_100 = const(0x2000)
_FULL_DUPLEX = const(0x0100)

# How a PHY tells speed and duplex.
CODE_31 = const(0)  # register 31 bits 4:2
CODE_30 = const(1)  # register 30 bits 2:0
CODE_30_PAGED = const(2)  # the same on page 16 of register 20
BMCR_PAGED = const(3)  # BMCR, on page 0 of register 31
BITS_16 = const(4)  # register 16: bit 1 is 10 Mb/s, bit 2 full duplex
ADVERTISED = const(5)  # what both sides advertise

# Modes are speed * 2 + full duplex.
_MODE_OF_CODE = (0, 20, 200, 0, 0, 21, 201, 0)

# Forced modes: BMCR.
FORCED = {"100_full": 0x2100, "100_half": 0x2000, "10_full": 0x0100, "10_half": 0x0000}


def read(address, register):
    """Returns a register of the PHY at `address`, 0xFFFF when none answers.

    Raises OSError(EIO) when the MAC does not finish.
    """
    package.mdio_claimed = True
    try:
        _wait()
        mem32[_MIIADDR] = address << 11 | register << 6 | _START_READ
        _wait()
        return mem32[_MIIDATA] & 0xFFFF
    finally:
        package.mdio_claimed = False


def write(address, register, value):
    """Writes a register of the PHY at `address`. Raises OSError(EIO) as read() does."""
    package.mdio_claimed = True
    try:
        _wait()
        mem32[_MIIDATA] = value
        mem32[_MIIADDR] = address << 11 | register << 6 | _START_WRITE
        _wait()
    finally:
        package.mdio_claimed = False


def _wait():
    if not wait_clear(_MIIADDR, _BUSY, _MDIO_US):
        raise OSError(
            EIO,
            "MDIO stays busy (MIIADDR bit 0): the MAC's clock gate is closed or it is in reset; run `barenet doctor`",
        )


class PHY:
    """The PHY of a driver.

    address: its MDIO address, 0 to 31. forced: "auto" or one of FORCED. And what bring_up.py has found: id: PHYID1 <<
    16 | PHYID2. type: as in the board files. name: for people. how: how it tells speed and duplex.
    """

    def __init__(self, driver):
        config = driver.board["phy"]
        self.address = config["address"]
        self.forced = config.get("mode", "auto")
        self.id, self.type, self.name, self.how = driver.found

    def read(self, register):
        """Returns one of the PHY's registers."""
        return read(self.address, register)

    def write(self, register, value):
        """Writes one of the PHY's registers."""
        write(self.address, register, value)

    def negotiate(self):
        """Advertises all modes and starts negotiation, or sets the forced mode; needs no waiting."""
        if self.forced == "auto":
            self.write(ANAR, ALL_MODES)
            self.write(BMCR, _AUTONEGOTIATE)
        else:
            self.write(BMCR, FORCED[self.forced])

    def mode(self):
        """Returns speed * 2 + full duplex of the link (200, 201, 20, 21), 0 while the PHY cannot tell."""
        how = self.how
        found = 0
        if self.forced != "auto":
            found = self._from_bmcr()
        elif how == CODE_31:
            found = _MODE_OF_CODE[self.read(31) >> 2 & 7]
        elif how == CODE_30:
            found = _MODE_OF_CODE[self.read(30) & 7]
        elif how == CODE_30_PAGED:
            self.write(20, 16)
            found = _MODE_OF_CODE[self.read(30) & 7]
        elif how == BMCR_PAGED:
            self.write(31, 0)
            found = self._from_bmcr()
        elif how == BITS_16:
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

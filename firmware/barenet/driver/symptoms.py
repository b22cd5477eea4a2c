"""What the doctor sees in a driver that has been started, and the causes."""

from time import sleep_ms

from barenet import fast
from barenet.driver import phy as mdio
from barenet.driver.registers import get
from micropython import const
from uctypes import addressof

_LOOK_AGAIN_MS = const(20)
_SAMPLES = const(200)
_BUS_ERRORS = {
    0: "receive buffer",
    3: "transmit buffer",
    4: "receive descriptor write",
    5: "transmit descriptor write",
    6: "receive descriptor",
    7: "transmit descriptor",
}
_AGAIN = "lan.active(False), then lan.active(True)"
# IO_MUX registers of the RMII pads, and the bits of their words that matter: function 5, input enable.
_PADS = (
    (19, 0x3FF49074, 0x5000),
    (21, 0x3FF4907C, 0x5000),
    (22, 0x3FF49080, 0x5000),
    (25, 0x3FF49024, 0x5200),
    (26, 0x3FF49028, 0x5200),
    (27, 0x3FF4902C, 0x5200),
)


def diagnose(driver, pool, seen, drain=None):
    """Returns [[symptom, cause and remedy]] for a driver that has been started.

    seen: a doctor.Tally. drain(): gives received frames back, where no stack does.
    """
    found = []
    if not get(0x3FF000CC) & 0x4000 or get(0x3FF000D0) & 0x80:
        return [["the EMAC does not answer", "its clock gate is closed or it is held in reset: " + _AGAIN]]
    if get(0x3FF69000) & 1:
        return [
            [
                "the MAC's reset has not ended",
                "its 50 MHz clock has stopped: oscillator, its pin, or what hangs on the clock's wire; " + _AGAIN,
            ]
        ]
    phy = driver.phy
    config = get(0x3FF6A000)
    try:
        bmcr = phy.read(mdio.BMCR)
        phy.read(mdio.BMSR)  # the past
        bmsr = phy.read(mdio.BMSR)
        if bmcr == 0xFFFF:
            found.append(["the PHY has vanished", "it has lost its power, its clock or its management pins"])
        elif not bmcr and not bmsr:
            found.append(["all MDIO reads are 0", "MDIO is held low, or GPIO_FUNC201_IN_SEL does not lead to its pin"])
        else:
            _phy(driver, phy, bmcr, bmsr, found)
            if driver.link():
                _mode(phy, config, found)
    except OSError as e:
        found.append(["the MAC does not finish reading the PHY", str(e.args[-1])])
    _setup(driver, config, found)
    stuck = _dma(pool)
    if stuck:
        # Only what lasts is a fault: under load a ring is empty or full for a moment.
        sleep_ms(_LOOK_AGAIN_MS)
        if drain:
            drain()
        before = dict(stuck)
        found += [[what, why] for what, why in _dma(pool) if what in before]
    _traffic(driver, seen, found)
    return found


def _phy(driver, phy, bmcr, bmsr, found):
    if bmcr & 0x0800:
        found.append(["the PHY is powered down (BMCR bit 11)", _AGAIN])
    if bmcr & 0x0400:
        found.append(["the PHY is isolated from the MAC (BMCR bit 10)", _AGAIN])
    if phy.type == "LAN8720" and phy.read(18) & 0xE0 != 0xE0:
        found.append(["the PHY's MODE straps forbid negotiation (register 18)", "set at its reset; " + _AGAIN])
    if not bmsr & 4:
        if phy.type == "LAN8720" and not phy.read(17) & 2:
            found.append(["no energy on the line (register 17)", "no cable, or nothing switched on at its other end"])
        elif phy.forced == "auto" and phy.read(mdio.ANAR) & 0x01E0 != 0x01E0:
            found.append(["the PHY does not advertise all modes (ANAR)", _AGAIN])
        else:
            found.append(
                [
                    "the link does not come up",
                    "cable or partner; a partner with a fixed mode may want the same in phy.mode",
                ]
            )
    elif phy.forced == "auto" and bmsr & 0x20 and not phy.read(mdio.ANER) & 1:
        found.append(
            [
                "the partner does not negotiate (ANER bit 0)",
                "it has a fixed mode: half duplex is used; set it to automatic",
            ]
        )
    elif phy.forced == "auto" and not bmsr & 0x20:
        found.append(["the negotiation does not end (BMSR bit 5)", "the partner's mode is fixed, or the cable is bad"])
    if driver.link_changes > 3:
        found.append(["the link has changed %d times" % driver.link_changes, "bad cable, magnetics or clock"])


def _mode(phy, config, found):
    mode = phy.mode()
    if mode and bool(config & 0x4000) != (mode >= 200):
        found.append(["CONFIG.FES does not fit the link's speed", "nothing gets through: " + _AGAIN])
    if mode and bool(config & 0x0800) != bool(mode & 1):
        found.append(["CONFIG.DM does not fit the link's duplex mode", "collisions: " + _AGAIN])


def _setup(driver, config, found):
    for gpio, address, word in _PADS:
        if (get(address) ^ word) & (word | 0x7000):
            found.append(
                [
                    "GPIO%d is not connected to the MAC" % gpio,
                    "a program has used the pin: it belongs to the Ethernet on every ESP32",
                ]
            )
    if get(0x3FF6980C) >> 13 & 7 != 4:
        found.append(["EX_PHYINF_CONF does not select RMII", "a program has changed it: " + _AGAIN])
    if config & 0x0400 and not get(0x3FF69018) & 1 << 26:
        found.append(["CONFIG.IPC is on", "the checksum engine drops valid frames: it must be off"])
    mac = driver.mac
    low = mac[3] << 24 | mac[2] << 16 | mac[1] << 8 | mac[0]
    if get(0x3FF6A040) & 0xFFFF != mac[5] << 8 | mac[4] or get(0x3FF6A044) != low:
        found.append(["the address filter has another address than ours", "only broadcasts arrive: " + _AGAIN])
    for bit, name in ((8, "TE"), (4, "RE")):
        if not config & bit:
            found.append(["CONFIG.%s is off" % name, "a program has changed it: " + _AGAIN])
    clock = driver.board["ref_clk"]
    if clock != "gpio0_in":
        if get(0x3FF000CC) & 0x0406:
            found.append(
                [
                    "Wi-Fi is on",
                    "it disturbs the APLL that makes this board's Ethernet clock: frames are lost while it sends",
                ]
            )
        if clock != "gpio0_out" and 0 < sum(get(0x3FF4403C) & 1 for _ in range(_SAMPLES)) < _SAMPLES:
            found.append(
                [
                    "a clock arrives at GPIO0, too",
                    "MAC and PHY may run from two oscillators, with periodic loss: ref_clk = gpio0_in?",
                ]
            )


def _dma(pool):
    found = []
    status = get(0x3FF69014)
    if status & 0x2000:
        what = _BUS_ERRORS.get(status >> 23 & 7, "unknown access")
        return [
            (
                "bus error (STATUS.FBI) at a " + what,
                "an address outside 0x3FFAE000 to 0x3FFFFFFF (PSRAM?), or a broken ring",
            )
        ]
    state = status >> 17 & 7
    if not state:
        found.append(("the receive DMA is stopped", "OPMODE.SR is 0: " + _AGAIN))
    elif state == 4:
        owned = sum(fast.owned_by_dma(pool.rx_ring, i) for i in range(pool.receive))
        if owned:
            found.append(
                (
                    "the receiver is suspended although it has descriptors",
                    "a poll demand is missing, or CURRXDESC is not in the ring",
                )
            )
        else:
            found.append(
                ("the receiver has no descriptor", "the program does not poll the stack: frames wait and are lost")
            )
    if not 0 <= get(0x3FF6904C) - addressof(pool.rx_ring) < 32 * pool.receive:
        found.append(("CURRXDESC is outside the receive ring", "the chain of descriptors is broken: " + _AGAIN))
    if not status >> 20 & 7:
        found.append(("the transmit DMA is stopped", "OPMODE.ST is 0: " + _AGAIN))
    elif fast.owned_by_dma(pool.tx_ring, pool.words[fast.C_TX_NEXT]):
        found.append(
            (
                "the transmitter does not send",
                "STATUS 0x%08X, DEBUG 0x%08X: no clock, no TE or ST, or a missing poll demand"
                % (status, get(0x3FF6A024)),
            )
        )
    return found


def _traffic(driver, seen, found):
    if seen.crc:
        found.append(
            [
                "%d frames had a wrong CRC" % seen.crc,
                "clock mode or quality: two oscillators, or GPIO16 where GPIO17 is needed (or the reverse)",
            ]
        )
    if seen.headless or seen.errors:
        found.append(
            [
                "%d damaged frames" % (seen.headless + seen.errors),
                "overload or line errors; their descriptors are given back",
            ]
        )
    if seen.symbol_errors:
        found.append(["%d symbol errors (register 26)" % seen.symbol_errors, "cable, magnetics or clock quality"])
    if driver.missed or driver.overflows:
        found.append(
            [
                "%d frames lost for want of a descriptor, %d in the FIFO" % (driver.missed, driver.overflows),
                "poll more often, or more receive frames",
            ]
        )
    if driver.restarts:
        found.append(
            ["the MAC was restarted %d times" % driver.restarts, "it had gone deaf or mute, or lost its clock"]
        )
    if driver.left_running:
        found.append(
            [
                "a MAC was left running",
                "boot.py does not stop it: after a soft reset it writes into the program's memory; deploy boot.py again",
            ]
        )
    if seen.sent is not None:
        if seen.sent >> 31:
            found.append(["the frame sent was not taken by the DMA", "STATUS and DEBUG show where it waits"])
        elif seen.sent & 0x0C00:
            found.append(
                [
                    "lost carrier while sending (LOC, NC)",
                    "half duplex in the MAC on a full-duplex link, or the TX pads are not connected",
                ]
            )
        if seen.sent >> 22 & 3:
            found.append(["checksum insertion is on (CIC)", "it spoils every second packet: it must be 0"])

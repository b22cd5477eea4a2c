"""Brings the EMAC up: what is needed once, at the start; emac.py loads it for that and forgets it.

The order is that in which the hardware depends on itself: power, clock gate, reference clock, pads, release of the
PHY's reset, the MAC's own reset (which ends only when the 50 MHz clock runs), PHY, MAC, DMA. Each step is read back,
each wait is bounded, and an error names the cause and the remedy. Register names are those of the ESP32 Technical
Reference Manual.
"""

from errno import EINVAL, EIO, ENODEV, ENOMEM, ETIMEDOUT
from time import sleep_ms, ticks_add, ticks_diff, ticks_ms

from barenet import fast
from barenet.driver import link, mac_address, rmii_clock
from barenet.driver import phy as mdio
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
_OPMODE = const(0x3FF69018)
_EX_PHYINF_CONF = const(0x3FF6980C)
_PHY_INTF_SEL = const(0xE000)
_RMII = const(0x8000)
_PD_SEL = const(0x3FF69810)
_VERSION = const(0x3FF6A020)

_DMA_LOW = const(0x3FFAE000)
_DMA_HIGH = const(0x40000000)

# The RMII pads: GPIO, IO_MUX register, its word (function 5, inputs with input enable, no pulls).
PADS = (
    (19, 0x3FF49074, 0x5800),
    (21, 0x3FF4907C, 0x5800),
    (22, 0x3FF49080, 0x5800),
    (25, 0x3FF49024, 0x5A00),
    (26, 0x3FF49028, 0x5A00),
    (27, 0x3FF4902C, 0x5A00),
)
_IO_MUX = const(0x3FF49000)
# Offset of each GPIO's IO_MUX register, 0 where the pin cannot drive anything.
_IO_MUX_OFFSETS = (
    b"\x44\x88\x40\x84\x48\x6c\0\0\0\0\0\0\x34\x38\x30\x3c\x4c\x50\x70\x74\x78\x7c\x80\x8c"
    b"\0\x24\x28\x2c\0\0\0\0\x1c\x20"
)
_FUNC_OUT_SEL = const(0x3FF44530)
_FUNC201_IN_SEL = const(0x3FF44454)
_ENABLE_W1TS = const(0x3FF44024)
_ENABLE1_W1TS = const(0x3FF44030)
_MDC_O = const(200)
_MDI_I_MDO_O = const(201)

_SWR_US = const(1000000)  # slow oscillators; normally microseconds
_FIRST_ANSWER_MS = const(100)
_PHY_RESET_MS = const(500)

_BMCR_RESET = const(0x8000)
_LAN_SMR = const(18)
_LAN_MODE_ALL = const(0x00E0)

# PHYID1 << 16 | PHYID2 without the revision, type of the board files, name, how it tells its mode.
_PHYS = (
    (0x0007C0F0, "LAN8720", "LAN8710A/LAN8720A", mdio.CODE_31),
    (0x0007C110, "LAN8720", "LAN8740A", mdio.CODE_31),
    (0x0007C120, "LAN8720", "LAN8741A", mdio.CODE_31),
    (0x0007C130, "LAN8720", "LAN8742A", mdio.CODE_31),
    (0x02430C50, "IP101", "IP101G", mdio.CODE_30_PAGED),
    (0x001CC810, "RTL8201", "RTL8201F", mdio.BMCR_PAGED),
    (0x20005C90, "DP83848", "DP83848", mdio.BITS_16),
    (0x2000A210, "DP83848", "TLK110", mdio.BITS_16),
    (0x00221510, "KSZ80XX", "KSZ8041", mdio.CODE_31),
    (0x00221530, "KSZ80XX", "KSZ8041RNLI", mdio.CODE_31),
    (0x00221550, "KSZ80XX", "KSZ8021/8031/8051", mdio.CODE_30),
    (0x00221560, "KSZ80XX", "KSZ8081/8091", mdio.CODE_30),
    (0x00221570, "KSZ80XX", "KSZ8061", mdio.CODE_30),
    (0x937C4020, "JL1101", "JL1101", mdio.BMCR_PAGED),
)


def factory_mac():
    """Returns the Ethernet address by Espressif's convention: the base address in eFuse with 3 added to its last byte,
    without carry.
    """
    base = unique_id()
    return bytes(base[:5]) + bytes((base[5] + 3 & 255,))


def prepare(driver):
    """Checks the driver's board file, and sets its address. Raises OSError(EINVAL) as check() does."""
    config = driver.board
    check(config)
    mac = config.get("mac")
    driver.mac = mac_address(mac) if mac else factory_mac()


def start(driver, pool):
    """Walks all steps. Raises OSError with the text of the one that fails."""
    for _, step in steps(driver, pool):
        step()


def check(config):
    """Raises OSError(EINVAL) for a board file that cannot work: an entry missing, a pin that cannot do its job or has
    two.
    """
    try:
        clock = config["ref_clk"]
        mode = config["phy"].get("mode", "auto")
        wanted = [("mdc", config["mdc"]), ("mdio", config["mdio"])]
        config["phy"]["address"]
    except KeyError as e:
        raise OSError(EINVAL, "the board file has no %s: deploy it again" % e.args[0])
    if clock not in rmii_clock.MODES:
        raise OSError(EINVAL, "ref_clk %r: use one of %s" % (clock, ", ".join(sorted(rmii_clock.MODES))))
    if mode != "auto" and mode not in mdio.FORCED:
        raise OSError(EINVAL, "phy mode %r: use auto or one of %s" % (mode, ", ".join(sorted(mdio.FORCED))))
    used = {pad[0]: "RMII data" for pad in PADS}
    if config.get("psram"):
        used[16] = used[17] = "PSRAM"
    wanted.append(("ref_clk", rmii_clock.MODES[clock][0]))
    wanted += [(pin["role"], pin["gpio"]) for pin in config.get("pins", ())]
    for name, gpio in wanted:
        if gpio in used:
            raise OSError(EINVAL, "GPIO%s is both %s and %s" % (gpio, used[gpio], name))
        if not (0 <= gpio < len(_IO_MUX_OFFSETS) and _IO_MUX_OFFSETS[gpio]):
            raise OSError(
                EINVAL,
                "GPIO%s cannot be %s: it does not exist, belongs to the flash or is an input only" % (gpio, name),
            )
        used[gpio] = name


def steps(driver, pool):
    """Returns the bring-up as (name, function) pairs, to be called in order after driver.stop().

    The driver and the doctor walk the same list.
    """
    config = driver.board
    clock = config["ref_clk"]
    return (
        ("memory", lambda: _check_memory(pool, config)),
        ("power", lambda: _power_on(config)),
        ("clock gate", lambda: _open_gate(clock)),
        ("RMII mode", _select_rmii),
        ("reference clock", lambda: rmii_clock.start(clock)),
        ("pads", lambda: _connect_pads(config)),
        ("PHY reset pin", lambda: _release_phy(config)),
        ("MAC reset", lambda: soft_reset(clock)),
        ("PHY", lambda: _start_phy(driver)),
        ("MAC and DMA", lambda: link.run(driver, pool)),
    )


def _check_memory(pool, config):
    if _unreachable(pool) and "dma_memory" in config:
        from barenet.driver import psram

        psram.move(pool, config["dma_memory"])
    address = _unreachable(pool)
    if address:
        where = "in PSRAM" if 0x3F800000 <= address < 0x3FC00000 else "at 0x%08X" % address
        raise OSError(
            ENOMEM,
            "the heap of this firmware is %s, out of the Ethernet DMA's reach (0x3FFAE000 to 0x3FFFFFFF): "
            "flash the ESP32_GENERIC firmware without SPIRAM, whose heap is internal, or read about dma_memory, which "
            "is unproven, in docs/driver.md" % where,
        )


def _unreachable(pool):
    """Returns the address of a ring or frame that the DMA cannot reach, 0 when it reaches all."""
    for buffer in [pool.rx_ring, pool.tx_ring] + pool.frames:
        address = addressof(buffer)
        if not _DMA_LOW <= address <= _DMA_HIGH - fast.FRAME_SIZE or address & 3:
            return address
    return 0


def _pins(config, role):
    return [p for p in config.get("pins", ()) if p["role"] == role]


def _power_on(config):
    for p in _pins(config, "reset"):
        Pin(p["gpio"], Pin.OUT, value=p["active"])
    rest = config.get("startup_ms", 0) - ticks_ms()
    if rest > 0:
        sleep_ms(rest)
    _switch_on(config, "oscillator")
    if not rmii_clock.uses_apll(config["ref_clk"]):
        _switch_on(config, "power")


def _switch_on(config, role, off_ms=0, settle_ms=0):
    for p in _pins(config, role):
        pin = Pin(p["gpio"], Pin.OUT, value=1 - p["active"])
        sleep_ms(max(off_ms, p.get("hold_ms", 0)))
        pin.value(p["active"])
        sleep_ms(max(settle_ms, p.get("delay_ms", 0)))


def _release_phy(config):
    # A PHY must not come out of reset or power-up without its clock, so where the chip makes it, it comes first.
    if rmii_clock.uses_apll(config["ref_clk"]):
        _switch_on(config, "power")
    _pulse_reset(config)


def _pulse_reset(config):
    for p in _pins(config, "reset"):
        pin = Pin(p["gpio"], Pin.OUT, value=p["active"])
        sleep_ms(max(1, p.get("hold_ms", 0)))
        pin.value(1 - p["active"])
        sleep_ms(max(10, p.get("delay_ms", 0)))


def _open_gate(clock):
    # One read and one write: on old revisions a DPORT access may collide with the other CPU.
    gates = get(_DPORT_WIFI_CLK_EN)
    if gates & _WIFI_CLK_EN and rmii_clock.uses_apll(clock):
        raise OSError(
            EINVAL,
            "Wi-Fi is on, which disturbs the APLL that makes this board's Ethernet clock: WLAN().active(False), "
            "then reset the board",
        )
    mem32[_DPORT_WIFI_CLK_EN] = gates | _EMAC_CLK_EN
    if not get(_DPORT_WIFI_CLK_EN) & _EMAC_CLK_EN:
        raise OSError(
            ENODEV, "the EMAC's clock gate does not open (0x3FF000CC bit 14): this is an emulator, not an ESP32"
        )
    resets = get(_DPORT_CORE_RST_EN)
    mem32[_DPORT_CORE_RST_EN] = resets | _EMAC_RST
    mem32[_DPORT_CORE_RST_EN] = resets & ~_EMAC_RST
    version = get(_VERSION)
    if version & 0xFF != 0x37:
        raise OSError(
            EIO, "no EMAC: its version register reads 0x%08X in place of 0x..37 (gate closed or reset held)" % version
        )


def _select_rmii():
    change(_PD_SEL, 3, 0, "PD_SEL")
    change(_EX_PHYINF_CONF, _PHY_INTF_SEL, _RMII, "EX_PHYINF_CONF")


def _connect_pads(config):
    for gpio, pad, word in PADS:
        Pin(gpio, Pin.IN, None)  # takes the pad from the RTC and its pulls, which IO_MUX cannot
        put(pad, word, "IO_MUX_GPIO%d" % gpio)
    connect_management(config)


def connect_management(config):
    """Leads MDC and MDIO to their pins."""
    _enable_output(config["mdc"], 0x2800, _MDC_O)
    _enable_output(config["mdio"], 0x2B00, _MDI_I_MDO_O)
    put(_FUNC201_IN_SEL, 0x80 | config["mdio"], "GPIO_FUNC201_IN_SEL_CFG", 0xFF)


def _enable_output(gpio, pad_word, signal):
    put(_IO_MUX + _IO_MUX_OFFSETS[gpio], pad_word, "IO_MUX_GPIO%d" % gpio)
    put(_FUNC_OUT_SEL + 4 * gpio, signal, "GPIO_FUNC%d_OUT_SEL_CFG" % gpio, 0xFFF)
    if gpio < 32:
        mem32[_ENABLE_W1TS] = 1 << gpio
    else:
        mem32[_ENABLE1_W1TS] = 1 << gpio - 32


def soft_reset(clock):
    """Resets MAC and DMA. Raises OSError(EIO) when that does not end: there is no clock."""
    if not get(_BUSMODE) & _SWR:
        mem32[_BUSMODE] = _SWR
    if not wait_clear(_BUSMODE, _SWR, _SWR_US):
        raise OSError(EIO, "no RMII clock: the MAC's reset does not end. " + clock_remedy(clock))


def clock_remedy(clock):
    """Returns what to do when the MAC has no clock."""
    if rmii_clock.uses_apll(clock):
        return "The APLL runs, but the MAC does not get it: run `barenet doctor`"
    return (
        "No 50 MHz arrives at GPIO0: check the oscillator or power pin, "
        "that nothing else (DTR, a wire for flashing) is on GPIO0, and ref_clk"
    )


def restart(driver):
    """Resets MAC and DMA of a running driver and sets them up again.

    Frames in the rings are lost. Raises OSError as soft_reset() does.
    """
    driver.hold()
    if not get(_BUSMODE) & _SWR:
        mem32[_OPMODE] = 0
    soft_reset(driver.board["ref_clk"])
    link.run(driver, driver.pool)


def _start_phy(driver):
    config, phy = driver.board, driver.phy
    try:
        find(phy)
    except OSError:
        if not _pins(config, "power") and not _pins(config, "reset"):
            raise
        # It may have come out of reset without a clock; now there is one.
        _switch_on(config, "power", 500, 50)
        _pulse_reset(config)
        find(phy)
    driver.found = phy.id, phy.type, phy.name, phy.how
    _soft_reset_phy(phy)
    if phy.type == "LAN8720":
        modes = phy.read(_LAN_SMR)
        if modes & _LAN_MODE_ALL != _LAN_MODE_ALL:
            # The straps were loaded low when the PHY started; the new mode takes effect with a reset.
            phy.write(_LAN_SMR, modes | _LAN_MODE_ALL)
            _soft_reset_phy(phy)
    phy.negotiate()
    if phy.forced == "auto" and phy.read(mdio.ANAR) != mdio.ALL_MODES:
        raise OSError(EIO, "the PHY does not take writes: ANAR reads 0x%04X in place of 0x01E1" % phy.read(mdio.ANAR))


def find(phy):
    """Waits for the PHY's first answer, at most 100 ms, and tells it by its id. Raises OSError(ENODEV)."""
    end = ticks_add(ticks_ms(), _FIRST_ANSWER_MS)
    while True:
        phy.id = answers(phy.address)
        if phy.id:
            break
        if ticks_diff(end, ticks_ms()) < 0:
            raise OSError(ENODEV, _nobody(phy.address))
        sleep_ms(10)
    phy.type, phy.name, phy.how = "generic", "unknown PHY 0x%08X" % phy.id, mdio.ADVERTISED
    for number, kind, name, how in _PHYS:
        if phy.id & 0xFFFFFFF0 == number:
            phy.type, phy.name, phy.how = kind, name, how


def answers(address):
    """Returns PHYID1 << 16 | PHYID2 of the PHY at this address, 0 when there is none."""
    first = mdio.read(address, mdio.PHYID1)
    if first in (0, 0xFFFF):
        return 0
    return first << 16 | mdio.read(address, mdio.PHYID2)


def _nobody(address):
    others = [str(a) for a in range(32) if answers(a)]
    if others:
        return "no PHY at address %d, but one answers at %s: set phy.address to that" % (address, ", ".join(others))
    if mdio.read(address, mdio.PHYID1) == 0:
        return "all MDIO reads are 0: MDIO is held low or wired to another pin than the board file's mdio"
    return (
        "no PHY answers (all MDIO reads are 0xFFFF): check mdc, mdio and the PHY's power and reset pins; "
        "a PHY that started without a clock needs its power taken away once"
    )


def _soft_reset_phy(phy):
    phy.write(mdio.BMCR, _BMCR_RESET)
    end = ticks_add(ticks_ms(), _PHY_RESET_MS)
    while True:
        sleep_ms(10)
        value = phy.read(mdio.BMCR)  # 0xFFFF while the PHY is away
        if not value & _BMCR_RESET:
            return
        if ticks_diff(end, ticks_ms()) < 0:
            raise OSError(
                ETIMEDOUT, "the PHY's reset does not end (BMCR = 0x%04X): it has no clock or no stable supply" % value
            )

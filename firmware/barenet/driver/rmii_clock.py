"""The 50 MHz reference clock of the RMII: who makes it, on which pin, and the APLL that makes it inside the chip.

Register values: ESP32 Technical Reference Manual, chapters IO_MUX and Ethernet MAC. The APLL's registers lie on an
analog I2C bus; its master is one word that takes a transaction and shows the answer, as the ROM's own routines use it.
"""

from errno import EINVAL, EIO
from time import sleep_us, ticks_add, ticks_diff, ticks_us

from barenet.driver.registers import change, get, put, wait_clear
from machine import Pin, mem32
from micropython import const

_EX_CLKOUT_CONF = const(0x3FF69800)
_EX_OSCCLK_CONF = const(0x3FF69804)
_EX_CLK_CTRL = const(0x3FF69808)
_CLK_SEL_EXTERNAL = const(0x01000000)
_CLK_CTRL_EXTERNAL = const(0x39)  # ext_en, mii_clk_tx_en, mii_clk_rx_en, clk_en
_CLK_CTRL_INTERNAL = const(0x3A)  # int_en in place of ext_en

_PIN_CTRL = const(0x3FF49000)
_CLK_OUT1_APLL = const(6)
_GPIO0 = const(0x3FF49044)
_GPIO16 = const(0x3FF4904C)
_GPIO17 = const(0x3FF49050)

_RTC_OPTIONS0 = const(0x3FF48000)
_BIAS_I2C_FORCE_PD = const(1 << 18)
_RTC_ANA_CONF = const(0x3FF48030)
_PLLA_FORCE_PD = const(1 << 23)
_PLLA_FORCE_PU = const(1 << 24)
_RTC_STORE4 = const(0x3FF480B0)
_ANA_CONFIG = 0x6000E044  # above the small ints, so no const
_APLL_OFF_BUS = const(1 << 14)
_APLL_MASTER = 0x6000E00C
_APLL_BLOCK = const(0x6D)
_WRITE = const(1 << 24)
_BUSY = const(1 << 25)
_CALIBRATED = const(0x80)
_EFUSE_REVISION = const(0x3FF5A00C)
_REVISION_1 = const(1 << 15)

# mode: (pin, its IO_MUX register, its word: function, drive, input enable; no pulls)
MODES = {
    "gpio0_in": (0, _GPIO0, 0x5A00),
    "gpio0_out": (0, _GPIO0, 0x1800),
    "gpio16_out": (16, _GPIO16, 0x5800),
    "gpio17_out": (17, _GPIO17, 0x5800),
}


def uses_apll(mode):
    """True when the chip itself makes the clock in this mode."""
    return mode != "gpio0_in"


def start(mode):
    """Selects the clock's source and pin and, for the three output modes, starts the APLL at 50 MHz.

    The EMAC's clock gate must be open. Raises OSError: EIO when a register or the APLL does not answer, EINVAL when the
    crystal cannot give 50 MHz.
    """
    pin, pad, word = MODES[mode]
    Pin(pin, Pin.IN, None)  # takes the pad from the RTC and its pulls, which IO_MUX cannot
    if uses_apll(mode):
        # The divider resets to 5 and is held there while the gate is closed.
        put(_EX_CLKOUT_CONF, 0, "EX_CLKOUT_CONF", 0xFF)
        change(_EX_OSCCLK_CONF, _CLK_SEL_EXTERNAL, 0, "EX_OSCCLK_CONF")
        put(_EX_CLK_CTRL, _CLK_CTRL_INTERNAL, "EX_CLK_CTRL", 0x3F)
        start_apll()
        if mode == "gpio0_out":
            change(_PIN_CTRL, 0xF, _CLK_OUT1_APLL, "PIN_CTRL")
        put(pad, word, "IO_MUX_GPIO%d" % pin)
    else:
        put(pad, word, "IO_MUX_GPIO0")
        change(_EX_OSCCLK_CONF, 0, _CLK_SEL_EXTERNAL, "EX_OSCCLK_CONF")
        put(_EX_CLK_CTRL, _CLK_CTRL_EXTERNAL, "EX_CLK_CTRL", 0x3F)


def stop(mode):
    """Switches the APLL off; an oscillator on the board is switched by its own pin."""
    if uses_apll(mode):
        mem32[_RTC_ANA_CONF] = get(_RTC_ANA_CONF) & ~_PLLA_FORCE_PU | _PLLA_FORCE_PD


def crystal():
    """Returns the crystal's frequency in MHz as the boot loader left it. Raises OSError(EIO) when it left none."""
    word = get(_RTC_STORE4)
    mhz = word & 0xFFFE  # bit 0 is a flag of the ROM's log
    if not mhz or word >> 16 & 0xFFFE != mhz:
        raise OSError(
            EIO, "RTC_CNTL_STORE4 (0x3FF480B0) reads 0x%08X, no crystal frequency: power-cycle the board" % word
        )
    return mhz


def dividers(mhz):
    """Returns (sdm2, sdm1, sdm0) for 50 MHz from a crystal of `mhz` with o_div = 2: mhz * (4 + sdm / 65536) = 400."""
    sdm = ((400 << 16) + mhz // 2) // mhz - (4 << 16)
    return sdm >> 16, sdm >> 8 & 255, sdm & 255


def read(register):
    """Returns a byte of the APLL's analog registers. Raises OSError(EIO) when the analog bus stays busy."""
    return _transaction(_APLL_BLOCK | register << 8) >> 16 & 255


def start_apll():
    """Powers the APLL, programs it to 50 MHz and waits for its calibration, at most 10 ms. Raises as start() does."""
    mhz = crystal()
    sdm2, sdm1, sdm0 = dividers(mhz)
    second = 0x49
    if not get(_EFUSE_REVISION) & _REVISION_1:
        if sdm1 or sdm0:
            raise OSError(EINVAL, "revision 0 of the chip cannot make 50 MHz from its %d MHz crystal" % mhz)
        second = 0x69
    change(_RTC_ANA_CONF, _PLLA_FORCE_PD, _PLLA_FORCE_PU, "RTC_CNTL_ANA_CONF")
    change(_RTC_OPTIONS0, _BIAS_I2C_FORCE_PD, 0, "RTC_CNTL_OPTIONS0")
    change(_ANA_CONFIG, _APLL_OFF_BUS, 0, "ANA_CONFIG")
    _write(7, read(7) & 0xC0 | sdm2)
    _write(9, sdm0)
    _write(8, sdm1)
    _write(5, 0x09)
    _write(5, second)
    _write(4, read(4) & 0xE0 | 2)
    if read(7) & 0x3F != sdm2 or read(8) != sdm1 or read(9) != sdm0 or read(4) & 0x1F != 2:
        raise OSError(
            EIO,
            "the APLL does not keep its dividers: its analog bus is off (ANA_CONFIG bit 14, RTC_CNTL_OPTIONS0 bit 18)",
        )
    _write(0, 0x0F)
    _write(0, 0x3F)
    _write(0, 0x1F)
    end = ticks_add(ticks_us(), 10000)
    while not read(3) & _CALIBRATED:
        if ticks_diff(end, ticks_us()) < 0:
            raise OSError(
                EIO, "the APLL does not calibrate: power-cycle the board, and look at its crystal if that does not help"
            )
        sleep_us(10)
    if read(3) & 0x60:
        raise OSError(
            EIO, "the APLL's calibration is out of range (r3 = 0x%02X): is the crystal really %d MHz?" % (read(3), mhz)
        )


def _write(register, byte):
    _transaction(_APLL_BLOCK | register << 8 | byte << 16 | _WRITE)


def _transaction(word):
    mem32[_APLL_MASTER] = word
    if not wait_clear(_APLL_MASTER, _BUSY, 1000):
        raise OSError(EIO, "the APLL's analog bus stays busy (0x6000E00C bit 25): power-cycle the board")
    return get(_APLL_MASTER)

"""What the EMAC's driver does when the link or the MAC has changed, and what it shows; emac.py loads it for that and
forgets it.

Register names are those of the ESP32 Technical Reference Manual, chapter Ethernet MAC.
"""

from errno import EIO

from barenet import fast
from barenet.driver.registers import get, wait_clear
from machine import mem32
from micropython import const
from uctypes import addressof

_BUSMODE = const(0x3FF69000)
_BUSMODE_VALUE = const(0x02C12080)  # AAL, USP, RPBL 32, FB, PBL 32, ATDS
_RXPOLLDEMAND = const(0x3FF69008)
_RXBASEADDR = const(0x3FF6900C)
_TXBASEADDR = const(0x3FF69010)
_STATUS = const(0x3FF69014)
_STATUS_ALL = const(0x0001E7FF)
_OPMODE = const(0x3FF69018)
_OPMODE_IDLE = const(0x02200004)  # RSF, TSF, OSF
_SR = const(0x0002)
_ST = const(0x2000)
_FTF = const(0x00100000)
_INTEN = const(0x3FF6901C)

_CONFIG = const(0x3FF6A000)
_CONFIG_PS = const(0x8000)
_FES = const(0x4000)
_DO = const(0x2000)
_DM = const(0x0800)
_TE = const(0x0008)
_RE = const(0x0004)
_FRAMEFILTER = const(0x3FF6A004)
_PROMISCUOUS = const(1)
_HASH_MULTICAST = const(4)
_HASHHIGH = const(0x3FF6A008)
_HASHLOW = const(0x3FF6A00C)
_FLOWCTRL = const(0x3FF6A018)
_DEBUG = const(0x3FF6A024)
_TRANSMITTING = const(0x00060000)
_RECEIVING = const(0x00000060)
_FRAME_US = const(2500)  # the longest frame at 10 Mb/s, twice
_INTMASK = const(0x3FF6A03C)
_ADDR0HIGH = const(0x3FF6A040)
_ADDR0LOW = const(0x3FF6A044)


def run(driver, pool):
    """Sets MAC, DMA and rings up after a reset of the MAC, and starts them: the last step of the bring-up.

    Raises OSError(EIO).
    """
    driver.pool = pool
    _configure(driver, True)
    _start_dma(driver)


def resume(driver):
    """The same for the rings that the driver has, when the reset has ended that poll() was waiting for."""
    driver.phy.negotiate()
    _configure(driver, False)
    _start_dma(driver)


def stop(driver):
    """Lets the frames that are under way end, and stops transmitter and receiver."""
    mem32[_OPMODE] = get(_OPMODE) & ~_ST
    wait_clear(_DEBUG, _TRANSMITTING, _FRAME_US)
    mem32[_CONFIG] = driver.config
    wait_clear(_DEBUG, _RECEIVING, _FRAME_US)
    mem32[_OPMODE] = _OPMODE_IDLE


def up(driver):
    """Takes over the mode that the PHY has agreed on; the link stays down when it cannot tell."""
    mode = driver.phy.mode()
    if not mode:
        return
    config = _CONFIG_PS
    if mode >= 200:
        config |= _FES
    # In half duplex the PHY may echo what we send.
    config |= _DM if mode & 1 else _DO
    if config != driver.config:
        driver.config = config
        mem32[_CONFIG] = config | _TE
        mem32[_CONFIG] = config | _TE | _RE
    driver.mode = mode
    driver.link_changes += 1


def write_filter(driver):
    """Lets through our own frames, broadcasts, and the driver's groups; with "promiscuous" in the board file all."""
    table = [0, 0]
    used = _PROMISCUOUS if driver.board.get("promiscuous") else 0
    for address in driver.groups:
        i = hash_index(address)
        table[i >> 5] |= 1 << (i & 31)
        used |= _HASH_MULTICAST
    mem32[_HASHHIGH] = table[1]
    mem32[_HASHLOW] = table[0]
    mem32[_FRAMEFILTER] = used


def hash_index(address):
    """Returns which of the 64 bits of HASHHIGH and HASHLOW lets a multicast address (6 bytes) through: the upper 6 bits
    of its CRC-32, bits reversed.
    """
    crc = 0xFFFFFFFF
    for byte in address:
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if (crc >> 31 ^ byte) & 1 else 0)) & 0xFFFFFFFF
            byte >>= 1
    return ~crc >> 26 & 63


def status(driver):
    """Returns a dict for people: link, speed, duplex, PHY, and counters since start()."""
    mode = driver.mode
    return {
        "driver": "emac",
        "link": driver.link(),
        "speed": mode >> 1,
        "duplex": "full" if mode & 1 else "half",
        "memory": getattr(driver.pool, "memory", "heap"),
        "phy": driver.found[2],
        "phy address": driver.board["phy"]["address"],
        "starved": driver.starved,
        "missed": driver.missed,
        "FIFO overflows": driver.overflows,
        "restarts": driver.restarts,
        "link changes": driver.link_changes,
        "PHY lost": driver.phy_lost,
        "last error": driver.last_error and str(driver.last_error),
    }


def _configure(driver, check):
    """Writes MAC and DMA registers after a soft reset, and makes the rings new."""
    pool = driver.pool
    mem32[_INTMASK] = 0xFFFFFFFF
    write_filter(driver)
    mem32[_FLOWCTRL] = 0
    mem32[_CONFIG] = driver.config
    mac = driver.mac
    high = mac[5] << 8 | mac[4]
    low = mac[3] << 24 | mac[2] << 16 | mac[1] << 8 | mac[0]
    # The filter takes the address over when LOW is written.
    mem32[_ADDR0HIGH] = 0x80000000 | high
    mem32[_ADDR0LOW] = low
    mem32[_BUSMODE] = _BUSMODE_VALUE
    mem32[_INTEN] = 0
    mem32[_OPMODE] = _OPMODE_IDLE
    mem32[_OPMODE] = _OPMODE_IDLE | _FTF
    flushed = wait_clear(_OPMODE, _FTF, 1000)
    pool.reset()
    _chain(pool.rx_ring, pool.frames, 0, pool.receive)
    _chain(pool.tx_ring, pool.frames, pool.receive, pool.transmit)
    pool.words[fast.C_GATHER] = driver.gather
    mem32[_RXBASEADDR] = addressof(pool.rx_ring)
    mem32[_TXBASEADDR] = addressof(pool.tx_ring)
    mem32[_STATUS] = _STATUS_ALL
    if check:
        _expect(_CONFIG, driver.config, 0xFFFF, "CONFIG")
        _expect(_ADDR0HIGH, high, 0xFFFF, "ADDR0HIGH")
        _expect(_ADDR0LOW, low, 0xFFFFFFFF, "ADDR0LOW")
        _expect(_BUSMODE, _BUSMODE_VALUE, 0x02FF3F81, "BUSMODE")
        _expect(_RXBASEADDR, addressof(pool.rx_ring), 0xFFFFFFFC, "RXBASEADDR")
        _expect(_TXBASEADDR, addressof(pool.tx_ring), 0xFFFFFFFC, "TXBASEADDR")
        if not flushed:
            raise OSError(EIO, "OPMODE: the transmit FIFO does not flush; run `barenet doctor`")


def _start_dma(driver):
    mem32[_CONFIG] = driver.config | _TE
    mem32[_OPMODE] = _OPMODE_IDLE | _ST
    mem32[_OPMODE] = _OPMODE_IDLE | _ST | _SR
    mem32[_CONFIG] = driver.config | _TE | _RE
    mem32[_RXPOLLDEMAND] = 0
    driver.go()


def _chain(ring, frames, first, count):
    base = addressof(ring)
    for i in range(count):
        ring[i * 8 + 2] = addressof(frames[first + i])
        ring[i * 8 + 3] = base + (i + 1) % count * 32


def _expect(address, value, mask, name):
    back = get(address)
    if (back ^ value) & mask:
        raise OSError(
            EIO, "%s (0x%08X) reads 0x%08X after writing 0x%08X; run `barenet doctor`" % (name, address, back, value)
        )

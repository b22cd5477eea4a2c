"""Internal RAM for rings and frames on firmware whose heap lies in PSRAM, which the EMAC's DMA cannot reach.

Firmware that is built with Bluetooth keeps RAM back for the Bluetooth controller, at fixed addresses (ESP-IDF,
esp_bt.h: SOC_MEM_BT_EM_START), and leaves it alone until BLE is switched on. Nobody owns it, so a soft reset frees
nothing under a running DMA. Unproven: nobody has tried this on a chip.
"""

from errno import EINVAL, ENOMEM
from hashlib import sha256
from time import sleep_ms

from barenet import fast
from barenet.pool import DESCRIPTOR_WORDS
from micropython import const
from uctypes import ARRAY, UINT32, bytearray_at, struct

_START = const(0x3FFB0000)
_END = const(0x3FFB6388)
_QUIET_MS = const(200)


def move(pool, source):
    """Lays rings and frames of a pool that nobody uses into internal RAM. source: "bluetooth", for there is no other.

    Raises OSError: EINVAL for another source or while BLE is on, ENOMEM when the memory is not there.
    """
    if source != "bluetooth":
        raise OSError(EINVAL, 'dma_memory %r: there is only "bluetooth"' % source)
    try:
        from bluetooth import BLE
    except ImportError:
        raise OSError(ENOMEM, "dma_memory: this firmware has no Bluetooth, so it keeps no memory back for it")
    if BLE().active():
        raise OSError(EINVAL, "dma_memory: Bluetooth is on and uses this memory: reset the board and leave it off")
    count = pool.receive + pool.transmit
    if count * (fast.FRAME_SIZE + DESCRIPTOR_WORDS * 4) > _END - _START:
        raise OSError(ENOMEM, "dma_memory: there is room for 16 frames, receive and transmit together")
    memory = bytearray_at(_START, _END - _START)
    before = sha256(memory).digest()
    sleep_ms(_QUIET_MS)
    if sha256(memory).digest() != before:
        raise OSError(
            ENOMEM, "dma_memory: somebody writes to 0x%08X, so this firmware uses it: leave the option out" % _START
        )
    at = _ring(pool, "rx_ring", fast.O_RX_RING, pool.receive, _START)
    at = _ring(pool, "tx_ring", fast.O_TX_RING, pool.transmit, at)
    for i in range(count):
        pool.frames[i] = memoryview(bytearray_at(at, fast.FRAME_SIZE))
        at += fast.FRAME_SIZE
    pool.memory = source + " (unproven)"


def _ring(pool, name, index, count, at):
    words = count * DESCRIPTOR_WORDS
    ring = struct(at, {"words": (ARRAY | 0, UINT32 | words)}).words
    for i in range(words):
        ring[i] = 0
    setattr(pool, name, ring)
    pool.objects[index] = ring
    return at + words * 4

"""Access to the ESP32's peripheral registers: aligned 32-bit words through machine.mem32.

Some firmware versions return signed words, so every read is masked.
"""

from errno import EIO
from time import sleep_us, ticks_add, ticks_diff, ticks_us

from machine import mem32


def get(address):
    """Returns the register at `address`, 0 to 0xFFFFFFFF."""
    return mem32[address] & 0xFFFFFFFF


def put(address, value, name, mask=0xFFFFFFFF):
    """Writes a register and reads it back. Raises OSError(EIO) with its name when the bits of `mask` did not take."""
    mem32[address] = value
    back = get(address)
    if (back ^ value) & mask:
        raise OSError(
            EIO,
            "%s (0x%08X) reads 0x%08X after writing 0x%08X: the block does not take writes; run `barenet doctor`"
            % (name, address, back, value),
        )


def change(address, clear, set, name):
    """Clears the bits `clear`, then sets the bits `set`, and reads them back. Raises as put() does."""
    put(address, get(address) & ~clear | set, name, clear | set)


def wait_clear(address, bits, us):
    """Waits at most `us` microseconds until the bits are 0. Returns whether they are."""
    end = ticks_add(ticks_us(), us)
    while get(address) & bits:
        if ticks_diff(end, ticks_us()) < 0:
            return not get(address) & bits
        sleep_us(20)
    return True

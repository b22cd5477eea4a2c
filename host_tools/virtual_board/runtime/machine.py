"""machine of the virtual board: what MicroPython's unix port has, and the parts of the ESP32's that programs need.

Timer runs on one setitimer(2): the signal handler only schedules, callbacks run between two bytecodes as on the ESP32.
"""

import os
import sys
import time
from array import array

import _signals
import ffi
import micropython
from micropython import const
from umachine import *

if os.getenv("BARENET_CHIP_FD"):
    from _chip import Pin, mem32
else:

    class _NoRegisters:
        """machine.mem32 of a board without a model of the chip (--driver tap): every register reads 0, and takes no value."""

        def __getitem__(self, address):
            return 0

        def __setitem__(self, address, value):
            pass

    mem32 = _NoRegisters()

_RETRY_MS = const(10)

_libc = ffi.open("libc.so.6")
_setitimer = _libc.func("i", "setitimer", "ipp")
_exit = _libc.func("v", "_exit", "i")
_write = _libc.func("i", "write", "ipi")

_active = []
_interval = array("l", [0, _RETRY_MS * 1000, 0, 0])
_asked = 0


def unique_id():
    """Returns the board's 6-byte identity, the same at each start."""
    return bytes(int(x, 16) for x in os.getenv("BARENET_UNIQUE_ID").split(":"))


def freq(hz=None):
    """Returns the clock of the ESP32 that the virtual board stands for; setting it changes nothing."""
    return 240000000


def reset():
    """Restarts the board as its reset button does: nothing is finalised."""
    _write(int(os.getenv("BARENET_CONTROL_FD")), b"R", 1)
    _exit(0)


class Timer:
    """machine.Timer of the ESP32: `callback(timer)` runs every `period` ms (or at `freq` Hz), or once.

    A timer of the same id replaces an earlier one; id -1 makes an independent timer.
    """

    ONE_SHOT = const(0)
    PERIODIC = const(1)

    def __init__(self, id=-1, **options):
        self.id = id
        if options:
            self.init(**options)

    def init(self, *, mode=PERIODIC, freq=-1, period=-1, callback=None):
        """Starts the timer. Raises ValueError without a period of at least 1 ms or a frequency of at most 1000 Hz."""
        self.deinit()
        if freq != -1:
            period = int(1000 / freq)
        if period < 1:
            raise ValueError("period must be at least 1 ms")
        if self.id >= 0:
            for other in _active:
                if other.id == self.id:
                    other.deinit()
                    break
        self._period = period if mode == Timer.PERIODIC else 0
        self._callback = callback
        self._due = time.ticks_add(time.ticks_ms(), period)
        _active.append(self)
        _arm()

    def deinit(self):
        """Stops the timer."""
        if self in _active:
            _active.remove(self)
            _arm()

    def __repr__(self):
        return "Timer(%d, period=%d)" % (self.id, self._period if self in _active else -1)


def _arm():
    delay = 0
    if _active:
        now = time.ticks_ms()
        delay = 1000000
        for timer in _active:
            delay = min(delay, max(1, time.ticks_diff(timer._due, now)))
    _interval[2] = delay // 1000
    _interval[3] = delay % 1000 * 1000
    _setitimer(0, _interval, None)


# The signal may arrive between any two instructions, so this allocates nothing. The interval repeats until _run has set
# the next one: a full schedule queue costs lateness, not the timer.
def _tick(signal):
    global _asked
    waiting = _signals.take()
    try:
        _asked += 1
        if _asked & 7 == 1:
            micropython.schedule(_run, None)
    except RuntimeError:
        _asked = 0
    _signals.put(waiting)


def _run(_):
    global _asked
    waiting = _signals.hold()
    _asked = 0
    try:
        _call_due()
    finally:
        _arm()
    _signals.release(waiting)


def _call_due():
    """Calls what is due, without allocating."""
    now = time.ticks_ms()
    i = 0
    while i < len(_active):
        timer = _active[i]
        late = time.ticks_diff(now, timer._due)
        if late < 0:
            i += 1
            continue
        if timer._period:
            timer._due = time.ticks_add(timer._due, late - late % timer._period + timer._period)
            i += 1
        else:
            del _active[i]
        try:
            if timer._callback is not None:
                timer._callback(timer)
        except BaseException as e:
            sys.print_exception(e)


_signals.handle(_signals.SIGALRM, _tick, (_signals.SIGUSR1,))

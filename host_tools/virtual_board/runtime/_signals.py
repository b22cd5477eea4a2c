"""Ctrl-C, and what timers need so that it never gets lost in them.

A board raises KeyboardInterrupt between two bytecodes. MicroPython's unix port raises it out of its SIGINT handler,
wherever the C code is at that moment, in the middle of a garbage collection for example. So SIGINT stays blocked, and
the handler of SIGUSR1 does what a board's UART does: it stores the exception that the VM looks for at its next jump.

That slot, mp_state_ctx.thread.mp_pending_exception, is found behind the pointers to the current locals and globals.
Functions that say so have no jump, so nothing can be raised in them.
"""

import struct

import ffi
import uctypes
from micropython import const

SIGINT = const(2)
SIGUSR1 = const(10)
SIGALRM = const(14)
_SIG_UNBLOCK = const(1)

_libc = ffi.open("libc.so.6")
_sigaction = _libc.func("i", "sigaction", "ipp")
_word = struct.calcsize("L")
_layout = {"exception": 0 | uctypes.ULONG, "low": 0 | uctypes.UINT16, "high": 2 | uctypes.UINT16}
_memory = [bytearray(_word), bytearray(_word)]
_scrap, _held = [uctypes.struct(uctypes.addressof(memory), _layout, uctypes.NATIVE) for memory in _memory]
_handlers = []
_values = [0, 0]  # what the slot gets while Ctrl-C means nothing, and while a program runs
_armed = 0


def _address(thing):
    """Returns where an object lies: from 0x40000000 to 0x7FFFFFFF id() shifts a bit out, and is negative."""
    address = id(thing)
    return address if address >= 0 else address + (1 << 8 * _word - 1)


def handle(signal, function, waiting):
    """Calls `function(signal)` when `signal` arrives, with the heap locked; the signals `waiting` come after it."""
    handler = ffi.callback("v", function, "i", lock=True)
    _handlers.append(handler)
    # struct sigaction: handler, a mask of 1024 signals, flags, restorer. Without SA_RESTART, so that a blocking call
    # lets the VM run what was scheduled.
    action = bytearray(_word + 128 + 8 + _word)
    struct.pack_into("L", action, 0, handler.cfun())
    for other in waiting:
        action[_word + (other - 1) // 8] |= 1 << (other - 1) % 8
    _sigaction(signal, action, None)


def install(locals):
    """Prepares Ctrl-C. `locals` is what the VM has as its locals now, the dict of __main__."""
    global _slot, _targets, _either
    address = _find(struct.pack("LL", _address(locals), _address(globals())))
    if address:
        _slot = uctypes.struct(address + 4 * _word, _layout, uctypes.NATIVE)
        handle(SIGUSR1, _store, ())
    else:
        # An unknown MicroPython: let it raise in its own way.
        _slot = _scrap
        handle(SIGUSR1, _pass_on, (SIGINT,))
        _libc.func("i", "sigprocmask", "ipp")(_SIG_UNBLOCK, bytearray([1 << SIGINT - 1]) + bytearray(127), None)
    _targets = [_slot, _slot]
    _either = (_scrap, _slot)


def _find(pattern):
    """Returns the address of `pattern` in the interpreter's own variables, 0 if it is not there."""
    ours = False
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            ours = fields[-1].endswith("/micropython") or (ours and len(fields) == 5)
            if ours and fields[1].startswith("rw"):
                start, end = [int(address, 16) for address in fields[0].split("-")]
                i = uctypes.bytearray_at(start, end - start).find(pattern)
                if i >= 0:
                    return start + i
    return 0


def arm():
    """From now on Ctrl-C raises KeyboardInterrupt."""
    global _armed, _exception
    _exception = KeyboardInterrupt()
    _values[1] = _address(_exception)
    _armed = 1


def disarm():
    """From now on Ctrl-C does nothing. KeyboardInterrupt may come out of this call once more."""
    global _armed
    _armed = 0
    _slot.exception = 0


# A second Ctrl-C, while the first waits for a callback to end, is for the callback. No jump.
def _store(signal):
    _targets[_held.low | _held.high != 0].exception = _values[_armed]


def _pass_on(signal):
    _raise(SIGINT)


_raise = _libc.func("i", "raise", "i")


def take():
    """Takes the exception that waits to be raised out of the slot; returns 0 if there was none. No jump."""
    waiting = _slot.low | _slot.high
    _slot.exception = 0
    return waiting


def put(waiting):
    """Puts the exception back if `waiting`, the result of `take`, says that there was one. No jump."""
    _either[waiting != 0].exception = _values[_armed]


def hold():
    """A callback begins: Ctrl-C, which is for the program, waits until `release`, which takes the result. No jump."""
    _targets[0] = _held
    return take()


def release(waiting):
    """The callback has ended. No jump, so the caller can return before KeyboardInterrupt is raised."""
    _targets[0] = _slot
    put(waiting | _held.low | _held.high)
    _held.exception = 0

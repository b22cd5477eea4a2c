"""What the firmware's C code does on a real board: boot, then run what the serial port asks for.

The REPL itself (editing, raw mode, flow control) runs in the supervisor on the PC, so the heap here belongs to the
board's programs. The two talk over a packet socket, one letter a message:

    to the PC     B  a program starts, Ctrl-C reaches it
                  D  it ended: then "0" well, "1" with the exception in the report file, "2" and code by SystemExit
                  E  boot.py or main.py ended with the exception in the report file; waits for A
                  U  both have run; then the addresses, JSON
                  C  names, a JSON list
                  R  machine.reset()
    to the board  X  run the source file            S  run it as one interactive statement
                  C  names in the object it names   A  go on   Q  end
"""

import builtins
import gc
import io
import json
import os
import sys
from array import array

import _signals
import ffi
import machine
import micropython
import uctypes
from micropython import const

_POLLIN = const(1)
_IDLE_MS = const(10)  # bounds how late a callback runs whose signal came just before the wait
_ATOMIC = const(4096)  # PIPE_BUF: a write of at most this length is never cut or mixed
_TAG = const(16)

_libc = ffi.open("libc.so.6")
_poll = _libc.func("i", "poll", "pii")
_read = _libc.func("i", "read", "ipi")
_write = _libc.func("i", "write", "ipi")
_writev = _libc.func("i", "writev", "ipi")
_dup = _libc.func("i", "dup", "i")
_dup2 = _libc.func("i", "dup2", "ii")
_exit = _libc.func("v", "_exit", "i")

_control = int(os.getenv("BARENET_CONTROL_FD"))
_source = int(os.getenv("BARENET_SOURCE_FD"))
_report = open(int(os.getenv("BARENET_REPORT_FD")), "wb")
_command = bytearray(16)


class _SourceFile:
    """A file system with one file, the source that the PC sent, under whatever name a traceback shall show."""

    def __init__(self):
        self.cwd = os.getcwd()

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def chdir(self, path):
        pass

    def open(self, path, mode):
        os.umount(self)
        os.chdir(self.cwd)
        return open(_dup(_source), "rb")


class _Raw(io.IOBase):
    """sys.stdout.buffer: bytes that the PC shall not give a carriage return, marked with a tag of random bytes."""

    def __init__(self, tag):
        self._head = bytearray(tag) + bytearray(2)
        self._vector = array("L", [uctypes.addressof(self._head), len(self._head), 0, 0])

    def write(self, data, *limits):
        data = memoryview(data)
        if limits:
            start = limits[0] if len(limits) > 1 else 0
            data = data[start : start + limits[-1]]
        start, size = uctypes.addressof(data), len(bytes(data[:1])) * len(data)
        done = 0
        while done < size:
            n = min(size - done, _ATOMIC - _TAG - 2)
            self._head[_TAG] = n & 255
            self._head[_TAG + 1] = n >> 8
            self._vector[2] = start + done
            self._vector[3] = n
            if _writev(1, self._vector, 2) > 0:
                done += n
        return size

    def ioctl(self, request, argument):
        return argument & 4 if request == 3 else 0


class _Text(io.IOBase):
    """sys.stdout, with a `buffer` whose bytes arrive unchanged."""

    def __init__(self, buffer):
        self._file = sys.stdout
        self.buffer = buffer
        self.write = self._file.write
        self.flush = self._file.flush

    def ioctl(self, request, argument):
        return argument & 4 if request == 3 else 0


class _Sys:
    """The module sys with another stdout: the real one is in ROM and cannot be changed."""

    def __init__(self, stdout):
        self.__name__ = "sys"
        self.stdout = stdout

    def __getattr__(self, name):
        return getattr(sys, name)


def _send(message):
    _write(_control, message, len(message))


def _receive():
    """Waits for the PC's next message, letting scheduled callbacks run; returns its letter."""
    waiting = array("i", [_control, _POLLIN])
    while True:
        if _poll(waiting, 1, _IDLE_MS) > 0:
            n = _read(_control, _command, len(_command))
            if n > 0:
                return _command[0]
            if n == 0:
                _exit(0)


def _unlock_heap():
    # A program that ended with the heap locked would leave no way to do anything; boards unlock it here too.
    # Unlocking needs a lock, and the stack's callbacks, which run at jumps, need memory: no jump before the first unlock.
    micropython.heap_lock()
    depth = micropython.heap_unlock()
    while depth:
        depth = micropython.heap_unlock()


def _run(run, name, globals):
    """Runs `run(name, globals)` so that Ctrl-C reaches it alone; returns the exception that ended it, or None."""
    error = None
    try:
        _signals.arm()
        micropython.kbd_intr(3)  # only a mark, which the PC looks for: SIGINT is blocked
        _send(b"B")
        run(name, globals)
    except BaseException as e:
        error = e
    while True:
        try:
            _signals.disarm()
            break
        except KeyboardInterrupt as e:
            error = e
    _unlock_heap()
    return error


def _explain(error):
    """Writes the exception into the report file; the PC takes this file's own frames out and shows it."""
    sys.print_exception(error, _report)
    _report.flush()


def _ending(error):
    if error is None:
        return b"D0"
    if isinstance(error, SystemExit):
        code = error.args[0] if error.args else None
        if code is None:
            code = 0
        elif not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        return b"D2%d" % (code & 255)
    _explain(error)
    return b"D1"


def _from_pc(name, globals):
    try:
        os.umount("/.source")  # left there when Ctrl-C came before the file was opened
    except OSError:
        pass
    os.mount(_SourceFile(), "/.source")
    os.chdir("/.source")
    execfile(name, globals)


def _statement(name, globals):
    with open(_dup(_source), "rb") as f:
        code = compile(f.read(), name, "single")
    exec(code, globals)


def _names(globals):
    """Returns the attributes of the object that the source file names, or the globals and the builtins."""
    with open(_dup(_source)) as f:
        path = f.read()
    try:
        if not path:
            return list(globals) + dir(builtins)
        first, *others = path.split(".")
        thing = globals[first]
        for name in others:
            thing = getattr(thing, name)
        return dir(thing)
    except (KeyError, AttributeError):
        return []


def _is_file(path):
    try:
        return os.stat(path)[0] & 0x8000
    except OSError:
        return False


def _boot_file(name, globals):
    """Runs boot.py or main.py, the board's own or else the firmware's; returns False when it failed."""
    path = name if _is_file(name) else "/.firmware/" + name
    if not _is_file(path):
        return True
    globals["__file__"] = path
    error = _run(execfile, path, globals)
    if isinstance(error, SystemExit):
        _send(_ending(error))
        _quit()
    if error is not None:
        _explain(error)
        _send(b"E")
        _receive()
    return error is None


def _quit():
    # Ends as a soft reset does: with finalisers, and with timers stopped before.
    for timer in list(machine._active):
        timer.deinit()
    raise SystemExit


def _addresses():
    barenet = sys.modules.get("barenet")
    lan = barenet and barenet.LAN._one
    if not lan:
        return {}
    ip, netmask, gw, dns = lan.ifconfig()
    mac = ":".join("%02x" % byte for byte in lan.config("mac"))
    return {"ip": ip, "netmask": netmask, "gw": gw, "dns": dns, "mac": mac}


def _report_addresses():
    try:
        addresses = _addresses()
    except Exception as e:
        sys.print_exception(e)
        addresses = {}
    _send(b"U" + json.dumps(addresses).encode())


def _mount_files(config):
    # Absolute paths mean the board's folder, as they do on a board.
    os.mount(os.VfsPosix(config["firmware"]), "/.firmware", readonly=True)
    os.umount("/")
    os.mount(os.VfsPosix(config["fs"]), "/")
    os.chdir("/")
    sys.path[:] = ["", "/lib", "/.firmware", ".frozen"]


def main(program_globals):
    """Boots the board and serves the PC until it ends the board; never returns."""
    _signals.install(program_globals)
    config = json.loads(os.getenv("BARENET_BOOT"))
    _mount_files(config)
    if config["tag"]:
        sys.modules["sys"] = _Sys(_Text(_Raw(bytes.fromhex(config["tag"]))))
    program, out, main = config["program"], config["out"], config["main"]
    arguments = config["arguments"]
    del config
    gc.collect()

    ran = _boot_file("boot.py", program_globals)
    if main and ran:
        _boot_file("main.py", program_globals)
    _report_addresses()

    if program is not None:
        _receive()
        _dup2(out[0], 1)
        _dup2(out[1], 2)
        sys.argv[:] = arguments
        program_globals["__file__"] = program
        _send(_ending(_run(_from_pc, program, program_globals)))
        _quit()
    program_globals["__file__"] = "<stdin>"
    while True:
        letter = _receive()
        if letter == 88:  # X
            error = _run(_from_pc, "<stdin>", program_globals)
        elif letter == 83:  # S
            error = _run(_statement, "<stdin>", program_globals)
        elif letter == 67:  # C
            _send(b"C" + json.dumps(_names(program_globals)).encode())
            continue
        else:
            _quit()
        ending = _ending(error)
        del error
        _send(ending)
        if ending[1] == 50:  # SystemExit
            _quit()

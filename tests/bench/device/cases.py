"""What is counted, one function a case. Runs in MicroPython: `micropython cases.py NAME BURST instructions|memory|trace LAYOUT`.

Prints one JSON object: {"phases": [[label, units, calls of the driver into libc, bytes of heap], …], …}. The
heap is never collected: the garbage collector's instructions are not in the figures, the bytes it would collect are.
callgrind writes one file a mark(), so what is counted is every second file (tests/bench/counting.py).
"""

import gc
import io
import json
import os
import sys

import micropython
from hashlib import sha256
from uctypes import addressof


# The interpreter looks names up in a cache by their number, so what is named before moves a count by a percent or two.
for _i in range(int(sys.argv[4])):
    exec("layout_%d = 0" % _i)


class Os:
    """The module os, without its chance: keys, ports and sequence numbers are the same in every run."""


for _name in dir(os):
    setattr(Os, _name, getattr(os, _name))
# In C, as on a board: reads on in bytes that are the same in every run.
Os.urandom = io.BytesIO(b"".join(sha256(bytes((i,))).digest() for i in range(64))).read
sys.modules["os"] = Os

PORT = 5001
SEGMENTS = 64
CALLS = 73  # sendall() of 4096 bytes: 204.8 segments
BLOCK = 4096
BUFFER = 16 * 1460
_WARM = 6  # connections: with the fifth in TIME_WAIT a module is loaded
phases = []
line = None
memory = False
_plugs = None
flag = None  # for a trace: written at each mark


def mark():
    os.unsetenv("BENCH")
    if flag:
        flag[0] = 1


def measure(label, units, run, n, locked=False):
    """Counts run(n), which does `units` units of work, with the heap locked or free."""
    if flag:
        show_places(run)
    calls = line.calls if line else 0
    own = line.own if line else 0
    before = gc.mem_alloc()
    if locked:
        micropython.heap_lock()
    mark()
    run(n)
    mark()
    if locked:
        micropython.heap_unlock()
    after = gc.mem_alloc()
    phases.append((label, units, (line.calls - calls) if line else 0, after - before - ((line.own - own) if line else 0)))


def tidy():
    """Leaves the heap without a hole before its end, where the next search begins.

    A program's heap has holes; how long a search takes depends on them, and they depend on everything.
    """
    global _plugs
    _plugs = None
    gc.collect()
    _plugs = [None] * 10_000
    end = addressof(bytearray(300_000))  # no hole is so large
    for i in range(len(_plugs)):
        _plugs[i] = (i,)  # one block
        if id(_plugs[i]) > end:
            return
    raise MemoryError("more holes than plugs")


def twice(n, prepare, run, locked=True):
    """Counts n and 2 * n units after some for warming up; prepare(n) is not counted.

    locked: the work allocates nothing, so the heap is locked, and functions with many locals keep them on the C stack.
    """
    if flag:
        n = 16
    for units in n, 2 * n:
        if not locked:
            tidy()
        prepare(n)
        run(n)
        prepare(units)
        measure("run", units, run, units, locked=locked and not memory)


def nothing(n):
    pass


def up(burst):
    """Brings a LAN up at a Line; returns (socket module, stack)."""
    global line
    import barenet
    from line import Line

    line = Line(burst, memory)
    lan = barenet.LAN(board={"driver": "tap", "fd": 0, "network": {"ip": "10.77.0.2/24"}})
    line.attach(lan.stack)
    lan.active(True)
    lan.wait(1)
    return barenet.install(), lan.stack


def open_connection(socket, stack, timestamps=False, buffer=BUFFER, port=PORT):
    """Returns (socket, peer) of a connection that the board has opened."""
    from line import HOST, Peer

    peer = Peer(line, port, timestamps)
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    s.connect((HOST, port))
    for _ in range(3):
        stack.poll()
    return s, peer


def bulk_receive(burst, timestamps=False, others=0, locked=True):
    socket, stack = up(burst)
    for i in range(others):
        open_connection(socket, stack, buffer=600, port=PORT + 1 + i)
    s, peer = open_connection(socket, stack, timestamps)
    line.sources.append(peer.supply)
    buffer = bytearray(BLOCK)

    def prepare(n):
        peer.stream = n * peer.size

    def run(n):
        left = n * peer.size
        while left:
            left -= s.recv_into(buffer)

    twice(SEGMENTS, prepare, run, locked)


def bulk_receive_free(burst):
    bulk_receive(burst, locked=False)


def bulk_receive_timestamps(burst):
    bulk_receive(burst, timestamps=True)


def bulk_receive_16(burst):
    bulk_receive(burst, others=15)


def bulk_receive_64(burst):
    bulk_receive(burst, others=63)


def bulk_send(burst, timestamps=False, locked=True):
    socket, stack = up(burst)
    s, peer = open_connection(socket, stack, timestamps)
    block = bytes(BLOCK)

    def run(n):
        for _ in range(n):
            s.sendall(block)

    for n in CALLS, 2 * CALLS:
        if not locked:
            tidy()
        run(CALLS)
        measure("run", n * BLOCK / peer.size, run, n, locked=locked and not memory)


def bulk_send_free(burst):
    bulk_send(burst, locked=False)


def bulk_send_timestamps(burst):
    bulk_send(burst, timestamps=True)


def pure_ack(burst):
    socket, stack = up(burst)
    s, peer = open_connection(socket, stack)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.every = 0
    block = bytes(1460)

    def run(n):
        for _ in range(n):
            stack.poll()

    for warm, n in (True, 1), (True, 1), (False, 1), (False, 2):  # times the frames of a ring
        first = peer.rcv
        for _ in range(8 * n):
            s.sendall(block)
            stack.poll()
        while peer.rcv - first < n * 8 * 1460:
            stack.poll()
        for i in range(8 * n):
            peer.acknowledge(first + (i + 1) * 1460)
        if warm:
            run(8 // burst)
        else:
            measure("run", 8 * n, run, 8 * n // burst, locked=not memory)
        assert not line.pending()


def request_reply(burst):
    socket, stack = up(burst)
    s, peer = open_connection(socket, stack)
    buffer = bytearray(64)
    left = 0

    def answered():
        nonlocal left
        left -= 1
        if left > 0:
            peer.send(24, 64)

    def prepare(n):
        nonlocal left
        left = n
        peer.send(24, 64)

    def run(n):
        for _ in range(n):
            s.recv_into(buffer)
            s.send(buffer)

    peer.on_text = answered
    twice(32, prepare, run)


def udp_receive(burst):
    socket, stack = up(burst)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9 * 1480)
    s.bind(("0.0.0.0", 5000))
    header = b"\x13\x88\x13\x88" + (8 + 1472).to_bytes(2, "big") + b"\0\0"
    buffer = bytearray(1472)
    left = 0

    def prepare(n):
        nonlocal left
        left = n

    def supply():
        nonlocal left
        while left and line.pending() < burst:
            line.datagram(header, 1472)
            left -= 1

    def run(n):
        for _ in range(n):
            s.recv_into(buffer)

    line.sources.append(supply)
    twice(8, prepare, run)


def echo(burst):
    """Echo requests of ping's usual size, 56 bytes, answered."""
    stack = up(burst)[1]

    def prepare(n):
        for i in range(n):
            line.echo(i, 56)

    def run(n):
        for _ in range(n // burst):
            stack.poll()

    line.echo(0, 56)
    while not line.echoes:
        stack.poll()
    twice(8, prepare, run, locked=False)
    assert not line.pending() and (flag or line.echoes == 1 + 8 + 8 + 8 + 16)


def udp_send(burst):
    from line import HOST

    socket, stack = up(burst)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = (HOST, 5000)
    block = bytes(1472)

    def run(n):
        for _ in range(n):
            s.sendto(block, address)

    s.sendto(block, address)
    stack.poll()
    twice(8, nothing, run)
    assert flag or line.datagrams == 1 + 8 + 8 + 8 + 16


def connect_close(burst):
    from line import HOST, Peer

    socket, stack = up(burst)
    Peer(line, 80)
    address = (HOST, 80)

    def run(n):
        for _ in range(n):
            s = socket.socket()
            s.connect(address)
            s.close()

    run(_WARM)
    twice(4, nothing, run, locked=False)


def accept_close(burst):
    from line import Peer

    socket, stack = up(burst)
    listener = socket.socket()
    listener.bind(("0.0.0.0", 80))
    listener.listen(1)
    peer = Peer(line, 40000)
    left = 0

    def following():
        nonlocal left
        if left:
            left -= 1
            peer.connect(peer.port + 1, 80)

    peer.on_end = following

    def prepare(n):
        nonlocal left
        left = n
        following()

    def run(n):
        for _ in range(n):
            s, _ = listener.accept()
            s.close()

    prepare(_WARM)
    run(_WARM)
    twice(4, prepare, run, locked=False)


def idle_poll(burst):
    stack = up(burst)[1]

    def run(n):
        for _ in range(n):
            stack.poll()

    twice(SEGMENTS, nothing, run)


def idle_poll_busy_peer(burst):
    """The same beside a far end that works for nothing: first hardly, then hard."""
    stack = up(burst)[1]
    work = 1

    def busy():
        for _ in range(work):
            pass

    def run(n):
        for _ in range(n):
            stack.poll()

    line.sources.append(busy)
    run(8)
    for work in 1, 2000:
        measure("run", 8, run, 8, locked=True)


def idle_poll_timers(burst):
    """The same every 10 ms, as the board's timer does it: every fifth also looks at the slow timers."""
    stack = up(burst)[1]

    def later():
        line.ns += 10_000_000

    def run(n):
        for _ in range(n):
            stack.poll()

    line.sources.append(later)
    twice(100, nothing, run)


def driver_call(burst):
    """What a call of the TAP driver into libc costs beside what libc does."""
    global line
    import line as module

    line = module.Line(burst)
    function = module.tap._read
    frame = memoryview(bytearray(1536))
    fd = 0

    def run(n):
        for _ in range(n):
            function(fd, frame, 1536)

    def empty(n):
        for _ in range(n):
            pass

    for which in run, empty:
        which(2)
        for n in 10, 20:
            measure(which.__name__, n, which, n)


def emac_driver(burst):
    """The calls that one poll of the stack makes of driver/emac.py, on registers that are a dict."""

    class machine:
        mem32 = {}

        @staticmethod
        def unique_id():
            return b"\x02\xba\x4e\x00\x00\x02"

    for first in 0x3FF00000, 0x3FF69000, 0x3FF6A000:
        for address in range(first, first + 0x100, 4):
            machine.mem32[address] = 0
    sys.modules["machine"] = machine
    from barenet.driver import emac
    from barenet.pool import Pool

    emac.package.borrow = lambda *_: None
    driver = emac.EMAC({"phy": {"address": 1}})
    driver.pool = Pool()
    driver.running = True
    refill = driver.refill
    transmit = driver.transmit

    def run(n):
        for _ in range(n):
            refill()
            transmit()

    def empty(n):
        for _ in range(n):
            pass

    for which in run, empty:
        for n in 16, 32:
            measure(which.__name__, n * burst, which, n)


def show_places(run):
    """Prints where the code of each function lies, and where mark() writes."""
    import uctypes

    def word(address):
        return int.from_bytes(uctypes.bytes_at(address, 8), "little")

    def code(function):
        # py/objfun.h: type, context, child table, code; py/objclosure.c: type, function.
        place = id(function)
        return word((word(place + 8) if str(type(function)) == "<class 'closure'>" else place) + 24)

    def is_function(thing):
        return str(type(thing)) in ("<class 'function'>", "<class 'generator'>", "<class 'closure'>")

    found = {"program": code(run)}
    for module_name, module in sys.modules.items():
        for name in dir(module):
            thing = getattr(module, name)
            if isinstance(thing, type):
                for method in dir(thing):
                    function = getattr(thing, method)
                    if is_function(function):
                        found["%s %s.%s" % (module_name, name, method)] = code(function)
            elif is_function(thing):
                found["%s %s" % (module_name, name)] = code(thing)
    with open("/proc/self/maps") as maps:
        print(json.dumps({"flag": addressof(flag), "functions": found, "maps": maps.read().splitlines()}))


def main(name, burst, mode):
    global memory, flag
    memory = mode == "memory"
    flag = bytearray(1) if mode == "trace" else None
    gc.collect()
    gc.disable()
    globals()[name](burst)
    print(json.dumps({"phases": phases}))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

"""A soft reset frees the heap while the MAC goes on writing into it.

What that does, and that boot.py's first line ends it.

The interpreter is killed and another one started, whose heap lies at the same addresses; the model of the MAC lives
through it, and a descriptor that the new heap has not overwritten is still there, as in RAM. So a frame for the old
program really lands in the new one's heap.
"""

import threading
import time

import pytest

from tests.unit.emac_board import PEER_MAC, PRELUDE, board

FRAME = b"\xff" * 6 + PEER_MAC + b"\x88\xb5" + b"\xee" * 1486
RING = 8

# The old program: up, and then busy or forgotten.
IDLE = """
from array import array
from uctypes import addressof
pool = Pool()
small = []
while True:  # until the ring lies behind the frames
    ring = array("I", [0] * (8 * pool.receive))
    if addressof(ring) > addressof(pool.frames[-1]): break
    small.append(ring)
pool.rx_ring = pool.objects[fast.O_RX_RING] = ring
lan, pool = up(pool)
print(addressof(ring))
line()
"""
RECEIVING = """
lan, pool = up()
print("up")
while True:
    lan.poll(now())
    while not fast.owned_by_dma(pool.rx_ring, pool.words[fast.C_RX_NEXT]):
        fast.release(pool.words, pool.objects)
    lan.refill()
"""

# The new program. `machine` is there before boot.py; boot.py's first lines are the guard, or not.
BEFORE_BOOT = "import sys, _chip\nsys.modules['machine'] = _chip\n"
GUARD = "from machine import mem32\nmem32[0x3FF000D0] |= 0x80\n"
STOPPED = (
    "mem32[0x3FF000D0]\nprint('up')\nsys.stdin.readline()\n"  # a read waits until the write before it has been done
)
PROGRAM = """
import gc, sys, uctypes
limit = %d
gc.collect()
blocks = []
block = bytes([0xA5]) * 1024
try:
    while not blocks or uctypes.addressof(blocks[-1]) < limit - 2048:
        blocks.append(bytearray(block))
except MemoryError:
    blocks[-1] = blocks[-2] = None
def damage():
    n = 0
    for b in blocks:
        if b is not None and b != block:
            n += sum(1 for x in b if x != 0xA5)
    return n
print("ready", len(blocks) > 20)
sys.stdin.readline()
print(damage())
"""


class Flood(threading.Thread):
    """Full receive load, from start() to stop()."""

    def __init__(self, b):
        super().__init__()
        self.b = b
        self.going = True

    def run(self):
        self.b.peer.setblocking(False)
        while self.going:
            try:
                self.b.peer.send(FRAME)
            except BlockingIOError:
                time.sleep(0.0005)

    def stop(self):
        self.going = False
        self.join()


EVERYWHERE = 0x40000000


def started(b, program, **options):
    process = b.start(program, **options)
    line = process.stdout.readline()
    assert line in ("up\n", "ready True\n"), line + process.stdout.read()
    return process


def idle(b):
    """Returns a program that is up and does nothing more, and where its receive ring lies."""
    process = b.start(IDLE)
    return process, int(process.stdout.readline())


def soft_reset(b, process):
    process.kill()
    process.communicate()


@pytest.mark.parametrize("guard", [False, True])
def test_frames_for_the_old_program_damage_the_new_one_unless_boot_stops_the_mac(guard):
    with board() as b:
        old, ring = idle(b)
        soft_reset(b, old)
        # The new program's objects take the place of the old frames; the descriptors behind them stay as they were.
        new = started(b, (GUARD if guard else "") + PROGRAM % ring, prelude=BEFORE_BOOT)
        for _ in range(20):
            b.peer.send(FRAME)
        time.sleep(0.2)
        damaged = int(new.communicate("\n", timeout=20)[0])
        if guard:
            assert damaged == 0 and b.chip.memory.written == 0
        else:
            assert 0 < damaged <= RING * 1536


@pytest.mark.parametrize("resumes_on_frame", [False, True])
def test_under_full_load_nothing_is_written_after_the_first_line(resumes_on_frame):
    with board(resumes_on_frame=resumes_on_frame) as b:
        old = started(b, RECEIVING)
        flood = Flood(b)
        flood.start()
        try:
            for _ in range(5):
                time.sleep(0.05)
                soft_reset(b, old)
                new = started(b, GUARD + STOPPED + PROGRAM % EVERYWHERE, prelude=BEFORE_BOOT)
                before_guard = b.chip.memory.written
                assert before_guard <= RING * 1540
                new.stdin.write("\n")
                new.stdin.flush()
                assert new.stdout.readline() == "ready True\n"
                time.sleep(0.1)
                assert new.communicate("\n", timeout=20)[0] == "0\n"
                assert b.chip.memory.written == before_guard
                old = started(b, RECEIVING)
        finally:
            flood.stop()
        assert b.chip.emac.frames_in > 0 and b.breaches() == []
        soft_reset(b, old)


def test_a_forgotten_mac_writes_at_most_its_ring():
    with board() as b:
        flood = Flood(b)
        old, ring = idle(b)
        soft_reset(b, old)
        new = started(b, PROGRAM % ring, prelude=BEFORE_BOOT)
        flood.start()
        time.sleep(0.2)
        flood.stop()
        assert int(new.communicate("\n", timeout=20)[0]) <= RING * 1536
        assert 0 < b.chip.memory.written <= RING * 1540


def test_the_constructor_stops_a_forgotten_mac():
    with board() as b:
        soft_reset(b, idle(b)[0])
        assert b.chip.emac.receiving
        b.run("EMAC(config)")
        assert not b.chip.emac.receiving and b.breaches() == []


def test_the_lan_comes_up_again_after_a_soft_reset_under_load():
    with board() as b:
        old = started(b, RECEIVING)
        flood = Flood(b)
        flood.start()
        try:
            soft_reset(b, old)
            before = b.chip.emac.frames_in
            old = started(b, GUARD + PRELUDE + RECEIVING, prelude=BEFORE_BOOT)
            assert b.wait(lambda: b.chip.emac.frames_in > before + 100)
        finally:
            flood.stop()
        soft_reset(b, old)
        assert b.breaches() == []

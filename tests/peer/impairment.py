"""A bad cable: loses, delays, duplicates, reorders and corrupts frames between a board and Linux, or between two Linux kernels.

Linux has netem for this, but not every kernel has netem. Here a cable ends in this relay in place of the Linux kernel, and the relay has
a second cable to the kernel. For a board, `board_cable` lets that second one take over the Linux side's address:

    board ── tap0 (no address) ── Relay ── far0 (10.77.0.1) ── Linux

For comparison, `kernel_cable` puts the board's address into a second namespace:

    Linux (10.77.0.2) ── near0 ── Relay ── far0 (10.77.0.1) ── Linux
"""

import heapq
import os
import random
import select
import threading
import time
from contextlib import contextmanager

from linux import BOARD, LINUX, Linux, Namespace

PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263
QUEUE = 4000  # frames on their way; with 200 ms of delay the most that a kernel has in flight here is some hundred
_BATCH = 64  # frames taken from one side before the other side and the queue have their turn


class Relay:
    """A cable with faults between two ends, for as long as the `with` block lasts; without faults until `set` is called.

    Args:
        near, far: descriptors, non-blocking, of which read(2) takes one Ethernet frame and write(2) sends one. `near` is the board's side.
            Whoever made them closes them.
        seed: of the faults. They fall the same way when the same frames come in the same order.

    Attributes:
        drop: called with each frame; True loses it. None until it is set, and again after `set`.
        watch: None, or an object with sent(frame, from_near, now), called with each frame that comes in, and delivered(frame, from_near, now),
            with each that goes out as it came in. Times are time.monotonic(), s.
        faults: how many frames met each fault; "overflow" counts what found the queue full.
        passed: how many frames have gone on.
        latest: the largest time by which a frame went out later than was due, s.
    """

    def __init__(self, near, far, seed=1):
        self._near, self._far = near, far
        self._random = random.Random(seed)
        self._queue = []
        self._count = 0
        self._stop = False
        self.watch = None
        self.set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def set(self, loss=0.0, delay=0.0, duplication=0.0, reordering=0.0, corruption=0.0, late=0.008, seed=None):
        """Sets the faults of both directions: probabilities of a frame, and times in s.

        delay: of each frame, one way. late: a reordered frame comes by up to this much later than its delay, so that others overtake it.
        Corruption flips one bit, which no checksum overlooks. All but the delay strike IPv4 only: ARP has no checksum, and is not the subject.
        seed: begins the faults anew.
        """
        if seed is not None:
            self._random = random.Random(seed)
        self._loss, self._delay, self._duplication = loss, delay, duplication
        self._reordering, self._corruption, self._late = reordering, corruption, late
        self.drop = None
        self.passed = 0
        self.latest = 0.0
        self.faults = {"lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0, "overflow": 0}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._stop = True
        self._thread.join(5)

    def _run(self):
        near, far, queue, clock = self._near, self._far, self._queue, time.monotonic
        others = {near: far, far: near}
        while not self._stop:
            wait = 0.1
            if queue:
                wait = min(wait, max(0, queue[0][0] - clock()))
            try:
                for fd in select.select([near, far], [], [], wait)[0]:
                    self._take(fd, others[fd])
                now = clock()
                while queue and queue[0][0] <= now:
                    due, _, to, frame, intact = heapq.heappop(queue)
                    self._give(to, frame, intact, now - due, now)
            except OSError:
                return  # an end and its namespace are gone

    def _take(self, fd, to):
        try:
            for _ in range(_BATCH):
                frame = os.read(fd, 2000)
                now = time.monotonic()
                if self.watch:
                    self.watch.sent(frame, fd == self._near, now)
                if self.drop and self.drop(frame):
                    self.faults["lost"] += 1
                elif frame[12:14] == b"\x08\x00":
                    for _ in range(1 + self._happens(self._duplication, "duplicated")):
                        self._impair(frame, to, now)
                else:
                    self._put(now + self._delay, to, frame, True)
        except BlockingIOError:
            pass

    def _happens(self, probability, fault):
        happens = self._random.random() < probability
        self.faults[fault] += happens
        return happens

    def _impair(self, frame, to, now):
        if self._happens(self._loss, "lost"):
            return
        corrupted = self._happens(self._corruption, "corrupted")
        if corrupted:
            frame = bytearray(frame)
            frame[self._random.randrange(len(frame))] ^= 1 << self._random.randrange(8)
        due = now + self._delay
        if self._happens(self._reordering, "reordered"):
            due += self._random.random() * self._late
        self._put(due, to, frame, not corrupted)

    def _put(self, due, to, frame, intact):
        if len(self._queue) >= QUEUE:
            self.faults["overflow"] += 1
            return
        self._count += 1  # keeps the order of frames that are due at the same time
        heapq.heappush(self._queue, (due, self._count, to, frame, intact))

    def _give(self, to, frame, intact, later, now):
        self.passed += 1
        self.latest = max(self.latest, later)
        try:
            os.write(to, frame)
        except BlockingIOError:
            self.faults["overflow"] += 1
            return
        if self.watch and intact:
            self.watch.delivered(frame, to == self._far, now)


@contextmanager
def board_cable(linux, seed=1):
    """Gives the Relay in the cable of the board that `linux` belongs to.

    Best entered before the board boots (VirtualBoard's `before`): Linux changes its MAC address.
    """
    linux.ip("address", "flush", "dev", "tap0")
    linux.ip("link", "set", "tap0", "arp", "off")  # the kernel is silent here
    far = linux.link("far0", f"{LINUX}/24")
    with linux.packets("tap0") as near:
        near.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        near.setblocking(False)
        try:
            with Relay(near.fileno(), far, seed) as relay:
                yield relay
        finally:
            os.close(far)


@contextmanager
def kernel_cable(seed=1):
    """Gives (Linux at the board's address, Linux at the usual one, the Relay between them)."""
    with Linux(Namespace()) as board, Linux(Namespace()) as linux:
        near, far = board.link("near0", f"{BOARD}/24"), linux.link("far0", f"{LINUX}/24")
        try:
            with Relay(near, far, seed) as relay:
                yield board, linux, relay
        finally:
            os.close(near)
            os.close(far)

"""A bad cable: loses, delays, duplicates, reorders and corrupts frames between the board and Linux.

Linux has netem for this, but not every kernel has netem. Here the board's cable ends in this relay in place of the Linux kernel, and the
relay has a second cable to the kernel, which takes over the Linux side's address:

    board ── tap0 (no address) ── Relay ── far0 (10.77.0.1) ── Linux
"""

import contextlib
import heapq
import os
import random
import select
import threading
import time

from linux import LINUX

PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263


class Relay:
    """The bad cable of the board that `linux` belongs to, for as long as the `with` block lasts; without faults until `set` is called.

    Attributes:
        drop: called with each frame; True loses it. None until it is set, and again after `set`.
        faults: how many frames met each fault.
        passed: how many frames have gone on.

    Best made before the board boots (VirtualBoard's `before`): Linux changes its MAC address.
    """

    def __init__(self, linux, seed=1):
        self._random = random.Random(seed)
        self._queue = []
        self._count = 0
        self._stop = False
        self.set()
        linux.ip("address", "flush", "dev", "tap0")
        linux.ip("link", "set", "tap0", "arp", "off")  # the kernel is silent here
        self._far = linux.link("far0", f"{LINUX}/24")
        self._near = linux.packets("tap0")
        self._near.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._near.setblocking(False)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def set(self, loss=0.0, delay=0.0, duplication=0.0, reordering=0.0, corruption=0.0):
        """Sets the faults: probabilities of a frame, and `delay` in seconds. What is reordered overtakes what is delayed."""
        self._loss, self._delay, self._duplication, self._reordering, self._corruption = (
            loss,
            delay,
            duplication,
            reordering,
            corruption,
        )
        self.drop = None
        self.passed = 0
        self.faults = {"lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._stop = True
        self._thread.join(5)
        self._near.close()
        os.close(self._far)

    def _run(self):
        near = self._near.fileno()
        while not self._stop:
            wait = 0.1
            if self._queue:
                wait = min(wait, max(0, self._queue[0][0] - time.monotonic()))
            for fd in select.select([near, self._far], [], [], wait)[0]:
                try:
                    for _ in range(64):
                        self._take(os.read(fd, 2000), self._far if fd == near else near)
                except BlockingIOError:
                    pass
                except OSError:
                    return  # the board and its namespace are gone
            while self._queue and self._queue[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(self._queue)
                self.passed += 1
                with contextlib.suppress(BlockingIOError):
                    os.write(to, frame)

    def _happens(self, probability, fault):
        happens = self._random.random() < probability
        self.faults[fault] += happens
        return happens

    def _take(self, frame, to):
        if self.drop and self.drop(frame):
            self.faults["lost"] += 1
            return
        for _ in range(1 + self._happens(self._duplication, "duplicated")):
            if self._happens(self._loss, "lost"):
                continue
            copy = bytearray(frame)
            if self._happens(self._corruption, "corrupted"):
                copy[self._random.randrange(len(copy))] ^= 1 << self._random.randrange(8)
            due = time.monotonic()
            if self._delay and not self._happens(self._reordering, "reordered"):
                due += self._delay
            self._count += 1
            heapq.heappush(self._queue, (due, self._count, to, bytes(copy)))

"""Two whole stacks in one interpreter, joined by a cable, in virtual time. Runs in MicroPython.

    pair = Pair()
    with pair.left:
        s = socket.socket()          # belongs to the left stack (10.0.0.1)
    s.connect((pair.right.ip, 80))   # waiting moves the clock and runs the right stack, too

Nothing sleeps: a stack that waits moves the common clock, and each step polls both stacks and calls every function in
`pair.tasks`, which are the programs on the other side. A task must not wait itself.
"""

import micropython
from barenet import fast, stack
from barenet.stack import Stack

MASK = b"\xff\xff\xff\x00"
ANY = b"\0\0\0\0"


@micropython.viper
def gather(ring, i: int, frame) -> int:
    """Puts what lies in the second buffer of a transmit descriptor behind the first one's; returns the frame's length."""
    d = ptr32(int(ptr32(ring)) + (i << 5))
    size = d[1] & 0x1FFF
    n = d[1] >> 16
    source = ptr8(d[3] | d[4] << 32)
    target = ptr8(int(ptr8(frame)) + size)
    for k in range(n):
        target[k] = source[k]
    return size + n


class Port:
    """A driver: one end of the cable. It does the DMA's work when it is polled, as driver/tap.py does."""

    def __init__(self, pair, number):
        self.pair = pair
        self.mac = bytes((2, 0, 0, 0, 0, number))
        self.pool = None
        self.other = None
        self.filters = set()
        self.woken = False  # a frame has arrived
        self.inbox = []  # (due, frame): on the cable, or waiting for a free descriptor
        self._fill = 0
        self._drain = 0

    def start(self, pool):
        pool.reset()
        self._fill = self._drain = 0
        self.pool = pool
        pool.words[fast.C_DMA] = pool.words[fast.C_GATHER] = 1

    def stop(self):
        self.pool = None

    def poll(self, now):
        pass

    def dma(self):
        while self.inbox and self.inbox[0][0] <= self.pair.time and self.pool is not None:
            frame = self.inbox[0][1]
            if not self.take(frame, len(frame)):
                return
            self.inbox.pop(0)

    def refill(self):
        pass

    def transmit(self):
        pool = self.pool
        ring = pool.tx_ring
        while fast.owned_by_dma(ring, self._drain):
            frame = pool.frames[pool.receive + self._drain]
            self.pair.carry(self.other, frame, gather(ring, self._drain, frame))
            ring[self._drain * 8] = 0
            self._drain = (self._drain + 1) % pool.transmit

    def wait(self, ms):
        self.pair.run(ms, self)

    def link(self):
        return self.pool is not None and self.pair.plugged

    def status(self):
        return {}

    def filter(self, multicast):
        self.filters = set(multicast)

    def take(self, frame, length):
        """Puts a frame into the receive ring; returns False when that is full."""
        if self.pool is None or not fast.owned_by_dma(self.pool.rx_ring, self._fill):
            return False
        fast.copy(self.pool.frames[self._fill], frame, length, 0, 0)
        self.pool.rx_ring[self._fill * 8] = (length + fast.FCS) << 16 | 0x0300
        self._fill = (self._fill + 1) % self.pool.receive
        self.woken = True
        return True


class Side:
    """One stack with its address; `with side:` makes it the running one, for socket() and getaddrinfo()."""

    def __init__(self, pair, number):
        self.ip = "10.0.0.%d" % number
        self.address = bytes((10, 0, 0, number))
        self.driver = Port(pair, number)
        self.stack = Stack(self.driver, clock=lambda: pair.time)
        self._before = None

    def up(self):
        self.stack.start()
        self.stack.configure(self.address, MASK, ANY, [])

    def down(self):
        self.stack.stop()

    def __enter__(self):
        self._before = stack._running
        stack._running = self.stack
        return self

    def __exit__(self, *exception):
        stack._running = self._before


class Pair:
    """Both sides, up and configured, and what happens between them.

    time: ms, not yet reduced to ticks. delay: ms a frame travels. plugged: False takes the cable out. log: set it to a
    list to collect (time, number of the receiving side, frame). lose(frame, length): set it to a function that returns
    True for a frame to be lost.
    """

    def __init__(self, time=1000):
        self.time = time
        self.delay = 0
        self.plugged = True
        self.log = None
        self.lose = None
        self.tasks = []
        self.left = Side(self, 1)
        self.right = Side(self, 2)
        self.left.driver.other = self.right.driver
        self.right.driver.other = self.left.driver
        self.left.up()
        self.right.up()
        self.poll()

    def carry(self, port, frame, length):
        """Takes a frame to `port`. Without delay and with room there, nothing is allocated."""
        if not self.plugged:
            return
        if self.log is not None:
            self.log.append((self.time, port.mac[5], bytes(frame[:length])))
        if self.lose is not None and self.lose(frame, length):
            return
        if self.delay == 0 and not port.inbox and port.take(frame, length):
            return
        port.inbox.append((self.time + self.delay, bytes(frame[:length])))

    def poll(self):
        """Runs both stacks and all tasks once."""
        self.left.stack.poll()
        self.right.stack.poll()
        for task in self.tasks:
            task()

    def run(self, ms, port=None):
        """Lets `ms` pass, less when a frame arrives at `port`."""
        end = self.time + ms
        if port is not None:
            port.woken = False
        self.poll()
        while self.time < end and (port is None or not port.woken):
            self.time += 1
            self.poll()

    def until(self, condition, ms=10000):
        """Lets time pass until condition() is true; fails after `ms`."""
        end = self.time + ms
        self.poll()
        while not condition():
            assert self.time < end, "nothing happened within %d ms" % ms
            self.run(1)

"""All layers of one interface, built and run: the only module that knows every one of them."""

import gc
import time

from barenet import fast
import barenet.fast_udp  # early: code in viper lies in the chip's executable RAM, which a growing heap takes away for good
from barenet import late, ticks
from barenet.arp import ARP
from barenet.errors import EAGAIN, ENETDOWN
from barenet.ethernet import Ethernet
from barenet.icmp import ICMP
from barenet.ip import ANY, IP, MTU
from barenet.pool import Pool
from barenet.tcp import TCP
from barenet.udp import UDP
from micropython import const

_LOAD_AGAIN_MS = const(1000)
_SLOW_MS = const(50)  # how often timers of a second or more are looked at

_running = None


def current():
    """Returns the running Stack. Raises OSError(ENETDOWN) when the LAN is not up."""
    if _running is None:
        raise OSError(ENETDOWN, "the LAN is down: bring it up with barenet.up()")
    return _running


class Stack:
    """The stack on one driver (see docs/architecture.md for what a driver is).

    receive, transmit: frames in each ring. hostname: sent by DHCP. clock(): milliseconds, any origin, wrapping at 2**30 or beyond; it may be
    replaced.
    on_link(up), on_poll(): callbacks for the layer above, None where it has none.

    Once it has started it has four functions more, all of them viper (fast.bind()):

    poll(): drains the rings, runs what is due and sends what may leave. Does nothing inside enter() … leave() or itself. An idle poll, and
    one that meets only segments of open connections, never comes to plain Python.
    enter(): begins a change of protocol state: until leave() a poll() from a timer does nothing. Returns the time, as now(). Raises
    OSError(EAGAIN) for a callback that interrupts such a change and wants to make another.
    leave(): ends what enter() began, and sends what was queued.
    flush(): hands queued transmit frames to the driver.
    """

    def __init__(self, driver, receive=8, transmit=4, hostname="barenet", clock=time.ticks_ms):
        gc.collect()  # the frames stay for good: better in the holes that importing has left than behind them
        self.driver = driver
        self.pool = Pool(receive, transmit, getattr(driver, "allocate", bytearray))
        self.words = self.pool.words
        self.objects = self.pool.objects
        self.link = Ethernet(self.pool, driver.mac)
        self.arp = ARP(self.link)
        self.link.filter = driver.filter
        self.ip = IP(self.link, self.arp)
        self.icmp = ICMP(self.ip)
        self.udp = UDP(self.ip)
        self.tcp = TCP(self.ip)
        self.ip.unreachable = self.udp.unreachable = self.icmp.unreachable
        self.arp.conflict = lambda *a: self.ip.part("acd").conflict(self, *a)
        self.link_local = False  # whether a link-local address replaces the lease while no server answers
        self.dns = []
        self._hostname = hostname
        self._resolver = None
        self._dhcp = None
        self._dhcp_state = None  # the client's attributes while it is unloaded
        self._dhcp_at = None  # when it must be loaded again
        self.observer = None
        self.link_up = False
        self.on_link = None
        self.errors = 0
        self.last_error = None
        self.on_poll = None  # called by poll() while C_ON_POLL is set
        objects = self.objects
        objects[fast.O_CLOCK] = clock
        objects[fast.O_DMA] = getattr(driver, "dma", None)
        objects[fast.O_TRANSMIT] = driver.transmit
        objects[fast.O_REFILL] = driver.refill

    @property
    def clock(self):
        return self.objects[fast.O_CLOCK]

    @clock.setter
    def clock(self, clock):
        self.objects[fast.O_CLOCK] = clock

    @property
    def resolver(self):
        """The resolver, which is loaded when it is asked for the first time."""
        if self._resolver is None:
            resolver = late.load("resolver").Resolver(self.udp)
            resolver.servers = self.dns
            self._resolver = resolver
        return self._resolver

    @property
    def dhcp(self):
        """The DHCP client. While a lease needs no attention only its attributes stay in memory; this loads the rest again."""
        words = self.words
        entered = words[fast.C_ENTERED]
        words[fast.C_ENTERED] = 1  # a poll() from a timer would load or unload it meanwhile
        try:
            client = self._dhcp
            if client is None:
                client = late.load("dhcp").Client(self.udp, self.driver.mac, self._hostname, self._configured)
                client.check = True
                if self._dhcp_state is not None:
                    client.restore(self._dhcp_state)
                    self._dhcp_state = None
                self._dhcp = client
        finally:
            words[fast.C_ENTERED] = entered
        return client

    def start(self):
        """Starts the driver and makes this the running stack. Raises OSError when the driver cannot start."""
        global _running
        self.poll, self.enter, self.leave, self.flush = fast.bind(self)
        self.link.flush = self.flush
        self.driver.start(self.pool)
        self.link_up = False
        words = self.words
        words[fast.C_NEXT_TIMER] = words[fast.C_SLOW_AT] = words[fast.C_DRIVER_AT] = self.now()
        if self.observer is not None:
            self.observe(self.observer)
        _running = self

    def stop(self):
        """Says good-bye (RST to open connections, DHCP release), then stops the driver. Safe to call twice."""
        global _running
        if _running is self:
            self.tcp.abort_all(self.now())
            self.stop_dhcp()
            self.flush()
            _running = None
        self.driver.stop()

    def stop_dhcp(self):
        """Gives the lease back and stops the DHCP client."""
        if self._dhcp is not None or self._dhcp_state is not None:
            self.dhcp.leave(self)

    def now(self):
        """Returns the time in ms modulo 2**30."""
        return self.objects[fast.O_CLOCK]() & 0x3FFFFFFF

    def busy(self):
        """Raises what enter() raises."""
        raise OSError(EAGAIN, "the stack is busy: a callback inside a socket call may not use sockets")

    def wait(self, ms):
        """Sleeps until a frame may be waiting, at most ms."""
        if not self.ip.looped:
            self.driver.wait(ms)

    def configure(self, address, netmask, gateway, dns, mtu=0):
        """Sets a fixed address (4 bytes each; dns: list of addresses; mtu of the network, if it is known). ANY takes the address away."""
        if self.ip.address != ANY and self.ip.address != address:
            self.tcp.abort_all(self.now())  # their packets would carry an address that is ours no longer
        self.ip.configure(address, netmask, gateway, mtu or MTU)
        self.dns = dns
        if self._resolver is not None:
            self._resolver.flush()
            self._resolver.servers = dns
        if address != ANY and self.link_up:
            self.arp.announce(self.now())

    def observe(self, observer):
        """Shows `observer` every frame and every change of a connection; None ends that.

        observer: received(frame, length, now), sent(frame, length, now), changed(step, connection, before), moved(connection, before, event).
        While somebody observes, each segment goes through plain Python.
        """
        late.load("observe").observe(self, observer)

    def counters(self):
        """Returns {layer: {name: number}}: traffic and drops by reason."""
        try:
            return late.load("counters").read(self)
        finally:
            late.drop("counters")

    def take(self, now, k):
        """Takes frame k - 1 of the receive ring, which is plain Python's to handle, and gives it back."""
        words = self.words
        try:
            words[fast.C_ENTERED] = 1
            frame = self.pool.frames[k - 1]
            if not words[fast.C_KNOWN] or not self.tcp.take(frame, now):
                length = fast.received_length(words, self.objects)
                if self.observer is not None:
                    self.observer.received(frame, length, now)
                self.link.input(frame, length, now)
        except Exception as e:
            self._count(e)
        finally:
            fast.release(words, self.objects)
            words[fast.C_ENTERED] = 0

    def run(self, now):
        """Runs what poll() leaves to plain Python."""
        words = self.words
        try:
            words[fast.C_ENTERED] = 1
            if (words[fast.C_DRIVER_AT] - now - 1 & 0x3FFFFFFF) >> fast.SOON:
                words[fast.C_DRIVER_AT] = ticks.add(now, _SLOW_MS)  # a driver that wants to look at another time says so there
                self.driver.poll(now)
            if words[fast.C_LOOPS]:
                looped = self.ip.looped
                for _ in range(len(looped)):
                    frame = looped.pop(0)
                    self.ip.input(memoryview(frame), len(frame), now, True)
                words[fast.C_LOOPS] = len(looped)
            self.tcp.poll(now)
            if (words[fast.C_SLOW_AT] - now - 1 & 0x3FFFFFFF) >> fast.SOON:
                words[fast.C_SLOW_AT] = ticks.add(now, _SLOW_MS)
                self.objects[fast.O_RING] = None
                self._slow(now)
        except Exception as e:
            self._count(e)
        finally:
            words[fast.C_ENTERED] = 0
        self.flush()

    def _count(self, e):
        # Most likely MemoryError: the heap is full, or locked by the program. The frame counts as lost, the peer repeats it.
        self.errors += 1
        self.last_error = e

    def _slow(self, now):
        up = self.driver.link()
        if up != self.link_up:
            self.link_up = up
            self.arp.flush()
            if self._dhcp is not None or self._dhcp_state is not None:
                self.dhcp.link_changed(up, now)
            if up and self.ip.address != ANY:
                self.arp.announce(now)
            if self.on_link is not None:
                self.on_link(up)
        self.arp.poll(now)
        if self._dhcp is not None or (self._dhcp_at is not None and ticks.reached(now, self._dhcp_at)):
            self._poll_dhcp(now)
        if self._resolver is not None:
            self._resolver.poll(now)
        if self.link_local and up and self._dhcp is not None and self._dhcp.state == "SELECTING":
            self.ip.part("link_local").start(self, now)
        for part in self.ip.late:
            part.poll(now)

    def _poll_dhcp(self, now):
        self._dhcp_at = ticks.add(now, _LOAD_AGAIN_MS)  # in case that there is no memory to load it
        self._dhcp_at = self.dhcp.poll(now)
        if self._dhcp.state in ("STOPPED", "BOUND"):
            self._dhcp_state = self._dhcp.save()
            self._dhcp = None
            late.drop("dhcp")

    def _configured(self, lease):
        if lease is None:
            self.configure(ANY, ANY, ANY, [])
        else:
            self.configure(lease.address, lease.netmask, lease.gateway, lease.dns, lease.mtu)

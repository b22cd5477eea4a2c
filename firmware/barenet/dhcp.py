"""DHCP client: our own address, and what comes with it (RFC 2131, options of RFC 2132).

    STOPPED ── start ─→ INIT ─ DISCOVER ─→ SELECTING ─ OFFER / REQUEST ─→ REQUESTING ─ ACK ─→ BOUND
                         ↑                                                                    │ T1
                         ├── NAK ── REBOOTING ←─ link up again, a lease in hand               ↓
                         └── NAK, lease over ── REBINDING ←───────── T2 ───────────────── RENEWING

An ACK leads from REBOOTING, RENEWING and REBINDING to BOUND, by way of CHECKING when the address is a new one: if another
host uses it, the client sends DECLINE and begins again after 10 s. Four REQUESTs without an answer lead from REQUESTING and
REBOOTING to INIT.

The client reads no clock and owns no socket: it is the owner of UDP port 68 while it runs, `poll(now)` does what is
due. Leases can be longer than ticks can tell apart, so the client counts whole seconds of its own.

Times: the first DISCOVER leaves at once (RFC 2131 section 4.4.1 would wait 1 to 10 s; a person is waiting) and is
repeated after 1, 2, 4 … 64 s, each ± a quarter, at most ± 1 s (section 4.1 starts at 4 s). A REQUEST to renew or rebind
is repeated after half of the time that is left to T2 or to the end of the lease, but not within 60 s (section 4.4.5).
"""

import os

from barenet import ticks
from barenet.errors import EADDRINUSE
from barenet.ip import ANY, LIMITED_BROADCAST
from micropython import const

_CLIENT_PORT = const(68)
_SERVER_PORT = const(67)

# Fields of the message, RFC 2131 section 2.
_XID = const(4)
_SECS = const(8)
_FLAGS = const(10)
_CIADDR = const(12)
_YIADDR = const(16)
_CHADDR = const(28)
_SNAME = const(44)
_FILE = const(108)
_COOKIE = const(236)
_OPTIONS = const(240)
_MIN = const(300)  # BOOTP's size (RFC 951); some servers and relays drop what is shorter

_MAGIC = b"\x63\x82\x53\x63"

_SUBNET_MASK = const(1)
_ROUTER = const(3)
_DNS = const(6)
_HOST_NAME = const(12)
_MTU = const(26)
_REQUESTED_ADDRESS = const(50)
_LEASE_TIME = const(51)
_OVERLOAD = const(52)
_MESSAGE_TYPE = const(53)
_SERVER = const(54)
_PARAMETERS = const(55)
_MAX_SIZE = const(57)
_T1 = const(58)
_T2 = const(59)
_CLIENT_ID = const(61)
_PAD = const(0)
_END = const(255)

_DISCOVER = const(1)
_OFFER = const(2)
_REQUEST = const(3)
_DECLINE = const(4)
_ACK = const(5)
_NAK = const(6)
_RELEASE = const(7)

_RELEASE_MS = const(300)
_TRIES = const(4)  # REQUESTs before we start again
_RENEW_WAIT = const(60)  # s
_DECLINE_WAIT = const(10_000)  # ms
_FOREVER = const(0x3FFFFFFF)  # s: 34 years, the most a small int holds
_LONGEST_SLEEP = const(86400)  # s: poll() runs at least once a day, so that no tick is missed


class Lease:
    """What a server granted.

    address, netmask, server: 4 bytes. gateway: 4 bytes, zero when there is none. dns: list of at most two addresses.
    mtu: bytes, or 0 when the server did not say. seconds: length of the lease; t1, t2: seconds until it is renewed, and
    until any server is asked.
    """

    def __init__(self, address, server):
        self.address = address
        self.server = server

    def settings(self):
        """Return all that the stack must be told."""
        return self.address, self.netmask, self.gateway, self.dns, self.mtu

    def read(self, options, random):
        """Fill in the rest from a dict of options; returns None, or the reason why this is no lease."""
        address = self.address
        self.seconds = seconds = _number(options, _LEASE_TIME, 4)
        if not seconds:
            return "lease time"
        self.netmask = mask = options.get(_SUBNET_MASK, b"")[:4]
        if not _is_netmask(mask):
            # The classes of RFC 791, as a server that sends no mask must have meant.
            mask = b"\xff\xff\xff\0" if address[0] >= 192 else b"\xff\xff\0\0" if address[0] >= 128 else b"\xff\0\0\0"
            self.netmask = mask
        if not _is_host(address) or not _is_host_of(address, mask):
            return "address"
        self.gateway = ANY
        for gateway in _addresses(options, _ROUTER):
            if _same_net(gateway, address, mask) and gateway != address:
                self.gateway = gateway
                break
        self.dns = _addresses(options, _DNS)[:2]
        mtu = _number(options, _MTU, 2)
        self.mtu = mtu if 576 <= mtu <= 1500 else 0
        self.t1 = _number(options, _T1, 4)
        self.t2 = _number(options, _T2, 4)
        if not 0 < self.t1 < self.t2 < seconds:
            # RFC 2131 section 4.4.5: 0.5 and 0.875 of the lease.
            self.t1 = max(1, seconds >> 1)
            self.t2 = seconds - (seconds >> 3)
        # Up to 1/32 earlier, so that boards which got power together do not ask together (same section).
        self.t1 -= (self.t1 >> 5) * random(1)[0] >> 8
        return None


class Client:
    """The client of one interface.

    udp: the UDP layer. mac: own MAC address, 6 bytes.
    hostname: sent as option 12, at most 63 bytes of it; "" sends none.
    configured(lease): called with the lease when an address, or something that came with it, is new, and with None when
    the address must no longer be used.
    random(n): returns n unpredictable bytes.
    `check`: whether a new address is probed for (acd.py) before it is used.

    `state` is one of the names in the picture above, `lease` the current Lease or None. `drops` counts the messages
    that were ignored. `tries` counts the messages that were sent since the last answer.
    """

    def __init__(self, udp, mac, hostname, configured, random=os.urandom):
        self.mac = mac
        self.hostname = hostname
        self.configured = configured
        self.state = "STOPPED"
        self.lease = None
        self.drops = {
            "short": 0,
            "port": 0,
            "op": 0,
            "hardware address": 0,
            "xid": 0,
            "cookie": 0,
            "options": 0,
            "type": 0,
            "unexpected": 0,
            "server": 0,
            "address": 0,
            "lease time": 0,
        }
        self.udp = udp
        self._random = random
        self.check = False
        self._xid = b""
        self._offer = None
        self.tries = 0
        self._failures = 0
        self.link_up = True
        # The client's clock: whole seconds, and the tick at which the last of them began.
        self._seconds = 0
        self._tick = 0
        self._began = 0
        self.asked = 0
        self._granted = 0
        self._retry_at = None  # a tick

    def start(self, now):
        """Begin to look for a server. Raises OSError(EADDRINUSE) when another program owns UDP port 68."""
        if self.state != "STOPPED":
            return
        if _CLIENT_PORT in self.udp.ports:
            raise OSError(EADDRINUSE, "UDP port 68 is in use: close its socket before starting DHCP")
        self.udp.ports[_CLIENT_PORT] = self
        self._tick = now
        self._init(now)

    def stop(self, now):
        """Give the address back to the server (RFC 2131 section 4.4.6) and stop. Safe to call twice."""
        if self.state == "STOPPED":
            return
        if self.state in ("BOUND", "RENEWING", "REBINDING"):
            self._xid = self._random(4)
            self._send(_RELEASE, now)
        self.forget()
        self.state = "STOPPED"
        del self.udp.ports[_CLIENT_PORT]

    def leave(self, stack):
        """Do as `stop`, but wait a little for the server's MAC address, which the farewell needs."""
        hop = None if self.lease is None else stack.ip.next_hop(self.lease.server)
        if hop is not None:
            end = ticks.add(stack.now(), _RELEASE_MS)
            while stack.link_up and stack.arp.lookup(hop, stack.now()) is None and not ticks.reached(stack.now(), end):
                stack.arp.ask(hop, stack.now())
                stack.flush()
                stack.wait(10)
                stack.poll()
        stack.dhcp.stop(stack.now())  # a poll may have put another client in our place

    def save(self):
        """Return what another client needs to go on in our place, without a reference to this module.

        The port stays taken, though nobody listens.
        """
        state = dict(self.__dict__)
        lease = state.pop("lease")
        if _CLIENT_PORT in self.udp.ports:
            self.udp.ports[_CLIENT_PORT] = None
        return state, lease and dict(lease.__dict__)

    def restore(self, saved):
        """Go on where the client stopped that `save` was called of."""
        state, lease = saved
        for name in state:
            setattr(self, name, state[name])
        if lease is not None:
            self.lease = Lease(None, None)
            for name in lease:
                setattr(self.lease, name, lease[name])
        if _CLIENT_PORT in self.udp.ports:
            self.udp.ports[_CLIENT_PORT] = self

    def link_changed(self, up, now):
        """Take note that the cable was connected (`up`) or pulled.

        When it is back, the old address is confirmed with the server, which may be another one (RFC 2131 section 3.2).
        """
        self.link_up = up
        if not up or self.state == "STOPPED":
            return
        self._advance(now)
        self._failures = 0
        if self.lease is None:
            self._init(now)
        else:
            self._acquire("REBOOTING", now)

    def checked(self, free, now):
        """Use the address that was looked at if it is `free`.

        If not, or when another host uses the address of the lease, too, tell the server and look for another after 10 s
        (RFC 2131 section 3.1.5).
        """
        if self.state != "CHECKING" and (free or self.lease is None):
            return
        if free:
            self.bind(self._offer)
            return
        self.state = "CHECKING"
        self._xid = self._random(4)
        self._send(_DECLINE, now)
        self.forget()
        self._init(now)
        self._retry_at = ticks.add(now, _DECLINE_WAIT)

    def poll(self, now):
        """Do what is due. Returns the tick at which `poll` must run again, or None when it need not."""
        if self.state == "STOPPED":
            return None
        self._advance(now)
        wait = None
        if self.lease is not None:
            wait = self._lease_timers(now)
        if not self.link_up:
            return None if wait is None else ticks.add(now, wait * 1000)
        if self._retry_at is not None:
            if ticks.reached(now, self._retry_at):
                self._retry(now)
            if self._retry_at is not None and (wait is None or ticks.diff(self._retry_at, now) < wait * 1000):
                return self._retry_at
        return None if wait is None else ticks.add(now, wait * 1000)

    def _advance(self, now):
        seconds = ticks.diff(now, self._tick) // 1000
        if seconds > 0:
            self._seconds += seconds
            self._tick = ticks.add(self._tick, seconds * 1000)

    def _lease_timers(self, now):
        # Returns the seconds until the next of T1, T2 and the end of the lease, or None once the lease is over or will
        # never be.
        lease = self.lease
        if lease.seconds == _FOREVER:
            return None
        age = self._seconds - self._granted
        if age >= lease.seconds:
            self.forget()
            self._init(now)
            return None
        if self.state == "REBOOTING" or not self.link_up:
            end = lease.seconds
        elif age >= lease.t2:
            end = lease.seconds
            if self.state != "REBINDING":
                self._acquire("REBINDING", now)
        elif age >= lease.t1:
            end = lease.t2
            if self.state != "RENEWING":
                self._acquire("RENEWING", now)
        else:
            end = lease.t1
        return min(end - age, _LONGEST_SLEEP)

    def _acquire(self, state, now):
        self.state = state
        self._xid = self._random(4)
        self.tries = 0
        self._began = self._seconds
        self._retry_at = now

    def _init(self, now):
        # From the second failure on each makes the next attempt wait longer, or a server that always says NAK would be
        # asked at wire speed.
        self._offer = None
        wait = self._backoff(self._failures - 2) if self._failures > 1 else 0
        self._acquire("INIT", now)
        self._retry_at = ticks.add(now, wait)

    def _fail(self, now):
        self._failures += 1
        self.forget()
        self._init(now)

    def forget(self):
        if self.lease is not None:
            self.lease = None
            self.configured(None)

    def _backoff(self, n):
        ms = 1000 << min(n, 6)
        spread = min(ms >> 2, 1000)
        return ms - spread + int.from_bytes(self._random(2), "big") % (2 * spread + 1)

    def _retry(self, now):
        state = self.state
        if state in ("REQUESTING", "REBOOTING") and self.tries >= _TRIES:
            self._fail(now)
            return
        if state == "INIT":
            self.state = "SELECTING"
        self.asked = self._seconds
        self._send(_DISCOVER if self.state == "SELECTING" else _REQUEST, now)
        if state in ("RENEWING", "REBINDING"):
            lease = self.lease
            left = (lease.t2 if state == "RENEWING" else lease.seconds) - (self._seconds - self._granted)
            self._retry_at = ticks.add(now, min(max(left >> 1, _RENEW_WAIT), _LONGEST_SLEEP) * 1000)
        else:
            self._retry_at = ticks.add(now, self._backoff(self.tries))
        self.tries += 1

    def _send(self, kind, now):
        # RFC 2131 table 5 says which message carries what.
        state = self.state
        message = bytearray(_OPTIONS)
        message[0:3] = b"\x01\x01\x06"  # BOOTREQUEST, Ethernet, its address length
        message[_XID : _XID + 4] = self._xid
        secs = 0 if kind in (_RELEASE, _DECLINE) else min(self._seconds - self._began, 0xFFFF)
        message[_SECS] = secs >> 8
        message[_SECS + 1] = secs & 255
        message[_CHADDR : _CHADDR + 6] = self.mac
        message[_COOKIE:] = _MAGIC
        source = ANY
        destination = LIMITED_BROADCAST
        if kind == _RELEASE or state in ("RENEWING", "REBINDING"):
            source = self.lease.address
            message[_CIADDR : _CIADDR + 4] = source
            if kind == _RELEASE or state == "RENEWING":
                destination = self.lease.server
        message += bytes((_MESSAGE_TYPE, 1, kind, _CLIENT_ID, 7, 1)) + self.mac
        if self.lease is None and self.udp.ip.address != ANY:
            message[_FLAGS] = 0x80  # a link-local address hears broadcasts alone
        if kind == _RELEASE:
            message += bytes((_SERVER, 4)) + self.lease.server
        elif kind == _DECLINE:
            wanted = self.lease or self._offer
            message += bytes((_REQUESTED_ADDRESS, 4)) + wanted.address + bytes((_SERVER, 4)) + wanted.server
        else:
            wanted = self._offer if state == "REQUESTING" else self.lease if state == "REBOOTING" else None
            if wanted is not None:
                message += bytes((_REQUESTED_ADDRESS, 4)) + wanted.address
            if state == "REQUESTING":
                message += bytes((_SERVER, 4)) + wanted.server
            message += bytes((_MAX_SIZE, 2, 1500 >> 8, 1500 & 255))
            message += bytes((_PARAMETERS, 8, _SUBNET_MASK, _ROUTER, _DNS, _MTU, _LEASE_TIME, _SERVER, _T1, _T2))
            name = self.hostname.encode()[:63]
            if name:
                message += bytes((_HOST_NAME, len(name))) + name
        message.append(_END)
        if len(message) < _MIN:
            message += bytes(_MIN - len(message))
        try:
            # Lost when the transmit ring is full or nobody knows the server: the next retransmission comes anyway.
            self.udp.send(_CLIENT_PORT, destination, _SERVER_PORT, message, now, source)
        except OSError:
            pass

    def receive(self, frame, start, end, source, port, destination, now):
        """Take a message of a server; see `udp.py`."""
        reason = self._message(frame, start, end, port, now)
        if reason:
            self.drops[reason] += 1

    def failed(self, code, destination, port, now):
        """Ignore that a message could not be delivered: it will be repeated."""

    def _message(self, frame, start, end, port, now):
        # Returns the reason why the message is ignored, or None.
        if port != _SERVER_PORT:
            return "port"
        if end - start < _OPTIONS:
            return "short"
        if frame[start] != 2:
            return "op"
        if frame[start + 1] != 1 or frame[start + 2] != 6 or frame[start + _CHADDR : start + _CHADDR + 6] != self.mac:
            return "hardware address"
        if frame[start + _XID : start + _XID + 4] != self._xid:
            return "xid"
        if frame[start + _COOKIE : start + _OPTIONS] != _MAGIC:
            return "cookie"
        options = _parse_options(frame, start, end)
        if options is None:
            return "options"
        kind = options.get(_MESSAGE_TYPE, b"")
        if len(kind) != 1 or kind[0] not in (_OFFER, _ACK, _NAK):
            return "type"
        kind = kind[0]
        state = self.state
        if kind == _OFFER:
            expected = state == "SELECTING"
        else:
            expected = state in ("REQUESTING", "REBOOTING", "RENEWING", "REBINDING")
        if not expected:
            return "unexpected"
        server = options.get(_SERVER, b"")
        if len(server) != 4 or not _is_host(server):
            return "server"
        chosen = self._offer if state == "REQUESTING" else self.lease if state == "RENEWING" else None
        if chosen is not None and server != chosen.server:
            return "server"
        self._advance(now)
        if kind == _NAK:
            self._fail(now)
            return None
        lease = Lease(bytes(frame[start + _YIADDR : start + _YIADDR + 4]), server)
        reason = lease.read(options, self._random)
        if reason:
            return reason
        if kind == _OFFER:
            began = self._began
            self._offer = lease
            xid = self._xid
            self._acquire("REQUESTING", now)
            # Same xid and secs as the DISCOVER (RFC 2131 section 4.4.1): a relay routes by them.
            self._xid = xid
            self._began = began
            self._retry(now)
        elif not self.check or (self.lease is not None and self.lease.address == lease.address):
            self.bind(lease)
        else:
            self.state = "CHECKING"
            self._offer = lease
            self._retry_at = None
            self.udp.ip.part("acd").claim(lease.address, self.checked, now)
        return None

    def bind(self, lease):
        # The lease runs from the REQUEST on (RFC 2131 section 4.4.1), not from the answer, so we never use it for too
        # long.
        old = self.lease
        self.state = "BOUND"
        self.lease = lease
        self._granted = self.asked
        self._offer = None
        self._failures = 0
        self._retry_at = None
        self._xid = b""
        if old is None or old.settings() != lease.settings():
            self.configured(lease)


def _parse_options(frame, start, end):
    # Returns a dict of all options, parts of one option joined (RFC 3396), or None when a length points outside of its
    # field.
    options = {}
    if not _parse_field(frame, start + _OPTIONS, end, options):
        return None
    overload = (options.get(_OVERLOAD) or b"\0")[0]
    if overload & 1 and not _parse_field(frame, start + _FILE, start + _COOKIE, options):
        return None
    if overload & 2 and not _parse_field(frame, start + _SNAME, start + _FILE, options):
        return None
    return options


def _parse_field(frame, at, end, options):
    while at < end:
        code = frame[at]
        at += 1
        if code == _PAD:
            continue
        if code == _END:
            break
        if at >= end:
            return False
        length = frame[at]
        at += 1
        if at + length > end:
            return False
        options[code] = options.get(code, b"") + bytes(frame[at : at + length])
        at += length
    return True


def _number(options, code, size):
    value = options.get(code, b"")
    return min(int.from_bytes(value, "big"), _FOREVER) if len(value) == size else 0


def _addresses(options, code):
    value = options.get(code, b"")
    return [value[i : i + 4] for i in range(0, len(value) - 3, 4) if _is_host(value[i : i + 4])]


def _is_host(address):
    return 0 < address[0] < 224 and address[0] != 127


def _is_netmask(mask):
    # Ones, then zeros, at least 8 of the first: ~mask + 1 is a power of two.
    if len(mask) != 4 or mask[0] != 255:
        return False
    rest = ~(mask[1] << 16 | mask[2] << 8 | mask[3]) & 0xFFFFFF
    return rest & (rest + 1) == 0


def _is_host_of(address, mask):
    # Neither the network's own address nor its broadcast address; a /31 and a /32 have neither (RFC 3021).
    if mask[3] >= 254:
        return True
    host = bytes(address[i] & ~mask[i] & 255 for i in range(4))
    return host != ANY and host != bytes(~mask[i] & 255 for i in range(4))


def _same_net(a, b, mask):
    for i in range(4):
        if (a[i] ^ b[i]) & mask[i]:
            return False
    return True

"""Stub resolver: names to IPv4 addresses by asking a DNS server (RFC 1034, RFC 1035, RFC 1123 section 6.1).

`query(name, now)` returns a `Query` at once; `poll(now)` repeats what was not answered; the query is done when `done`
is True. Every failure has the one number that `getaddrinfo` gives on an ESP32 with stock MicroPython, -202 (lwIP's
EAI_FAIL, there also for a name that does not exist), so that programs written for it work unchanged; `reason` says in
words what went wrong.

Each question has a random id and a random source port, and an answer counts only if it comes from port 53 of a server
that was asked, carries that id and repeats that question (RFC 5452 section 9.1). A name whose aliases (CNAME) end
outside of the answer is asked for again.
"""

import os

from barenet import ticks
from barenet.ip import ANY, parse_address
from micropython import const

EAI_FAIL = const(-202)

_PORT = const(53)
_HEADER = const(12)
_A = const(1)
_CNAME = const(5)
_IN = const(1)

_NAME_MAX = const(253)  # characters; RFC 1035 section 2.3.4 counts 255 with length bytes and root
_LABEL_MAX = const(63)
_ALIASES = const(8)  # CNAMEs followed, over all answers of one query
_ADDRESSES = const(8)  # kept of one answer
_RECORDS = const(32)  # looked at in one answer
_STEPS = const(144)  # labels and compression pointers followed in one name, of which 127 can be labels

_QUERIES = const(4)  # at a time
_CACHE = const(8)  # names
_TTL_MAX = const(3600)  # s

# Waits of the four tries, ms. Each try asks the next server, so that a second one is asked after one second.
_WAITS = (1000, 1000, 2000, 4000)

_LOCALHOST = b"\x7f\0\0\1"


class Query:
    """One name to resolve.

    name: as it was asked for. done: True when it is over. addresses: list of 4-byte addresses, empty on failure.
    error: 0, or -202 on failure. reason: on failure, what happened and what to do about it.
    """

    def __init__(self, resolver, name):
        self.name = name
        self.done = False
        self.addresses = []
        self.error = 0
        self.reason = ""
        self._resolver = resolver
        self._port = 0
        self._id = b""
        self._question = b""
        self._first = b""
        self._aliases = 0
        self._ttl = _TTL_MAX
        self._tries = 0
        self.asked = []
        self._refused = 0
        self._retry_at = 0

    def receive(self, frame, start, end, source, port, destination, now):
        """Take an answer; see `udp.py`."""
        reason = self._answer(frame, start, end, source, port, now)
        if reason:
            self._resolver.drops[reason] += 1

    def failed(self, code, destination, port, now):
        """Ask the next server at once when this one cannot be reached; see `udp.py`."""
        if port == _PORT and destination in self.asked:
            self._refuse("the DNS server does not answer DNS queries: check its address", now)

    def _ask(self, question, now):
        # Starts over with a new id and port for `question`, the wire form of a name followed by type and class.
        resolver = self._resolver
        resolver._close(self)
        self._question = question
        self._id = resolver._random(2)
        self._tries = self._refused = 0
        self.asked = []
        try:
            self._port = resolver.udp.free_port()
        except OSError as e:
            self._fail(e.args[1])
            return
        resolver.udp.ports[self._port] = self
        self._try(now)

    def _try(self, now):
        resolver = self._resolver
        servers = resolver.servers
        while self._tries < len(_WAITS) and servers:
            server = servers[self._tries % len(servers)]
            wait = _WAITS[self._tries]
            self._tries += 1
            try:
                # RD set, one question. Lost when the transmit ring is full: the next try comes anyway.
                message = self._id + b"\x01\0\0\x01\0\0\0\0\0\0" + self._question
                resolver.udp.send(self._port, server, _PORT, message, now)
            except OSError:
                continue
            if server not in self.asked:
                self.asked.append(server)
            self._retry_at = ticks.add(now, wait)
            return
        if self.asked:
            self._fail("no DNS server answered: check the cable, and the DNS address in ifconfig()")
        else:
            self._fail("no DNS server can be reached: set one with ifconfig() or use DHCP")

    def _refuse(self, reason, now):
        # A server said that it cannot help. Another may; when all have said so there is nothing to wait for.
        self._refused += 1
        if self._refused >= len(self._resolver.servers):
            self._fail(reason)
        else:
            self._try(now)

    def _fail(self, reason):
        self.error = EAI_FAIL
        self.reason = reason
        self._finish()

    def _finish(self):
        self.done = True
        self._resolver._close(self)

    def _answer(self, frame, start, end, source, port, now):
        # Returns the reason why the message is dropped, or None.
        if source not in self.asked:
            return "server"
        if port != _PORT:
            return "port"
        if end - start < _HEADER:
            return "short"
        message = frame[start:end]
        if message[:2] != self._id:
            return "id"
        flags = message[2]
        # QR set, opcode 0.
        if flags & 0xF8 != 0x80:
            return "header"
        question = self._question
        at = _HEADER + len(question)
        # Lower case is what we sent; the server may answer with any (RFC 4343). The lengths of the labels cannot be
        # taken for letters.
        if message[4:6] != b"\0\x01" or len(message) < at or bytes(message[_HEADER:at]).lower() != question:
            return "question"
        code = message[3] & 15
        if code == 3:
            self._fail("there is no such name: check its spelling")
            return None
        if code:
            self._refuse("the DNS server failed (response code {}): try again later".format(code), now)
            return None
        records = _parse_answers(message, at, message[6] << 8 | message[7])
        if records is None:
            return "format"
        found, name = self._follow(records, question[:-4])
        if found:
            self.addresses = found
            self._resolver._remember(self._first, found, self._ttl, now)
            self._finish()
        elif self._aliases > _ALIASES:
            self._fail("its aliases (CNAME) never end: tell the owner of the name")
        elif flags & 2:
            self._fail("the DNS answer was cut off, and this resolver does not ask again by TCP: use another server")
        elif name != question[:-4]:
            self._ask(name + question[-4:], now)
        elif not message[3] & 0x80:
            # Nothing, and recursion is not available: a server that only refers to others.
            self._refuse("the DNS server does not look names up for others: use another server", now)
        else:
            self._fail("the name has no IPv4 address: it may have an IPv6 one, which this stack does not speak")
        return None

    def _follow(self, records, name):
        # Follows the aliases from `name`; returns the addresses found and the name where the chain ended.
        while self._aliases <= _ALIASES:
            found = []
            target = None
            for owner, kind, ttl, value in records:
                if owner == name:
                    if kind == _CNAME:
                        target = value
                    elif value not in found and len(found) < _ADDRESSES:
                        found.append(value)
                    else:
                        continue
                    self._ttl = min(self._ttl, ttl)
            if found or target is None:
                return found, name
            name = target
            self._aliases += 1
        return None, name


class Resolver:
    """The resolver on the UDP layer `udp`. `random(n)` returns n unpredictable bytes.

    servers: list of DNS server addresses, asked in turn; may be replaced at any time. `drops` counts ignored answers by
    reason.
    """

    def __init__(self, udp, random=os.urandom):
        self.servers = []
        self.drops = {"server": 0, "port": 0, "short": 0, "id": 0, "header": 0, "question": 0, "format": 0}
        self.udp = udp
        self._random = random
        self._queries = []
        self._cache = {}  # wire form of a name → (addresses, tick at which they expire)

    def query(self, name, now):
        """Start to resolve `name` (str) and return its `Query`, which is done already if no server had to be asked.

        That is so for dotted quads, "" (any address, 0.0.0.0), "localhost", names in the cache and names that cannot
        exist.
        """
        query = Query(self, name)
        address = ANY if name == "" else _LOCALHOST if name.lower().rstrip(".") == "localhost" else parse_address(name)
        if address is not None:
            query.addresses = [address]
            query.done = True
            return query
        try:
            wire = encode_name(name)
        except ValueError as e:
            query._fail(e.args[0])
            return query
        self._forget_expired(now)
        if wire in self._cache:
            query.addresses = list(self._cache[wire][0])
            query.done = True
        elif len(self._queries) >= _QUERIES:
            query._fail("too many names are being looked up at the same time: try again later")
        else:
            self._queries.append(query)
            query._first = wire
            query._ask(wire + b"\0\x01\0\x01", now)
        return query

    def cancel(self, query):
        """Stop working on a query that its caller no longer waits for. Safe to call when it is done."""
        if not query.done:
            query._fail("the look-up was given up")

    def poll(self, now):
        """Repeat unanswered questions. Returns the tick at which `poll` must run again, or None when nothing waits."""
        self._forget_expired(now)
        soonest = None
        for i in range(len(self._queries) - 1, -1, -1):
            query = self._queries[i]
            if ticks.reached(now, query._retry_at):
                query._try(now)
            if not query.done:
                soonest = _sooner(soonest, query._retry_at)
        for name in self._cache:
            soonest = _sooner(soonest, self._cache[name][1])
        return soonest

    def flush(self):
        """Forget all cached names (the network may be another one)."""
        self._cache.clear()

    def _close(self, query):
        if query._port:
            del self.udp.ports[query._port]
            query._port = 0
        if query.done and query in self._queries:
            self._queries.remove(query)

    def _remember(self, wire, addresses, ttl, now):
        if ttl <= 0:
            return
        cache = self._cache
        if len(cache) >= _CACHE and wire not in cache:
            first = None
            for name in cache:
                if first is None or ticks.diff(cache[name][1], cache[first][1]) < 0:
                    first = name
            del cache[first]
        cache[wire] = (addresses, ticks.add(now, ttl * 1000))

    def _forget_expired(self, now):
        # Written so that it allocates nothing: it runs while the heap may be locked.
        cache = self._cache
        expired = b""
        while expired is not None:
            cache.pop(expired, None)
            expired = None
            for name in cache:
                if ticks.reached(now, cache[name][1]):
                    expired = name


def encode_name(name):
    """Return the wire form of a name in lower case: each label after its length, then a zero (RFC 1035 section 3.1).

    Raises ValueError with a text that says what is wrong with it.
    """
    if name.endswith("."):
        name = name[:-1]
    if not 0 < len(name) <= _NAME_MAX:
        raise ValueError("a host name has 1 to 253 characters")
    wire = b""
    for label in name.lower().split("."):
        if not 0 < len(label) <= _LABEL_MAX:
            raise ValueError("each part of a host name has 1 to 63 characters")
        for c in label:
            if not "!" <= c <= "~":
                raise ValueError("a host name is printable ASCII: write an international name in its xn-- form")
        wire += bytes((len(label),)) + label.encode()
    if label.isdigit():
        raise ValueError("neither a host name nor an IPv4 address of four numbers up to 255")
    return wire + b"\0"


def _sooner(a, b):
    return b if a is None or ticks.diff(b, a) < 0 else a


def _parse_answers(message, at, count):
    # Returns a list of (owner, type, ttl, value) of the A and CNAME records, or None when the message is malformed.
    records = []
    end = len(message)
    for _ in range(min(count, _RECORDS)):
        owner, at = _parse_name(message, at)
        if owner is None or at + 10 > end:
            return None
        kind = message[at] << 8 | message[at + 1]
        internet = message[at + 2] << 8 | message[at + 3] == _IN
        # A TTL above an hour is an hour; one with the top bit set counts as zero (RFC 2181 section 8).
        ttl = message[at + 6] << 8 | message[at + 7]
        if message[at + 4] & 0x80:
            ttl = 0
        elif message[at + 4] or message[at + 5] or ttl > _TTL_MAX:
            ttl = _TTL_MAX
        length = message[at + 8] << 8 | message[at + 9]
        at += 10
        stop = at + length
        if stop > end:
            return None
        if internet and kind == _A:
            if length != 4:
                return None
            records.append((owner, kind, ttl, bytes(message[at:stop])))
        elif internet and kind == _CNAME:
            value, after = _parse_name(message, at)
            if value is None or after != stop:
                return None
            records.append((owner, kind, ttl, value))
        at = stop
    return records


def _parse_name(message, at):
    # Returns the wire form of the name at `at`, in lower case and without compression, and the offset after it; or
    # (None, at).
    name = b""
    after = 0
    limit = len(message)
    for _ in range(_STEPS):
        if at >= limit:
            break
        length = message[at]
        if length == 0:
            return name + b"\0", after or at + 1
        if length < 64:
            if at + 1 + length > limit or len(name) + 1 + length > 254:
                break
            name += bytes(message[at : at + 1 + length]).lower()
            at += 1 + length
        elif length >= 0xC0 and at + 1 < limit:
            # What a pointer leads to must lie wholly before it, so no chain of them can loop (RFC 1035 section 4.1.4).
            limit = at
            at = (length & 0x3F) << 8 | message[at + 1]
            after = after or limit + 2
            if at < _HEADER:
                break
        else:
            break
    return None, after

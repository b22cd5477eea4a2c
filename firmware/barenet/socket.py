"""The Socket library: MicroPython's `socket` module on top of this stack.

It has the surface and the behaviour of the module on an ESP32 with stock MicroPython, and what CPython adds where
programmers expect it (shutdown, getsockname, getpeername, getsockopt, recv_into, SO_LINGER, keep-alive …). Where the
two contradict each other MicroPython wins.

What waits, waits by running the stack: it polls until its condition is true, its timeout has passed or Ctrl-C comes. A
timeout counts from the last byte that moved. What does not wait says so as the stock module does: the stream methods
(read, readinto, readline, write) return None, the others raise OSError(EAGAIN). After a timeout all raise
OSError(ETIMEDOUT). Reading and writing into buffers allocates nothing.

The methods that move data are short, and what they seldom need is a method of its own: a call whose locals and stack take
more than 11 words gets them from the heap, which on the chip costs as much as the segment that it moves.
"""

import io

from barenet import fast, late, ticks
from barenet.errors import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EBADF,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENOBUFS,
    ENOTCONN,
    EOPNOTSUPP,
    EPIPE,
    EPROTONOSUPPORT,
    ETIMEDOUT,
)
from barenet.fast import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from barenet.fast import push as _stream
from barenet.fast import take as _take
from barenet.fast_udp import push as _push
from barenet.fast_udp import receive as _receive
from barenet.ip import ANY, parse_address
from barenet.lan import text
from barenet.stack import current
from barenet.tcp import BUFFER
from micropython import const

# The numbers are lwIP's, which stock firmware shows.
AF_INET = const(2)
AF_INET6 = const(10)
SOCK_STREAM = const(1)
SOCK_DGRAM = const(2)
SOCK_RAW = const(3)
IPPROTO_IP = const(0)
IPPROTO_TCP = const(6)
IPPROTO_UDP = const(17)
SOL_SOCKET = const(0xFFF)
SO_REUSEADDR = const(0x4)
SO_KEEPALIVE = const(0x8)
SO_BROADCAST = const(0x20)
SO_LINGER = const(0x80)
SO_SNDBUF = const(0x1001)
SO_RCVBUF = const(0x1002)
SO_SNDTIMEO = const(0x1005)
SO_RCVTIMEO = const(0x1006)
SO_ERROR = const(0x1007)
SO_BINDTODEVICE = const(0x100B)
IP_TOS = const(1)
IP_TTL = const(2)
IP_ADD_MEMBERSHIP = const(3)
IP_DROP_MEMBERSHIP = const(4)
IP_MULTICAST_TTL = const(5)
IP_RECVOPTS = const(6)  # Linux's number, as IP_PKTINFO's, which is lwIP's, too
IP_MULTICAST_LOOP = const(7)
IP_PKTINFO = const(8)
IP_OPTIONS = const(9)  # Linux has 4, which is IP_DROP_MEMBERSHIP here
TCP_NODELAY = const(1)
TCP_KEEPIDLE = const(3)
TCP_KEEPINTVL = const(4)
TCP_KEEPCNT = const(5)
TCP_USER_TIMEOUT = const(18)  # Linux's number: lwIP has none
MSG_PEEK = const(1)
MSG_TRUNC = const(4)
MSG_DONTWAIT = const(8)
MSG_CTRUNC = const(8)  # a flag that recvmsg() gives, not one that it takes
SHUT_RD = const(0)
SHUT_WR = const(1)
SHUT_RDWR = const(2)

# MicroPython's stream protocol (py/stream.h).
_FLUSH = const(1)
_POLL = const(3)
_CLOSE = const(4)
_RD = const(0x01)
_WR = const(0x04)
_ERR = const(0x08)
_HUP = const(0x10)
_NVAL = const(0x20)

_BACKLOG = const(2)  # each connection that waits has its memory already
_POLLS = const(4)  # while sendall() or write() hands over data that has no room yet: Ctrl-C must get a turn
_NAP = const(20)  # ms between looks: timers run in between, arriving frames end it early
_LONGEST = const(0x1FFFFFFF)  # ms, what ticks can compare
_RESOLVE = const(30_000)  # ms; the resolver's own tries end well before that
_RING_FULL = const(5_000)  # ms that a datagram waits for a free transmit descriptor when the socket has no timeout
_LINE = const(128)
_PROTOCOLS = {SOCK_STREAM: IPPROTO_TCP, SOCK_DGRAM: IPPROTO_UDP}
_len = len  # found among the module's own names: 1,700 instructions less, for the interpreter searches the built-in ones one by one
_REUSE = const(SOL_SOCKET << 16 | SO_REUSEADDR)
_LINGER = const(SOL_SOCKET << 16 | SO_LINGER)
_PEER = object()  # what sendto() calls the peer of connect()
_PAIR = (tuple, list)
_BUFFERS = (bytes, bytearray, memoryview)

_open = []  # by descriptor, the socket; None where it is free
_address = _remote = ()  # the (host, port) that was looked at last, its host a dotted quad, and as (4 bytes, port): a program has few peers


def _opened(connection):
    state = connection.tcb[fast.STATE]
    return state != SYN_SENT and state != SYN_RECEIVED


def _readable(connection):
    return connection.readable() > 0 or connection.at_end()


def _writable(connection):
    # A connection that takes no more data does not make anybody wait: the write fails at once.
    return connection.writable() > 0 or (_opened(connection) and _write_closed(connection))


def _write_closed(connection):
    state = connection.state
    return (state != ESTABLISHED and state != CLOSE_WAIT) or connection.tcb[fast.FLAGS] & fast.FLAG_FIN != 0


def _received(endpoint):
    return endpoint.readable()


def _done(query):
    return query.done


def _late(timeout):
    if timeout == 0:
        raise OSError(EAGAIN)
    raise OSError(ETIMEDOUT)


def _data(data):
    # Everything with a buffer can be sent. len() of what is neither of these does not count bytes.
    if type(data) in _BUFFERS:
        return data
    if isinstance(data, str):
        return data.encode()
    return bytes(memoryview(data))


def _room(buffer, n):
    # Returns how many bytes may go into `buffer`: the fast path checks nothing, so a read-only one must raise its
    # TypeError here.
    size = len(buffer)
    if size:
        buffer[0] = buffer[0]
    return size if n < 0 or n > size else n


def _until(stack, ready, what, timeout):
    # Runs the stack until ready(what), at most `timeout` ms (negative: no limit); returns whether it is.
    if ready(what):
        return True
    stack.poll()
    if ready(what):
        return True
    if timeout == 0:
        return False
    # Inside an interrupted socket call nothing would ever come: enter() refuses.
    stack.enter()
    stack.leave()
    end = ticks.add(stack.now(), timeout) if timeout > 0 else 0
    nap = _NAP
    while True:
        if timeout > 0:
            nap = ticks.diff(end, stack.now())
            if nap <= 0:
                return False
        stack.wait(nap if nap < _NAP else _NAP)
        stack.poll()
        if ready(what):
            return True
        current()  # raises when the LAN was taken down meanwhile


def _addresses(stack, host):
    # Returns the addresses of a host name.
    if not isinstance(host, str):
        raise TypeError("a host is a string")
    packed = ANY if host == "" else parse_address(host)
    if packed is not None:
        return [packed]
    stack.enter()
    try:
        query = stack.resolver.query(host, stack.now())
    finally:
        stack.leave()
    try:
        _until(stack, _done, query, _RESOLVE)
    finally:
        if not query.done:
            stack.enter()
            try:
                stack.resolver.cancel(query)
            finally:
                stack.leave()
    if query.error:
        raise OSError(query.error, query.reason)
    return query.addresses


def _resolve(stack, address):
    # Returns (4 bytes, port) of a program's (host, port).
    global _address, _remote
    if not isinstance(address, _PAIR) or len(address) < 2:
        raise TypeError("an address is a tuple (host, port)")
    port = address[1]
    if not 0 <= port <= 65535:
        raise OSError(EINVAL, "a port lies between 0 and 65535")
    packed = _addresses(stack, address[0])[0]
    if text(packed) == address[0]:
        _remote = _remote[0] if _remote and _remote[0] == packed else packed, port
        _address = tuple(address)
        return _remote
    return packed, port


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    """Returns a list of (af, type, proto, "", (address, port)), one for each address of `host`.

    host: name or dotted quad; "" and None are any address. port: number or its digits. type 0 is SOCK_STREAM.
    Waits for the resolver, at most 30 s. Raises OSError(-202) with the reason when the name cannot be resolved.
    """
    if af not in (0, AF_INET):
        raise OSError(EAFNOSUPPORT, "this stack speaks IPv4 only")
    try:
        port = int(port or 0)
    except ValueError:
        raise OSError(EINVAL, "a port is a number: names of services are not known")
    type = type or SOCK_STREAM
    proto = proto or _PROTOCOLS.get(type, 0)
    return [(AF_INET, type, proto, "", (text(a), port)) for a in _addresses(current(), host or "")]


def inet_pton(af, address):
    """Returns the 4 bytes of a dotted quad. Raises OSError: EAFNOSUPPORT for AF_INET6, EINVAL for other text."""
    _only_inet(af)
    packed = parse_address(address)
    if packed is None:
        raise OSError(EINVAL, "not an IPv4 address: %s" % address)
    return packed


def inet_ntop(af, packed):
    """Returns 4 bytes as a dotted quad. Raises OSError: EAFNOSUPPORT for AF_INET6, EINVAL for another length."""
    _only_inet(af)
    if len(packed) != 4:
        raise OSError(EINVAL, "an IPv4 address has 4 bytes")
    return text(packed)


def _only_inet(af):
    if af != AF_INET:
        raise OSError(EAFNOSUPPORT, "this stack speaks IPv4 only")


def _check_kind(af, type, proto):
    if not (isinstance(af, int) and isinstance(type, int) and isinstance(proto, int)):
        raise TypeError("socket(af, type, proto) takes ints")
    _only_inet(af)
    if type not in _PROTOCOLS or proto not in (0, _PROTOCOLS[type]):
        raise OSError(EPROTONOSUPPORT, "there are SOCK_STREAM (TCP) and SOCK_DGRAM (UDP) sockets only")


class socket(io.IOBase):
    """One end of a communication, with the methods of MicroPython's socket objects.

    af: AF_INET. type: SOCK_STREAM or SOCK_DGRAM. proto: 0, or the one that belongs to the type.
    Raises OSError: ENETDOWN before the LAN is up, EAFNOSUPPORT, EPROTONOSUPPORT.
    A socket is freed by close() alone: MicroPython tells no Python object that it is garbage.
    """

    # Defaults stand in the class: a socket has only the attributes that it sets itself.
    _options = {}  # replaced, never changed: sockets share it
    _groups = ()
    _listener = _endpoint = None
    _local = (ANY, 0)
    _target = _target_address = None
    _receive_ms = _send_ms = -1
    _read_closed = False
    _callback = None
    _called = False

    def __init__(self, af=AF_INET, type=SOCK_STREAM, proto=0, _connection=None):
        if af != AF_INET or type != SOCK_STREAM or proto:
            _check_kind(af, type, proto)
        stack = self._stack = current()
        if type == SOCK_DGRAM:
            self._endpoint = stack.udp.endpoint()
        elif _connection is None:
            _connection = stack.tcp.create()
        self._connection = _connection
        if None in _open:
            self._descriptor = _open.index(None)
            _open[self._descriptor] = self
        else:
            self._descriptor = len(_open)
            _open.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    # Opening and closing.

    def bind(self, address):
        """Sets the local (host, port); port 0 picks a free one, host "" or "0.0.0.0" is any.

        Raises OSError: EADDRINUSE, EADDRNOTAVAIL for an address that is not ours, EINVAL when bound already.
        """
        self._check()
        host, port = _resolve(self._stack, address)
        stack = self._stack
        stack.enter()
        try:
            if self._endpoint is not None:
                self._endpoint.bind(host, port)
                return
            if self._local[1] or self._connection.remote is not None:
                raise OSError(EINVAL, "this socket has a local port already")
            if host != ANY and host[0] != 127 and host != stack.ip.address:
                raise OSError(EADDRNOTAVAIL, "%s is not an address of this board: bind to '0.0.0.0'" % text(host))
            if port == 0:
                port = late.load("tcp.connection").free_port(stack.tcp, ANY, (ANY, 0))
            elif port in stack.tcp.listeners:
                raise OSError(EADDRINUSE, "TCP port %d is in use: close its socket or choose another" % port)
            self._local = (host, port)
        finally:
            stack.leave()

    def listen(self, backlog=_BACKLOG):
        """Opens the port for others; without bind() it is a free one.

        backlog: connections that may wait for accept(), at least 1; each holds memory. Raises OSError: EADDRINUSE,
        EISCONN, EOPNOTSUPP for UDP.
        """
        self._check()
        if self._endpoint is not None:
            raise OSError(EOPNOTSUPP, "a UDP socket has no connections: use recvfrom()")
        if self._listener is not None:
            self._listener.backlog = max(1, backlog)
            return
        if self._connection.remote is not None:
            raise OSError(EISCONN)
        host, port = self._local
        stack = self._stack
        stack.enter()
        try:
            self._listener = stack.tcp.listen(port, backlog, host, self._size(SO_RCVBUF), self._size(SO_SNDBUF))
            self._local = (host, self._listener.port)
        finally:
            stack.leave()

    def accept(self):
        """Returns (socket, (host, port)) of the next connection from a peer; the socket is a blocking one.

        Raises OSError: EAGAIN or ETIMEDOUT when there is none, EINVAL before listen().
        """
        self._check()
        listener = self._listener
        if listener is None:
            raise OSError(EINVAL, "listen() first")
        while True:
            if not self._wait(type(listener).next, listener, self._receive_ms):
                _late(self._receive_ms)
            connection = self._accept(listener)
            if connection is not None:  # a callback may have been faster
                return connection

    def _accept(self, listener):
        stack = self._stack
        stack.enter()
        try:
            connection = listener.next()
            if connection is None:
                return None
            accepted = socket(AF_INET, SOCK_STREAM, 0, connection)
            accepted._stack = stack
            peer = listener.accept(connection)
            if self._options:
                accepted._options = self._options
                accepted._configure()
            return accepted, peer
        finally:
            stack.leave()

    def connect(self, address):
        """Connects to (host, port); a host name is resolved first, which waits even on a non-blocking socket.

        TCP: returns when the handshake is done. Raises OSError: EINPROGRESS at once on a non-blocking socket (poll for
        writability, then look at SO_ERROR), EALREADY while that goes on, EISCONN, ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT
        (after a timeout the attempt goes on until the socket is closed), EADDRINUSE. UDP: fixes the peer.
        """
        if self._descriptor < 0:
            self._check()
        stack = self._stack
        remote = _remote if address == _address else _resolve(stack, address)
        connection = self._connection
        if connection is None:
            self._connect_endpoint(*remote)
            return
        if remote[1] == 0:
            raise OSError(EINVAL, "a port lies between 1 and 65535")
        if connection.remote is not None or self._listener is not None:
            connection = late.load("options").reconnect(self)
        now = stack.enter()
        try:
            if self._options:
                self._configure()
            connection.connect(remote, now, self._local[1])
        except OSError:
            self._create()
            raise
        finally:
            stack.leave()
        if self._send_ms == 0:
            raise OSError(EINPROGRESS)
        stack.poll()
        if connection.tcb[fast.STATE] != ESTABLISHED or self._descriptor < 0:
            if not self._wait(_opened, connection, self._send_ms):
                raise OSError(ETIMEDOUT, "no answer yet")
            self._raise_error(connection)

    def shutdown(self, how):
        """Ends one direction or, with SHUT_RDWR, both.

        SHUT_RD: reads give what has arrived, then the end. SHUT_WR: the peer sees our end. Raises OSError(ENOTCONN)
        without a connection.
        """
        if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
            raise OSError(EINVAL, "shutdown() takes SHUT_RD, SHUT_WR or SHUT_RDWR")
        self._check()
        if self._endpoint is not None:
            if self._endpoint.remote is None:
                raise OSError(ENOTCONN, "this socket is not connected")
            if how != SHUT_WR:
                self._read_closed = True
                self._endpoint.stop()
            return
        connection = self._connected()
        if not _opened(connection) or connection.state == CLOSED:
            raise OSError(ENOTCONN, "this socket is not connected")
        if how != SHUT_WR:
            self._read_closed = True
            connection.tcb[fast.FLAGS] |= fast.FLAG_READ_CLOSED
        if how != SHUT_RD:
            stack = self._stack
            stack.enter()
            try:
                connection.shutdown(stack.now())
            finally:
                stack.leave()

    def close(self):
        """Frees the socket. Closing twice is fine.

        TCP: what was written is still sent, after that FIN; the socket does not wait for it unless SO_LINGER gives it
        seconds. RST instead when received data was not read, or when SO_LINGER is on with 0 seconds.
        """
        if self._descriptor < 0:
            return
        linger = self._options.get(_LINGER, -1) if self._options else -1
        if linger <= 0 or self._send_ms == 0:
            self._free(linger)
        else:
            self._linger(linger)

    def _linger(self, seconds):
        try:
            late.load("options").linger(self, seconds * 1000)
        finally:
            self._free(seconds)

    def _free(self, linger):
        connection = self._connection
        stack = self._stack
        now = stack.enter()
        try:
            _open[self._descriptor] = None
            self._descriptor = -1
            if self._callback is not None:
                late.load("options").watch(self, None)
            if connection is not None:
                connection.close(now, linger == 0)
                if self._listener is not None:
                    self._listener.close(now)
            else:
                self._endpoint.close()
                while self._groups:
                    late.load("options").leave(self, self._groups[0])
        finally:
            stack.leave()

    def _connect_endpoint(self, host, port):
        stack = self._stack
        stack.enter()
        try:
            self._endpoint.connect(host, port)
        finally:
            stack.leave()

    # Receiving.

    def recv(self, n, flags=0):
        """Returns what has arrived, at most n bytes, waiting for the first; b"" is the end. UDP: one datagram.

        flags: MSG_PEEK leaves it there, MSG_DONTWAIT does not wait.
        Raises OSError: EAGAIN, ETIMEDOUT, ENOTCONN, ECONNRESET …, the connection's error once.
        """
        if not flags:
            data = (self._connection if self._endpoint is None else self._endpoint).text(n)
            if data is not None:
                return data
        return self._recv(n, flags)

    def _recv(self, n, flags):
        if n <= 0 and self._endpoint is None:
            return b""
        n = min(max(n, 0), self._ready(flags))
        buffer = bytearray(n)
        n = self.recv_into(buffer, n, flags)
        return bytes(buffer if n == len(buffer) else buffer[:n])

    def recvfrom(self, n, flags=0):
        """Does as recv() and returns (data, (host, port))."""
        return self.recv(n, flags), self._sender()

    def recv_into(self, buffer, n=0, flags=0):
        """Does as recv(), into `buffer`; n = 0 is its length. Returns how many bytes."""
        if not flags:
            # `flags` serves for all: one name more, and a call needs more than 11 words (see the top of this module).
            flags = self._connection
            if flags is None:
                flags = self._endpoint
                flags = _receive(flags.words, buffer, buffer, flags, n)
            else:
                flags = _take(flags, buffer, 0, n or -1)
            if flags >= 0:
                return flags
            flags = 0
        return self._recv_into(buffer, n, flags)

    def _recv_into(self, buffer, n, flags):
        n = _room(buffer, n or -1)
        if n == 0 and self._endpoint is None:
            return 0
        self._ready(flags)
        return self._take(buffer, 0, n, flags & MSG_PEEK)

    def recvfrom_into(self, buffer, n=0, flags=0):
        """Does as recv_into() and returns (length, (host, port))."""
        return self.recv_into(buffer, n, flags), self._sender()

    def recvmsg(self, n, ancbufsize=0, flags=0):
        """UDP: does as recv() and returns (data, ancillary data, flags, (host, port)), as in CPython on Linux.

        Ancillary data is a list of (IPPROTO_IP, type, bytes) with what the options of the same name ask for: IP_PKTINFO (struct in_pktinfo: the
        interface's index as "I", our address, the address that the datagram was sent to), IP_RECVOPTS (its IP options, if it has any). Each
        takes 12 bytes of `ancbufsize` and its length, rounded up to 4. flags: MSG_TRUNC when the datagram was longer than n, MSG_CTRUNC when ancillary
        data found no room. TCP: [], 0 and None. Raises what recv() raises.
        """
        return late.load("ancillary").receive(self, n, ancbufsize, flags)

    def read(self, n=-1):
        """Returns n bytes, fewer only at the end; without n everything up to the end. UDP: one datagram.

        A non-blocking socket gives what has arrived, None when that is nothing.
        """
        timeout = self._receive_ms
        parts = []
        while n:
            ready = self._arrived(timeout)
            if ready < 0:
                if timeout == 0:
                    return None
                _late(timeout)
            if ready == 0 and self._endpoint is None:
                break
            ready = self.recv(ready if n < 0 else min(n, ready))
            parts.append(ready)
            if n > 0:
                n -= len(ready)
            if self._complete(timeout):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer, n=-1):
        """Does as read(), into `buffer`, at most n bytes. Returns how many."""
        done = 0
        if self._connection is not None:
            done = self._connection.fill(buffer, n)
            if done and (done == n or done == _len(buffer)):
                return done
        elif n and _len(buffer):
            done = _receive(self._endpoint.words, buffer, buffer, self._endpoint, n)
            if done >= 0:
                return done
            done = 0
        return self._readinto(buffer, n, done)

    def _readinto(self, buffer, n, done):
        # The rest of readinto(), which has `done` bytes already.
        n = _room(buffer, n)
        timeout = self._receive_ms
        while done < n and not (done and self._complete(timeout)):
            ready = self._arrived(timeout)
            if ready < 0:
                if timeout == 0:
                    return None
                _late(timeout)
            if ready == 0 and self._endpoint is None:
                break
            done += self._take(buffer, done, n - done, 0)
            if self._endpoint is not None:
                break
        return done

    def readline(self, n=-1):
        """Returns one line with its b"\\n", without it only at the end or after n bytes. UDP: one datagram.

        A non-blocking socket gives the part of the line that has arrived, None when that is nothing.
        """
        if self._endpoint is not None:
            return self.read(n)
        timeout = self._receive_ms
        line = b""
        while n < 0 or len(line) < n:
            if line and self._complete(timeout) and not self._connection.readable():
                break
            ready = self._arrived(timeout)
            if ready < 0:
                if timeout == 0:
                    return None
                _late(timeout)
            if ready == 0:
                break
            ready = min(ready, _LINE)
            if n > 0:
                ready = min(ready, n - len(line))
            part = bytearray(ready)
            self._take(part, 0, ready, MSG_PEEK)
            length = part.find(b"\n") + 1 or ready
            self._take(part, 0, length, 0)
            line += part[:length]
            if part[length - 1] == 10:
                break
        return line

    # Sending.

    def send(self, data, flags=0):
        """Hands over what the send buffer takes, at least one byte, and returns how many bytes.

        UDP: one datagram to the peer. flags: MSG_DONTWAIT. Raises OSError: EAGAIN, ETIMEDOUT, ENOTCONN, EPIPE after
        shutdown(SHUT_WR) or once the peer is gone; UDP: EDESTADDRREQ without a peer, EMSGSIZE, ECONNREFUSED when an
        earlier datagram found no receiver.
        """
        if self._connection is not None:
            done = _stream(data, 1, data, self._connection, self._stack.objects)
            if done:
                return done if done > 0 else _len(data)
        else:
            done = self._endpoint
            if done.target is _PEER:
                done = _push(data, done.words, data, done.objects)
                if done >= 0:
                    return done
        return self._send(data, flags)

    def _send(self, data, flags):
        timeout = 0 if flags & MSG_DONTWAIT else self._send_ms
        data = _data(data)
        if self._endpoint is not None:
            return self._send_datagram(data, _PEER, timeout)
        if len(data) == 0:
            self._connected()
            return 0
        n = self._put(data, 0, len(data), timeout)
        if n < 0:
            _late(timeout)
        return n

    def sendall(self, data, flags=0):
        """Hands over all of `data`. Raises OSError as send() does; how much was sent before is then not known."""
        done = self._connection
        if done is not None:
            done = _stream(data, _POLLS, data, done, self._stack.objects)
            if done < 0:
                return
        self._sendall(data, flags, done or 0)

    def _sendall(self, data, flags, done):
        # The rest of sendall(): `done` bytes have been handed over.
        if self._endpoint is not None:
            self.send(data, flags)
            return
        data = _data(data)
        timeout = 0 if flags & MSG_DONTWAIT else self._send_ms
        while done < len(data):
            n = self._put(data, done, len(data) - done, timeout)
            if n < 0:
                _late(timeout)
            done += n

    def sendto(self, data, address, _address=None):
        """UDP: sends one datagram to (host, port) and returns its length. TCP: does as send().

        CPython's sendto(data, flags, address) works, too. Raises OSError: EMSGSIZE, EHOSTUNREACH, EACCES for a
        broadcast without SO_BROADCAST …
        """
        n = self._endpoint
        if _address is None and n is not None and n.target is address:
            n = _push(data, n.words, data, n.objects)
            if n >= 0:
                return n
        return self._sendto(data, address, _address)

    def _sendto(self, data, address, _address):
        timeout = self._send_ms
        if _address is not None:
            timeout = 0 if address & MSG_DONTWAIT else timeout
            address = _address
        endpoint = self._endpoint
        if endpoint is None:
            return self.send(data)
        if address == endpoint.target:
            n = _push(data, endpoint.words, data, endpoint.objects)  # a program may make its (host, port) anew for each datagram
            if n >= 0:
                return n
        return self._send_datagram(_data(data), address, timeout)

    def write(self, data, offset=None, n=None):
        """Hands over all of `data`, and returns how many bytes.

        write(data, n): only its first n; write(data, offset, n): n from an offset on. A non-blocking socket takes what
        fits, and returns None when that is nothing.
        """
        if offset is not None or self._connection is None:
            return self._write(data, offset, n, 0)
        n = _stream(data, _POLLS, data, self._connection, self._stack.objects)
        return _len(data) if n < 0 else self._write(data, None, None, n)

    def _write(self, data, offset, n, done):
        # The rest of write(): `done` bytes have been handed over.
        data = _data(data)
        end = len(data)
        at = 0
        if n is not None:
            at = min(offset, end)
            end = min(at + n, end)
        elif offset is not None:
            end = min(offset, end)
        if self._endpoint is not None:
            return self.send(data if end - at == len(data) else data[at:end])
        timeout = self._send_ms
        if done and timeout == 0:
            return done
        done += at
        while done < end:
            n = self._put(data, done, end - done, timeout)
            if n < 0:
                if timeout == 0:
                    return None
                _late(timeout)
            done += n
            if timeout == 0:
                break
        return done - at

    # Settings and state.

    def settimeout(self, seconds):
        """None: wait without limit; 0: do not wait; else the longest wait in seconds (int or float)."""
        if seconds is None:
            self._receive_ms = self._send_ms = -1
        elif seconds < 0:
            raise ValueError("a timeout is None or not negative")
        else:
            ms = int(min(seconds, _LONGEST // 1000) * 1000)
            self._receive_ms = self._send_ms = max(ms, 1) if seconds else 0

    def gettimeout(self):
        """Returns the timeout in seconds, or None."""
        return None if self._receive_ms < 0 else self._receive_ms / 1000

    def setblocking(self, blocking):
        """True is settimeout(None), False is settimeout(0)."""
        self._receive_ms = self._send_ms = -1 if blocking else 0

    def setsockopt(self, level, option, value):
        """Sets an option: value is an int, or the bytes of one.

        SOL_SOCKET:
        * SO_REUSEADDR, SO_BINDTODEVICE: accepted and not needed (a port is free at once; there is one interface)
        * SO_KEEPALIVE, SO_BROADCAST: 0 or 1
        * SO_LINGER: struct.pack("ii", on, seconds)
        * SO_SNDBUF, SO_RCVBUF: bytes, 536 to 65535; they count from the next connect() or listen()
        * SO_SNDTIMEO, SO_RCVTIMEO: ms, 0 is without limit
        * 20: a function that is called with the socket while it is readable, or None
        IPPROTO_TCP:
        * TCP_NODELAY: 0 or 1
        * TCP_KEEPIDLE, TCP_KEEPINTVL: seconds; TCP_KEEPCNT
        * TCP_USER_TIMEOUT: ms without progress that end the connection (RFC 5482), 0: some 200 s
        IPPROTO_IP:
        * IP_TTL: 1 to 255; IP_TOS: 0 to 255
        * IP_MULTICAST_TTL: 0 to 255, 1 unless set; IP_MULTICAST_LOOP: 0 or 1, whether groups of this board get what it
          sends to them
        * IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP: 8 bytes, group and own address. Routers and switches are told (IGMP).
        * IP_OPTIONS: at most 40 bytes of IP options (RFC 791) for all packets that leave, b"" for none. A source route names the hops, the first
          one included; the final destination follows by itself. An accepted connection has the way back of the peer's source route. What
          has options is slow, and leaves whole or not at all.
        * IP_PKTINFO, IP_RECVOPTS: 0 or 1, what recvmsg() tells of a datagram. A socket with one of them queues 32 datagrams at most.

        Raises OSError(ENOPROTOOPT) for any other, OSError(EINVAL) for a TTL, TOS or IP options that do not fit.
        """
        self._check()
        if option == SO_REUSEADDR and level == SOL_SOCKET and isinstance(value, int):
            self._options = dict(self._options)
            self._options[_REUSE] = value  # nothing but getsockopt() looks at it
            return
        late.load("options").set(self, level, option, value)

    def getsockopt(self, level, option, size=0):
        """Returns an option as an int, or as `size` bytes in the form setsockopt() takes.

        SO_ERROR gives the connection's error and forgets it. SO_LINGER without size is the seconds, -1 when it is off. IP_OPTIONS are bytes.
        Raises OSError(ENOPROTOOPT) for an unknown one.
        """
        self._check()
        return late.load("options").get(self, level, option, size)

    def getsockname(self):
        """Returns the local (host, port)."""
        self._check()
        if self._endpoint is not None:
            return (text(self._endpoint.address), self._endpoint.port)
        connection = self._connection
        local = self._local if connection is None or connection.local is None else connection.local
        return (text(local[0]), local[1])

    def getpeername(self):
        """Returns the peer's (host, port). Raises OSError(ENOTCONN) when there is none."""
        self._check()
        if self._endpoint is not None:
            if self._endpoint.remote is None:
                raise OSError(ENOTCONN, "this socket is not connected")
            return (text(self._endpoint.remote), self._endpoint.remote_port)
        host, port = self._connected().remote
        return (text(host), port)

    def fileno(self):
        """Returns the socket's descriptor, -1 once it is closed."""
        return self._descriptor

    def makefile(self, mode="rb", buffering=0):
        """Returns the socket itself: it is a stream."""
        return self

    def info(self):
        """Returns what is known of the socket, for people: {name: value}, of a TCP connection its control block."""
        return late.load("options").info(self)

    def ioctl(self, request, argument):
        """What select, asyncio and ssl ask a stream (py/stream.h): runs the stack, then tells what is ready."""
        if request == _POLL:
            if self._descriptor >= 0:
                self._stack.poll()
            return self._events() & (argument | _ERR | _HUP | _NVAL)
        if request == _CLOSE:
            self.close()
            return 0
        if request == _FLUSH:
            return 0
        # Not GET_FILENO: select would take the number for a descriptor of the operating system.
        return -EINVAL

    def _events(self):
        if self._descriptor < 0:
            return _NVAL
        endpoint = self._endpoint
        if endpoint is not None:
            if endpoint.error:
                return _RD | _WR | _ERR
            return _RD | _WR if self._read_closed or endpoint.readable() else _WR
        if self._listener is not None:
            return _RD if self._listener.next() is not None else 0
        connection = self._connection
        if connection.remote is None:
            return _WR | _HUP
        events = 0
        if self._read_closed or _readable(connection):
            events |= _RD
        if _writable(connection):
            events |= _WR
        state = connection.state
        if state == CLOSED or state == CLOSING or state == LAST_ACK or state == TIME_WAIT:
            events |= _HUP
            if connection.error:
                events |= _RD | _ERR
        return events

    def _check(self):
        if self._descriptor < 0:
            raise OSError(EBADF, "this socket is closed")

    def _connected(self):
        # Returns the connection, open or opening or over.
        if self._descriptor < 0:
            raise OSError(EBADF, "this socket is closed")
        connection = self._connection
        if connection is None or connection.remote is None:
            raise OSError(ENOTCONN, "this socket is not connected")
        return connection

    def _create(self):
        tcp = self._stack.tcp
        self._connection = tcp.create(self._size(SO_RCVBUF), self._size(SO_SNDBUF)) if self._options else tcp.create()

    def _wait(self, ready, what, timeout):
        if _until(self._stack, ready, what, timeout):
            self._check()  # a callback may have closed it
            return True
        return False

    def _arrived(self, timeout):
        # Waits for something to read; returns how many bytes a read would give, 0 at the end, or -1 when nothing has
        # come in time.
        endpoint = self._endpoint
        if endpoint is not None:
            self._check()
            if self._read_closed:
                return 0
            if not self._wait(_received, endpoint, timeout):
                return -1
            n = endpoint.next_length()
            if n < 0:
                endpoint.raise_error()
            return n
        connection = self._connected()
        n = connection.readable()
        if n or self._read_closed:
            return n
        if not self._wait(_readable, connection, timeout):
            return -1
        n = connection.readable()
        if n == 0:
            self._raise_error(connection)
        return n

    def _complete(self, timeout):
        # True when a stream method gives what it has and does not look for more. As in stock MicroPython, it does not
        # give the last data of a connection that was reset: it raises.
        return self._endpoint is not None or (timeout == 0 and not self._connection.error)

    def _ready(self, flags):
        # Returns how many bytes a read with these flags would give. Raises what says that none has come in time.
        timeout = 0 if flags & MSG_DONTWAIT else self._receive_ms
        n = self._arrived(timeout)
        if n < 0:
            _late(timeout)
        return n

    def _take(self, buffer, at, n, peek):
        # Copies at most n received bytes to buffer[at:], returns how many.
        stack = self._stack
        stack.enter()
        try:
            if self._endpoint is not None:
                return max(self._endpoint.pull(buffer, n, peek), 0)
            connection = self._connection
            n = connection.read(buffer, n, peek, at)
            if connection.tcb[fast.FLAGS] & fast.FLAG_ACK_NOW:
                connection.output(stack.now())  # the window has opened
            return n
        finally:
            stack.leave()

    def _put(self, data, at, n, timeout):
        # Copies at most n bytes of data[at:] into the send buffer and sends what may leave; returns how many, or -1 when there was no room in
        # time.
        connection = self._connected()
        if not self._wait(_writable, connection, timeout):
            return -1
        stack = self._stack
        stack.enter()
        try:
            n = connection.write(data, at, n)
            if n:
                connection.output(stack.now())
        finally:
            stack.leave()
        if n == 0 and _write_closed(connection):
            self._raise_error(connection)
            raise OSError(EPIPE, "this direction of the connection is closed")
        return n

    def _send_datagram(self, data, address, timeout):
        self._check()
        endpoint = self._endpoint
        stack = self._stack
        host = None
        port = 0
        if address is _PEER:
            target = address
        else:
            if address != self._target:
                host, port = _resolve(stack, address)
                # A name may have another address the next time; a dotted quad is not parsed for each datagram.
                self._target = tuple(address) if text(host) == address[0] else None
                self._target_address = host
            else:
                host = self._target_address
                port = address[1]
            target = self._target
        end = ticks.add(stack.now(), _RING_FULL if timeout < 0 else timeout)
        while True:
            stack.enter()
            try:
                sent = endpoint.send(data, host, port, stack.now(), target)
            finally:
                stack.leave()
            if sent:
                return len(data)
            stack.poll()
            if timeout == 0:
                raise OSError(EAGAIN)
            if ticks.reached(stack.now(), end):
                code = ENOBUFS if timeout < 0 else ETIMEDOUT
                raise OSError(code, "the transmit ring stays full: is the cable connected?")
            stack.wait(1)
            self._check()

    def _sender(self):
        if self._endpoint is None:
            return self.getpeername()
        source = self._endpoint.source
        if source == 0:
            address, port = self._endpoint.sender()
            source = self._endpoint.source = (text(address), port)
        return source

    def _take_error(self):
        # The error is told once. The object that ends with it belongs to this socket alone.
        what = self._endpoint or self._connection
        if what is None:
            return 0
        error = what.error
        what.error = 0
        return error

    def _raise_error(self, connection):
        if connection.error:
            raise OSError(self._take_error())

    def _size(self, option):
        return self._options.get(SOL_SOCKET << 16 | option, BUFFER)

    def _configure(self):
        # Sets the options on what is there to set them on. The module is there since one was set.
        if len(self._options) > (_REUSE in self._options):
            late.load("options").apply(self)

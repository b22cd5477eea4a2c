"""What few programs ask of a socket: options, groups, and what is known of it. Loaded for the first call and kept."""

import struct

import micropython
from barenet import fast, fast_udp, late
from barenet.errors import EADDRINUSE, EADDRNOTAVAIL, EALREADY, EINVAL, EISCONN, ENOPROTOOPT, EOPNOTSUPP
from barenet.socket import (
    IP_ADD_MEMBERSHIP,
    IP_DROP_MEMBERSHIP,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_OPTIONS,
    IP_PKTINFO,
    IP_RECVOPTS,
    IP_TOS,
    IP_TTL,
    IPPROTO_IP,
    IPPROTO_TCP,
    SO_BINDTODEVICE,
    SO_BROADCAST,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_RCVBUF,
    SO_RCVTIMEO,
    SO_REUSEADDR,
    SO_SNDBUF,
    SO_SNDTIMEO,
    SOL_SOCKET,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
)
from barenet.tcp import BUFFER
from barenet.tcp.connection import KEEP_COUNT, difference
from micropython import const

_CALLBACK = const(20)  # MicroPython's SOL_SOCKET option for a function that is called when the socket becomes readable
_LONGEST = const(0x1FFFFFFF)  # ms, what ticks can compare
_URGENT_MAX = const(0x10FFFF)  # a full receive buffer, and what a pointer of 16 bits can add
_RD = const(0x01)  # MicroPython's stream protocol (py/stream.h)

_watched = []  # sockets with a callback for readability

# Options that are kept until there is a connection to set them on: level << 16 | option → default.
_NO_LINGER = const(-1)
_OPTIONS = {
    SOL_SOCKET << 16 | SO_REUSEADDR: 0,
    SOL_SOCKET << 16 | SO_KEEPALIVE: 0,
    SOL_SOCKET << 16 | SO_BROADCAST: 0,
    SOL_SOCKET << 16 | SO_LINGER: _NO_LINGER,
    SOL_SOCKET << 16 | SO_SNDBUF: BUFFER,
    SOL_SOCKET << 16 | SO_RCVBUF: BUFFER,
    IPPROTO_IP << 16 | IP_TOS: 0,
    IPPROTO_IP << 16 | IP_TTL: 64,
    IPPROTO_IP << 16 | IP_MULTICAST_TTL: 1,
    IPPROTO_IP << 16 | IP_MULTICAST_LOOP: 1,
    IPPROTO_IP << 16 | IP_PKTINFO: 0,
    IPPROTO_IP << 16 | IP_RECVOPTS: 0,
    IPPROTO_TCP << 16 | TCP_NODELAY: 0,
    IPPROTO_TCP << 16 | TCP_KEEPIDLE: 7200,
    IPPROTO_TCP << 16 | TCP_KEEPINTVL: 75,
    IPPROTO_TCP << 16 | TCP_KEEPCNT: KEEP_COUNT,
    IPPROTO_TCP << 16 | TCP_USER_TIMEOUT: 0,
}
_IP_OPTIONS = IPPROTO_IP << 16 | IP_OPTIONS


def _number(value):
    return value if isinstance(value, int) else struct.unpack("<i", value)[0]


def set(sock, level, option, value):
    """See socket.setsockopt()."""
    key = level << 16 | option
    if key == SOL_SOCKET << 16 | _CALLBACK:
        watch(sock, value)
    elif key == SOL_SOCKET << 16 | SO_BINDTODEVICE:
        pass
    elif key == SOL_SOCKET << 16 | SO_LINGER:
        on, seconds = value if isinstance(value, tuple) else struct.unpack("<ii", value)
        _keep(sock, key, min(max(seconds, 0), _LONGEST // 1000) if on else _NO_LINGER)
    elif key == SOL_SOCKET << 16 | SO_SNDTIMEO:
        sock._send_ms = _number(value) or -1
    elif key == SOL_SOCKET << 16 | SO_RCVTIMEO:
        sock._receive_ms = _number(value) or -1
    elif level == IPPROTO_IP and option in (IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP):
        _member(sock, option == IP_ADD_MEMBERSHIP, bytes(value))
    elif key == _IP_OPTIONS:
        value = bytes(memoryview(value))
        late.load("ip_options").Way(sock._stack.ip, value)  # raises what is wrong with them
        _keep(sock, key, value)
        _apply(sock)
    elif key in _OPTIONS:
        value = _number(value)
        if level == IPPROTO_IP and not (option == IP_TTL) <= value <= 255:
            raise OSError(EINVAL, "a TTL or TOS has 8 bits")
        _keep(sock, key, value)
        if option in (SO_SNDBUF, SO_RCVBUF) and sock._connection is not None and sock._connection.remote is None:
            sock._create()
        _apply(sock)
    else:
        raise OSError(ENOPROTOOPT)


def get(sock, level, option, size):
    """See socket.getsockopt()."""
    key = level << 16 | option
    connection = sock._connection
    if key == SOL_SOCKET << 16 | SO_ERROR:
        value = sock._take_error()
    elif key == SOL_SOCKET << 16 | SO_SNDTIMEO:
        value = max(sock._send_ms, 0)
    elif key == SOL_SOCKET << 16 | SO_RCVTIMEO:
        value = max(sock._receive_ms, 0)
    elif key == SOL_SOCKET << 16 | SO_RCVBUF and sock._endpoint is not None:
        value = sock._endpoint.rcvbuf
    elif key == SOL_SOCKET << 16 | SO_RCVBUF and connection is not None:
        value = connection.tcb[fast.RCV_SIZE]
    elif key == SOL_SOCKET << 16 | SO_SNDBUF and connection is not None:
        value = connection.tcb[fast.SND_SIZE]
    elif key == _IP_OPTIONS:
        what = sock._endpoint or connection
        value = sock._options.get(key, b"") if what is None else what.way.given if what.way else b""
        return value[: size or len(value)]
    elif key in _OPTIONS:
        value = _option(sock, option, level)
    else:
        raise OSError(ENOPROTOOPT)
    if size == 0:
        return value
    if option == SO_LINGER:
        return struct.pack("<ii", value != _NO_LINGER, max(value, 0))[:size]
    return struct.pack("<i", value)[:size]


def linger(sock, ms):
    """Sends what was written and FIN, and waits until the peer has confirmed them, at most ms (SO_LINGER)."""
    connection = sock._connection
    if connection is None or connection.remote is None or connection.readable():
        return  # there is nothing to wait for
    stack = sock._stack
    stack.enter()
    try:
        connection.shutdown(stack.now())
    finally:
        stack.leave()
    sock._wait(_confirmed, connection, ms)


def _confirmed(connection):
    return connection.state in (fast.CLOSED, fast.FIN_WAIT_2, fast.TIME_WAIT)


def info(sock):
    """See socket.info()."""
    if sock._descriptor < 0:
        return {"descriptor": -1, "state": "closed"}
    what = {"descriptor": sock._descriptor, "local": sock.getsockname()}
    if sock._endpoint is not None:
        what["type"] = "UDP"
        what["waiting"] = sock._endpoint.next_length()
        what["dropped"] = sock._endpoint.words[fast_udp.E_DROPPED]
        return what
    what["type"] = "TCP"
    if sock._listener is not None:
        what["STATE"] = "LISTEN"
        what["backlog"] = sock._listener.backlog
        what["opening"] = sock._listener.opening()
        what["waiting"] = len(sock._listener.pending) - sock._listener.opening()
    else:
        from barenet.trace import block
        from barenet.trace import info as figures  # seldom needed, so loaded seldom

        connection = sock._connection
        tcb = connection.tcb
        if connection.remote is not None:
            what["peer"] = sock.getpeername()
        what.update(block(tcb))
        what.update(figures(tcb))
        what["SOFT_ERROR"] = connection.soft_error
        what["URGENT"] = urgent(connection)
    return what


def urgent(connection):
    """Returns how many bytes lie between what was read and the end of urgent data (RFC 9293 section 3.8.5, MUST-33)."""
    if connection.urgent is None:
        return 0
    tcb = connection.tcb
    fin = 1 if tcb[fast.FLAGS] & fast.FLAG_FIN_IN else 0
    ahead = difference(connection.urgent, tcb[fast.RCV_NXT] - fin - tcb[fast.RCV_LEN])
    return ahead if 0 < ahead <= _URGENT_MAX else 0  # a pointer that was passed long ago means nothing


def reconnect(sock):
    """Returns a connection for connect() on a socket that was in use; raises what says that it still is."""
    if sock._listener is not None:
        raise OSError(EISCONN, "this socket listens")
    connection = sock._connection
    stack = sock._stack
    stack.poll()
    if connection.state == fast.SYN_SENT or connection.state == fast.SYN_RECEIVED:
        raise OSError(EALREADY, "a connection is being opened: poll for writability")
    sock._raise_error(connection)
    if connection.state != fast.CLOSED:
        raise OSError(EISCONN)
    now = stack.enter()
    try:
        connection.close(now)
        sock._create()
        return sock._connection
    finally:
        stack.leave()


def apply(sock):
    """Sets the options on the connection or endpoint that is there to set them on."""
    connection = sock._connection
    endpoint = sock._endpoint
    options = sock._options.get(_IP_OPTIONS)
    ttl = _option(sock, IP_TTL, IPPROTO_IP)
    tos = _option(sock, IP_TOS, IPPROTO_IP)
    if connection is not None:
        if options is not None:
            late.load("tcp.ip_options").set(connection, options)
        connection.configure(_option(sock, TCP_NODELAY, IPPROTO_TCP), ttl, tos)
        keep = _option(sock, SO_KEEPALIVE)
        for name, value in (
            ("keepalive", _option(sock, TCP_KEEPIDLE, IPPROTO_TCP) * 1000 if keep else 0),
            ("keep_interval", _option(sock, TCP_KEEPINTVL, IPPROTO_TCP) * 1000),
            ("keep_count", _option(sock, TCP_KEEPCNT, IPPROTO_TCP)),
            ("user_timeout", _option(sock, TCP_USER_TIMEOUT, IPPROTO_TCP)),
        ):
            if getattr(connection, name) != value:  # an attribute of its own costs memory
                setattr(connection, name, value)
        if connection.remote is not None:
            connection.keep(sock._stack.now())
    if endpoint is not None:
        endpoint.forget()
        endpoint.ttl = ttl
        endpoint.tos = tos
        endpoint.broadcast = bool(_option(sock, SO_BROADCAST))
        endpoint.group_ttl = _option(sock, IP_MULTICAST_TTL, IPPROTO_IP)
        endpoint.loop = _option(sock, IP_MULTICAST_LOOP, IPPROTO_IP) != 0
        endpoint.way = late.load("ip_options").Way(sock._stack.ip, options) if options else None
        told = _option(sock, IP_PKTINFO, IPPROTO_IP), _option(sock, IP_RECVOPTS, IPPROTO_IP)
        if any(told) or endpoint.owner is not None:
            late.load("ancillary").use(endpoint, *told)
        size = sock._options.get(SOL_SOCKET << 16 | SO_RCVBUF)
        if size is not None and size != endpoint.rcvbuf:
            endpoint.resize(size)


def _apply(sock):
    sock._stack.enter()
    try:
        apply(sock)
    finally:
        sock._stack.leave()


def watch(sock, callback):
    """Calls callback(sock) while the socket is readable; None ends that."""
    if sock._callback is not None:
        _watched.remove(sock)
    sock._callback = callback
    stack = sock._stack
    if callback is not None:
        _watched.append(sock)
        stack.on_poll = _notify
    elif not _watched:
        stack.on_poll = None
    stack.words[fast.C_ON_POLL] = len(_watched)


def leave(sock, group):
    """Leaves a multicast group."""
    sock._groups = tuple(other for other in sock._groups if other != group)
    sock._stack.ip.part("igmp").leave(group, sock._stack.now())


def _notify():
    # Runs after each poll. A callback that has not run yet is not scheduled again; one that leaves data unread is
    # called again.
    for s in _watched:
        if not s._called and s._events() & _RD:
            try:
                micropython.schedule(_call, s)
                s._called = True
            except RuntimeError:
                return  # the queue is full: the next poll tries again


def _call(s):
    s._called = False
    try:
        s._stack.enter()
    except OSError:
        return  # this interrupts a socket call: the next poll tries again
    s._stack.leave()
    if s._callback is not None:
        s._callback(s)


def _keep(sock, key, value):
    sock._options = dict(sock._options)
    sock._options[key] = value


def _option(sock, option, level=SOL_SOCKET):
    key = level << 16 | option
    return sock._options.get(key, _OPTIONS[key])


def _member(sock, join, value):
    group = value[:4]
    if len(value) != 8 or group[0] & 0xF0 != 0xE0:
        raise OSError(EINVAL, "pass 8 bytes: a group between 224.0.0.0 and 239.255.255.255, and the own address")
    if sock._endpoint is None:
        raise OSError(EOPNOTSUPP, "only UDP sockets join groups")
    if join == (group in sock._groups):
        raise OSError(EADDRINUSE if join else EADDRNOTAVAIL)
    stack = sock._stack
    stack.enter()
    try:
        if join:
            stack.ip.part("igmp").join(group, stack.now())
            sock._groups += (group,)
        else:
            leave(sock, group)
    finally:
        stack.leave()

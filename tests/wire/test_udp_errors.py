"""What ICMP errors do to UDP sockets: RFC 1122 sections 3.2.2.1 and 4.1.3.3, RFC 5927."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ANY, OTHER, OURS, PEER, Wire, fast, packet

    ECONNREFUSED, EHOSTUNREACH, EPROTO = 111, 113, 71

    def sockets(wire):
        """Returns (a socket connected to the peer's port 7777, one that is not connected)."""
        connected, free = wire.stack.udp.endpoint(), wire.stack.udp.endpoint()
        connected.bind(port=5000)
        connected.connect(PEER, 7777)
        free.bind(port=5001)
        return connected, free

    def error(kind, code, source=OURS, destination=PEER, port=5000, to=7777, inner_fragment=b"\x40\0", **changes):
        """Returns an ICMP error about a datagram from `port` to the peer's port `to`."""
        ports = bytes((port >> 8, port & 255, to >> 8, to & 255, 0, 12, 0, 0))
        quote = packet(17, ports, source, destination, fragment=inner_fragment)[14:42]
        message = bytearray(bytes((kind, code, 0, 0, 0, 0, 0, 0)) + quote)
        check = ~fast.add(message, 0, len(message), 0) & 0xFFFF
        message[2] = check & 255
        message[3] = check >> 8
        return packet(1, message, **changes)


@on_wire
def test_a_connected_socket_is_told_once():
    wire = Wire()
    connected, free = sockets(wire)
    for kind, code, expected in (
        (3, 3, ECONNREFUSED),  # hard: the port is closed
        (3, 2, ECONNREFUSED),  # hard: the protocol is unknown
        (3, 0, EHOSTUNREACH),  # soft: only hints
        (3, 1, EHOSTUNREACH),
        (3, 5, EHOSTUNREACH),
        (3, 13, EHOSTUNREACH),  # filtered
        (11, 0, EHOSTUNREACH),  # the TTL ran out
        (11, 1, EHOSTUNREACH),  # a fragment was lost
        (12, 0, EPROTO),
    ):
        wire.receive(error(kind, code))
        assert connected.readable()
        try:
            connected.raise_error()
        except OSError as e:
            assert e.errno == expected
        else:
            raise AssertionError("nothing raised")
        assert not connected.readable() and not free.error
    assert connected.send(b"x", None, 0, wire.now)  # the socket still works
    wire.stack.flush()
    wire.frames.clear()


@on_wire
def test_only_the_socket_that_sent_it_is_told():
    wire = Wire()
    connected, free = sockets(wire)
    for frame in (
        error(3, 3, to=7778),  # another port of the peer
        error(3, 3, destination=OTHER),  # another host
        error(3, 3, port=5001),  # a socket that is not connected
        error(3, 3, port=5002),  # nobody's port
        error(3, 3, source=OTHER),  # not from us
        error(3, 3, inner_fragment=b"\0\5"),  # a fragment without ports
        error(4, 0),  # source quench: RFC 6633 wants it ignored
        error(5, 1),  # redirect: ignored, too
    ):
        wire.receive(frame)
        assert not connected.error and not free.error


@on_wire
def test_an_error_is_never_answered_with_an_error():
    # RFC 1122 section 3.2.2.
    wire = Wire()
    for kind in (3, 4, 5, 11, 12):
        wire.receive(error(kind, 0, port=9, to=9))
    closed = b"\x13\x88\0\x09\0\x0c\0\0abcd"
    for changes in (
        {"destination": b"\xff\xff\xff\xff", "to": b"\xff" * 6},
        {"destination": b"\x0a\x4d\0\xff", "to": b"\xff" * 6},
        {"to": b"\xff" * 6},  # a broadcast of the link with our address
        {"source": ANY},
    ):
        wire.receive(packet(17, closed, **changes))
    wire.expect_nothing()
    wire.receive(packet(17, closed))
    assert wire.next_frame()[34:36] == b"\x03\x03"


@on_wire
def test_no_more_than_six_errors_at_once_and_ten_a_second():
    # RFC 1812 section 4.3.2.8.
    wire = Wire()
    for second in range(3):
        sent = 0
        for _ in range(20):
            wire.receive(packet(17, b"\x13\x88\0\x09\0\x0c\0\0abcd"))
            sent += len(wire.frames)
            wire.frames.clear()
        assert sent == 6 and wire.drops()["icmp", "rate"] == 14 * (second + 1)
        wire.advance(1000)

"""Packets to ourselves: RFC 1122 section 3.2.1.3; and the time to live and type of service of what leaves."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ANY, FAR, MAC, OURS, PEER, PEER_MAC, Wire, packet, pattern

    ECONNREFUSED = 111
    LOCALHOST = b"\x7f\0\0\1"

    def receive(endpoint, n=9000):
        buffer = bytearray(n)
        got = endpoint.pull(buffer, n, 0)
        return None if got < 0 else (bytes(buffer[:got]),) + endpoint.sender()

    def server(wire, port=7, rcvbuf=4096):
        endpoint = wire.stack.udp.endpoint(rcvbuf)
        endpoint.bind(port=port)
        return endpoint


@on_wire
def test_datagrams_to_ourselves_come_back_at_the_next_poll_and_never_reach_the_wire():
    wire = Wire()
    there = server(wire)
    here = server(wire, 8)
    for address, source in ((LOCALHOST, LOCALHOST), (OURS, OURS), (b"\x7f\1\2\3", b"\x7f\1\2\3")):
        assert here.send(b"hello", address, 7, wire.now)
        assert receive(there) is None
        wire.settle()
        assert receive(there) == (b"hello", source, 8)
        assert there.send(b"and back", source, 8, wire.now)
        wire.settle()
        assert receive(here) == (b"and back", source, 7)
    assert not wire.drops()


@on_wire
def test_loopback_works_without_an_address_and_without_a_cable():
    wire = Wire()
    wire.cable.plugged = False
    wire.stack.configure(ANY, ANY, ANY, [])
    there = server(wire)
    assert wire.stack.udp.endpoint().send(b"hello", LOCALHOST, 7, wire.now)
    wire.settle()
    assert receive(there)[0] == b"hello"


@on_wire
def test_a_ping_to_ourselves_is_answered():
    wire = Wire()
    for address in (LOCALHOST, OURS):
        for size in (0, 56, 4000):
            echo = wire.stack.icmp.echo(address, wire.now, size)
            wire.settle()
            wire.settle()
            assert echo.time == 0 and echo.source == address
    assert not wire.drops()


@on_wire
def test_a_closed_port_of_our_own_is_told():
    wire = Wire()
    endpoint = wire.stack.udp.endpoint()
    endpoint.connect(LOCALHOST, 9)
    assert endpoint.send(b"hello", None, 0, wire.now)
    wire.settle()
    wire.settle()
    assert endpoint.error == ECONNREFUSED


@on_wire
def test_a_large_datagram_to_ourselves_goes_through_the_fragments():
    wire = Wire()
    there = server(wire, rcvbuf=8192)
    data = pattern(0, 6000)
    assert wire.stack.udp.endpoint().send(data, LOCALHOST, 7, wire.now)
    wire.settle()
    assert receive(there)[0] == data


@on_wire
def test_an_endpoint_may_be_bound_to_the_loopback_address():
    wire = Wire()
    endpoint = wire.stack.udp.endpoint()
    endpoint.bind(LOCALHOST, 7)
    assert wire.stack.udp.endpoint().send(b"near", LOCALHOST, 7, wire.now)
    wire.settle()
    assert receive(endpoint)[0] == b"near"
    wire.receive(packet(17, b"\x13\x88\0\7\0\x0c\0\0far!"))
    assert wire.next_frame()[34:36] == b"\x03\x03" and receive(endpoint) is None


@on_wire
def test_no_more_than_16_packets_wait():
    wire = Wire()
    there = server(wire)
    endpoint = wire.stack.udp.endpoint()
    sent = [endpoint.send(b"%d" % i, LOCALHOST, 7, wire.now) for i in range(20)]
    assert sent == [True] * 16 + [False] * 4 and wire.drops() == {("ip", "loopback full"): 4}
    wire.settle()
    assert [receive(there)[0] for _ in range(16)] == [b"%d" % i for i in range(16)]


@on_wire
def test_any_layer_may_loop_a_whole_packet():
    wire = Wire()
    got = []
    wire.ip.handlers[253] = lambda frame, start, end, source, destination, now: got.append(
        (bytes(frame[start:end]), source, destination, frame[0] & 1)
    )
    whole = packet(253, b"abc", OURS, OURS)[14:]
    assert wire.ip.loop(whole)
    whole[20:] = b"xyz"  # it was copied
    wire.settle()
    assert got == [(b"abc", OURS, OURS, 0)]


@on_wire
def test_packets_from_the_wire_never_have_an_address_of_ours_as_source_nor_loopback_at_either_end():
    for reason, source, destination in (
        ("source", OURS, OURS),
        ("source", LOCALHOST, OURS),
        ("source", b"\x7f\xff\xff\xfe", LOCALHOST),
        ("not for us", PEER, LOCALHOST),
        ("not for us", PEER, b"\x7f\1\2\3"),
    ):
        for address in (OURS, ANY):
            wire = Wire()
            there = server(wire)
            if address == ANY:
                wire.stack.configure(ANY, ANY, ANY, [])
            if source == OURS and address == ANY:
                continue  # it is not ours then
            wire.receive(packet(17, b"\x13\x88\0\7\0\x09\0\0x", source, destination))
            assert wire.drops() == {("ip", reason): 1} and receive(there) is None


@on_wire
def test_time_to_live_and_type_of_service_are_the_socket_s():
    wire = Wire(gateway=PEER)
    endpoint = server(wire)
    endpoint.ttl = 3
    endpoint.tos = 0xB8
    for destination, ttl in ((FAR, 3), (PEER, 3), (b"\xe0\0\0\xfb", 1)):
        assert endpoint.send(b"x", destination, 9, wire.now)
        wire.stack.flush()
        frame = wire.next_frame()
        assert frame[15] == 0xB8 and frame[22] == ttl and frame[6:12] == MAC
        assert frame[0:6] == (PEER_MAC if ttl == 3 else b"\x01\0\x5e\0\0\xfb")

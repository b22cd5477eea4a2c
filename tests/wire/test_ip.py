"""IPv4 input and output: RFC 791, RFC 1122 section 3.2.1."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, ALL, FAR, MAC, OTHER, OURS, PEER, PEER_MAC, PSH, SYN, Wire, arp, established, fix, packet, put

    EMSGSIZE, EHOSTUNREACH = 90, 113
    TEST = 253

    def receiver():
        """Returns a wire and the list of what arrives for our protocol."""
        wire = Wire()
        got = []
        wire.ip.handlers[TEST] = lambda frame, start, end, source, destination, now: got.append(bytes(frame[start:end]))
        return wire, got

    def changed(at, value, text=b"hello", check=True):
        """Returns a packet with one byte of it changed and the header checksum right again."""
        frame = packet(TEST, text)
        frame[at] = value
        if check:
            put(frame, 24, 14, (frame[14] & 15) << 2, 0)
        return frame

    def raises(code, call, *arguments):
        try:
            call(*arguments)
        except OSError as e:
            assert e.errno == code, e
            return
        raise AssertionError("nothing raised")


@on_wire
def test_good_packets_arrive():
    wire, got = receiver()
    texts = [b"a", b"", bytes(1480), b"b", b"c"]
    for text, ttl in zip(texts, (64, 64, 255, 1, 0)):
        wire.receive(packet(TEST, text, ttl=ttl))
    assert got == texts and not wire.drops()


@on_wire
def test_padding_behind_the_total_length_is_cut_off():
    wire, got = receiver()
    wire.receive(packet(TEST, b"abc", tail=bytes(23)))
    wire.receive(packet(TEST, b"", tail=b"\xff" * 26))
    assert got == [b"abc", b""]


@on_wire
def test_options_are_skipped():
    # RFC 1122 section 3.2.1.8: options that are not understood are ignored.
    wire, got = receiver()
    for options in (b"\0\0\0\0", b"\x01\x01\x01\x01", b"\x07\x27\x04" + bytes(37), b"\xff\x08" + b"\xff" * 6, b"\x94\x04\0\0"):
        wire.receive(packet(TEST, b"abc", ip_options=options))
    assert got == [b"abc"] * 5 and not wire.drops()


@on_wire
def test_damaged_headers_are_dropped_and_counted():
    wire, got = receiver()
    for reason, frame in (
        ("version", changed(14, 0x65)),
        ("version", changed(14, 0x05)),
        ("header length", changed(14, 0x44)),
        ("header length", changed(14, 0x40)),
        ("header length", changed(17, 19)),
        ("header length", changed(17, 0)),
        ("total length", changed(17, 26)),
        ("total length", changed(16, 6)),
        ("total length", changed(16, 0xFF)),
        ("checksum", changed(24, 0x55, check=False)),
        ("checksum", changed(22, 63, check=False)),
        ("checksum", changed(14, 0x46, bytes(40), check=False)),
        ("short", packet(TEST, b"")[:33]),
        ("short", packet(TEST, b"")[:14]),
        ("short", packet(TEST, b"")[:20]),
    ):
        before = wire.drops().get(("ip", reason), 0)
        wire.receive(frame)
        assert wire.drops().get(("ip", reason), 0) == before + 1, (reason, frame.hex())
    assert not got
    wire.expect_nothing()


@on_wire
def test_fragment_of_a_segment_waits_for_the_rest():
    wire, peer, app = established()
    for fragment in (b"\x20\x00", b"\x00\x05"):
        peer.snd = 1
        peer.send(ACK | PSH, text=b"abcd", fragment=fragment)
    assert app.read(9) == b""
    peer.snd = 1
    peer.send(ACK | PSH, text=b"abc", fragment=b"\x00\x00")
    assert app.read(9) == b"abc"
    peer.expect(ACK, after=40)


@on_wire
def test_invalid_sources_are_dropped():
    # RFC 1122 section 3.2.1.3: never a broadcast, a multicast, a loopback address, nor our own.
    wire, got = receiver()
    for i, source in enumerate(
        (
            b"\xff\xff\xff\xff",
            b"\x0a\x4d\x00\xff",
            b"\xe0\0\0\1",
            b"\xef\xff\xff\xff",
            b"\xf0\0\0\1",
            b"\x7f\0\0\1",
            OURS,
        )
    ):
        wire.receive(packet(TEST, b"abc", source=source))
        assert wire.drops() == {("ip", "source"): i + 1} and not got


@on_wire
def test_packets_for_others_are_dropped():
    wire, got = receiver()
    for destination in (OTHER, FAR, b"\xe0\0\0\x05", b"\x7f\0\0\1", b"\0\0\0\0"):
        wire.receive(packet(TEST, b"abc", destination=destination))
    assert not got and wire.drops() == {("ip", "not for us"): 5}


@on_wire
def test_broadcasts_arrive_but_not_for_tcp():
    wire, got = receiver()
    wire.listen(80)
    for destination in (b"\xff\xff\xff\xff", b"\x0a\x4d\x00\xff"):
        wire.receive(packet(TEST, b"abc", destination=destination, to=ALL))
    assert got == [b"abc"] * 2
    peer = wire.peer()
    for to in (80, 81):
        for destination in (b"\xff\xff\xff\xff", b"\x0a\x4d\x00\xff"):
            wire.receive(wire.peer(to=to).frame(SYN, destination=destination, to=ALL))
    peer.expect_nothing()
    assert wire.drops() == {("tcp", "not unicast"): 4}


@on_wire
def test_unknown_protocol_is_reported():
    # RFC 1122 section 3.2.2.1: destination unreachable, code 2; the packet's header and 8 bytes are quoted.
    wire = Wire()
    asked = packet(250, b"0123456789")
    wire.receive(asked)
    frame = wire.next_frame()
    assert frame[0:6] == PEER_MAC and frame[23] == 1 and frame[34:36] == b"\x03\x02", frame.hex()
    assert frame[42:70] == asked[14:42]
    wire.receive(packet(250, b"0123456789", destination=b"\x0a\x4d\x00\xff", to=ALL))
    wire.expect_nothing()


@on_wire
def test_output_refuses_what_cannot_be_sent():
    wire = Wire()
    assert wire.ip.output(TEST, PEER, bytes(20), bytes(1460), wire.now)
    wire.stack.flush()
    assert len(wire.next_frame()) == 1514
    raises(EMSGSIZE, wire.ip.output, TEST, PEER, bytes(20), bytes(1461), wire.now)
    raises(EHOSTUNREACH, wire.ip.output, TEST, FAR, b"", b"", wire.now)
    wire.stack.flush()
    wire.expect_nothing()


@on_wire
def test_output_without_a_free_frame_is_refused_and_counted():
    wire = Wire(transmit=2)
    wire.cable.stuck = True
    assert [wire.ip.output(TEST, PEER, b"%d" % i, now=wire.now) for i in range(4)] == [True, True, False, False]
    assert wire.drops() == {("ethernet", "transmit ring full"): 2}
    wire.stack.flush()
    wire.cable.unstick()
    assert wire.next_frame()[34:35] == b"0" and wire.next_frame()[34:35] == b"1"


@on_wire
def test_broadcast_and_multicast_need_no_neighbour():
    wire = Wire(neighbour=False)
    for address, mac in (
        (b"\xff\xff\xff\xff", ALL),
        (b"\x0a\x4d\x00\xff", ALL),
        (b"\xe0\x00\x00\xfb", b"\x01\x00\x5e\x00\x00\xfb"),  # RFC 1112 section 6.4
        (b"\xef\xff\x81\x02", b"\x01\x00\x5e\x7f\x81\x02"),
    ):
        wire.ip.output(TEST, address, b"x", now=wire.now)
        wire.stack.flush()
        assert wire.next_frame()[0:6] == mac


@on_wire
def test_both_ends_of_a_point_to_point_network_are_hosts():
    # RFC 3021: a network of two addresses has no broadcast address.
    for ours, peer in ((0, 1), (1, 0)):
        wire = Wire(neighbour=False)
        ours, peer = bytes((10, 1, 1, ours)), bytes((10, 1, 1, peer))
        wire.stack.configure(ours, b"\xff\xff\xff\xfe", b"\0\0\0\0", [])
        wire.stack.flush()
        wire.frames.clear()
        wire.ip.output(TEST, peer, b"x", now=wire.now)
        wire.stack.flush()
        wire.expect_frame(arp(1, MAC, ours, bytes(6), peer))


@on_wire
def test_nothing_is_sent_or_answered_without_an_address():
    wire = Wire()
    wire.stack.configure(b"\0\0\0\0", b"\0\0\0\0", b"\0\0\0\0", [])
    raises(EHOSTUNREACH, wire.ip.output, TEST, PEER, b"x", b"", wire.now)
    for destination in (OURS, b"\0\0\0\0", b"\xff\xff\xff\xff"):
        for protocol in (1, 6, 17, 250):
            wire.receive(packet(protocol, b"\x08\x00" + bytes(30), destination=destination))
        frame = wire.peer().frame(SYN, destination=destination)
        fix(frame)
        wire.receive(frame)
    wire.receive(arp(1, PEER_MAC, PEER, bytes(6), OURS))
    wire.receive(arp(1, PEER_MAC, PEER, bytes(6), b"\0\0\0\0"))
    wire.expect_nothing()

"""Path-MTU discovery: RFC 1191, and what RFC 5927 section 7 says about messages that are made up."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, FAR, OURS, PEER, PEER_MAC, PSH, Wire, established, fast, packet, pattern

    EMSGSIZE = 90

    def wire_with_router():
        """Returns a wire whose default gateway is the peer, and a UDP endpoint on port 5000."""
        wire = Wire(gateway=PEER)
        endpoint = wire.stack.udp.endpoint()
        endpoint.bind(port=5000)
        return wire, endpoint

    def send(wire, endpoint, size, destination=FAR):
        """Sends a datagram; returns [(total length, flags)] of the packets that leave."""
        assert endpoint.send(bytes(size), destination, 7777, wire.now)
        wire.stack.flush()
        sent = []
        while wire.frames:
            frame = wire.next_frame()
            assert frame[0:6] == PEER_MAC
            sent.append((frame[16] << 8 | frame[17], frame[20] >> 5))
        return sent

    def too_big(mtu, total, destination=FAR, port=5000, protocol=17, flags=0x40, source=OURS, header=None):
        """Returns a router's message that a packet of ours, `total` bytes long, was larger than `mtu`."""
        quote = packet(protocol, header or bytes((port >> 8, port & 255, 0x1E, 0x61, 0, 0, 0, 0)))[14:]
        quote[2:4] = bytes((total >> 8, total & 255))
        quote[6] = flags
        quote[12:16] = source
        quote[16:20] = destination
        message = bytearray(b"\x03\x04\0\0\0\0" + bytes((mtu >> 8, mtu & 255)) + quote)
        check = ~fast.add(message, 0, len(message), 0) & 0xFFFF
        message[2] = check & 255
        message[3] = check >> 8
        return packet(1, message)

    def too_big_segment(peer, mtu, total, seq):
        """Returns the same about our segment with this number."""
        ports = peer.to.to_bytes(2, "big") + peer.port.to_bytes(2, "big")
        header = ports + ((seq + peer.irs) & 0xFFFFFFFF).to_bytes(4, "big")
        return too_big(mtu, total, PEER, protocol=6, header=header)

    WHOLE = 2  # DF
    FIRST = 1  # MF
    LAST = 0


@on_wire
def test_datagrams_that_fit_the_path_have_df_and_larger_ones_leave_in_fragments_of_its_size():
    wire, endpoint = wire_with_router()
    assert send(wire, endpoint, 1472) == [(1500, WHOLE)]
    wire.receive(too_big(1006, 1500))
    assert wire.ip.path_mtu(FAR) == 1006 and wire.ip.path_mtu(PEER) == 1500
    assert send(wire, endpoint, 978) == [(1006, WHOLE)]
    # 986 bytes of data fit, of them the next lower multiple of 8 in all fragments but the last.
    assert send(wire, endpoint, 1472) == [(1004, FIRST), (516, LAST)]
    assert send(wire, endpoint, 1472, PEER) == [(1500, WHOLE)]
    # RFC 1122 section 4.1.3.3 lets the program know; it need not do anything.
    assert not endpoint.error and not wire.drops()


@on_wire
def test_an_echo_request_that_was_too_large_tells_the_path_mtu():
    wire, _ = wire_with_router()
    echo = wire.stack.icmp.echo(FAR, wire.now, 1400)
    wire.stack.flush()
    request = wire.next_frame()
    wire.receive(too_big(1400, 1428, protocol=1, header=request[34:42]))
    assert wire.ip.path_mtu(FAR) == 1400 and echo.error == EMSGSIZE


@on_wire
def test_what_was_learnt_is_forgotten_after_10_minutes():
    wire, endpoint = wire_with_router()
    wire.receive(too_big(1006, 1500))
    wire.advance(599_000)
    assert wire.ip.path_mtu(FAR) == 1006
    wire.advance(2_000)
    assert wire.ip.path_mtu(FAR) == 1500


@on_wire
def test_the_path_mtu_goes_down_step_by_step_and_never_up():
    wire, endpoint = wire_with_router()
    wire.receive(too_big(1400, 1500))
    wire.receive(too_big(1300, 1400))
    wire.receive(too_big(1350, 1500))  # about a packet that was on its way
    assert wire.ip.path_mtu(FAR) == 1300


@on_wire
def test_a_router_that_does_not_say_how_much_makes_us_take_the_next_plateau():
    # RFC 1191 section 5 and table 7-1.
    wire, endpoint = wire_with_router()
    for total, mtu in ((1500, 1492), (1492, 1006), (1006, 552)):
        wire.receive(too_big(0, total))
        assert wire.ip.path_mtu(FAR) == mtu
    wire.receive(too_big(0, 552))
    assert wire.ip.path_mtu(FAR) == 552


@on_wire
def test_messages_that_cannot_be_true_are_ignored():
    for reason, frame in (
        ("too small", too_big(551, 1500)),
        ("too small", too_big(68, 1500)),
        ("no limit", too_big(1500, 1500)),
        ("no limit", too_big(1006, 1006)),
        ("no limit", too_big(1006, 100)),
        ("no limit", too_big(9000, 9014)),
        ("not ours", too_big(1006, 1500, port=5001)),  # nobody's port
        ("not ours", too_big(1006, 1500, flags=0)),  # routers may take it apart
        ("not ours", too_big(1006, 1500, protocol=1, header=b"\x08\0\0\0\x12\x34\0\1")),  # no echo request waits
    ):
        wire, endpoint = wire_with_router()
        wire.receive(frame)
        drops = {reason: n for (layer, reason), n in wire.drops().items() if layer == "path_mtu"}
        assert wire.ip.path_mtu(FAR) == 1500 and drops == {reason: 1}, (reason, drops)
    wire, endpoint = wire_with_router()
    wire.receive(too_big(1006, 1500, source=PEER))
    assert wire.ip.path_mtu(FAR) == 1500 and wire.drops() == {("icmp", "not ours"): 1}


@on_wire
def test_the_protocol_decides_whether_its_packet_was_in_flight():
    # RFC 5927 section 7: TCP looks whether the quoted sequence number is in flight.
    for believed in (None, False, True):
        wire, endpoint = wire_with_router()
        asked = []

        def error(code, destination, header, now):
            asked.append((code, destination, header[:8], wire.ip.part("path_mtu").next_hop_mtu))
            return believed

        wire.ip.errors[6] = error
        wire.receive(too_big(1006, 1500, protocol=6, header=b"\0\x50\x1e\x61\0\0\0\x07"))
        assert asked == [(EMSGSIZE, FAR, b"\0\x50\x1e\x61\0\0\0\x07", 1006)]
        assert wire.ip.path_mtu(FAR) == (1006 if believed else 1500)


@on_wire
def test_segments_in_flight_that_were_too_large_leave_again_at_once_and_smaller():
    # RFC 1191 section 6.4: no timeout, and nothing else has been lost.
    wire, peer, app = established(rtt=100)
    app.write(pattern(0, 2920))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(1460, 1460))
    wire.advance(10)
    wire.receive(too_big_segment(peer, 1000, 1500, 1))
    for at in (0, 960, 1920):
        peer.expect(ACK, seq=1 + at, text=pattern(at, 960))
    wire.receive(too_big_segment(peer, 1000, 1500, 1461))  # about the second one: nothing new
    peer.expect_nothing()
    peer.send(ACK, ack=2881)
    peer.expect(ACK | PSH, seq=2881, text=pattern(2880, 40))  # for which Nagle's algorithm has waited
    peer.send(ACK)
    app.write(pattern(2920, 961))  # what follows fits, too
    peer.expect(ACK, text=pattern(2920, 960))


@on_wire
def test_a_message_about_a_segment_that_is_not_in_flight_changes_nothing():
    # RFC 5927 section 7.2.
    wire, peer, app = established()
    app.write(b"past")
    peer.expect(ACK | PSH, text=b"past")
    peer.send(ACK)
    app.write(pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(0, 1460))
    for seq in (4, 1466, 100000, -0x7FFFFFFF):
        wire.receive(too_big_segment(peer, 1000, 1500, seq))
    peer.expect_nothing()
    assert wire.ip.path_mtu(PEER) == 1500 and wire.drops() == {("path_mtu", "not ours"): 4}
    peer.send(ACK)
    app.write(pattern(1460, 1460))
    peer.expect(ACK | PSH, text=pattern(1460, 1460))


@on_wire
def test_eight_destinations_are_remembered():
    wire, endpoint = wire_with_router()
    places = [bytes((192, 0, 2, i)) for i in range(1, 21)]
    for place in places:
        wire.receive(too_big(1006, 1500, place))
        wire.advance(100)
    assert [place for place in places if wire.ip.path_mtu(place) == 1006] == places[-8:]
    wire.stack.configure(OURS, b"\xff\xff\xff\0", PEER, [])
    wire.stack.flush()
    wire.frames.clear()
    assert not wire.ip.paths


@on_wire
def test_the_mtu_of_our_own_network_may_be_smaller():
    # RFC 2132 section 5.1: the DHCP server knows it.
    wire, endpoint = wire_with_router()
    wire.stack.configure(OURS, b"\xff\xff\xff\0", PEER, [], 1400)
    wire.stack.flush()
    wire.frames.clear()
    wire.neighbours[PEER] = PEER_MAC
    assert endpoint.send(b"", PEER, 7777, wire.now)
    wire.stack.flush()
    wire.settle()
    wire.frames.clear()
    assert send(wire, endpoint, 1372) == [(1400, WHOLE)]
    assert send(wire, endpoint, 1373) == [(1396, FIRST), (25, LAST)]

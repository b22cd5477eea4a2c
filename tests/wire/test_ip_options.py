"""IP options: RFC 791 section 3.1, RFC 1122 sections 3.2.1.8, 3.2.2.6, 3.3.5 and 4.1.3, RFC 9293 section 3.9.2.1."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import socket
    from barenet.socket import IP_OPTIONS, IP_PKTINFO, IP_RECVOPTS, IPPROTO_IP, MSG_CTRUNC, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC
    from rig import (
        ACK,
        ALL,
        ANY,
        FAR,
        FIN,
        MAC,
        OTHER,
        OURS,
        PEER,
        PEER_MAC,
        PSH,
        RST,
        SYN,
        Wire,
        arp,
        fast,
        packet,
        pattern,
        pseudo,
        put,
    )

    EINVAL, EMSGSIZE, EHOSTUNREACH, ENOPROTOOPT = 22, 90, 113, 92
    TEST = 253
    G1 = b"\x0a\x4d\x00\x33"  # 10.77.0.51, a router beside us
    G1_MAC = b"\x02\x00\x00\x00\x00\x33"
    G2 = b"\xc6\x33\x64\x01"  # 198.51.100.1, one far away
    LOOSE, STRICT = 131, 137
    RECORD = b"\x07\x07\x04\0\0\0\0"
    BROADCAST = b"\x0a\x4d\x00\xff"

    def route(kind, pointer, *addresses):
        return bytes((kind, 3 + 4 * len(addresses), pointer)) + b"".join(addresses)

    def arrived(*addresses, kind=LOOSE):
        """Returns the options of a packet whose source route is complete, a no-operation before it."""
        return b"\x01" + route(kind, 4 + 4 * len(addresses), *addresses)

    def icmp(kind, code, rest):
        message = bytearray(bytes((kind, code, 0, 0)) + rest)
        put(message, 2, 0, len(message), 0)
        return message

    def wired(**arguments):
        """Returns a wire whose stack knows G1, and its peer."""
        wire = Wire(**arguments)
        wire.neighbours[G1] = G1_MAC
        wire.receive(arp(1, G1_MAC, G1, ANY + b"\0\0", OURS))
        wire.expect_arp(2, G1, G1_MAC, G1_MAC)
        return wire, wire.peer()

    def expect(wire, peer, options, hop, *flags, hop_mac=None, **what):
        """The next frame goes to `hop` with exactly these options; without them it is the segment that peer.expect() describes."""
        at, frame = wire.frames.pop(0)
        start = 14 + ((frame[14] & 15) << 2)
        total = frame[16] << 8 | frame[17]
        assert len(options) % 4 == 0 and frame[34:start] == options, "options {}, expected {}".format(frame[34:start].hex(), options.hex())
        assert frame[30:34] == hop and frame[0:6] == (hop_mac or {G1: G1_MAC, peer.address: peer.mac}[hop]), frame[:34].hex()
        assert fast.add(frame, 0, start - 14, 14) == 0xFFFF, "header checksum"
        assert total <= 1500
        total -= len(options)
        plain = bytearray(peer.mac + frame[6:14] + b"\x45" + frame[15:34] + frame[start:])
        plain[30:34] = peer.address
        plain[16] = total >> 8
        plain[17] = total & 255
        put(plain, 24, 14, 20, 0)
        plain = plain[: 14 + total]
        wire.frames.insert(0, (at, bytes(plain + bytes(max(0, 60 - len(plain))))))
        return peer.expect(*flags, **what)

    def opened(wire, peer, options=b"", answer=b"", port=81):
        """Returns a socket that has connected to the peer with these options, which are on the wire as `answer` says: (options, hop)."""
        s = socket.socket()
        s.settimeout(0)
        if options:
            s.setsockopt(IPPROTO_IP, IP_OPTIONS, options)
        peer.to = None
        try:
            s.connect(("10.77.0.1", peer.port))
        except OSError as e:
            assert e.errno == 115, e
        peer.to = s.getsockname()[1]
        expect(wire, peer, answer[0], answer[1], SYN, mss=1460)
        peer.send(SYN | ACK, mss=1460)
        expect(wire, peer, answer[0], answer[1], ACK)
        return s

    def passive(wire, peer, options, back, hop, backlog=5):
        """Returns the App of a connection that the peer has opened with these options; the answer has the options `back`."""
        listener = wire.listen(80, backlog)
        peer.send(SYN, mss=1460, ip_options=options)
        expect(wire, peer, back, hop, SYN | ACK, mss=1460)
        peer.send(ACK, ip_options=options)
        return wire.accept(listener)

    def call(wire, s, data):
        assert s.send(data) == len(data)
        wire.settle()

    def udp(port=5000, *options):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", port))
        s.settimeout(0)
        for option in options:
            s.setsockopt(IPPROTO_IP, option, 1)
        return s

    def datagram(data, port=7777, ours=5000, **changes):
        n = 8 + len(data)
        return packet(17, bytes((port >> 8, port & 255, ours >> 8, ours & 255, n >> 8, n & 255, 0, 0)) + data, **changes)

    def fragment(data, word, options, protocol=17):
        frame = packet(protocol, data, ip_options=options, fragment=word, check=False)
        put(frame, 24, 14, 20 + len(options), 0)
        return frame

    def raises(code, function, *arguments):
        try:
            function(*arguments)
        except OSError as e:
            assert e.errno == code, e
            return
        raise AssertionError("nothing raised")


# What arrives.


@on_wire
def test_a_completed_source_route_ends_here_and_reaches_its_protocol_as_it_came():
    wire = Wire()
    got = []
    wire.ip.handlers[TEST] = lambda frame, start, end, source, destination, now: got.append((bytes(frame[34:start]), bytes(frame[start:end])))
    routes = [arrived(G1), arrived(G2, G1, kind=STRICT), arrived(PEER, G1), arrived(), route(LOOSE, 8, G1) + b"\0", b"\x44\x04\x05\x00" + arrived(G1)]
    for options in routes:
        wire.receive(packet(TEST, b"abc", ip_options=options))
    assert got == [(options, b"abc") for options in routes] and not wire.drops()


@on_wire
def test_options_that_make_no_sense_are_dropped_by_reason():
    wire = Wire()
    got = []
    wire.ip.handlers[TEST] = lambda *arguments: got.append(arguments)
    for reason, options in (
        ("length", b"\x07\x00\x04\x00"),
        ("length", b"\x07\x01\x04\x00"),
        ("length", b"\x07\x05\x04\x00"),
        ("length", b"\x01\x01\x01\x07"),
        ("length", b"\xff" * 8),
        ("length", b"\x83\x0b\x08" + G1 + b"\0"),
        ("two routes", arrived(G1) + arrived(G1)),
        ("two routes", arrived(G1) + arrived(G1, kind=STRICT)),
        ("two routes", arrived(G1) + route(LOOSE, 4, G1) + b"\0"),
        ("route", b"\x83\x02\x01\0"),
        ("route", b"\x83\x06\x08" + G1[:3] + b"\x01\0"),
        ("route", b"\x83\x07\x03" + G1 + b"\0"),
        ("route", b"\x83\x07\x00" + G1 + b"\0"),
        ("route", b"\x83\x07\x05" + G1 + b"\0"),
        ("route", arrived(OURS)),
        ("route", arrived(G1, OURS, G2)),
        ("route", arrived(PEER, OURS)),
        ("route", arrived(ALL[:4])),
        ("route", arrived(BROADCAST, G1)),
        ("route", arrived(b"\xe0\0\0\1")),
        ("route", arrived(G1, b"\x7f\0\0\1")),
        ("route", arrived(ANY, G1)),
        ("route leads on", route(LOOSE, 8, G1, G2) + b"\0"),
    ):
        before = wire.drops().get(("ip_options", reason), 0)
        wire.receive(packet(TEST, b"abc", ip_options=options))
        wire.frames.clear()
        assert wire.drops().get(("ip_options", reason), 0) == before + 1, (reason, options.hex())
    assert not got


@on_wire
def test_a_source_route_that_leads_on_is_not_followed_and_its_sender_is_told():
    wire = Wire()
    frame = packet(TEST, b"12345678rest", ip_options=route(STRICT, 4, G1) + b"\0")
    wire.receive(frame)
    told = wire.next_frame()
    # Destination unreachable, source route failed; the quote has all of the header and 8 bytes more.
    assert told[0:6] == PEER_MAC and told[30:34] == PEER and told[23] == 1
    assert told[34:] == icmp(3, 5, bytes(4) + frame[14 : 42 + 8])
    wire.receive(packet(TEST, b"12345678", ip_options=route(LOOSE, 4, G1) + b"\0", destination=BROADCAST, to=ALL))
    wire.receive(packet(1, icmp(3, 1, bytes(40)), ip_options=route(LOOSE, 4, G1) + b"\0"))
    wire.expect_nothing()
    assert wire.drops()[("ip_options", "route leads on")] == 3


@on_wire
def test_router_alerts_alone_load_nothing():
    wire = Wire()
    got = []
    wire.ip.handlers[TEST] = lambda *arguments: got.append(arguments)
    wire.receive(packet(TEST, b"abc", ip_options=b"\x94\x04\0\0"))
    assert got and not any(part.name == "ip_options" for part in wire.ip.late)
    wire.receive(packet(1, icmp(8, 0, bytes(4)), ip_options=b"\x94\x09\0\0"))
    assert wire.drops() == {("ip_options", "length"): 1}


@on_wire
def test_an_echo_takes_the_way_back_and_is_recorded():
    wire, peer = wired()
    echo = icmp(8, 0, b"\0\1\0\2hello")
    for options, back, hop in (
        (arrived(G2, G1), route(LOOSE, 4, G2, PEER) + b"\0", G1),
        (arrived(PEER, G2, G1, kind=STRICT), route(STRICT, 4, G2, PEER) + b"\0", G1),
        (b"\x07\x0b\x08" + G1 + ANY + b"\0", b"\x07\x0b\x0c" + G1 + OURS + b"\0", PEER),
        (b"\x07\x07\x08" + G1 + b"\0", b"\x07\x07\x08" + G1 + b"\0", PEER),
        (arrived(G1) + RECORD + b"\0", route(LOOSE, 4, PEER) + RECORD[:2] + b"\x08" + OURS + b"\0\0", G1),
        (b"\x01\x01\x01\x00", b"", PEER),
        (b"\x07\x03\x04\0", b"\x07\x03\x04\0", PEER),
    ):
        wire.receive(packet(1, echo, ip_options=options))
        frame = wire.next_frame()
        start = 34 + len(back)
        assert frame[14] == 0x45 + len(back) // 4 and frame[34:start] == back, frame.hex()
        assert frame[30:34] == hop and frame[0:6] == (G1_MAC if hop == G1 else PEER_MAC)
        assert fast.add(frame, 0, start - 14, 14) == 0xFFFF
        end = 14 + (frame[16] << 8 | frame[17])
        assert frame[start:end] == icmp(0, 0, b"\0\1\0\2hello")
    wire.receive(packet(1, echo))
    assert wire.next_frame()[14] == 0x45
    wire.receive(packet(1, icmp(8, 0, bytes(1468)), ip_options=arrived(G1)))
    assert len(wire.frames[0][1]) == 1514 and wire.next_frame()[14] == 0x47
    # What would not fit one packet with them is answered without.
    echo = icmp(8, 0, bytes(1500))
    wire.receive(fragment(echo[:504], b"\x20\0", arrived(G1), 1), fragment(echo[504:], b"\0\x3f", arrived(G1), 1))
    assert wire.next_frame()[14] == 0x45 == wire.next_frame()[14]


# TCP, active open.


@on_wire
def test_a_program_s_source_route_is_in_every_segment_it_sends():
    wire, peer = wired()
    way = route(LOOSE, 4, G2, PEER) + b"\0", G1
    s = opened(wire, peer, route(LOOSE, 4, G1, G2), way)
    assert s.getsockopt(IPPROTO_IP, IP_OPTIONS) == route(LOOSE, 4, G1, G2)
    call(wire, s, b"hello")
    expect(wire, peer, *way, ACK | PSH, text=b"hello")
    wire.advance(200)
    expect(wire, peer, *way, ACK | PSH, seq=1, text=b"hello")  # the retransmission
    peer.send(ACK | PSH, text=b"answer")
    assert s.recv(100) == b"answer"
    wire.advance(200)
    expect(wire, peer, *way, ACK)
    peer.send(ACK | PSH, text=b"x")
    peer.send(SYN, seq=5)
    expect(wire, peer, *way, ACK)  # RFC 5961's
    s.close()  # with unread text
    wire.settle()
    expect(wire, peer, *way, RST | ACK)


@on_wire
def test_closing_takes_the_source_route_up_to_the_last_ack_of_time_wait():
    wire, peer = wired()
    way = route(STRICT, 4, PEER) + b"\0", G1
    s = opened(wire, peer, route(STRICT, 4, G1), way)
    s.close()
    wire.settle()
    expect(wire, peer, *way, FIN | ACK)
    peer.send(FIN | ACK)
    expect(wire, peer, *way, ACK)
    peer.send(FIN | ACK, seq=1)
    expect(wire, peer, *way, ACK)


@on_wire
def test_the_mss_makes_room_for_ip_options():
    # RFC 9293 section 3.7.1: Eff.snd.MSS = min(SendMSS + 20, MMS_S) - TCPhdrsize - IPoptionsize.
    wire, peer = wired()
    for mss, size in ((1460, 1448), (536, 524)):
        listener = wire.tcp.listeners.get(80) or wire.listen(80)
        peer = wire.peer(5000 + mss)
        peer.send(SYN, mss=mss, ip_options=arrived(G2, G1))
        expect(wire, peer, route(LOOSE, 4, G2, PEER) + b"\0", G1, SYN | ACK, mss=1460)
        peer.send(ACK)
        app = wire.accept(listener)
        app.write(pattern(0, 2000))
        expect(wire, peer, route(LOOSE, 4, G2, PEER) + b"\0", G1, ACK, text=pattern(0, size))
        wire.frames.clear()


@on_wire
def test_options_that_are_set_later_shrink_the_segments_that_are_in_flight():
    wire, peer = wired()
    s = opened(wire, peer, b"", (b"", PEER))
    call(wire, s, pattern(0, 3000))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK, text=pattern(1460, 1460))
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, RECORD)
    wire.advance(300)
    expect(wire, peer, RECORD + b"\0", PEER, ACK, seq=1, text=pattern(0, 1452))
    wire.frames.clear()
    peer.rcv = 2921
    peer.send(ACK, ack=2921)
    expect(wire, peer, RECORD + b"\0", PEER, ACK | PSH, text=pattern(2920, 80))
    peer.send(ACK)
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, b"")
    assert s.getsockopt(IPPROTO_IP, IP_OPTIONS) == b""
    call(wire, s, pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(0, 1460))
    peer.send(ACK)
    peer.send(ACK | PSH, text=b"more")
    assert s.recv(10) == b"more"
    s.close()
    wire.settle()
    wire.frames.clear()


@on_wire
def test_text_arrives_in_bulk_and_leaves_in_bulk_with_options():
    wire, peer = wired()
    way = RECORD + b"\0", PEER
    s = opened(wire, peer, RECORD, way)
    got = b""
    for i in range(20):
        frame = peer.frame(ACK | PSH, text=pattern(1000 * i, 1000), ip_options=RECORD + b"\0" if i & 1 else b"")
        wire.receive(frame)
        got += s.recv(5000)
        while wire.frames:
            expect(wire, peer, *way, ACK)
    assert got == pattern(0, 20000)
    data = pattern(0, 20000)
    sent = 0
    taken = b""
    while len(taken) < len(data):
        if sent < len(data):
            try:
                sent += s.send(data[sent:])
            except OSError as e:
                assert e.errno == 11
        wire.settle()
        while wire.frames:
            flags = ACK | PSH if wire.frames[0][1][14 + 28 + 13] & PSH else ACK
            segment = expect(wire, peer, *way, flags, length=(wire.frames[0][1][16] << 8 | wire.frames[0][1][17]) - 48)
            taken += segment.text
        peer.send(ACK)
    assert taken == data
    s.close()
    wire.settle()
    wire.frames.clear()


@on_wire
def test_a_route_that_was_received_does_not_replace_the_program_s():
    wire, peer = wired()
    wire.neighbours[OTHER] = b"\x02\x00\x00\x00\x00\x63"
    way = route(LOOSE, 4, PEER) + b"\0", G1
    s = opened(wire, peer, route(LOOSE, 4, G1), way)
    peer.send(ACK | PSH, text=b"one", ip_options=arrived(OTHER))
    assert s.recv(9) == b"one"
    wire.advance(100)
    expect(wire, peer, *way, ACK)
    # An accepted connection's program may set its own, too.
    peer = wire.peer(5001)
    listener = socket.socket()
    listener.settimeout(0)
    listener.bind(("", 80))
    listener.listen(3)
    peer.send(SYN, mss=1460, ip_options=arrived(G2, G1))
    expect(wire, peer, route(LOOSE, 4, G2, PEER) + b"\0", G1, SYN | ACK, mss=1460)
    peer.send(ACK, ip_options=arrived(G2, G1))
    accepted = listener.accept()[0]
    assert accepted.getsockopt(IPPROTO_IP, IP_OPTIONS) == route(LOOSE, 4, G1, G2)
    accepted.setsockopt(IPPROTO_IP, IP_OPTIONS, route(LOOSE, 4, G1))
    peer.send(ACK | PSH, text=b"one", ip_options=arrived(G2, G1))
    wire.advance(100)
    expect(wire, peer, *way, ACK)
    # So may that of the listening socket, for what it accepts.
    listener.setsockopt(IPPROTO_IP, IP_OPTIONS, RECORD)
    assert listener.getsockopt(IPPROTO_IP, IP_OPTIONS) == RECORD
    peer = wire.peer(5002)
    peer.send(SYN, mss=1460, ip_options=arrived(G1))
    expect(wire, peer, *way, SYN | ACK, mss=1460)
    peer.send(ACK, ip_options=arrived(G1))
    call(wire, listener.accept()[0], b"hello")
    expect(wire, peer, RECORD + b"\0", PEER, ACK | PSH, text=b"hello")


@on_wire
def test_a_second_attempt_to_connect_has_the_options_too():
    wire, peer = wired()
    s = socket.socket()
    s.settimeout(0)
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, RECORD)
    for _ in range(2):
        raises(115, s.connect, ("10.77.0.1", 5000))
        peer = wire.peer()
        peer.to = s.getsockname()[1]
        expect(wire, peer, RECORD + b"\0", PEER, SYN, mss=1460)
        peer.send(RST | ACK)
        raises(111, s.send, b"x")


# TCP, passive open.


@on_wire
def test_the_way_back_is_kept_for_all_segments_of_a_connection_that_the_peer_opened():
    for options, back in (
        (arrived(G2, G1), route(LOOSE, 4, G2, PEER) + b"\0"),
        (arrived(G2, G1, kind=STRICT), route(STRICT, 4, G2, PEER) + b"\0"),
        (arrived(G1), route(LOOSE, 4, PEER) + b"\0"),
        (arrived(PEER, G2, G1), route(LOOSE, 4, G2, PEER) + b"\0"),  # RFC 1122 section 3.2.1.8, case B
    ):
        wire, peer = wired()
        app = passive(wire, peer, options, back, G1)
        peer.send(ACK | PSH, text=b"question")
        assert app.read(100) == b"question"
        app.write(b"answer")
        expect(wire, peer, back, G1, ACK | PSH, text=b"answer")
        peer.send(FIN | ACK)
        expect(wire, peer, back, G1, ACK)
        app.close()
        expect(wire, peer, back, G1, FIN | ACK)
        peer.send(ACK)
        assert app.deleted()


@on_wire
def test_a_route_without_entries_but_the_sender_itself_is_none():
    for options in (arrived(), arrived(PEER)):
        wire, peer = wired()
        app = passive(wire, peer, options, b"", PEER)
        app.write(b"answer")
        peer.expect(ACK | PSH, text=b"answer")


@on_wire
def test_a_later_route_replaces_the_first_one():
    wire, peer = wired()
    listener = wire.listen(80)
    first, second, third = (b"\x0a\x4d\x00\x33", b"\x0a\x4d\x00\x34", b"\x0a\x4d\x00\x35")
    for address in (second, third):
        wire.receive(arp(1, G1_MAC, address, ANY + b"\0\0", OURS))
        wire.expect_arp(2, address, G1_MAC, G1_MAC)
    back = route(LOOSE, 4, PEER) + b"\0"
    peer.send(SYN, mss=1460, ip_options=arrived(first))
    expect(wire, peer, back, first, SYN | ACK, mss=1460, hop_mac=G1_MAC)
    peer.snd = 0
    peer.send(SYN, mss=1460, ip_options=arrived(second))
    expect(wire, peer, back, second, SYN | ACK, seq=0, mss=1460, hop_mac=G1_MAC)
    peer.send(ACK, ip_options=arrived(second))
    app = wire.accept(listener)
    # What is not acceptable changes nothing: before the window, beyond it, an ACK of what was never sent.
    peer.send(ACK, seq=100000, ip_options=arrived(third))
    expect(wire, peer, back, second, ACK, hop_mac=G1_MAC)
    peer.send(ACK, ack=5000, ip_options=arrived(third))
    expect(wire, peer, back, second, ACK, hop_mac=G1_MAC)
    app.write(b"a")
    expect(wire, peer, back, second, ACK | PSH, text=b"a", hop_mac=G1_MAC)
    peer.send(ACK, ip_options=arrived(G2, third))
    app.write(b"b")
    expect(wire, peer, route(LOOSE, 4, G2, PEER) + b"\0", third, ACK | PSH, text=b"b", hop_mac=G1_MAC)
    peer.send(ACK)  # without a route: that of before stays
    app.write(b"c")
    expect(wire, peer, route(LOOSE, 4, G2, PEER) + b"\0", third, ACK | PSH, text=b"c", hop_mac=G1_MAC)


@on_wire
def test_a_connection_without_a_route_gets_one_when_it_comes_later():
    wire, peer = wired()
    app = passive(wire, peer, b"", b"", PEER)
    app.write(b"a")
    peer.expect(ACK | PSH, text=b"a")
    peer.send(ACK, ip_options=arrived(G1))
    app.write(b"b")
    expect(wire, peer, route(LOOSE, 4, PEER) + b"\0", G1, ACK | PSH, text=b"b")
    # One that we have opened keeps none.
    peer = wire.peer(5001, 81)
    app = wire.connect(peer)
    peer.expect(SYN, mss=1460)
    peer.send(SYN | ACK, mss=1460, ip_options=arrived(G1))
    peer.expect(ACK)
    peer.send(ACK, ip_options=arrived(G1))
    app.write(b"b")
    peer.expect(ACK | PSH, text=b"b")


@on_wire
def test_a_cookie_and_the_connection_it_opens_take_the_way_back():
    wire, peer = wired()
    listener = wire.listen(80, 1)
    peer.send(SYN, mss=1460)
    peer.expect(SYN | ACK, mss=1460)
    second = wire.peer(5001)
    back = route(LOOSE, 4, PEER) + b"\0"
    second.send(SYN, mss=1460, ip_options=arrived(G1))
    expect(wire, second, back, G1, SYN | ACK, mss=1460)
    assert wire.drops()[("tcp", "backlog full, cookie sent")] == 1
    second.send(ACK, ip_options=arrived(G1))
    app = wire.accept(listener)
    app.write(b"b")
    expect(wire, second, back, G1, ACK | PSH, text=b"b")


@on_wire
def test_a_route_whose_last_hop_cannot_be_reached_is_not_taken():
    wire, peer = wired()  # no gateway
    app = passive(wire, peer, arrived(G1, G2), b"", PEER)
    app.write(b"b")
    peer.expect(ACK | PSH, text=b"b")


@on_wire
def test_errors_about_routed_segments_reach_their_connection():
    wire, peer = wired()
    way = route(LOOSE, 4, G2, PEER) + b"\0", G1
    s = opened(wire, peer, route(LOOSE, 4, G1, G2), way)
    call(wire, s, pattern(0, 1448))
    sent = wire.frames[0][1]
    expect(wire, peer, *way, ACK | PSH, text=pattern(0, 1448))
    # "Fragmentation needed", 1000 bytes, from the first router, which has not changed the destination yet.
    wire.receive(packet(1, icmp(3, 4, b"\0\0\x03\xe8" + sent[14:60]), source=G1, mac=G1_MAC))
    assert wire.ip.path_mtu(PEER) == 1000
    expect(wire, peer, *way, ACK, seq=1, text=pattern(0, 948))
    wire.frames.clear()
    # Before the connection is open an error ends it.
    peer = wire.peer(5001)
    s = socket.socket()
    s.settimeout(0)
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, route(LOOSE, 4, G1, G2))
    raises(115, s.connect, ("10.77.0.1", 5001))
    peer.to = s.getsockname()[1]
    sent = wire.frames[0][1]
    expect(wire, peer, *way, SYN, mss=1460)
    quote = bytearray(sent[14:60])
    quote[16:20] = G2
    quote[20:28] = route(LOOSE, 8, G1, PEER)[:8]
    wire.receive(packet(1, icmp(3, 5, bytes(4) + quote), source=G1, mac=G1_MAC))
    raises(EHOSTUNREACH, s.send, b"x")


@on_wire
def test_a_first_hop_that_does_not_answer_ends_the_attempt():
    wire = Wire()
    s = socket.socket()
    s.settimeout(0)
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, route(LOOSE, 4, OTHER))
    raises(115, s.connect, ("10.77.0.1", 5001))
    wire.expect_arp(1, OTHER)
    wire.advance(5000)
    wire.frames.clear()
    raises(EHOSTUNREACH, s.send, b"x")


@on_wire
def test_a_connection_to_ourselves_has_options_too():
    wire = Wire()
    listener = socket.socket()
    listener.settimeout(0)
    listener.bind(("", 80))
    listener.listen(1)
    s = socket.socket()
    s.settimeout(0)
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, RECORD)
    raises(115, s.connect, ("127.0.0.1", 80))
    for _ in range(5):
        wire.stack.poll()
    other = listener.accept()[0]
    other.settimeout(0)
    assert s.send(pattern(0, 3000)) == 3000
    for _ in range(9):
        wire.stack.poll()
    assert other.recv(5000) == pattern(0, 3000)
    assert other.send(b"answer") == 6
    for _ in range(3):
        wire.stack.poll()
    assert s.recv(9) == b"answer"
    s.close()
    other.close()
    listener.close()
    for _ in range(5):
        wire.stack.poll()


# UDP.


@on_wire
def test_a_datagram_with_a_source_route_byte_by_byte():
    wire, _ = wired()
    s = udp()
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, bytes.fromhex("83 0b 04 0a4d0033 c6336401".replace(" ", "")))
    wire.ip.identification = 0x1233
    s.sendto(b"hello", ("10.77.0.1", 7777))
    wire.settle()
    # IHL 8; the destination is the first hop, the route the second one and the final destination. The pseudo header has the final destination.
    frame = wire.next_frame()
    assert frame[0:14] == G1_MAC + MAC + b"\x08\x00"
    assert frame[14:24] == bytes.fromhex("4800002d123440004011") and frame[26:34] == OURS + G1
    assert fast.add(frame, 0, 32, 14) == 0xFFFF
    assert frame[34:46] == bytes.fromhex("830b04c63364010a4d000100")
    assert frame[46:59] == bytes.fromhex("13881e61000d757c") + b"hello"
    # The next one, which without options takes the fast path, is no other.
    s.sendto(b"hello", ("10.77.0.1", 7777))
    wire.settle()
    again = wire.next_frame()
    assert again[26:59] == frame[26:59] and again[14:18] == frame[14:18]
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, b"")
    s.sendto(b"hello", ("10.77.0.1", 7777))
    wire.settle()
    plain = wire.next_frame()
    assert plain[14] == 0x45 and plain[30:34] == PEER and plain[34:47] == frame[46:59]
    s.close()


@on_wire
def test_datagrams_with_options_leave_whole_or_not_at_all():
    wire, _ = wired()
    s = udp()
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, RECORD)
    raises(EMSGSIZE, s.sendto, bytes(1465), ("10.77.0.1", 7777))
    s.sendto(bytes(1464), ("10.77.0.1", 7777))
    wire.settle()
    assert len(wire.next_frame()) == 1514
    s.setsockopt(IPPROTO_IP, IP_OPTIONS, route(LOOSE, 4, G1))
    raises(EINVAL, s.sendto, b"x", ("224.0.0.1", 7777))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    raises(EINVAL, s.sendto, b"x", ("255.255.255.255", 7777))
    s.close()


@on_wire
def test_a_program_that_is_bound_to_nothing_sees_where_a_datagram_was_sent_to():
    wire = Wire()
    s = udp(5000, IP_PKTINFO)
    wire.receive(datagram(b"one"), datagram(b"two", destination=BROADCAST, to=ALL))
    interface = b"\1\0\0\0"
    assert s.recvmsg(100, 24) == (b"one", [(IPPROTO_IP, IP_PKTINFO, interface + OURS + OURS)], 0, ("10.77.0.1", 7777))
    assert s.recvmsg(100, 24) == (b"two", [(IPPROTO_IP, IP_PKTINFO, interface + OURS + BROADCAST)], 0, ("10.77.0.1", 7777))
    s.sendto(b"x", ("127.0.0.1", 5000))
    wire.stack.poll()
    loopback = b"\x7f\0\0\1"
    assert s.recvmsg(100, 24) == (b"x", [(IPPROTO_IP, IP_PKTINFO, interface + loopback + loopback)], 0, ("127.0.0.1", 5000))
    raises(11, s.recvmsg, 100, 24)
    s.close()


@on_wire
def test_ip_options_reach_the_program():
    wire = Wire()
    s = udp(5000, IP_RECVOPTS)
    for options in (arrived(G1), RECORD + b"\0", b"\x94\x04\0\0", b""):
        wire.receive(datagram(b"one", ip_options=options))
        told = [(IPPROTO_IP, IP_RECVOPTS, options)] if options else []
        assert s.recvmsg(100, 100) == (b"one", told, 0, ("10.77.0.1", 7777))
    s.setsockopt(IPPROTO_IP, IP_PKTINFO, 1)
    wire.receive(datagram(b"one", ip_options=arrived(G1)))
    told = [(IPPROTO_IP, IP_PKTINFO, b"\1\0\0\0" + OURS + OURS), (IPPROTO_IP, IP_RECVOPTS, arrived(G1))]
    assert s.recvmsg(100, 24 + 20, MSG_PEEK) == (b"one", told, 0, ("10.77.0.1", 7777))
    assert s.recvmsg(100, 24 + 19, MSG_PEEK) == (b"one", told[:1], MSG_CTRUNC, ("10.77.0.1", 7777))
    assert s.recvmsg(2, 23, MSG_PEEK | MSG_DONTWAIT) == (b"on", told[1:], MSG_CTRUNC | MSG_TRUNC, ("10.77.0.1", 7777))
    s.setsockopt(IPPROTO_IP, IP_PKTINFO, 0)
    assert s.recvmsg(100, 100) == (b"one", told[1:], 0, ("10.77.0.1", 7777))
    s.setsockopt(IPPROTO_IP, IP_RECVOPTS, 0)
    wire.receive(datagram(b"two", ip_options=arrived(G1)))
    assert s.recvmsg(100) == (b"two", [], 0, ("10.77.0.1", 7777))
    s.close()


@on_wire
def test_notes_stay_with_their_datagrams_whatever_the_program_reads_with():
    wire = Wire()
    s = udp()
    assert s.getsockopt(IPPROTO_IP, IP_RECVOPTS) == 0
    wire.receive(datagram(b"0"), datagram(b"1"))
    s.setsockopt(IPPROTO_IP, IP_RECVOPTS, 1)
    assert s.getsockopt(IPPROTO_IP, IP_RECVOPTS) == 1
    marks = [bytes((7, 4, i, 0)) for i in range(10)]
    for i in range(2, 10):
        wire.receive(datagram(bytes((48 + i,)), ip_options=marks[i]))
    buffer = bytearray(5)

    def told():
        data, ancillary, flags, address = s.recvmsg(5, 100)
        return data, [item[2] for item in ancillary]

    assert told() == (b"0", [])  # they had come before
    assert told() == (b"1", [])
    assert told() == (b"2", marks[2:3])
    assert s.recv(5) == b"3"
    assert told() == (b"4", marks[4:5])
    assert s.recv_into(buffer) == 1 and s.readinto(buffer) == 1
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8000)
    assert told() == (b"7", marks[7:8])
    assert s.recvfrom(5)[0] == b"8" and s.recv(5) == b"9"
    wire.receive(datagram(b""), datagram(b"", ip_options=marks[0]))
    assert told() == (b"", []) and told() == (b"", marks[:1])
    s.close()


@on_wire
def test_the_queue_of_a_socket_with_notes_is_bounded():
    wire = Wire()
    s = udp(5000, IP_PKTINFO)
    for _ in range(40):
        wire.receive(datagram(b""))
    assert s.info()["dropped"] == 8 and wire.drops()[("udp", "full")] == 8
    for _ in range(32):
        assert s.recv(9) == b""
    for i in range(3):
        wire.receive(datagram(b"x" * i))
    for i in range(3):
        assert len(s.recvmsg(9, 99)[1]) == 1
    for _ in range(10):
        wire.receive(datagram(bytes(1000)))
    assert s.info()["dropped"] == 8 + 6
    s.close()


@on_wire
def test_a_datagram_in_fragments_has_the_options_of_the_first():
    wire = Wire()
    s = udp(5000, IP_RECVOPTS)
    whole = datagram(bytes(1000), ip_options=b"")[34:]
    whole[6:8] = b"\0\0"
    wire.receive(fragment(whole[:504], b"\x20\0", arrived(G1) + RECORD + b"\0"), fragment(whole[504:], b"\0\x3f", arrived(G1)))
    data, told, flags, address = s.recvmsg(2000, 100)
    assert data == bytes(1000) and told == [(IPPROTO_IP, IP_RECVOPTS, arrived(G1) + RECORD + b"\0")]
    s.close()


@on_wire
def test_a_closed_socket_and_a_connected_one_with_notes():
    wire = Wire()
    s = udp(5000, IP_PKTINFO)
    s.connect(("10.77.0.1", 7777))
    wire.receive(datagram(b"one"))
    assert s.recvmsg(9, 99)[0] == b"one"
    s.send(b"to nobody")
    wire.settle()
    sent = wire.next_frame()
    wire.receive(packet(1, icmp(3, 3, bytes(4) + sent[14:42])))
    raises(111, s.recvmsg, 9)
    s.close()
    raises(9, s.recvmsg, 9)
    wire.receive(datagram(b"one"))
    assert wire.next_frame()[34:36] == b"\3\3"
    # The option before the port, and a port of the stack's choice.
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0)
    s.setsockopt(IPPROTO_IP, IP_PKTINFO, 1)
    s.sendto(b"x", ("10.77.0.1", 7777))
    wire.settle()
    wire.next_frame()
    wire.receive(datagram(b"y", ours=s.getsockname()[1]))
    assert len(s.recvmsg(9, 99)[1]) == 1
    s.close()


@on_wire
def test_options_that_cannot_be_set():
    wire = Wire()
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_INET, kind)
        for options in (
            bytes(41),
            b"\x07",
            b"\x07\x00",
            b"\x07\x04\x04",
            route(LOOSE, 4),
            route(LOOSE, 8, G1),
            route(LOOSE, 4, G1)[:-1],
            route(LOOSE, 4, OURS),
            route(LOOSE, 4, G1, BROADCAST),
            route(LOOSE, 4, b"\xe0\0\0\1"),
            route(LOOSE, 4, G1) + route(LOOSE, 4, G1),
            route(LOOSE, 4, G1) + route(STRICT, 4, G1),
        ):
            raises(EINVAL, s.setsockopt, IPPROTO_IP, IP_OPTIONS, options)
        assert s.getsockopt(IPPROTO_IP, IP_OPTIONS) == b""
        try:
            s.setsockopt(IPPROTO_IP, IP_OPTIONS, 5)
            raise AssertionError
        except TypeError:
            pass
        s.setsockopt(IPPROTO_IP, IP_OPTIONS, bytearray(40))
        assert s.getsockopt(IPPROTO_IP, IP_OPTIONS) == bytes(40) and s.getsockopt(IPPROTO_IP, IP_OPTIONS, 3) == bytes(3)
        s.close()
    wire.settle()

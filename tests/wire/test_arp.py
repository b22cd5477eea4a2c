"""ARP with a clock: RFC 826, RFC 1122 section 2.3.2, RFC 5227."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet.ticks import PERIOD
    from rig import (
        ACK,
        ALL,
        ANY,
        FAR,
        MAC,
        OTHER,
        OTHER_MAC,
        OURS,
        PEER,
        PEER_MAC,
        PSH,
        SYN,
        Wire,
        arp,
        established,
        packet,
    )

    EHOSTUNREACH = 113
    NEW_MAC = b"\x02\0\0\0\0\x77"
    NO_MAC = bytes(6)
    TEST = 253  # RFC 3692: a protocol number for experiments

    def output(wire, payload=b"x", to=PEER):
        queued = wire.ip.output(TEST, to, payload, now=wire.stack.now())
        wire.stack.flush()
        return queued

    def expect_packet(wire, payload=b"x", mac=PEER_MAC, to=PEER, after=None):
        frame = wire.next_frame(after)
        assert frame[0:6] == mac and frame[12:14] == b"\x08\x00" and frame[30:34] == to, frame.hex()
        assert frame[34 : 34 + len(payload)] == payload, frame.hex()


@on_wire
def test_address_is_announced_when_the_cable_is_connected():
    wire = Wire()
    wire.cable.plugged = False
    wire.advance(100)
    wire.cable.plugged = True
    wire.advance(100)
    wire.expect_arp(1, OURS)


@on_wire
def test_request_for_us_is_answered():
    wire = Wire(neighbour=False)
    wire.receive(arp(1, PEER_MAC, PEER, NO_MAC, OURS))
    wire.expect_arp(2, PEER, PEER_MAC, PEER_MAC)


@on_wire
def test_probe_for_our_address_is_answered():
    # RFC 5227 section 2.1.1: the sender address of a probe is zero.
    wire = Wire(neighbour=False)
    wire.receive(arp(1, PEER_MAC, ANY, NO_MAC, OURS))
    wire.expect_arp(2, ANY, PEER_MAC, PEER_MAC)
    assert not wire.arp.cache


@on_wire
def test_request_for_others_is_not_answered():
    wire = Wire(neighbour=False)
    wire.receive(arp(1, PEER_MAC, PEER, NO_MAC, OTHER))
    wire.expect_nothing()
    assert wire.drops() == {("arp", "not for us"): 1} and not wire.arp.cache


@on_wire
def test_packet_waits_for_the_address():
    wire = Wire(neighbour=False)
    assert output(wire)
    wire.expect_arp(1, PEER)
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    expect_packet(wire)
    assert output(wire, b"y")
    expect_packet(wire, b"y")


@on_wire
def test_who_asks_for_us_is_known():
    wire = Wire(neighbour=False)
    wire.receive(arp(1, PEER_MAC, PEER, NO_MAC, OURS))
    wire.expect_arp(2, PEER, PEER_MAC, PEER_MAC)
    output(wire)
    expect_packet(wire)


@on_wire
def test_request_is_repeated_once_a_second_and_given_up():
    # RFC 1122 section 2.3.2.1: at most one a second.
    wire = Wire(neighbour=False)
    failed = []
    wire.ip.errors[TEST] = lambda code, destination, header, now: failed.append((code, destination, header))
    output(wire, b"the first one")
    output(wire, b"the second one")
    wire.advance(3200)
    times = [at for at, _ in wire.frames]
    assert len(times) == 3 and all(1000 <= times[i + 1] - times[i] <= 1050 for i in range(2)), times
    for _ in range(3):
        wire.expect_arp(1, PEER)
    assert failed == [(EHOSTUNREACH, PEER, b"the firs"), (EHOSTUNREACH, PEER, b"the seco")]
    assert wire.drops() == {("arp", "no answer"): 2}
    wire.advance(10000)
    output(wire)
    wire.expect_arp(1, PEER)


@on_wire
def test_connecting_to_an_address_that_does_not_answer_fails():
    wire = Wire(neighbour=False)
    app = wire.connect(wire.peer())
    for _ in range(3):
        wire.expect_arp(1, PEER)
        wire.advance(1050)
    wire.advance(100)
    assert app.state == "CLOSED" and app.error == EHOSTUNREACH
    app.close()
    assert app.deleted()


@on_wire
def test_connecting_waits_for_the_address():
    wire = Wire(neighbour=False)
    peer = wire.peer()
    wire.connect(peer)
    wire.expect_arp(1, PEER)
    wire.advance(300)
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    peer.expect(SYN, mss=1460)
    peer.send(SYN | ACK)
    peer.expect(ACK)


@on_wire
def test_far_peers_are_reached_through_the_gateway():
    wire = Wire(neighbour=False, gateway=PEER)
    peer = wire.peer(address=FAR)
    app = wire.connect(peer)
    wire.expect_arp(1, PEER)
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    peer.expect(SYN, mss=1460)
    peer.send(SYN | ACK)
    peer.expect(ACK)
    app.write(b"far")
    peer.expect(ACK | PSH, text=b"far")


@on_wire
def test_number_of_waiting_packets_is_bounded():
    wire = Wire(neighbour=False)
    assert [output(wire, b"%d" % i) for i in range(8)] == [True] * 6 + [False] * 2
    assert not output(wire, to=OTHER)
    assert wire.drops() == {("arp", "pending queue full"): 3}
    wire.expect_arp(1, PEER)
    wire.expect_nothing()
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    for i in range(4):  # as many as there are transmit frames
        expect_packet(wire, b"%d" % i)
    wire.frames.clear()


@on_wire
def test_known_address_is_confirmed_after_a_minute_by_asking_it_alone():
    # RFC 1122 section 2.3.2.1, (2) unicast poll. Traffic goes on meanwhile.
    wire = Wire()
    wire.neighbours.clear()
    wire.advance(60000)
    output(wire)
    expect_packet(wire)
    wire.advance(1)
    output(wire)
    expect_packet_and_poll = [wire.next_frame()[12:14], wire.next_frame()[12:14]]
    assert sorted(expect_packet_and_poll) == [b"\x08\x00", b"\x08\x06"]
    output(wire)
    expect_packet(wire)
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    wire.advance(59000)
    output(wire)
    expect_packet(wire)


@on_wire
def test_address_that_is_not_confirmed_any_more_is_forgotten():
    wire = Wire()
    wire.neighbours.clear()
    wire.advance(61000)
    for _ in range(3):
        output(wire)
        assert wire.next_frame()[0:6] == PEER_MAC and wire.next_frame()[0:6] == PEER_MAC
        wire.advance(1000)
    output(wire)
    wire.expect_arp(1, PEER)


@on_wire
def test_ageing_across_the_wrap_of_the_clock():
    wire = Wire(now=PERIOD - 30000)
    wire.neighbours.clear()
    wire.advance(59000)
    output(wire)
    expect_packet(wire)
    wire.advance(2000)
    output(wire)
    wire.frames.clear()
    assert wire.arp.cache[PEER].tries == 1
    wire = Wire(now=PERIOD - 500, neighbour=False)
    output(wire)
    wire.expect_arp(1, PEER)
    wire.advance(1050)
    wire.expect_arp(1, PEER)


@on_wire
def test_malformed_packets_are_dropped():
    wire = Wire(neighbour=False)
    good = arp(1, PEER_MAC, PEER, NO_MAC, OURS)
    bad = []
    for at, value in ((15, 6), (16, 9), (18, 8), (19, 16), (20, 1), (21, 0), (21, 3), (21, 255), (22, 3)):
        frame = bytearray(good)
        frame[at] = value
        bad.append(frame)
    bad += [good[:n] for n in (14, 15, 20, 41)]
    group = b"\x03\0\0\0\0\1"
    bad.append(arp(1, group, PEER, NO_MAC, OURS))
    bad.append(good[:22] + OTHER_MAC + good[28:])  # names another than the one it came from
    for frame in bad:
        wire.receive(frame)
    wire.expect_nothing()
    assert wire.drops() == {("arp", "malformed"): len(bad)} and not wire.arp.cache
    wire.receive(good)
    wire.expect_arp(2, PEER, PEER_MAC, PEER_MAC)


@on_wire
def test_unasked_answer_of_a_stranger_is_not_believed():
    wire = Wire(neighbour=False)
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    assert not wire.arp.cache


@on_wire
def test_nobody_else_gets_our_own_address():
    wire = Wire()
    conflicts = []
    wire.arp.conflict = lambda address, now: conflicts.append(address)
    wire.receive(arp(1, OTHER_MAC, OURS, NO_MAC, OURS))  # an announcement of our address
    wire.receive(arp(2, OTHER_MAC, OURS, MAC, OURS, MAC))
    wire.receive(arp(1, OTHER_MAC, OURS, NO_MAC, PEER))
    wire.expect_nothing()
    assert OURS not in wire.arp.cache and conflicts == [OURS] * 3
    wire.arp.conflict = None
    wire.receive(arp(1, OTHER_MAC, OURS, NO_MAC, OURS))
    wire.expect_nothing()


@on_wire
def test_new_address_of_a_peer_reaches_its_open_connections():
    # Announced by a request, announced by an answer to all (RFC 5944 section 4.6), told in an answer, seen in a
    # request to another.
    for frame in (
        arp(1, NEW_MAC, PEER, NO_MAC, PEER),
        arp(2, NEW_MAC, PEER, NO_MAC, PEER),
        arp(2, NEW_MAC, PEER, MAC, OURS, MAC),
        arp(1, NEW_MAC, PEER, NO_MAC, OTHER),
    ):
        wire, peer, app = established()
        wire.receive(frame)
        peer.mac = NEW_MAC
        app.write(b"hello")
        peer.expect(ACK | PSH, text=b"hello")


@on_wire
def test_new_address_of_the_gateway_reaches_the_connections_through_it():
    wire = Wire(gateway=PEER)
    peer = wire.peer(address=FAR)
    app = wire.connect(peer)
    peer.expect(SYN, mss=1460)
    peer.send(SYN | ACK)
    peer.expect(ACK)
    wire.receive(arp(1, NEW_MAC, PEER, NO_MAC, PEER))
    peer.mac = NEW_MAC
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")


@on_wire
def test_peer_that_silently_changed_its_address_is_found_again():
    # RFC 1122 section 2.3.2.1: a mechanism to flush out-of-date entries is a MUST.
    wire, peer, app = established()
    wire.neighbours.clear()
    wire.advance(61000)
    app.write(b"hello")
    while not any(frame[0:6] == ALL for _, frame in wire.frames):
        wire.frames.clear()
        wire.advance(500)
        assert wire.now < 120000, "the others are never asked"
    wire.frames.clear()
    wire.receive(arp(2, NEW_MAC, PEER, MAC, OURS, MAC))
    wire.neighbours[PEER] = peer.mac = NEW_MAC
    while not wire.frames:
        wire.advance(100)
        assert wire.now < 180000, "the new address is not used"
    peer.expect(ACK | PSH, seq=1, text=b"hello")


@on_wire
def test_cable_pulled_and_put_back_does_not_end_a_connection():
    wire, peer, app = established()
    wire.cable.plugged = False
    wire.advance(100)
    wire.cable.plugged = True
    wire.advance(100)
    wire.expect_arp(1, OURS)
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    peer.expect(ACK | PSH, seq=1, text=b"hello", after=200)
    peer.send(ACK)


@on_wire
def test_many_strangers_do_not_fill_the_memory():
    wire = Wire(neighbour=False)
    for i in range(100):
        address = bytes((10, 77, 0, 100 + i))
        mac = bytes((2, 0, 0, 1, 0, i))
        wire.receive(arp(1, mac, address, NO_MAC, OURS))
        wire.expect_arp(2, address, mac, mac)
        wire.advance(1)
    assert len(wire.arp.cache) == 16 and bytes((10, 77, 0, 199)) in wire.arp.cache


@on_wire
def test_frames_to_other_macs_and_of_unknown_types_are_dropped():
    wire = Wire()
    wire.receive(packet(TEST, b"x", to=OTHER_MAC))
    assert wire.drops() == {("ethernet", "not ours"): 1}
    wire.receive(MAC + PEER_MAC + b"\x86\xdd" + bytes(46))
    assert wire.drops() == {("ethernet", "not ours"): 1, ("ethernet", "unknown type"): 1}
    for n in (1, 13):
        wire.receive(MAC[:n] + bytes(n - len(MAC[:n])))
    assert wire.drops()["ethernet", "short"] == 2

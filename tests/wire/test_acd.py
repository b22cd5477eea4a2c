"""Address-conflict detection (RFC 5227), DECLINE (RFC 2131) and link-local addresses (RFC 3927)."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    import sys

    from rig import ALL, ANY, MAC, MASK, OTHER, OTHER_MAC, OURS, PEER, PEER_MAC, Wire, arp, packet

    LEASED = b"\x0a\x4d\0\x3f"
    NO_MAC = bytes(6)
    DISCOVER, OFFER, REQUEST, DECLINE, ACK = 1, 2, 3, 4, 5

    def quiet_wire(address=ANY):
        """Returns a wire whose stack has `address`, and nothing to say about it."""
        wire = Wire(neighbour=False)
        wire.stack.configure(address, MASK if address != ANY else ANY, ANY, [])
        wire.settle()
        wire.frames.clear()
        return wire

    def message(wire):
        """Returns (type, options, message) of the DHCP message that left next; ARP before it is skipped."""
        while True:
            frame = wire.next_frame()
            if frame[12:14] == b"\x08\0":
                break
        data = frame[42 : 14 + (frame[16] << 8 | frame[17])]
        options = {}
        at = 240
        while data[at] != 255:
            options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
            at += 2 + data[at + 1]
        return options[53][0], options, data

    def reply(wire, asked, kind, address=LEASED):
        """Lets the server answer."""
        data = bytearray(240)
        data[0:3] = b"\x02\x01\x06"
        data[4:8] = asked[4:8]
        data[16:20] = address
        data[28:34] = MAC
        data[236:240] = b"\x63\x82\x53\x63"
        data += bytes((53, 1, kind, 54, 4)) + PEER + b"\x33\x04\0\0\x0e\x10\x01\x04" + MASK + b"\xff"
        header = b"\0\x43\0\x44" + (8 + len(data)).to_bytes(2, "big") + b"\0\0"
        wire.receive(packet(17, header + data, PEER, b"\xff\xff\xff\xff", to=ALL))

    def acknowledged(address=LEASED):
        """Returns a wire on which the server has just acknowledged a lease of `address`."""
        wire = quiet_wire()
        wire.stack.dhcp.start(wire.stack.now())
        wire.advance(60)
        kind, _, asked = message(wire)
        assert kind == DISCOVER
        reply(wire, asked, OFFER, address)
        kind, _, asked = message(wire)
        assert kind == REQUEST
        reply(wire, asked, ACK, address)
        return wire

    def probe(address):
        return arp(1, MAC, ANY, NO_MAC, address)

    def announcement(address):
        return arp(1, MAC, address, NO_MAC, address)

    def expect(wire, frame, within):
        """The next frame is this one and leaves within so many ms; returns after how many."""
        start = wire.now
        while not wire.frames and wire.now < start + within:
            wire.advance(min(50, start + within - wire.now))
        wire.expect_frame(frame)
        return wire.now - start

    def leased():
        """Returns a wire with an address from the server, which has been announced."""
        wire = acknowledged()
        wire.advance(4000)
        wire.frames.clear()
        assert wire.ip.address == LEASED
        return wire


@on_wire
def test_a_leased_address_is_probed_three_times_before_use_and_announced_twice_after():
    wire = acknowledged()
    start = wire.now
    for i in range(3):
        expect(wire, probe(LEASED), 300)
        assert wire.ip.address == ANY and wire.stack.dhcp.state == "CHECKING"
    expect(wire, announcement(LEASED), 300)
    assert wire.ip.address == LEASED and wire.stack.dhcp.state == "BOUND"
    assert 700 <= wire.now - start <= 1000
    expect(wire, announcement(LEASED), 2100)
    wire.advance(20_000)
    wire.expect_nothing()


@on_wire
def test_the_code_is_unloaded_when_it_has_done_its_work():
    wire = leased()
    wire.advance(11_000)
    assert "barenet.acd" not in sys.modules and not wire.ip.late
    wire.receive(arp(1, OTHER_MAC, LEASED, NO_MAC, LEASED))
    wire.expect_frame(announcement(LEASED))
    assert "barenet.acd" in sys.modules


@on_wire
def test_an_address_that_another_host_has_or_wants_is_declined_and_asked_for_again_after_10_s():
    # RFC 5227 section 2.1.1, RFC 2131 sections 3.1.5 and 4.4.1, table 5.
    for frame in (
        arp(2, OTHER_MAC, LEASED, MAC, ANY, MAC),  # it answers the probe
        arp(1, OTHER_MAC, LEASED, NO_MAC, PEER),  # it asks for somebody
        arp(1, OTHER_MAC, ANY, NO_MAC, LEASED),  # it probes for the same address
    ):
        wire = acknowledged()
        wire.expect_frame(probe(LEASED))
        wire.receive(frame)
        kind, options, data = message(wire)
        assert kind == DECLINE and options[50] == LEASED and options[54] == PEER and options[61] == b"\1" + MAC
        assert set(options) == {50, 53, 54, 61} and data[12:16] == ANY and data[8:10] == b"\0\0"
        assert wire.ip.address == ANY
        wire.advance(9_900)
        wire.expect_nothing()
        wire.advance(200)
        assert message(wire)[0] == DISCOVER
        assert wire.drops()["arp", "conflict"] == 1


@on_wire
def test_our_own_probes_and_other_hosts_addresses_are_no_conflict():
    wire = acknowledged()
    wire.expect_frame(probe(LEASED))
    wire.receive(probe(LEASED), arp(1, OTHER_MAC, OTHER, NO_MAC, LEASED), arp(1, OTHER_MAC, ANY, NO_MAC, OTHER))
    wire.advance(1000)
    assert wire.ip.address == LEASED and ("arp", "conflict") not in wire.drops()
    wire.frames.clear()


@on_wire
def test_an_address_in_use_is_defended_once_in_10_s():
    # RFC 5227 section 2.4 (b) and, for a fixed address, (c).
    wire = quiet_wire(OURS)
    conflict = arp(1, OTHER_MAC, OURS, NO_MAC, PEER)
    for _ in range(3):
        wire.receive(conflict)
        wire.expect_frame(announcement(OURS))
        for _ in range(9):
            wire.advance(1000)
            wire.receive(conflict)
            wire.expect_nothing()
        wire.advance(1100)
    assert wire.ip.address == OURS and wire.drops() == {("arp", "conflict"): 30}


@on_wire
def test_a_lease_is_declined_at_the_second_conflict_within_10_s():
    wire = leased()
    conflict = arp(1, OTHER_MAC, LEASED, NO_MAC, PEER)
    wire.receive(conflict)
    wire.expect_frame(announcement(LEASED))
    wire.advance(11_000)
    wire.receive(conflict)
    wire.expect_frame(announcement(LEASED))
    wire.advance(9_000)
    wire.receive(conflict)
    kind, options, data = message(wire)
    assert kind == DECLINE and options[50] == LEASED and wire.ip.address == ANY
    wire.advance(10_100)
    assert message(wire)[0] == DISCOVER


@on_wire
def test_a_probe_for_our_address_is_answered():
    wire = quiet_wire(OURS)
    wire.receive(arp(1, OTHER_MAC, ANY, NO_MAC, OURS))
    wire.expect_arp(2, ANY, OTHER_MAC, OTHER_MAC)


@on_wire
def test_a_renewed_lease_is_not_probed_again():
    wire = leased()
    wire.neighbours[PEER] = PEER_MAC
    wire.advance(1_801_000)
    kind, _, asked = message(wire)
    assert kind == REQUEST
    wire.frames.clear()
    reply(wire, asked, ACK)
    assert wire.stack.dhcp.state == "BOUND" and wire.ip.address == LEASED
    wire.advance(5000)
    wire.expect_nothing()


if ON_DEVICE:

    def silent_server(mac=MAC):
        """Returns a wire on which no DHCP server answers, at the moment of the first link-local probe, and the address probed."""
        wire = quiet_wire()
        wire.stack.link.mac = mac
        wire.stack.link_local = True
        wire.stack.dhcp.start(wire.stack.now())
        return wire, next_probe(wire)

    def next_probe(wire, most=30_000):
        """Returns the address of the next probe; DHCP before it is skipped."""
        end = wire.now + most
        while wire.now < end:
            wire.advance(50)
            while wire.frames:
                frame = wire.next_frame()
                if frame[12:14] == b"\x08\x06":
                    assert frame[28:32] == ANY and frame[0:6] == ALL
                    return frame[38:42]
        raise AssertionError("no probe")

    def settled():
        """Returns a wire with a link-local address, and the address."""
        wire, address = silent_server()
        wire.advance(10_000)
        assert wire.ip.address == address
        wire.frames.clear()
        return wire, address

    def arps(wire):
        frames = [frame for _, frame in wire.frames if frame[12:14] == b"\x08\x06"]
        wire.frames.clear()
        return frames


@on_wire
def test_without_a_server_a_link_local_address_is_chosen_probed_and_announced():
    # RFC 3927 section 2.1: 169.254.1.0 to 169.254.254.255; 2.2.1: three probes 1 to 2 s apart, then 2 s.
    wire, address = silent_server()
    assert wire.now >= 6000 and address[:2] == b"\xa9\xfe" and 1 <= address[2] <= 254
    start = wire.now
    for _ in range(2):
        assert next_probe(wire, 2100) == address
        assert 950 <= wire.now - start <= 2100
        start = wire.now
    wire.frames.clear()
    wire.advance(1900)
    assert wire.ip.address == ANY
    wire.advance(200)
    assert wire.ip.address == address and wire.ip.netmask == b"\xff\xff\0\0" and wire.ip.gateway == ANY
    assert arps(wire) == [announcement(address)]
    wire.advance(2100)
    assert arps(wire) == [announcement(address)]


@on_wire
def test_the_same_board_tries_the_same_address_and_another_board_another():
    addresses = []
    for mac in (MAC, MAC, b"\x02\0\0\0\0\x03"):
        wire, address = silent_server(mac)
        addresses.append(address)
        wire.frames.clear()
    assert addresses[0] == addresses[1] != addresses[2]


@on_wire
def test_nothing_of_it_happens_unless_it_is_wanted():
    wire = quiet_wire()
    wire.stack.dhcp.start(wire.stack.now())
    wire.advance(60_000)
    assert wire.ip.address == ANY and not arps(wire)


@on_wire
def test_a_conflict_makes_it_try_another_address_and_after_ten_one_a_minute():
    # RFC 3927 section 2.2.1.
    wire, address = silent_server()
    tried = [address]
    for i in range(9):
        wire.receive(arp(2, OTHER_MAC, tried[-1], MAC, ANY, MAC))
        tried.append(next_probe(wire, 1200))
    assert len(set(tried)) == 10
    wire.receive(arp(2, OTHER_MAC, tried[-1], MAC, ANY, MAC))
    wire.advance(59_000)
    assert not arps(wire) and wire.ip.address == ANY
    assert next_probe(wire, 2500) not in tried


@on_wire
def test_arp_packets_with_a_link_local_sender_are_broadcast():
    # RFC 3927 section 2.5.
    wire, address = settled()
    peer = b"\xa9\xfe\1\1"
    wire.receive(arp(1, PEER_MAC, peer, NO_MAC, address))
    wire.expect_frame(arp(2, MAC, address, PEER_MAC, peer, ALL))
    assert wire.ip.next_hop(b"\xa9\xfe\xfe\xfe") == b"\xa9\xfe\xfe\xfe" and wire.ip.next_hop(PEER) is None


@on_wire
def test_a_link_local_address_is_given_up_at_the_second_conflict_within_10_s():
    # RFC 3927 section 2.5 (b).
    wire, address = settled()
    conflict = arp(1, OTHER_MAC, address, NO_MAC, b"\xa9\xfe\1\1")
    wire.receive(conflict)
    assert arps(wire) == [announcement(address)]
    wire.receive(conflict)
    assert wire.ip.address == ANY
    other = next_probe(wire)
    assert other != address
    wire.advance(10_000)
    assert wire.ip.address == other
    wire.frames.clear()


@on_wire
def test_an_answer_of_dhcp_replaces_the_link_local_address():
    wire, address = settled()
    wire.advance(70_000)  # the next DISCOVER has the broadcast flag: a unicast OFFER would not be for our address
    kind, _, asked = message(wire)
    assert kind == DISCOVER and asked[10] == 0x80
    wire.frames.clear()
    reply(wire, asked, OFFER)
    kind, _, asked = message(wire)
    reply(wire, asked, ACK)
    wire.advance(4000)
    assert wire.ip.address == LEASED and wire.stack.dhcp.state == "BOUND"
    wire.frames.clear()
    wire.advance(20_000)
    assert not wire.ip.late and "barenet.link_local" not in sys.modules


@on_wire
def test_without_a_cable_it_has_no_address_and_begins_again_with_one():
    wire, address = settled()
    wire.cable.plugged = False
    wire.advance(200)
    assert wire.ip.address == ANY
    wire.cable.plugged = True
    assert next_probe(wire) == address
    wire.frames.clear()

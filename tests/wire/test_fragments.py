"""Fragments: RFC 791 section 3.2, RFC 1122 sections 3.3.2 and 3.3.3, RFC 5722's rule about overlaps."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import MAC, OTHER, OURS, PEER, PEER_MAC, Wire, arp, fast, packet, pattern, pseudo, put

    TEST = 253
    EMSGSIZE = 90

    def fragment(offset, data, more=True, ident=7, protocol=TEST, **changes):
        """Returns one fragment: `data` at byte `offset` of the datagram number `ident`."""
        word = (0x2000 if more else 0) | offset >> 3
        frame = packet(protocol, data, fragment=bytes((word >> 8, word & 255)), check=False, **changes)
        frame[18:20] = bytes((ident >> 8, ident & 255))
        put(frame, 24, 14, (frame[14] & 15) << 2, 0)
        return frame

    def cut(data, step, **changes):
        """Returns the fragments of a datagram, `step` bytes each."""
        return [fragment(at, data[at : at + step], at + step < len(data), **changes) for at in range(0, len(data), step)]

    def receiver():
        """Returns a wire and the list of what arrives for our protocol."""
        wire = Wire()
        got = []
        wire.ip.handlers[TEST] = lambda frame, start, end, source, destination, now: got.append(bytes(frame[start:end]))
        return wire, got

    def dropped(wire):
        return {reason: n for (layer, reason), n in wire.drops().items() if layer == "fragments"}

    def icmp(kind, code, rest):
        message = bytearray(bytes((kind, code, 0, 0)) + rest)
        check = ~fast.add(message, 0, len(message), 0) & 0xFFFF
        message[2] = check & 255
        message[3] = check >> 8
        return message

    def joined(wire, protocol):
        """Returns the data of the fragments that have left, put together; checks their headers."""
        data = b""
        ident = None
        more = True
        while wire.frames:
            assert more, "a fragment behind the last"
            frame = wire.next_frame()
            total = frame[16] << 8 | frame[17]
            assert fast.add(frame, 0, 20, 14) == 0xFFFF and frame[23] == protocol and frame[30:34] == PEER
            assert ident in (None, frame[18:20])
            ident = frame[18:20]
            assert not frame[20] & 0x40, "DF on a fragment"
            assert (frame[20] & 0x1F) << 11 | frame[21] << 3 == len(data)
            more = frame[20] & 0x20
            assert total <= 1500 and (not more or total - 20 & 7 == 0)
            data += frame[34 : 14 + total]
        assert not more, "no last fragment"
        return data


@on_wire
def test_fragments_are_put_together_in_any_order():
    whole = pattern(0, 3100)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1)):
        wire, got = receiver()
        parts = cut(whole, 1480)
        for i in order:
            assert not got
            wire.receive(parts[i])
        assert got == [whole] and not wire.drops()


@on_wire
def test_the_header_that_the_handler_sees_is_that_of_a_whole_packet_with_the_options_of_the_first():
    wire = Wire()
    seen = []
    wire.ip.handlers[TEST] = lambda frame, start, end, source, destination, now: seen.append(
        (bytes(frame[14:38]), start, end, source, destination)
    )
    wire.receive(*cut(bytes(2000), 1000, ttl=9, ip_options=b"\x01\x01\x01\x00")[:1])
    wire.receive(*cut(bytes(2000), 1000, ttl=9)[1:])
    ((header, start, end, source, destination),) = seen
    # Version 4 and 6 words, total length 2024, identification 7, neither flags nor offset, TTL 9.
    assert header == b"\x46\0\x07\xe8\0\7\0\0\x09\xfd" + header[10:12] + PEER + OURS + b"\x01\x01\x01\x00"
    assert fast.add(header, 0, 24, 0) == 0xFFFF
    assert (start, end, source, destination) == (38, 2038, PEER, OURS)


@on_wire
def test_datagrams_that_differ_in_id_protocol_or_source_are_not_mixed():
    wire, got = receiver()
    wire.ip.handlers[TEST + 1] = wire.ip.handlers[TEST]
    for kind in ({"ident": 2}, {"protocol": TEST + 1}, {"source": OTHER}):
        first, second = cut(bytes(1000), 504), cut(b"x" * 1000, 504, **kind)
        wire.receive(first[0], second[0], first[1], second[1])
        assert got == [bytes(1000), b"x" * 1000]
        got.clear()
    assert not wire.drops()


@on_wire
def test_a_fragment_that_came_twice_does_no_harm():
    wire, got = receiver()
    whole = pattern(0, 3000)
    parts = cut(whole, 1480)
    wire.receive(parts[0], parts[0], parts[2], parts[2], parts[0], parts[1])
    assert got == [whole] and dropped(wire) == {"duplicate": 3}


@on_wire
def test_overlapping_fragments_drop_the_whole_datagram():
    # RFC 5722 for IPv6: "the entire datagram (and any constituent fragments) MUST be silently discarded".
    whole = pattern(0, 200)
    for overlapping in (
        fragment(40, b"evil" * 10),  # across the end of the first
        fragment(0, b"evil" * 12),  # the same place, other bytes
        fragment(8, b"evil" * 6),  # teardrop: within the first
        fragment(56, b"evil" * 2, False),  # the end lies within the first
        fragment(0, whole[:96]),  # longer than what came
    ):
        wire, got = receiver()
        wire.receive(fragment(0, whole[:64]), overlapping)
        assert dropped(wire) == {"overlap": 1}
        wire.receive(fragment(64, whole[64:], False))
        assert not got and dropped(wire) == {"overlap": 1, "rest": 1}
        wire.receive(*cut(whole, 104, ident=8))
        assert got == [whole]
        wire.expect_nothing()


@on_wire
def test_two_ends_or_data_behind_the_end_drop_the_datagram():
    for first, second in (
        (fragment(48, b"end", False), fragment(48, b"endless", False)),
        (fragment(48, b"end", False), fragment(96, bytes(48))),
        (fragment(96, bytes(48)), fragment(48, b"end", False)),
    ):
        wire, got = receiver()
        wire.receive(first, second, fragment(0, bytes(48)))
        assert not got and dropped(wire) == {"overlap": 1, "rest": 1}


@on_wire
def test_impossible_fragments_are_dropped_by_reason():
    for reason, frame in (
        ("odd", fragment(0, bytes(33))),
        ("odd", fragment(0, b"")),
        ("odd", fragment(48, b"", False)),
        ("tiny", fragment(0, bytes(16))),
        ("tiny", fragment(48, bytes(8))),
        ("oversize", fragment(65512, bytes(4), False)),  # ping of death
        ("oversize", fragment(65528, bytes(1000), False)),
        ("oversize", fragment(65504, bytes(1480))),
    ):
        wire, got = receiver()
        wire.receive(frame)
        assert not got and dropped(wire) == {reason: 1}, (reason, dropped(wire))
        wire.advance(61_000)
        wire.expect_nothing()


@on_wire
def test_time_exceeded_is_sent_after_60_s_when_the_first_fragment_came():
    # RFC 1122 section 3.3.2; type 11, code 1, the header and 8 bytes of data quoted.
    wire, got = receiver()
    wire.receive(fragment(0, pattern(0, 64)))
    wire.advance(59_000)
    wire.expect_nothing()
    wire.advance(2_000)
    frame = wire.next_frame()
    assert frame[0:6] == PEER_MAC and frame[23] == 1 and frame[34:36] == b"\x0b\x01", frame.hex()
    assert frame[42:46] == b"\x45\0\0\x1c" and frame[46:48] == b"\0\7" and frame[54:62] == PEER + OURS
    assert frame[62:70] == pattern(0, 8)
    assert dropped(wire) == {"timeout": 1}
    wire.receive(fragment(64, bytes(8), False))
    assert not got


@on_wire
def test_nothing_is_reported_when_the_first_fragment_did_not_come_or_the_datagram_was_dropped():
    wire, got = receiver()
    wire.receive(fragment(64, bytes(64)))
    wire.receive(fragment(0, bytes(64), ident=8), fragment(32, bytes(64), ident=8))
    wire.receive(fragment(0, bytes(64), destination=b"\x0a\x4d\x00\xff", to=b"\xff" * 6, ident=9))
    wire.advance(61_000)
    wire.expect_nothing()
    assert dropped(wire) == {"overlap": 1, "timeout": 2}


@on_wire
def test_memory_is_bounded_and_the_oldest_datagram_makes_room():
    wire, got = receiver()
    for ident in range(10):
        wire.receive(fragment(0, bytes(1480), ident=ident))
    assert dropped(wire) == {"no room": 7}
    whole = pattern(0, 8000)
    wire.receive(*cut(whole, 1480, ident=20))
    assert got == [whole]  # it takes the room of the others


@on_wire
def test_a_datagram_larger_than_the_room_is_dropped():
    wire, got = receiver()
    wire.receive(*cut(bytes(20_000), 1480))
    assert not got and dropped(wire)["no room"] == 1
    whole = pattern(0, 4000)
    wire.receive(*cut(whole, 1480, ident=8))
    assert got == [whole]


@on_wire
def test_a_flood_of_first_fragments_leaves_nothing_behind():
    wire, got = receiver()
    for ident in range(300):
        wire.receive(fragment(0, bytes(24), ident=ident))
    part = wire.ip.part("fragments")
    assert len(part._datagrams) == 3
    wire.advance(61_000)
    assert not part._datagrams
    while wire.frames:
        assert wire.next_frame()[34] == 11
    assert dropped(wire) == {"no room": 297, "timeout": 3}


@on_wire
def test_a_large_echo_request_is_answered_in_fragments():
    wire = Wire()
    data = pattern(0, 4000)
    wire.receive(*cut(icmp(8, 0, b"\x12\x34\0\1" + data), 1480, protocol=1))
    assert joined(wire, 1) == icmp(0, 0, b"\x12\x34\0\1" + data)


@on_wire
def test_a_large_udp_datagram_arrives_and_leaves():
    wire = Wire()
    endpoint = wire.stack.udp.endpoint(8192)
    endpoint.bind(port=9)
    data = pattern(0, 5000)
    header = bytearray(b"\x1e\x61\0\x09" + (5008).to_bytes(2, "big") + b"\0\0")
    whole = header + data
    check = ~fast.add(whole, pseudo(PEER, OURS, 17, len(whole)), len(whole), 0) & 0xFFFF
    whole[6] = check & 255
    whole[7] = check >> 8
    wire.receive(*cut(whole, 1480, protocol=17))
    buffer = bytearray(6000)
    assert endpoint.pull(buffer, 6000, 0) == 5000 and endpoint.sender() == (PEER, 7777) and buffer[:5000] == data
    assert endpoint.send(data, PEER, 7777, wire.now)
    wire.stack.flush()
    sent = joined(wire, 17)
    assert sent[:6] == b"\0\x09\x1e\x61\x13\x90" and sent[8:] == data
    assert fast.add(sent, pseudo(OURS, PEER, 17, len(sent)), len(sent), 0) == 0xFFFF


@on_wire
def test_a_closed_port_is_told_for_a_datagram_in_fragments_once():
    wire = Wire()
    header = b"\x1e\x61\0\x09\x0b\xc0\0\0"  # without checksum
    wire.receive(*cut(header + bytes(3000), 1480, protocol=17))
    frame = wire.next_frame()
    assert frame[34:36] == b"\x03\x03" and frame[62:70] == header
    wire.expect_nothing()


@on_wire
def test_the_largest_datagram_leaves_through_a_ring_of_two_frames():
    wire = Wire(transmit=2)
    endpoint = wire.stack.udp.endpoint()
    data = pattern(0, 65507)
    assert endpoint.send(data, PEER, 7777, wire.now)
    wire.stack.flush()
    assert joined(wire, 17)[8:] == data
    try:
        endpoint.send(data + b"x", PEER, 7777, wire.now)
    except OSError as e:
        assert e.errno == EMSGSIZE
    else:
        raise AssertionError("nothing raised")


@on_wire
def test_fragments_wait_for_their_neighbour():
    wire = Wire(neighbour=False)
    endpoint = wire.stack.udp.endpoint()
    data = pattern(0, 4000)
    assert endpoint.send(data, PEER, 7777, wire.now)
    wire.stack.flush()
    wire.expect_arp(1, PEER)
    assert endpoint.send(bytes(9000), PEER, 7777, wire.now) is False  # more than may wait
    wire.receive(arp(2, PEER_MAC, PEER, MAC, OURS, MAC))
    assert joined(wire, 17)[8:] == data


@on_wire
def test_a_ring_that_stays_full_is_told():
    wire = Wire()
    wire.cable.stuck = True
    assert wire.stack.udp.endpoint().send(bytes(9000), PEER, 7777, wire.now) is False
    wire.stack.flush()
    wire.cable.unstick()
    while wire.frames:
        wire.next_frame()


@on_wire
def test_identifications_of_datagrams_in_fragments_wrap():
    wire = Wire()
    endpoint = wire.stack.udp.endpoint()
    wire.ip.identification = 0xFFFE
    for ident in (b"\xff\xff", b"\0\0", b"\0\1"):
        assert endpoint.send(bytes(2000), PEER, 7777, wire.now)
        wire.stack.flush()
        assert [wire.next_frame()[18:20], wire.next_frame()[18:20]] == [ident, ident]


@on_wire
def test_whatever_comes_only_whole_datagrams_are_delivered_and_nothing_is_left():
    from fuzz import Random

    random = Random(7)
    wire, got = receiver()
    whole = {}
    parts = []
    for ident in range(400):
        size = 24 * (1 + random.below(60)) + random.below(24)
        data = pattern(ident, size)
        whole[data] = True
        step = 24 * (1 + random.below(20))
        frames = cut(data, step, ident=ident)
        for i in range(len(frames)):
            j = random.below(len(frames))
            frames[i], frames[j] = frames[j], frames[i]
        how = random.below(8)
        if how == 0:
            del frames[random.below(len(frames))]
        elif how == 1:
            frames.insert(random.below(len(frames)), frames[random.below(len(frames))])
        elif how == 2:
            frames.insert(1, fragment(8 * random.below(size // 8 + 1), b"evil" * (6 + random.below(9)), ident=ident))
        parts += frames
        if random.below(2):
            wire.receive(*parts)
            parts = []
    for data in got:
        assert data in whole or b"evil" in data
    assert len(got) > 200 and not wire.stack.errors
    wire.advance(61_000)
    wire.frames.clear()
    assert not wire.ip.part("fragments")._datagrams

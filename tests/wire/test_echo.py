"""Pings: what viper answers must be what plain Python would (RFC 792, RFC 1122 section 3.2.2.6)."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from rig import ALL, FAR, MAC, OTHER, OTHER_MAC, OURS, PEER, PEER_MAC, Wire, arp, end, packet, pattern

    def request(data=b"", kind=8, number=1, **changes):
        """Returns the frame of an echo request."""
        message = bytearray(bytes((kind, 0, 0, 0, 0x12, 0x34, number >> 8, number & 255)) + data)
        check = ~fast.add(message, 0, len(message), 0) & 0xFFFF
        message[2] = check & 255
        message[3] = check >> 8
        return packet(1, bytes(message), **changes)

    def answers(wire, *frames):
        """Returns what is sent for frames that arrive together, without the IP headers' numbers and checksums, which may differ."""
        wire.receive(*frames)
        sent = []
        while wire.frames:
            frame = bytearray(wire.next_frame())
            if frame[12:14] == b"\x08\0":
                assert fast.add(frame, 0, 20, 14) == 0xFFFF
                frame[18:20] = frame[24:26] = b"\0\0"
            sent.append(bytes(frame))
        return sent


@on_wire
def test_the_second_answer_is_the_first_one_again():
    for n in (0, 1, 17, 18, 19, 56, 57, 1471, 1472):
        for tail in (b"", bytes(4)) if n < 1400 else (b"",):
            wire = Wire()
            first = answers(wire, request(pattern(0, n), tail=tail))
            again = answers(wire, request(pattern(0, n), tail=tail))
            assert first == again and len(first) == 1
            assert first[0][34:42] == b"\0\0" + first[0][36:38] + b"\x12\x34\0\1" and first[0][42 : 42 + n] == pattern(0, n)
            assert len(first[0]) == max(60, 42 + n) and not any(first[0][42 + n :])
            end()


@on_wire
def test_a_flood_is_answered_whatever_the_transmit_ring_holds():
    wire = Wire()
    assert len(answers(wire, request())) == 1
    sent = answers(wire, *[request(bytes(56), number=i) for i in range(20)])
    assert [frame[41] for frame in sent] == list(range(20))


@on_wire
def test_one_damaged_byte_is_what_it_is_to_plain_python():
    for at in range(52):
        for bits in (1, 0x40):
            outcomes = []
            for slow in (True, False):
                wire = Wire()
                answers(wire, request(bytes(8)))
                if slow:
                    wire.words[fast.C_ECHO] = 0
                frame = request(bytes(10), number=7)
                frame[at] ^= bits
                outcomes.append((answers(wire, frame), wire.drops()))
                end()
            assert outcomes[0] == outcomes[1], (at, bits, outcomes)


@on_wire
def test_who_else_asks_is_answered_where_he_is():
    wire = Wire(gateway=PEER)
    wire.receive(arp(1, OTHER_MAC, OTHER, bytes(6), OURS))
    wire.expect_arp(2, OTHER, OTHER_MAC, OTHER_MAC)
    for source, mac in ((PEER, PEER_MAC), (OTHER, OTHER_MAC), (FAR, PEER_MAC)):
        for _ in range(3):
            (sent,) = answers(wire, request(source=source, mac=mac))
            assert sent[:12] == mac + MAC and sent[26:34] == OURS + source


@on_wire
def test_a_neighbour_with_a_new_address_gets_its_answers_there():
    wire = Wire()
    for _ in range(2):
        assert answers(wire, request())[0][:6] == PEER_MAC
    wire.receive(arp(1, OTHER_MAC, PEER, bytes(6), OURS))
    wire.expect_arp(2, PEER, OTHER_MAC, OTHER_MAC)
    for _ in range(2):
        assert answers(wire, request(mac=OTHER_MAC))[0][:6] == OTHER_MAC


@on_wire
def test_route_and_neighbour_are_looked_after_once_a_second():
    wire = Wire()
    observed = wire.words[fast.C_EVERY_FRAME_SLOW]
    answers(wire, request())
    until = wire.words[fast.C_ECHO_UNTIL]
    wire.advance(900)
    answers(wire, request())
    assert observed or wire.words[fast.C_ECHO_UNTIL] == until
    wire.advance(200)
    answers(wire, request())
    assert wire.words[fast.C_ECHO_UNTIL] != until


@on_wire
def test_broadcasts_multicasts_and_fragments_stay_unanswered():
    wire = Wire()
    answers(wire, request())
    for changes in ({"to": ALL}, {"to": ALL, "destination": b"\x0a\x4d\0\xff"}, {"source": OURS}, {"fragment": b"\x20\0"}):
        assert answers(wire, request(**changes)) == []

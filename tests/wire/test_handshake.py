"""How a connection opens: RFC 9293 sections 3.5 and 3.10.7.2 to 3.10.7.4."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, FIN, PSH, RST, SYN, Wire, answered, established, opening, pattern

    ECONNREFUSED, ETIMEDOUT = 111, 110


@on_wire
def test_active_open():
    wire = Wire()
    peer = wire.peer()
    app = wire.connect(peer)
    assert app.state == "SYN_SENT"
    peer.expect(SYN, mss=1460, win=8760)
    peer.send(SYN | ACK, mss=1460, win=65535)
    peer.expect(ACK, seq=1, ack=1, win=8760)
    assert app.state == "ESTABLISHED"


@on_wire
def test_passive_open():
    wire = Wire()
    listener = wire.listen(80)
    peer = wire.peer()
    peer.send(SYN, mss=1460, win=65535)
    peer.expect(SYN | ACK, seq=0, ack=1, mss=1460, win=8760)
    assert wire.accept(listener) is None
    peer.send(ACK, seq=1, ack=1)
    app = wire.accept(listener)
    assert app.state == "ESTABLISHED"
    assert wire.accept(listener) is None


@on_wire
def test_last_ack_of_the_handshake_may_carry_data():
    wire, peer, listener = answered()
    peer.send(ACK | PSH, text=b"hello")
    peer.expect(ACK, ack=6, after=40)
    assert wire.accept(listener).read(10) == b"hello"


@on_wire
def test_handshake_is_complete_with_data_when_the_last_ack_is_lost():
    wire, peer, listener = answered()
    peer.send(ACK | PSH, seq=1, ack=1, text=b"lost the ACK before")
    peer.expect(ACK, after=40)
    assert wire.accept(listener).state == "ESTABLISHED"


@on_wire
def test_simultaneous_open():
    # RFC 9293 figure 8, both answers cross.
    wire, peer, app = opening()
    peer.send(SYN, mss=1460)
    peer.expect(SYN | ACK, seq=0, ack=1, mss=1460)
    assert app.state == "SYN_RECEIVED"
    peer.send(SYN | ACK, seq=0, ack=1, mss=1460)
    peer.expect(ACK, seq=1, ack=1)
    assert app.state == "ESTABLISHED"
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")


@on_wire
def test_simultaneous_open_ended_by_a_plain_ack():
    wire, peer, app = opening()
    peer.send(SYN, mss=1460)
    peer.expect(SYN | ACK, seq=0, ack=1, mss=1460)
    peer.send(ACK, seq=1, ack=1)
    assert app.state == "ESTABLISHED"


@on_wire
def test_close_during_a_simultaneous_open_sends_fin_once_it_is_open():
    # RFC 9293 section 3.10.4, SYN-RECEIVED: queue the close until the connection is ESTABLISHED.
    for flags in (SYN | ACK, ACK):
        wire, peer, app = opening()
        peer.send(SYN, mss=1460)
        peer.expect(SYN | ACK, seq=0, ack=1, mss=1460)
        app.shutdown()
        peer.expect_nothing()
        peer.send(flags, seq=0 if flags & SYN else 1, ack=1)
        peer.expect(FIN | ACK, seq=1, ack=1)
        assert app.state == "FIN_WAIT_1"
        peer.send(ACK)
        assert app.state == "FIN_WAIT_2"


@on_wire
def test_syn_is_repeated_with_doubled_intervals_and_then_given_up():
    # RFC 6298 section 2.1: 1 s before there is a measurement.
    wire, peer, app = opening()
    tries = 0
    wait = 1000
    while True:
        wire.advance(wait)
        if app.state == "CLOSED":
            break
        peer.expect(SYN, seq=0, mss=1460)
        wait = min(2 * wait, 60000)
        tries += 1
    assert app.error == ETIMEDOUT
    assert tries >= 5
    wire.advance(200000)
    app.close()
    assert app.deleted()


@on_wire
def test_connection_opens_when_the_second_syn_is_answered():
    wire, peer, app = opening()
    peer.expect(SYN, seq=0, mss=1460, after=1000)
    peer.send(SYN | ACK, mss=1460)
    peer.expect(ACK)
    assert app.state == "ESTABLISHED"
    wire.advance(10000)


@on_wire
def test_syn_ack_is_repeated_and_its_place_in_the_backlog_freed_at_last():
    wire, peer, listener = answered(backlog=1)
    for wait in (1000, 2000, 4000, 8000, 16000):
        peer.expect(SYN | ACK, seq=0, mss=1460, after=wait)
    wire.advance(32000)
    assert not listener.full() and not any(wire.tcp.connections)
    other = wire.peer(5001)
    other.send(SYN)
    other.expect(SYN | ACK, mss=1460)


@on_wire
def test_repeated_syn_is_answered_again():
    wire = Wire()
    wire.listen(80)
    peer = wire.peer()
    peer.send(SYN, mss=1460)
    peer.expect(SYN | ACK, mss=1460)
    peer.send(SYN, seq=0, mss=1460)
    peer.expect(SYN | ACK, seq=0, ack=1, mss=1460)
    assert len([c for c in wire.tcp.connections if c]) == 1


@on_wire
def test_repeated_syn_ack_is_acknowledged_again():
    # Our ACK of the handshake was lost (RFC 9293 section 3.10.7.4, fourth check: a challenge ACK does it).
    wire, peer, app = established()
    peer.send(SYN | ACK, seq=0, ack=1, mss=1460)
    peer.expect(ACK, seq=1, ack=1)
    assert app.state == "ESTABLISHED"


@on_wire
def test_data_in_a_syn_is_left_for_the_peer_to_repeat():
    wire = Wire()
    listener = wire.listen(80)
    peer = wire.peer()
    peer.send(SYN, text=b"early")
    peer.expect(SYN | ACK, ack=1, mss=1460)
    peer.send(ACK | PSH, seq=1, text=b"early")
    peer.expect(ACK, ack=6, after=40)
    assert wire.accept(listener).read(10) == b"early"


@on_wire
def test_wrong_ack_in_syn_sent_is_reset():
    # RFC 9293 section 3.10.7.3, first check: <SEQ=SEG.ACK><CTL=RST>, and the connection goes on opening.
    for ack in (0, 2, 0x7FFFFFFF, -5):
        wire, peer, app = opening()
        peer.send(SYN | ACK, seq=0, ack=ack)
        peer.expect(RST, seq=ack)
        assert app.state == "SYN_SENT"
        peer.send(RST | ACK, seq=0, ack=ack)
        peer.expect_nothing()
        assert app.state == "SYN_SENT"
        wire.connect(wire.peer(5001))  # not disturbed
        wire.peer(5001).expect(SYN, mss=1460)


@on_wire
def test_reset_in_syn_sent_refuses_the_connection_only_with_the_right_ack():
    wire, peer, app = opening()
    peer.send(RST, seq=0)
    peer.send(RST | ACK, seq=0, ack=0)
    assert app.state == "SYN_SENT"
    peer.send(RST | ACK, seq=0, ack=1)
    assert app.state == "CLOSED" and app.error == ECONNREFUSED


@on_wire
def test_ack_without_syn_in_syn_sent_is_dropped():
    wire, peer, app = opening()
    peer.send(ACK, seq=1, ack=1, text=b"what?")
    peer.expect_nothing()
    assert app.state == "SYN_SENT"


@on_wire
def test_wrong_ack_in_syn_received_is_reset():
    # RFC 9293 section 3.10.7.4, fifth check.
    for ack in (0, 2, 1000000):
        wire, peer, listener = answered()
        peer.send(ACK, ack=ack)
        peer.expect(RST, seq=ack)
        assert wire.accept(listener) is None
        peer.send(ACK)
        assert wire.accept(listener).state == "ESTABLISHED"


@on_wire
def test_syn_ack_does_not_complete_a_passive_open():
    # That is half of a simultaneous open, and we did not open (RFC 9293 section 3.10.7.4, fourth check).
    wire, peer, listener = answered(backlog=1)
    peer.send(SYN | ACK, seq=0, ack=1)
    wire.frames.clear()
    assert wire.accept(listener) is None
    peer.send(ACK)
    assert wire.accept(listener).state == "ESTABLISHED" and not listener.full()


@on_wire
def test_number_outside_of_the_window_in_syn_received_is_answered_with_an_ack():
    # RFC 9293 section 3.10.7.4, first check: an ACK, not a reset, whatever it acknowledges.
    wire, peer, listener = answered()
    for seq in (0, -100, 8762, 0x40000000, -0x40000000):
        peer.send(ACK, seq=seq)
        peer.expect(ACK, seq=1, ack=1)
    assert wire.accept(listener) is None
    peer.send(ACK)
    assert wire.accept(listener).state == "ESTABLISHED"


@on_wire
def test_reset_in_syn_received_returns_to_listening():
    wire, peer, listener = answered(backlog=1)
    peer.send(RST)
    assert not listener.full() and not any(wire.tcp.connections)
    again = wire.peer(iss=5)
    again.send(SYN)
    again.expect(SYN | ACK, mss=1460)


@on_wire
def test_reset_in_syn_received_after_an_active_open_refuses_the_connection():
    wire, peer, app = opening()
    peer.send(SYN)
    peer.expect(SYN | ACK, seq=0, mss=1460)
    peer.send(RST)
    assert app.state == "CLOSED" and app.error == ECONNREFUSED


@on_wire
def test_mss_option_of_the_peer_bounds_our_segments():
    for mss, expected in ((1000, 1000), (1460, 1460), (9000, 1460), (65535, 1460)):
        for active in (True, False):
            wire, peer, app = established(active, mss=mss)
            app.connection.configure(True)
            app.write(pattern(0, 1500))
            peer.expect(ACK, text=pattern(0, expected))
            peer.expect(ACK | PSH, text=pattern(expected, 1500 - expected))


@on_wire
def test_mss_that_we_offer_follows_the_mtu_of_our_network():
    # RFC 9293 section 3.7.1, SHLD-6; the DHCP server may tell that it is smaller (RFC 2132 section 5.1).
    wire = Wire()
    wire.ip.mtu = 1400
    peer = wire.peer()
    wire.connect(peer)
    peer.expect(SYN, mss=1360)
    wire.listen(80, backlog=1)
    for port in (5001, 5002):  # the second one gets a cookie
        peer = wire.peer(port)
        peer.send(SYN, mss=1460)
        peer.expect(SYN | ACK, mss=1360)


@on_wire
def test_without_an_mss_option_segments_have_536_bytes():
    # RFC 9293 section 3.7.1, MUST-15.
    wire, peer, app = established(mss=None)
    app.write(pattern(0, 536))
    peer.expect(ACK | PSH, text=pattern(0, 536))
    peer.send(ACK)
    app.write(pattern(0, 537))
    peer.expect(ACK, text=pattern(0, 536))


@on_wire
def test_tiny_mss_does_not_make_tiny_segments():
    wire, peer, app = established(mss=1)
    app.write(pattern(0, 64))
    peer.expect(ACK | PSH, text=pattern(0, 64))


@on_wire
def test_malformed_option_lists_are_read_as_far_as_they_make_sense():
    mss_1000 = b"\x02\x04\x03\xe8"
    for options, expected in (
        (b"\x01" * 36 + mss_1000, 1000),  # as many no-operations as fit
        (b"\x01" * 40, 536),  # a list that never ends
        (b"\x01\x01\x02\x04", 536),  # cut off in front of the value
        (b"\x01\x01\x01\x02", 536),  # cut off in front of the length
        (b"\x02\x04\x03\xe8\x08\x0a", 1000),  # cut off behind the one we want
        (b"\x08\x00" + mss_1000, 536),  # length 0 would never end
        (b"\x08\x01" + mss_1000, 536),  # length 1 is shorter than itself
        (b"\x02\x00\x03\xe8", 536),
        (b"\xfe\xff" + mss_1000, 536),  # longer than the header
        (b"\x02\x03\x03" + mss_1000, 1000),  # an MSS option of the wrong length is not one
        (b"\x02\x05\x03\xe8\x00" + mss_1000, 1000),
        (b"\x00" + mss_1000, 536),  # behind the end of the list
        (b"\x03\x03\x07\x01\x04\x02\x01\x01\x08\x0a\0\0\0\1\0\0\0\0" + mss_1000, 988),  # among the others; 12 bytes are for timestamps
    ):
        wire = Wire()
        listener = wire.listen(80)
        peer = wire.peer()
        peer.send(SYN, options=options)
        peer.expect(SYN | ACK, mss=1460)
        peer.send(ACK, seq=1)
        app = wire.accept(listener)
        app.write(pattern(0, expected + 1))
        peer.expect(ACK, seq=1, text=pattern(0, expected))

"""When a reset is sent and when one is believed: RFC 9293 section 3.10.7.1, RFC 5961."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, ALL, FAR, FIN, PEER, PSH, RST, SYN, URG, Wire, established

    ECONNABORTED, ECONNRESET = 103, 104


@on_wire
def test_syn_to_a_closed_port():
    # <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
    wire = Wire()
    peer = wire.peer()
    peer.send(SYN, mss=1460)
    peer.expect(RST | ACK, seq=0, ack=1, win=0)
    peer = wire.peer()
    peer.send(SYN | FIN, text=b"abc")
    peer.expect(RST | ACK, seq=0, ack=5)
    assert wire.drops() == {("tcp", "no connection"): 2}


@on_wire
def test_segment_with_ack_to_a_closed_port():
    # <SEQ=SEG.ACK><CTL=RST>
    wire = Wire()
    peer = wire.peer()
    for flags in (ACK, SYN | ACK, FIN | ACK, ACK | PSH | URG):
        peer.send(flags, seq=77, ack=0x12345678, text=b"abc")
        peer.expect(RST, seq=0x12345678)


@on_wire
def test_segment_without_ack_and_syn_to_a_closed_port():
    wire = Wire()
    peer = wire.peer()
    for flags in (0, PSH, URG):
        peer.send(flags, seq=77, text=b"abc")
        peer.expect(RST | ACK, seq=0, ack=80)
    peer.send(FIN, seq=77, text=b"abc")
    peer.expect(RST | ACK, seq=0, ack=81)


@on_wire
def test_reset_to_a_closed_port_is_never_answered():
    wire = Wire()
    peer = wire.peer()
    for flags in (RST, RST | ACK, RST | SYN, RST | FIN | ACK):
        peer.send(flags)
    peer.expect_nothing()


@on_wire
def test_listening_port_resets_an_ack_and_ignores_a_reset():
    # RFC 9293 section 3.10.7.2, first and second check.
    wire = Wire()
    wire.listen(80)
    peer = wire.peer()
    peer.send(ACK, seq=1, ack=500)
    peer.expect(RST, seq=500)
    peer.send(SYN | ACK, seq=1, ack=500)
    peer.expect(RST, seq=500)
    peer.send(RST | SYN)
    peer.expect_nothing()


@on_wire
def test_exact_reset_ends_the_connection():
    # RFC 5961 section 3.2, first case.
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"last words")
    peer.expect(ACK, after=40)
    peer.send(RST)
    assert app.state == "CLOSED" and app.error == ECONNRESET
    assert app.read(20) == b"last words"
    app.close()
    assert app.deleted()
    peer.expect_nothing()


@on_wire
def test_reset_with_text_is_believed():
    # RFC 9293 section 3.5.3, SHLD-2.
    wire, peer, app = established()
    peer.send(RST | ACK, text=b"because of the text")
    assert app.state == "CLOSED" and app.error == ECONNRESET and app.read(20) == b""


@on_wire
def test_ack_older_than_the_largest_window_is_answered_and_its_text_dropped():
    # RFC 5961 section 5.2: nothing that old can be on its way.
    wire, peer, app = established(win=10000)
    peer.send(ACK | PSH, ack=1 - 10000, text=b"late")
    assert app.read(9) == b"late"
    peer.send(ACK | PSH, seq=5, ack=1 - 10001, text=b"guessed")
    peer.expect(ACK, seq=1, ack=5)
    assert app.read(9) == b""


@on_wire
def test_exact_reset_is_believed_when_the_window_is_closed():
    wire, peer, app = established(rcvbuf=1000)
    peer.send(ACK, text=bytes(1000))
    peer.expect(ACK, win=0, after=40)
    peer.send(RST)
    assert app.state == "CLOSED" and app.error == ECONNRESET


@on_wire
def test_reset_elsewhere_in_the_window_is_challenged():
    # RFC 5961 section 3.2, third case.
    wire, peer, app = established()
    for seq in (2, 100, 8760):
        peer.send(RST, seq=seq)
        peer.expect(ACK, seq=1, ack=1)
        assert app.state == "ESTABLISHED"


@on_wire
def test_reset_outside_of_the_window_is_ignored():
    wire, peer, app = established()
    for seq in (0, -1, 8761, 9000, 0x40000000, 0x7FFFFFFF, -0x40000000, -0x3FFFFFFF):
        peer.send(RST, seq=seq)
        peer.send(RST | ACK, seq=seq)
        peer.expect_nothing()
        assert app.state == "ESTABLISHED"


@on_wire
def test_challenges_are_limited_in_rate():
    # RFC 5961 section 7: at most 10 a second.
    wire, peer, app = established()
    for i in range(10):
        peer.send(RST, seq=100 + i)
        peer.expect(ACK)
    for i in range(50):
        peer.send(RST, seq=100 + i)
        peer.send(SYN, seq=100 + i)
    peer.expect_nothing()
    assert wire.drops() == {("tcp", "challenge limit"): 100}
    wire.advance(1000)
    peer.send(RST, seq=100)
    peer.expect(ACK)


@on_wire
def test_syn_in_a_synchronised_state_is_challenged():
    # RFC 5961 section 4.2: whatever its sequence number.
    wire, peer, app = established()
    for seq in (0, 1, 100, 0x40000000, -0x7FFFFFFF):
        peer.send(SYN, seq=seq, mss=1460)
        peer.expect(ACK, seq=1, ack=1)
        assert app.state == "ESTABLISHED"


@on_wire
def test_segment_without_ack_is_dropped():
    # RFC 9293 section 3.10.7.4, fifth check.
    wire, peer, app = established()
    peer.send(PSH, seq=1, text=b"abc")
    peer.send(FIN, seq=1)
    peer.expect_nothing()
    assert app.state == "ESTABLISHED" and app.read(9) == b""
    assert wire.drops() == {("tcp", "no ACK"): 2}


@on_wire
def test_reset_is_believed_in_every_state():
    for state in ("FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT"):
        wire, peer, app = established()
        if state in ("CLOSE_WAIT", "LAST_ACK"):
            peer.send(FIN | ACK)
            peer.expect(ACK)
        if state != "CLOSE_WAIT":
            app.close()
            peer.expect(FIN | ACK)
        if state in ("FIN_WAIT_2", "TIME_WAIT"):
            peer.send(ACK)
        if state in ("CLOSING", "TIME_WAIT"):
            peer.send(FIN | ACK, ack=1 if state == "CLOSING" else None)
            peer.expect(ACK)
        assert app.state == state, app.state
        peer.send(RST)
        assert app.state == "CLOSED"
        app.close()
        assert app.deleted()
        peer.expect_nothing()


@on_wire
def test_reset_in_time_wait_is_no_error_to_who_has_not_read_all():
    # RFC 9293 section 3.10.7.4, second check. The peer's FIN came twice, the first ACK has ended the peer's LAST_ACK, the second finds nobody.
    for at_once in (False, True):
        wire, peer, app = established()
        app.shutdown()
        peer.expect(FIN | ACK)
        frames = [peer.frame(FIN | ACK | PSH, text=b"answer"), peer.frame(RST)]
        if at_once:
            wire.receive(*frames)
            peer.expect(ACK)
        else:
            wire.receive(frames[0])
            peer.expect(ACK)
            wire.receive(frames[1])
        assert app.state == "CLOSED" and app.error == 0
        assert app.read(3) == b"ans" and app.read(9) == b"wer" and app.connection.at_end()
        app.close()
        assert app.deleted()


@on_wire
def test_abort_sends_a_reset():
    # RFC 9293 section 3.10.5.
    wire, peer, app = established()
    app.write(b"lost")
    peer.expect(ACK | PSH, text=b"lost")
    app.abort()
    peer.expect(RST | ACK, seq=5, ack=1)
    assert app.state == "CLOSED" and app.error == ECONNABORTED
    app.close()
    assert app.deleted()


@on_wire
def test_segment_of_an_ended_connection_is_reset():
    wire, peer, app = established()
    app.abort()
    peer.expect(RST | ACK)
    peer.send(ACK, text=b"hello?")
    peer.expect(RST, seq=1)


@on_wire
def test_invalid_senders_and_destinations_get_no_answer():
    # RFC 9293 section 3.9.2.3, MUST-57 and MUST-63; RFC 1122 section 3.3.6 for a broadcast of the link layer.
    wire = Wire(gateway=PEER)
    wire.listen(80)
    for changes in (
        {"source": b"\0\0\0\0"},
        {"source": b"\xff\xff\xff\xff"},
        {"source": b"\x0a\x4d\x00\xff"},
        {"source": b"\xe0\0\0\1"},
        {"source": b"\x7f\0\0\1"},
        {"source": b"\x0a\x4d\x00\x02"},
        {"destination": b"\xff\xff\xff\xff", "to": ALL},
        {"destination": b"\x0a\x4d\x00\xff", "to": ALL},
        {"destination": b"\x0a\x4d\x00\xff"},
        {"to": ALL},
    ):
        for port in (80, 81):
            peer = wire.peer(to=port)
            frame = peer.frame(SYN, **changes)
            wire.receive(frame)
            assert not any(wire.tcp.connections), changes
            wire.expect_nothing()


@on_wire
def test_peer_without_a_route_back_does_no_harm():
    # Its address is not on our network, and there is no gateway.
    wire = Wire()
    listener = wire.listen(80, backlog=1)
    peer = wire.peer(address=FAR)
    peer.send(SYN)
    peer.send(ACK)
    wire.peer(to=81, address=FAR).send(SYN)
    wire.advance(300000)
    peer.expect_nothing()
    assert not listener.full() and not any(wire.tcp.connections)

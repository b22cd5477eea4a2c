"""How a connection ends: RFC 9293 section 3.6, every transition of figure 5 after ESTABLISHED."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import stamps
    from barenet import fast
    from rig import ACK, FIN, PSH, RST, SYN, Wire, another, close_both, established, opening, pattern, signed

    ETIMEDOUT = 110


@on_wire
def test_active_close():
    # RFC 9293 figure 12.
    wire, peer, app = established()
    app.close()
    peer.expect(FIN | ACK, seq=1, ack=1)
    assert app.state == "FIN_WAIT_1"
    peer.send(ACK)
    assert app.state == "FIN_WAIT_2"
    peer.send(FIN | ACK)
    peer.expect(ACK, seq=2, ack=2)
    assert app.state == "TIME_WAIT"
    wire.advance(59999)
    assert app.state == "TIME_WAIT"
    wire.advance(1)
    assert app.state == "CLOSED" and app.error == 0 and app.deleted()


@on_wire
def test_passive_close():
    wire, peer, app = established()
    peer.send(FIN | ACK)
    peer.expect(ACK, seq=1, ack=2)
    assert app.state == "CLOSE_WAIT" and app.connection.at_end()
    app.close()
    peer.expect(FIN | ACK, seq=1, ack=2)
    assert app.state == "LAST_ACK"
    peer.send(ACK)
    assert app.state == "CLOSED" and app.error == 0 and app.deleted()


@on_wire
def test_fin_that_also_acknowledges_ours():
    wire, peer, app = established()
    app.close()
    peer.expect(FIN | ACK)
    peer.send(FIN | ACK)
    peer.expect(ACK, seq=2, ack=2)
    assert app.state == "TIME_WAIT"


@on_wire
def test_simultaneous_close():
    # RFC 9293 figure 13.
    wire, peer, app = established()
    app.close()
    peer.expect(FIN | ACK, seq=1, ack=1)
    peer.send(FIN | ACK, seq=1, ack=1)
    peer.expect(ACK, seq=2, ack=2)
    assert app.state == "CLOSING"
    peer.send(ACK, seq=2, ack=2)
    assert app.state == "TIME_WAIT"


@on_wire
def test_fin_with_the_last_data():
    wire, peer, app = established()
    app.connection.configure(True)
    app.write(b"abc")
    peer.expect(ACK | PSH, text=b"abc")
    peer.send(FIN | ACK | PSH, text=b"defg")
    peer.expect(ACK, ack=6)
    assert app.state == "CLOSE_WAIT" and not app.connection.at_end()
    assert app.read(10) == b"defg"
    assert app.connection.at_end()


@on_wire
def test_data_in_the_send_buffer_leaves_before_the_fin():
    wire, peer, app = established()
    app.write(pattern(0, 4000))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK, text=pattern(1460, 1460))
    app.close()  # Nagle does not hold the rest any longer
    peer.expect(FIN | ACK | PSH, text=pattern(2920, 1080))
    peer.send(ACK)
    assert app.state == "FIN_WAIT_2"


@on_wire
def test_half_closed_connection_goes_on_receiving():
    wire, peer, app = established()
    app.shutdown()
    peer.expect(FIN | ACK)
    peer.send(ACK)
    for at in range(0, 29200, 2920):
        peer.send(ACK, text=pattern(at, 1460))
        peer.send(ACK, text=pattern(at + 1460, 1460))
        peer.expect(ACK, seq=2, ack=at + 2921)
        assert app.read(9000) == pattern(at, 2920)
        peer.expect(ACK)
    wire.advance(200000)
    assert app.state == "FIN_WAIT_2"
    peer.send(FIN | ACK)
    peer.expect(ACK)
    assert app.state == "TIME_WAIT" and app.connection.at_end()


@on_wire
def test_half_closed_connection_goes_on_sending():
    wire, peer, app = established()
    peer.send(FIN | ACK)
    peer.expect(ACK)
    for at in range(0, 8760, 2920):
        app.write(pattern(at, 2920))
        peer.expect(ACK, ack=2, text=pattern(at, 1460))
        peer.expect(ACK | PSH, ack=2, text=pattern(at + 1460, 1460))
        peer.send(ACK)
    app.close()
    peer.expect(FIN | ACK)
    peer.send(ACK)
    assert app.deleted()


@on_wire
def test_data_in_fin_wait_1_is_received():
    wire, peer, app = established()
    app.shutdown()
    peer.expect(FIN | ACK)
    peer.send(ACK | PSH, ack=1, text=b"not yet")
    peer.expect(ACK, ack=8, after=40)
    assert app.read(10) == b"not yet" and app.state == "FIN_WAIT_1"
    peer.send(FIN | ACK, text=b"now")
    peer.expect(ACK, ack=12)
    assert app.read(10) == b"now" and app.state == "TIME_WAIT"


@on_wire
def test_data_after_close_is_reset():
    # RFC 1122 section 4.2.2.13: the peer must learn that nobody read it.
    for state in ("FIN_WAIT_1", "FIN_WAIT_2"):
        for flags in (ACK | PSH, FIN | ACK | PSH):
            wire, peer, app = established()
            app.close()
            peer.expect(FIN | ACK)
            if state == "FIN_WAIT_2":
                peer.send(ACK)
            assert app.state == state
            peer.send(flags, text=b"too late")
            peer.expect(RST | ACK, seq=2, ack=1)
            assert app.deleted()


@on_wire
def test_unread_data_at_close_is_reset():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"unread")
    app.close()
    peer.expect(RST | ACK, seq=1, ack=7)
    assert app.deleted()


@on_wire
def test_linger_0_resets():
    wire, peer, app = established()
    app.close(True)
    peer.expect(RST | ACK, seq=1, ack=1)
    assert app.deleted()


@on_wire
def test_repeated_fin_is_acknowledged_again():
    for closed in (False, True):
        wire, peer, app = established()
        peer.send(FIN | ACK)
        peer.expect(ACK, ack=2)
        if closed:
            app.close()
            peer.expect(FIN | ACK)
        peer.send(FIN | ACK, seq=1, ack=1)
        peer.expect(ACK, ack=2)


@on_wire
def test_lost_ack_of_the_last_fin():
    wire, peer, app = established()
    peer.send(FIN | ACK)
    peer.expect(ACK)
    app.close()
    peer.expect(FIN | ACK, seq=1)
    peer.expect(FIN | ACK, seq=1, after=200)
    peer.expect(FIN | ACK, seq=1, after=400)
    peer.send(ACK)
    assert app.deleted()


@on_wire
def test_close_while_opening_forgets_the_connection():
    wire, peer, app = opening()
    app.close()
    assert app.deleted()
    wire.advance(10000)
    peer.expect_nothing()
    peer.send(SYN | ACK)
    peer.expect(RST, seq=1)


@on_wire
def test_orphan_in_fin_wait_2_is_not_kept_for_ever():
    wire, peer, app = established()
    app.close()
    peer.expect(FIN | ACK)
    peer.send(ACK)
    wire.advance(59999)
    assert app.state == "FIN_WAIT_2"
    wire.advance(1)
    assert app.deleted()


@on_wire
def test_orphan_made_by_closing_in_fin_wait_2():
    wire, peer, app = established()
    app.shutdown()
    peer.expect(FIN | ACK)
    peer.send(ACK)
    wire.advance(100000)
    assert app.state == "FIN_WAIT_2"
    app.close()
    wire.advance(60000)
    assert app.deleted()


@on_wire
def test_time_wait_acknowledges_a_repeated_fin_and_waits_again():
    # RFC 9293 section 3.10.7.4, eighth check: "restart the 2 MSL time-wait timeout".
    wire, peer, app = established()
    close_both(peer, app)
    wire.advance(30000)
    peer.send(FIN | ACK, seq=1, ack=2)
    peer.expect(ACK, seq=2, ack=2)
    wire.advance(59999)
    assert app.state == "TIME_WAIT"
    wire.advance(1)
    assert app.deleted()


@on_wire
def test_time_wait_answers_old_data_with_an_ack():
    wire, peer, app = established()
    peer.send(ACK, text=b"abc")
    assert app.read(3) == b"abc"
    app.close()
    peer.expect(FIN | ACK)
    peer.send(FIN | ACK)
    peer.expect(ACK, seq=2, ack=5)
    peer.send(ACK, seq=1, text=b"abc")
    peer.expect(ACK, seq=2, ack=5)
    assert app.state == "TIME_WAIT"


@on_wire
def test_new_syn_reopens_a_time_wait_connection():
    # RFC 9293 section 3.10.7.4, fourth check: with a number beyond the old ones, on a port that listens.
    wire, peer, app = established(active=False)
    close_both(peer, app)
    listener = wire.tcp.listeners[80]
    old = wire.peer(iss=0)
    old.send(SYN)  # a number of the old connection: answered for that one
    peer.expect(ACK, seq=2, ack=2)
    assert app.state == "TIME_WAIT"
    new = wire.peer(iss=peer.iss + 3)
    new.send(SYN)
    new.expect(SYN | ACK, seq=0, ack=1, mss=1460)
    new.send(ACK)
    again = wire.accept(listener)
    assert again.state == "ESTABLISHED" and app.deleted() and again.tcb[fast.RTO] == fast.RTO_MIN


@on_wire
def test_new_syn_does_not_end_a_time_wait_on_a_port_that_does_not_listen():
    wire, peer, app = established()
    close_both(peer, app)
    new = wire.peer(iss=peer.iss + 3)
    new.send(SYN)
    peer.expect(ACK, seq=2, ack=2)
    assert app.state == "TIME_WAIT"


@on_wire
def test_hundreds_of_time_waits_are_kept_in_little_memory():
    # RFC 9293 section 3.6.1: TIME_WAIT lasts two MSL. All but a few are kept in 28 bytes each.
    wire = Wire()
    apps = []
    peers = []
    for i in range(300):
        peer, app = another(wire, port=6000 + i)
        close_both(peer, app)
        apps.append(app)
        peers.append(peer)
        wire.advance(10)
    assert [app.state for app in apps] == ["CLOSED"] + ["TIME_WAIT"] * 4 + ["CLOSED"] * 295
    assert all(app.deleted() for app in apps[5:])
    for i in (299, 1, 298, 295, 150, 100):
        peers[i].send(FIN | ACK, seq=1)
        peers[i].expect(ACK, seq=2, ack=2)
        peers[i].send(RST, seq=1)  # an old RST does not end it
        peers[i].send(FIN | ACK, seq=1)
        peers[i].expect(ACK, seq=2, ack=2)
    for i in (298, 150):
        peers[i].send(RST, seq=2)
        peers[i].send(FIN | ACK, seq=1)
        peers[i].expect(RST, seq=2)
    peers[90].send(FIN | ACK, seq=1)  # the oldest have made room
    peers[90].expect(RST, seq=2)
    wire.advance(61000)
    assert all(app.deleted() for app in apps)
    peers[200].send(FIN | ACK, seq=1)
    peers[200].expect(RST, seq=2)


@on_wire
def test_syn_reopens_one_of_hundreds_of_time_waits():
    # RFC 9293 section 3.10.7.4 and RFC 6191: a SYN with a number beyond the old ones, or a newer timestamp.
    wire = Wire()
    listener = wire.listen(80)
    peers = []
    for i in range(8):
        peer = wire.peer(port=6000 + i)
        wire.iss(0x10000000)
        options = bytes((2, 4, 5, 0xB4)) + (stamps(1000) if i == 1 else b"")
        peer.send(SYN, options=options)
        peer.expect(SYN | ACK, mss=1460)
        peer.send(ACK, options=stamps(1001) if i == 1 else b"")
        app = wire.accept(listener)
        app.close()
        peer.expect(FIN | ACK)
        peer.send(FIN | ACK, options=stamps(1002) if i == 1 else b"")
        peer.expect(ACK)
        peers.append(peer)
    for i, iss, options, opens in (
        (0, 1003, b"", True),
        (1, 900, stamps(1003), True),
        (2, 1001, b"", False),
        (3, 1, b"", False),
    ):
        new = wire.peer(port=6000 + i, iss=iss)
        new.send(SYN, options=options)
        if opens:
            new.expect(SYN | ACK, mss=1460)
            assert signed(new.irs - 0x10000002) > 0, "the new ISS lies beyond the old SND.NXT"
        else:
            peers[i].expect(ACK, seq=2, ack=2)


@on_wire
def test_time_wait_frees_the_buffers():
    wire = Wire()
    peer, app = another(wire)
    slot = app.connection.slot
    close_both(peer, app)
    assert wire.tcp.snd[slot] is None and wire.tcp.rcv[slot] is None


@on_wire
def test_time_wait_keeps_what_was_not_read():
    wire, peer, app = established()
    app.shutdown()
    peer.expect(FIN | ACK)
    peer.send(FIN | ACK | PSH, text=b"last words")
    peer.expect(ACK)
    assert app.state == "TIME_WAIT" and app.read(5) == b"last "
    app.close()  # the rest need not be reset: the peer is done
    peer.expect_nothing()
    assert app.state == "TIME_WAIT"
    wire.advance(60000)
    assert app.deleted()


@on_wire
def test_what_was_not_read_outlives_the_connection():
    wire, peer, app = established()
    app.shutdown()
    peer.expect(FIN | ACK)
    peer.send(FIN | ACK | PSH, text=b"last words")
    peer.expect(ACK)
    wire.advance(60000)
    assert app.state == "CLOSED" and app.read(20) == b"last words" and app.connection.at_end()
    app.close()
    assert app.deleted()


@on_wire
def test_keepalive_of_a_half_closed_connection_does_not_end_it():
    wire, peer, app = established()
    app.keepalive(10000, 1000, 3)
    app.shutdown()
    peer.expect(FIN | ACK)
    peer.send(ACK)
    assert app.state == "FIN_WAIT_2"
    peer.expect(ACK, seq=1, ack=1, after=10000)
    peer.send(ACK)
    assert app.state == "FIN_WAIT_2"
    peer.send(ACK | PSH, text=b"still here")
    assert app.read(20) == b"still here"
    peer.expect(ACK, after=40)

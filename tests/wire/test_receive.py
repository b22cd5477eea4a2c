"""Segments that arrive on an open connection: RFC 9293 sections 3.10.7.4 and 3.8.6.2.2, RFC 5961 section 5."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from rig import ACK, FIN, PSH, URG, Wire, another, established, pattern


@on_wire
def test_data_in_order_is_acknowledged_after_40_ms():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"hello")
    wire.advance(39)
    peer.expect_nothing()
    peer.expect(ACK, seq=1, ack=6, win=8755, after=1)
    assert app.read(100) == b"hello"
    wire.advance(10000)
    peer.expect_nothing()


@on_wire
def test_delayed_ack_counts_from_the_first_unacknowledged_segment():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"one")
    wire.advance(30)
    peer.send(ACK | PSH, text=b"two")
    peer.expect(ACK, ack=7, after=10)


@on_wire
def test_every_second_full_segment_is_acknowledged_at_once():
    # RFC 9293 section 3.8.6.3, SHLD-18.
    wire, peer, app = established()
    for at in range(0, 5840, 2920):
        peer.send(ACK, text=pattern(at, 1460))
        peer.expect_nothing()
        peer.send(ACK, text=pattern(at + 1460, 1460))
        peer.expect(ACK, ack=at + 2921, win=8760 - at - 2920)
    assert app.read(9000) == pattern(0, 5840)
    peer.expect(ACK, win=8760)


@on_wire
def test_segments_that_wait_together_are_acknowledged_together():
    # RFC 9293 section 3.10.7.4, MUST-58 and MUST-59.
    wire, peer, app = established()
    wire.receive(*[peer.frame(ACK, text=pattern(at, 1460)) for at in range(0, 5840, 1460)])
    peer.expect(ACK, ack=5841, win=8760 - 5840)
    peer.expect_nothing()
    assert app.read(9000) == pattern(0, 5840)
    peer.expect(ACK, win=8760)
    # What is out of order is answered at once: the sender counts these answers (RFC 5681 section 4.2).
    text = bytes(1460)
    wire.receive(peer.frame(ACK, text=text), peer.frame(ACK, seq=5841 + 2920, text=text), peer.frame(ACK, seq=5841 + 4380, text=text))
    peer.expect(ACK, ack=7301)
    peer.expect(ACK, ack=7301)
    peer.expect_nothing()


@on_wire
def test_trains_of_two_connections_are_acknowledged_each_behind_its_last_segment():
    wire, peer, app = established()
    other, there = another(wire, port=5001)
    text = bytes(1460)
    wire.receive(*[p.frame(ACK, text=text) for p in (peer, peer, peer, other, other, other, other)])
    peer.expect(ACK, ack=4381)
    other.expect(ACK, ack=5841)
    peer.expect_nothing()


@on_wire
def test_ack_travels_with_data():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"question")
    wire.advance(20)
    app.write(b"answer")
    peer.expect(ACK | PSH, ack=9, text=b"answer")
    wire.advance(100)
    peer.expect_nothing()


@on_wire
def test_old_segment_is_acknowledged_and_dropped():
    wire, peer, app = established()
    peer.send(ACK, text=pattern(0, 100))
    peer.expect(ACK, after=40)
    for seq, n in ((1, 100), (1, 50), (51, 50), (100, 1), (0, 1), (-99, 100)):
        peer.send(ACK, seq=seq, text=bytes(n))
        peer.expect(ACK, seq=1, ack=101)
    assert app.read(200) == pattern(0, 100)


@on_wire
def test_partly_old_segment_is_trimmed_in_front():
    # RFC 9293 section 3.10.7.4: "trim off any portions that lie outside the window".
    wire, peer, app = established()
    peer.send(ACK, text=pattern(0, 100))
    peer.expect(ACK, after=40)
    peer.send(ACK, seq=51, text=pattern(50, 100))
    peer.expect(ACK, ack=151)
    peer.send(ACK, seq=1, text=pattern(0, 151))
    peer.expect(ACK, ack=152)
    assert app.read(200) == pattern(0, 151)


@on_wire
def test_fin_behind_old_data_is_taken():
    wire, peer, app = established()
    peer.send(ACK, text=b"bye")
    peer.expect(ACK, after=40)
    peer.send(FIN | ACK, seq=1, text=b"bye")
    peer.expect(ACK, ack=5)
    assert app.state == "CLOSE_WAIT"
    assert app.read(9) == b"bye"


@on_wire
def test_text_out_of_order_is_kept_and_brings_a_duplicate_ack():
    # RFC 9293 section 3.8, SHLD-31; RFC 5681 section 4.2.
    wire, peer, app = established()
    for seq in (101, 301, 1461, 201):
        peer.send(ACK, seq=seq, text=pattern(seq - 1, 100))
        peer.expect(ACK, seq=1, ack=1)
    assert app.read(10) == b""
    peer.send(ACK, seq=1, text=pattern(0, 100))
    peer.expect(ACK, ack=401)
    assert app.read(1000) == pattern(0, 400)
    peer.send(ACK, seq=401, text=pattern(400, 1060))
    peer.expect(ACK, ack=1561)
    assert app.read(2000) == pattern(400, 1160)


@on_wire
def test_fin_out_of_order_is_kept():
    wire, peer, app = established()
    peer.send(FIN | ACK, seq=11)
    peer.expect(ACK, ack=1)
    assert app.state == "ESTABLISHED"
    peer.send(ACK, seq=1, text=b"0123456789")
    peer.expect(ACK, ack=12)
    assert app.state == "CLOSE_WAIT"


@on_wire
def test_segment_beyond_the_window_is_refused_with_an_ack():
    # RFC 9293 section 3.10.7.4, first check; its acknowledgement is not believed either.
    wire, peer, app = established()
    app.write(b"data")
    peer.expect(ACK | PSH, text=b"data")
    quarter = 0x40000000
    for seq in (
        8761,
        8762,
        20000,
        quarter - 1,
        quarter,
        quarter + 1,
        2 * quarter - 1,
        1 - 2 * quarter,
        -quarter - 1,
        -quarter,
    ):
        peer.send(ACK, seq=seq, text=b"nonsense")
        peer.expect(ACK, seq=5, ack=1)
        peer.send(ACK, seq=seq, win=0)
        peer.expect(ACK, seq=5, ack=1)
    assert app.read(10) == b""
    assert app.tcb[fast.SND_LEN] == 4
    peer.send(ACK, win=65535)
    app.write(b"more")
    peer.expect(ACK | PSH, text=b"more")


@on_wire
def test_segment_exactly_2_30_behind_is_old():
    # Where the fast path's 30 bits of a difference are all zero.
    wire, peer, app = established()
    peer.send(ACK, seq=1 - 0x40000000, text=b"nonsense")
    peer.expect(ACK, ack=1)
    peer.send(FIN | ACK, seq=1 - 0x40000000)
    peer.expect(ACK, ack=1)
    assert app.read(10) == b"" and app.state == "ESTABLISHED"


@on_wire
def test_fin_in_a_closed_window_is_taken_and_the_window_stays_right():
    wire, peer, app = established(rcvbuf=1000)
    peer.send(ACK, text=pattern(0, 1000))
    peer.expect(ACK, win=0, after=40)
    peer.send(FIN | ACK)
    peer.expect(ACK, ack=1002, win=0)
    assert app.state == "CLOSE_WAIT"
    app.write(b"x")
    peer.expect(ACK | PSH, ack=1002, win=0, text=b"x")
    assert app.read(2000) == pattern(0, 1000)
    peer.expect(ACK, ack=1002, win=1000)


@on_wire
def test_segment_that_reaches_beyond_the_window_is_cut():
    wire, peer, app = established(rcvbuf=1000)
    peer.send(ACK, text=pattern(0, 900))
    peer.expect(ACK, win=100, after=40)
    peer.send(FIN | ACK, seq=901, text=pattern(900, 200))
    peer.expect(ACK, ack=1001, win=0)
    assert app.state == "ESTABLISHED"
    assert app.read(2000) == pattern(0, 1000)
    peer.expect(ACK, ack=1001, win=1000)


@on_wire
def test_segment_that_fits_the_buffer_but_not_the_window_is_cut_too():
    # The buffer has more room than the window tells: 300 bytes were read, too few to be worth an update.
    wire, peer, app = established(rcvbuf=1000)
    peer.send(ACK, text=pattern(0, 900))
    peer.expect(ACK, win=100, after=40)
    assert app.read(300) == pattern(0, 300)
    peer.expect_nothing()
    peer.send(ACK, seq=901, text=pattern(900, 250))
    peer.expect(ACK, ack=1001, win=0)
    assert app.read(2000) == pattern(300, 700)
    peer.expect(ACK, ack=1001, win=1000)


@on_wire
def test_window_closes_and_opens_again():
    wire, peer, app = established(rcvbuf=2920)
    peer.send(ACK, text=pattern(0, 1460))
    peer.send(ACK, text=pattern(1460, 1460))
    peer.expect(ACK, ack=2921, win=0)
    # A window probe is refused, and answered (RFC 9293 section 3.8.6.1).
    for _ in range(3):
        peer.send(ACK, seq=2921, text=b"x")
        peer.expect(ACK, ack=2921, win=0)
    assert app.read(3000) == pattern(0, 2920)
    peer.expect(ACK, ack=2921, win=2920)
    peer.send(ACK, seq=2921, text=b"x")
    peer.expect(ACK, ack=2922, after=40)
    assert app.read(10) == b"x"


@on_wire
def test_probe_of_a_closed_window_still_acknowledges():
    # RFC 9293 section 3.10.7.4: with a zero window, valid ACKs are still taken.
    wire, peer, app = established(rcvbuf=1000)
    peer.send(ACK, text=bytes(1000))
    peer.expect(ACK, win=0, after=40)
    app.write(b"data")
    peer.expect(ACK | PSH, text=b"data")
    peer.send(ACK, seq=1001, text=b"x")
    peer.expect(ACK, ack=1001, win=0)
    assert app.tcb[fast.SND_LEN] == 0
    wire.advance(5000)
    peer.expect_nothing()


@on_wire
def test_window_grows_only_by_steps_worth_telling():
    # RFC 9293 section 3.8.6.2.2: the receiver's half of silly window avoidance.
    wire, peer, app = established(rcvbuf=8760)
    for at in range(0, 8760, 1460):
        peer.send(ACK, text=pattern(at, 1460))
        if at % 2920:
            peer.expect(ACK, win=8760 - at - 1460)
    for _ in range(29):
        app.read(100)
        peer.expect_nothing()
    app.read(20)
    peer.expect(ACK, win=2920)
    # A segment that leaves for another reason tells only a step of at least one segment.
    app.read(1459)
    app.write(b"a")
    peer.expect(ACK | PSH, text=b"a", win=2920)
    app.read(1)
    app.write(b"b")
    peer.expect_nothing()
    peer.send(ACK)
    peer.expect(ACK | PSH, text=b"b", win=4380)


@on_wire
def test_offered_window_never_shrinks():
    # RFC 9293 section 3.8.6, MUST-34: the right edge stays where it was told.
    wire, peer, app = established(rcvbuf=4000)
    edge = 4001
    for at in range(0, 3500, 500):
        peer.send(ACK, text=pattern(at, 500))
        got = peer.expect(ACK, after=40)
        assert got.ack + got.win >= edge
        edge = got.ack + got.win
        app.read(100)
        if wire.frames:
            got = peer.expect(ACK)
            assert got.ack + got.win >= edge
            edge = got.ack + got.win


@on_wire
def test_segment_sizes_cross_the_end_of_the_ring():
    wire, peer, app = established(rcvbuf=1000)
    at = 0
    for n in (700, 299, 400, 1, 999, 1000, 333, 667, 512, 512):
        peer.send(ACK, text=pattern(at, n))
        assert app.read(1) == pattern(at, 1)
        assert app.read(2000) == pattern(at + 1, n - 1)
        wire.advance(50)
        wire.frames.clear()
        at += n
        peer.snd = at + 1


@on_wire
def test_peeked_bytes_stay():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"hello")
    buffer = bytearray(8)
    assert app.connection.read(buffer, 3, True) == 3 and buffer == b"hel\0\0\0\0\0"
    assert app.connection.readable() == 5
    assert app.read(9) == b"hello"
    peer.expect(ACK, ack=6, after=40)


@on_wire
def test_old_ack_is_ignored_but_its_text_is_taken():
    wire, peer, app = established()
    app.write(b"abc")
    peer.expect(ACK | PSH, text=b"abc")
    peer.send(ACK)
    peer.send(ACK | PSH, ack=1, text=b"crossed")
    assert app.tcb[fast.SND_LEN] == 0
    peer.expect(ACK, ack=8, after=40)
    assert app.read(9) == b"crossed"


@on_wire
def test_ack_of_what_was_never_sent_is_answered_and_dropped():
    # RFC 9293 section 3.10.7.4, fifth check: "send an ACK, drop the segment, and return".
    wire, peer, app = established()
    app.write(b"abc")
    peer.expect(ACK | PSH, text=b"abc")
    for ack in (5, 6, 100000, 0x7FFFFFFF):
        peer.send(ACK | PSH, seq=1, ack=ack, text=b"no")
        peer.expect(ACK, seq=4, ack=1)
    assert app.read(9) == b"" and app.tcb[fast.SND_LEN] == 3
    peer.snd = 1
    peer.send(ACK)
    assert app.tcb[fast.SND_LEN] == 0


@on_wire
def test_urgent_data_is_data_like_any_other():
    # RFC 6093: in line, whatever the urgent pointer says.
    for pointer in (0, 1, 6, 0xFFFF):
        wire, peer, app = established()
        peer.send(ACK | PSH | URG, text=b"urgent", urgent=pointer)
        peer.expect(ACK, ack=7, after=40)
        assert app.read(9) == b"urgent"


@on_wire
def test_program_can_ask_how_much_urgent_data_there_is():
    # RFC 9293 section 3.8.5, MUST-31, MUST-33 and MUST-62: the pointer says where what follows the urgent data begins.
    from barenet.options import urgent

    wire, peer, app = established(peer_iss=0xFFFFFF00, rcvbuf=40000)
    assert urgent(app.connection) == 0
    peer.send(ACK | URG, text=pattern(0, 200), urgent=20000)  # most of it is still to come, beyond the wrap of the numbers
    assert urgent(app.connection) == 20000
    app.read(150)
    assert urgent(app.connection) == 19850
    for at in range(200, 20200, 1000):
        peer.send(ACK, text=pattern(at, 1000))
        wire.frames.clear()
    assert urgent(app.connection) == 19850
    app.read(19849)
    wire.frames.clear()
    assert urgent(app.connection) == 1
    app.read(50)
    assert urgent(app.connection) == 0
    # Further ahead, with FIN; a segment that is refused changes nothing.
    peer.send(FIN | ACK | URG, text=b"now!", urgent=3)
    wire.frames.clear()
    assert urgent(app.connection) == 20200 + 3 - 20049
    peer.send(ACK | URG, seq=1, text=b"old", urgent=0xFFFF)
    assert urgent(app.connection) == 20200 + 3 - 20049
    wire.frames.clear()
    # MUST-66: also when the window is closed.
    wire, peer, app = established(rcvbuf=1000)
    peer.send(ACK, text=bytes(1000))
    peer.expect(ACK, win=0, after=40)
    peer.send(ACK | URG, text=b"!", urgent=1)
    peer.expect(ACK, win=0, ack=1001)
    assert urgent(app.connection) == 1001
    # One that was passed long ago.
    app.tcb[fast.RCV_NXT] = app.tcb[fast.RCV_NXT] + 0x90000000 & 0xFFFFFFFF
    assert urgent(app.connection) == 0


@on_wire
def test_options_in_a_data_segment_are_skipped():
    wire, peer, app = established()
    for options in (b"\x01\x01\x08\x0a\0\0\0\1\0\0\0\2", b"\x08\x00\x01\x01", b"\x01" * 40):
        peer.send(ACK | PSH, text=b"abc", options=options)
        assert app.read(9) == b"abc"
    peer.expect(ACK, ack=10, after=40)


@on_wire
def test_ip_options_in_a_data_segment_are_skipped():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"abc", ip_options=b"\x94\x04\0\0\x01\x01\x01\x00")
    peer.expect(ACK, ack=4, after=40)
    assert app.read(9) == b"abc"


@on_wire
def test_padding_behind_a_segment_is_not_data():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"abc", tail=b"padding")
    peer.expect(ACK, ack=4, after=40)
    assert app.read(99) == b"abc"


@on_wire
def test_damaged_segments_are_dropped_and_counted():
    wire, peer, app = established()

    def damaged(at, value):
        peer.snd = 1
        frame = peer.frame(ACK | PSH, text=b"abc")
        frame[at] = value
        return frame

    wire.receive(damaged(56, 0xFF))  # text
    wire.receive(damaged(51, 0xFF))  # checksum
    assert wire.drops() == {("tcp", "checksum"): 2}
    wire.receive(damaged(24, 0xFF))
    wire.receive(damaged(22, 1))
    assert wire.drops() == {("tcp", "checksum"): 2, ("ip", "checksum"): 2}
    wire.receive(damaged(46, 0x40))
    wire.receive(damaged(46, 0x70))
    assert wire.drops()["tcp", "header length"] == 2
    peer.expect_nothing()
    peer.snd = 1
    peer.send(ACK | PSH, text=b"abc")
    assert app.read(9) == b"abc"
    peer.expect(ACK, after=40)


@on_wire
def test_segment_shorter_than_a_header_is_dropped():
    from rig import packet

    wire = Wire()
    for n in (0, 1, 4, 19):
        wire.receive(packet(6, bytes(n)))
    assert wire.drops() == {("tcp", "short"): 4}


@on_wire
def test_text_behind_the_fin_is_ignored():
    # RFC 9293 section 3.10.7.4, seventh check, CLOSE-WAIT and later.
    wire, peer, app = established()
    peer.send(FIN | ACK)
    peer.expect(ACK)
    peer.send(ACK, seq=2, text=b"no")
    wire.advance(1000)
    wire.frames.clear()  # whether it is answered is left open
    assert app.read(9) == b"" and app.connection.at_end()
    # The same in one poll, before the state has followed the FIN.
    wire, peer, app = established()
    wire.receive(peer.frame(FIN | ACK), peer.frame(ACK, text=b"no"))
    assert app.read(9) == b"" and app.connection.at_end()
    wire.frames.clear()


@on_wire
def test_segment_to_another_address_is_not_ours():
    wire, peer, app = established()
    peer.send(ACK | PSH, text=b"abc", destination=b"\x0a\x4d\x00\x63")
    assert wire.drops() == {("ip", "not for us"): 1} and app.read(9) == b""


@on_wire
def test_segment_cut_off_on_its_way_is_dropped():
    wire, peer, app = established()
    for n in (1, 3, 100):
        peer.snd = 1
        wire.receive(peer.frame(ACK | PSH, text=pattern(0, 100))[:-n])
    assert wire.drops() == {("ip", "total length"): 3} and app.read(9) == b""

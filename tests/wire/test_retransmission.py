"""When and what is sent again: RFC 6298 (timer), RFC 5681 (congestion window), RFC 9293 section 3.8."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from barenet.tcp import new_reno
    from rig import ACK, FIN, PSH, RST, SYN, Wire, established, pattern

    ETIMEDOUT = 110


@on_wire
def test_lost_segment_is_sent_again_with_doubled_intervals():
    # RFC 6298 section 2.2: RTO = SRTT + 4 * RTTVAR = 100 + 4 * 50 after one measurement of 100 ms; section 5.5:
    # doubled each time.
    wire, peer, app = established(rtt=100)
    app.write(b"hello")
    peer.expect(ACK | PSH, seq=1, text=b"hello")
    for wait in (300, 600, 1200, 2400):
        peer.expect(ACK | PSH, seq=1, text=b"hello", after=wait)
    peer.send(ACK)
    wire.advance(60000)
    peer.expect_nothing()


@on_wire
def test_retransmission_timeout_is_at_least_200_ms():
    wire, peer, app = established(rtt=5)
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    peer.expect(ACK | PSH, seq=1, text=b"hello", after=200)


@on_wire
def test_timeout_follows_the_measured_round_trips():
    # RFC 6298 section 2.3 with real numbers; ours are whole ones.
    wire, peer, app = established(rtt=100)
    srtt, var = 100.0, 50.0
    for rtt in (60, 60, 199, 150, 100, 100, 2, 199, 1, 1, 1):
        app.write(b"x")
        peer.expect(ACK | PSH, text=b"x")
        wire.advance(rtt)
        peer.send(ACK)
        var += (abs(srtt - rtt) - var) / 4
        srtt += (rtt - srtt) / 8
        expected = max(200, srtt + 4 * var)
        got = app.tcb[fast.RTO]
        assert abs(got - expected) <= 6, "RTO {} after {} ms, expected {}".format(got, rtt, expected)


@on_wire
def test_karn_a_retransmitted_segment_gives_no_measurement():
    # RFC 6298 section 3; section 5.7: the backed-off timeout stays until there is a new measurement.
    wire, peer, app = established(rtt=100)
    app.write(b"one")
    peer.expect(ACK | PSH, text=b"one")
    peer.expect(ACK | PSH, seq=1, text=b"one", after=300)
    wire.advance(5)
    peer.send(ACK)
    app.write(b"two")
    peer.expect(ACK | PSH, text=b"two")
    peer.expect(ACK | PSH, seq=4, text=b"two", after=600)
    peer.send(ACK)
    app.write(b"three")
    peer.expect(ACK | PSH, text=b"three")
    wire.advance(100)
    peer.send(ACK)  # measured again: 100 ms
    app.write(b"four")
    peer.expect(ACK | PSH, text=b"four")
    peer.expect(ACK | PSH, seq=12, text=b"four", after=250)


@on_wire
def test_timeout_is_3_s_after_a_lost_syn():
    # RFC 6298 section 5.7, MUST.
    wire = Wire()
    peer = wire.peer()
    app = wire.connect(peer)
    peer.expect(SYN, mss=1460)
    peer.expect(SYN, seq=0, mss=1460, after=1000)
    peer.send(SYN | ACK, mss=1460)
    peer.expect(ACK)
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    peer.expect(ACK | PSH, seq=1, text=b"hello", after=3000)


@on_wire
def test_acknowledgement_of_a_part_restarts_the_timer():
    # RFC 6298 section 5.3.
    wire, peer, app = established()
    app.write(pattern(0, 2920))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(1460, 1460))
    wire.advance(150)
    peer.send(ACK, ack=1461)
    peer.expect(ACK | PSH, seq=1461, text=pattern(1460, 1460), after=app.tcb[fast.RTO])


@on_wire
def test_timer_follows_a_timeout_that_has_become_shorter():
    wire, peer, app = established()
    app.write(pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(0, 1460))
    for wait in (200, 400, 800):
        peer.expect(ACK | PSH, seq=1, text=pattern(0, 1460), after=wait)
    peer.send(ACK)
    app.write(pattern(1460, 2920))
    peer.expect(ACK, text=pattern(1460, 1460))
    peer.expect(ACK | PSH, text=pattern(2920, 1460))
    wire.advance(5)
    peer.send(ACK, ack=2921)
    peer.expect(ACK | PSH, seq=2921, text=pattern(2920, 1460), after=200)


@on_wire
def test_timer_stops_when_everything_is_acknowledged():
    # RFC 6298 section 5.2.
    wire, peer, app = established()
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    wire.advance(199)
    peer.send(ACK)
    wire.advance(10000)
    peer.expect_nothing()


@on_wire
def test_after_a_timeout_one_segment_leaves_and_slow_start_follows():
    # RFC 5681 section 3.1: the loss window is one segment; each acknowledged segment makes room for two.
    wire, peer, app = established()
    app.write(pattern(0, 8760))
    for at in range(0, 8760, 1460):
        peer.expect(ACK | PSH if at == 7300 else ACK, text=pattern(at, 1460))
    peer.expect(ACK, seq=1, text=pattern(0, 1460), after=200)
    peer.expect_nothing()
    peer.send(ACK, ack=1461)
    peer.expect(ACK, seq=1461, text=pattern(1460, 1460))
    peer.expect(ACK, seq=2921, text=pattern(2920, 1460))
    peer.expect_nothing()
    peer.send(ACK, ack=4381)
    peer.expect(ACK, seq=4381, text=pattern(4380, 1460))
    peer.expect(ACK, seq=5841, text=pattern(5840, 1460))
    peer.expect(ACK | PSH, seq=7301, text=pattern(7300, 1460))
    peer.send(ACK)
    wire.advance(10000)
    peer.expect_nothing()


@on_wire
def test_what_the_peer_has_got_meanwhile_is_not_sent_again():
    wire, peer, app = established()
    app.write(pattern(0, 4380))
    for at in (0, 1460, 2920):
        peer.expect(ACK | PSH if at == 2920 else ACK, text=pattern(at, 1460))
    peer.expect(ACK, seq=1, text=pattern(0, 1460), after=200)  # only the first was lost
    peer.send(ACK, ack=4381)
    wire.advance(10000)
    peer.expect_nothing()
    app.write(b"more")
    peer.expect(ACK | PSH, seq=4381, text=b"more")


@on_wire
def test_congestion_avoidance_from_half_of_what_was_in_flight():
    # RFC 5681 section 3.1, equation (4): 10 segments in flight, so slow start ends at 5; then one segment a round trip.
    wire, peer, app = established(sndbuf=60000, transmit=16)
    wire.tcp.use_congestion(new_reno)
    app.write(pattern(0, 60000))
    for at in range(0, 14600, 1460):
        peer.expect(ACK, text=pattern(at, 1460))
    peer.expect(ACK, seq=1, text=pattern(0, 1460), after=200)
    peer.expect(ACK, seq=1, text=pattern(0, 1460), after=400)  # lost again: that does not halve it again
    acked = 14601
    peer.send(ACK, ack=acked)  # the rest had arrived
    windows = []
    for _ in range(6):
        n = 0
        while wire.frames:
            peer.expect(ACK, seq=acked + 1460 * n, length=1460)
            n += 1
        windows.append(n)
        acks = [peer.frame(ACK, ack=acked + 1460 * (i + 1)) for i in range(n)]
        acked += 1460 * n
        wire.receive(*acks)
        if acked > 45000:
            break
    assert windows == [2, 4, 5, 6, 7], windows
    wire.frames.clear()


@on_wire
def test_data_that_is_never_acknowledged_ends_the_connection():
    # RFC 9293 section 3.8.3, MUST-20 and SHLD-11: R2 is at least 100 s.
    wire, peer, app = established()
    start = wire.now
    app.write(b"hello")
    wait = 200
    while True:
        peer.expect(ACK | PSH, seq=1, text=b"hello")
        wire.advance(wait)
        if app.state == "CLOSED":
            break
        wait = min(2 * wait, 60000)
    assert app.error == ETIMEDOUT and wire.now - start > 100000
    app.close()
    assert app.deleted()


@on_wire
def test_losses_that_were_repaired_do_not_count_for_giving_up():
    wire, peer, app = established()
    for i in range(30):
        app.write(b"x")
        peer.expect(ACK | PSH, text=b"x")
        while not wire.frames:
            wire.advance(100)
        peer.expect(ACK | PSH, seq=i + 1, text=b"x")
        peer.send(ACK)
    assert app.state == "ESTABLISHED"


@on_wire
def test_old_and_duplicate_acks_bring_nothing_new():
    wire, peer, app = established()
    app.write(pattern(0, 2920))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(1460, 1460))
    peer.send(ACK, ack=1461)
    for ack in (1461, 1461, 1461, 1, 700, 0, -1000):
        peer.send(ACK, ack=ack)
    peer.expect_nothing()
    assert app.tcb[fast.SND_LEN] == 1460
    peer.send(ACK)


@on_wire
def test_acknowledgement_in_the_middle_of_a_segment():
    wire, peer, app = established()
    app.write(pattern(0, 2920))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(1460, 1460))
    peer.send(ACK, ack=701)
    peer.expect(ACK, seq=701, text=pattern(700, 760), after=app.tcb[fast.RTO])
    peer.send(ACK)
    peer.expect_nothing()


@on_wire
def test_fin_is_sent_again():
    wire, peer, app = established()
    app.close()
    peer.expect(FIN | ACK, seq=1)
    for wait in (200, 400, 800):
        peer.expect(FIN | ACK, seq=1, after=wait)
    peer.send(ACK)
    assert app.state == "FIN_WAIT_2"


@on_wire
def test_fin_is_sent_again_with_the_data_in_front_of_it():
    wire, peer, app = established()
    app.write(b"bye")
    peer.expect(ACK | PSH, text=b"bye")
    app.close()
    peer.expect(FIN | ACK, seq=4)
    peer.expect(ACK | PSH, seq=1, text=b"bye", after=200)
    peer.expect(FIN | ACK, seq=4)
    peer.send(ACK, ack=4)
    peer.expect(FIN | ACK, seq=4, after=400)
    peer.send(ACK, ack=5)
    assert app.state == "FIN_WAIT_2"


@on_wire
def test_fin_that_is_never_acknowledged_ends_the_connection():
    wire, peer, app = established()
    app.close()
    while not app.deleted():
        peer.expect(FIN | ACK, seq=1)
        while not wire.frames and not app.deleted():
            wire.advance(100)
        assert wire.now < 1000000
    peer.expect_nothing()


@on_wire
def test_reset_after_a_timeout_is_numbered_so_that_it_is_believed():
    # The peer has got everything, its acknowledgements were lost: a number that it has passed would be ignored (RFC
    # 5961 section 3.2).
    wire, peer, app = established()
    app.write(pattern(0, 2920))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(1460, 1460))
    peer.expect(ACK, seq=1, text=pattern(0, 1460), after=200)
    app.abort()
    peer.expect(RST | ACK, seq=2921)


@on_wire
def test_reset_into_a_closed_window_is_numbered_so_that_it_is_believed():
    wire, peer, app = established(win=0)
    app.write(b"hello")
    peer.expect(ACK, seq=1, text=b"h", after=200)
    peer.send(ACK, ack=1)
    app.abort()
    peer.expect(RST | ACK, seq=1)

"""The congestion window: RFC 5681, 3465, 6928, 9438."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import opened, sack
    from barenet import fast
    from rig import ACK, PSH, established, pattern

    MSS = 1460

    def edge(i):
        return 1 + i * MSS

    def lose_one(wire, peer, app):
        """Ten segments leave, the first is lost; returns SSTHRESH afterwards."""
        app.write(pattern(0, 10 * MSS))
        for i in range(10):
            peer.expect(ACK | PSH if i == 9 else ACK, seq=edge(i), length=MSS)
        wire.advance(100)
        peer.send(ACK, ack=1, options=sack(peer, (edge(1), edge(10))))
        wire.advance(30)
        peer.expect(ACK, seq=1, text=pattern(0, MSS))
        peer.send(ACK, ack=edge(10))
        return app.tcb[fast.SSTHRESH]


@on_wire
def test_cubic_keeps_seven_tenths_after_a_loss():
    # RFC 9438 section 4.6.
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=30000)
    assert 0.69 * 10 * MSS <= lose_one(wire, peer, app) <= 0.71 * 10 * MSS
    assert app.tcb[fast.CWND] <= app.tcb[fast.SSTHRESH]


@on_wire
def test_new_reno_keeps_half_after_a_loss():
    # RFC 5681 section 3.2, step 2.
    from barenet.tcp import new_reno

    wire, peer, app = opened(sack=True, rtt=100, sndbuf=30000)
    wire.tcp.use_congestion(new_reno)
    assert lose_one(wire, peer, app) == 5 * MSS


@on_wire
def test_slow_start_counts_bytes_not_acks():
    # RFC 3465 section 2.1: one ACK for two segments opens the window by two, many small ACKs by what they cover.
    for acks in ((2 * MSS,), (MSS, 2 * MSS), range(292, 2 * MSS + 1, 292)):
        wire, peer, app = established(rtt=100, sndbuf=60000, transmit=32)
        app.write(pattern(0, 60000))
        wire.frames.clear()
        before = app.tcb[fast.CWND]
        for n in acks:
            peer.send(ACK, ack=1 + n)
            wire.frames.clear()
        assert app.tcb[fast.CWND] == before + 2 * MSS, (acks, app.tcb[fast.CWND] - before)


@on_wire
def test_an_ack_never_opens_the_window_by_more_than_two_segments():
    # RFC 3465 section 2.2: L = 2.
    wire, peer, app = established(rtt=100, sndbuf=60000, transmit=32)
    app.write(pattern(0, 60000))
    wire.frames.clear()
    before = app.tcb[fast.CWND]
    peer.send(ACK, ack=edge(10))
    wire.frames.clear()
    assert app.tcb[fast.CWND] == before + 2 * MSS


@on_wire
def test_window_that_is_not_used_does_not_grow():
    # RFC 9293 section 3.8.2 by way of RFC 5681 section 3.1 and RFC 7661: small talk proves nothing of the path.
    wire, peer, app = established(rtt=100)
    before = app.tcb[fast.CWND]
    for i in range(100):
        app.write(b"x")
        peer.expect(ACK | PSH, text=b"x")
        wire.advance(100)
        peer.send(ACK)
    assert app.tcb[fast.CWND] == before


@on_wire
def test_after_a_pause_longer_than_the_timeout_the_window_is_the_initial_one_again():
    # RFC 5681 section 4.1; with the initial window of RFC 6928.
    for longer, segments in ((-10, 12), (10, 10)):
        wire, peer, app = established(rtt=100, sndbuf=60000, transmit=32)
        app.write(pattern(0, 10 * MSS))
        wire.frames.clear()
        wire.advance(100)
        peer.send(ACK, ack=edge(10))
        assert app.tcb[fast.CWND] == 12 * MSS
        wire.advance(app.tcb[fast.RTO] + longer)
        app.write(pattern(10 * MSS, 20 * MSS))
        assert len(wire.frames) == segments, len(wire.frames)
        wire.frames.clear()


@on_wire
def test_cubic_reaches_the_old_window_after_the_cube_root_of_what_was_lost():
    # RFC 9438 section 4.2: K = cbrt((100 - 70) / 0.4) = 4.2 s; the curve is flat there.
    wire, peer, app = established()
    tcb = app.tcb
    tcb[fast.SRTT] = 100 << 3
    tcb[fast.W_MAX] = 100 * MSS
    tcb[fast.CWND] = 70 * MSS
    tcb[fast.EPOCH_K] = 0x3FFFFFFF
    wire.tcp.congestion.grow(tcb, 1000)
    assert 4.1 < tcb[fast.EPOCH_K] / 16 < 4.3
    tcb[fast.CWND] = 95 * MSS
    wire.tcp.congestion.grow(tcb, 1000 + 4217 - 100)
    # Five segments more in the next round trip: one for every nineteenth of the window.
    assert 0.9 * 19 * MSS < tcb[fast.GROW_AT] < 1.1 * 19 * MSS


@on_wire
def test_cubic_is_never_slower_than_reno():
    # RFC 9438 section 4.3: after 6 round trips Reno with this loss would have 7 + 6 * 0.53 = 10.2 segments, the curve has 8.3.
    wire, peer, app = established()
    tcb = app.tcb
    tcb[fast.SRTT] = 50 << 3
    tcb[fast.W_MAX] = 10 * MSS
    tcb[fast.CWND] = 7 * MSS
    tcb[fast.EPOCH_K] = 0x3FFFFFFF
    wire.tcp.congestion.grow(tcb, 1000)
    wire.tcp.congestion.grow(tcb, 1300)
    assert 0.9 * 7 * MSS / 3.2 < tcb[fast.GROW_AT] < 1.1 * 7 * MSS / 3.2

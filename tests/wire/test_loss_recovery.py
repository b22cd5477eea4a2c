"""How lost segments are found and sent again before the timeout: RFC 5681, 6582, 6675, 3042, 8985."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import opened, sack
    from barenet import fast
    from rig import ACK, PSH, established, pattern

    MSS = 1460

    def flight(app, peer, n):
        """Lets n full segments leave."""
        app.write(pattern(0, n * MSS))
        for i in range(n):
            peer.expect(ACK | PSH if i == n - 1 else ACK, seq=1 + i * MSS, text=pattern(i * MSS, MSS))

    def edge(i):
        return 1 + i * MSS


@on_wire
def test_third_duplicate_ack_repeats_the_first_segment():
    # RFC 5681 section 3.2.
    wire, peer, app = established(rtt=100, sndbuf=20000, transmit=16)
    flight(app, peer, 6)
    wire.advance(100)
    for _ in range(2):
        peer.send(ACK, ack=1)
        peer.expect_nothing()
    peer.send(ACK, ack=1)
    peer.expect(ACK, seq=1, text=pattern(0, MSS))
    peer.send(ACK, ack=edge(6))
    peer.expect_nothing()


@on_wire
def test_partial_acks_repeat_one_segment_each():
    # RFC 6582 section 3.2: segments 0 and 2 were lost.
    wire, peer, app = established(rtt=100, sndbuf=20000, transmit=16)
    flight(app, peer, 6)
    wire.advance(100)
    for _ in range(3):
        peer.send(ACK, ack=1)
    peer.expect(ACK, seq=1, text=pattern(0, MSS))
    peer.send(ACK, ack=1)
    wire.advance(50)
    peer.send(ACK, ack=edge(2))
    peer.expect(ACK, seq=edge(2), text=pattern(2 * MSS, MSS))
    peer.send(ACK, ack=edge(6))
    peer.expect_nothing()


@on_wire
def test_the_first_two_duplicate_acks_let_a_new_segment_each_go():
    # RFC 3042: though the congestion window is full.
    wire, peer, app = established(rtt=100, sndbuf=30000, transmit=16)
    app.write(pattern(0, 30000))
    for i in range(10):
        peer.expect(ACK, seq=edge(i), text=pattern(i * MSS, MSS))
    peer.expect_nothing()
    wire.advance(100)
    before = app.tcb[fast.CWND]
    for i in (10, 11):
        peer.send(ACK, ack=1)
        peer.expect(ACK, seq=edge(i), text=pattern(i * MSS, MSS))
        peer.expect_nothing()
    assert app.tcb[fast.CWND] == before


@on_wire
def test_only_what_sack_leaves_out_is_sent_again():
    # RFC 6675: segments 1 and 3 of 8 were lost.
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=20000)
    flight(app, peer, 8)
    wire.advance(100)
    peer.send(ACK, ack=edge(1))
    peer.send(ACK, ack=edge(1), options=sack(peer, (edge(2), edge(3))))
    peer.send(ACK, ack=edge(1), options=sack(peer, (edge(4), edge(5)), (edge(2), edge(3))))
    peer.send(ACK, ack=edge(1), options=sack(peer, (edge(4), edge(8)), (edge(2), edge(3))))
    wire.advance(50)
    peer.expect(ACK, seq=edge(1), text=pattern(MSS, MSS))
    peer.expect(ACK, seq=edge(3), text=pattern(3 * MSS, MSS))
    peer.send(ACK, ack=edge(8))
    wire.advance(1000)
    peer.expect_nothing()
    assert 0.69 * 7 * MSS <= app.tcb[fast.SSTHRESH] <= 0.71 * 7 * MSS, "two losses of one flight, one reduction"


@on_wire
def test_segment_that_was_overtaken_a_little_is_not_sent_again():
    # RFC 8985 section 6.2: a quarter of the shortest round trip is allowed for reordering.
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=20000)
    flight(app, peer, 3)
    wire.advance(100)
    peer.send(ACK, ack=1, options=sack(peer, (edge(1), edge(2))))
    wire.advance(20)
    peer.expect_nothing()
    peer.send(ACK, ack=edge(2))
    wire.advance(20)
    peer.send(ACK, ack=edge(3))
    wire.advance(2000)
    peer.expect_nothing()
    assert app.tcb[fast.RETRANSMITS] == 0


@on_wire
def test_segment_that_was_overtaken_for_too_long_is_sent_again():
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=20000)
    flight(app, peer, 3)
    wire.advance(100)
    peer.send(ACK, ack=1, options=sack(peer, (edge(1), edge(2))))
    wire.advance(24)
    peer.expect_nothing()
    wire.advance(10)
    peer.expect(ACK, seq=1, text=pattern(0, MSS))
    peer.send(ACK, ack=edge(3))


@on_wire
def test_tail_loss_probe_comes_before_the_timeout():
    # RFC 8985 section 7: two round trips (and the peer's delay of ACKs) without an answer, and the last segment goes again.
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=20000)
    flight(app, peer, 3)
    peer.expect(ACK | PSH, seq=edge(2), text=pattern(2 * MSS, MSS), after=290)  # the timeout would come after 300
    # The answer shows which segments were lost.
    wire.advance(100)
    peer.send(ACK, ack=1, options=sack(peer, (edge(2), edge(3))))
    wire.advance(30)
    peer.expect(ACK, seq=1, text=pattern(0, MSS))
    peer.expect(ACK, seq=edge(1), text=pattern(MSS, MSS))
    peer.send(ACK, ack=edge(3))


@on_wire
def test_receiver_that_takes_back_what_it_said_gets_everything_after_the_timeout():
    # RFC 2018 section 8: SACK is only advice.
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=20000)
    flight(app, peer, 3)
    wire.advance(100)
    peer.send(ACK, ack=1, options=sack(peer, (edge(1), edge(3))))
    wire.advance(40)
    peer.expect(ACK, seq=1, text=pattern(0, MSS))
    wire.advance(100)
    # It takes back segments 1 and 2, and then takes whatever comes in order.
    peer.send(ACK, ack=edge(1))
    for i in (1, 2):
        while not wire.frames:
            wire.advance(50)
            assert wire.now < 10_000
        peer.expect(ACK | PSH if i == 2 else ACK, seq=edge(i), text=pattern(i * MSS, MSS))
        wire.frames.clear()
        peer.send(ACK, ack=edge(i + 1))
    wire.advance(5000)
    peer.expect_nothing()
    assert app.tcb[fast.SND_LEN] == 0


@on_wire
def test_sack_of_what_was_never_sent_does_no_harm():
    wire, peer, app = opened(sack=True, rtt=100, sndbuf=20000)
    flight(app, peer, 3)
    for block in ((edge(3), edge(9)), (-1000, 0), (edge(2), edge(1)), (0x7FFFFFFF, -0x7FFFFFFF)):
        peer.send(ACK, ack=1, options=sack(peer, block))
    peer.expect_nothing()
    peer.send(ACK, ack=edge(3))
    wire.advance(2000)
    peer.expect_nothing()
    assert app.state == "ESTABLISHED"

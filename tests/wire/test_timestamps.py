"""Timestamps, and the protection from old segments by them: RFC 7323 sections 3 to 5."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import listed, offer, opened, stamp, stamps
    from rig import ACK, FIN, PSH, RST, SYN, Wire, pattern


@on_wire
def test_timestamps_are_in_every_segment_once_both_have_offered_them():
    # Section 3.2; the MSS that is left for text is 1448.
    wire = Wire()
    peer = wire.peer()
    app = wire.connect(peer)
    value, echo = stamp(peer.expect(SYN, mss=1460))
    assert echo == 0
    peer.send(SYN | ACK, options=offer(stamp=5000))
    assert stamp(peer.expect(ACK)) == (value, 5000)
    app.write(pattern(0, 1448))
    data = peer.expect(ACK | PSH, text=pattern(0, 1448))
    assert data.options == stamps(value, 5000)
    peer.send(ACK, options=stamps(5001, value))
    wire.advance(100)
    app.close()
    assert stamp(peer.expect(FIN | ACK)) == (value + 100, 5001)  # its clock counts milliseconds (section 5.4)


@on_wire
def test_timestamps_are_answered_only_when_the_peer_offers_them():
    for value in (None, 7777):
        wire = Wire()
        wire.listen(80)
        peer = wire.peer()
        peer.send(SYN, options=offer(stamp=value))
        answer = peer.expect(SYN | ACK, mss=1460)
        assert (8 in listed(answer)) == (value is not None)
        assert value is None or stamp(answer)[1] == value


@on_wire
def test_segment_without_the_agreed_timestamps_is_dropped():
    # Section 3.2.
    wire, peer, app = opened(stamp=5000)
    peer.send(ACK | PSH, text=b"who are you?")
    wire.advance(100)
    peer.expect_nothing()
    assert app.read(20) == b""


@on_wire
def test_reset_without_timestamps_is_believed():
    # Section 3.2: a RST need not carry them.
    wire, peer, app = opened(stamp=5000)
    peer.send(RST)
    assert app.state == "CLOSED"


@on_wire
def test_segment_with_an_older_timestamp_is_acknowledged_and_dropped():
    # Section 5.3, R1.
    wire, peer, app = opened(stamp=5000)
    peer.send(ACK | PSH, text=b"old", options=stamps(4999))
    peer.expect(ACK, ack=1)
    peer.snd = 1
    peer.send(ACK | PSH, text=b"new", options=stamps(5000))
    assert app.read(9) == b"new"
    peer.expect(ACK, after=40)


@on_wire
def test_reset_with_an_older_timestamp_is_believed():
    # Section 5.2: PAWS is not for RST.
    wire, peer, app = opened(stamp=5000)
    peer.send(RST, options=stamps(1))
    assert app.state == "CLOSED"


@on_wire
def test_timestamps_wrap():
    wire, peer, app = opened(stamp=0xFFFFFFFF)
    peer.send(ACK | PSH, text=b"abc", options=stamps(3))
    assert stamp(peer.expect(ACK, after=40))[1] == 3 and app.read(9) == b"abc"


@on_wire
def test_echo_is_not_of_a_segment_out_of_order():
    # Section 4.3: it lies beyond the last ACK.
    wire, peer, app = opened(stamp=5000)
    peer.send(ACK | PSH, seq=11, text=b"late", options=stamps(5020))
    assert stamp(peer.expect(ACK, ack=1))[1] == 5000


@on_wire
def test_echo_is_of_the_segment_that_the_delayed_ack_is_for():
    # Section 4.3: TSecr is of the first segment since the last ACK, so that the peer measures the delay, too.
    wire, peer, app = opened(stamp=5000)
    peer.send(ACK | PSH, text=b"first", options=stamps(5010))
    wire.advance(10)
    peer.send(ACK | PSH, text=b"second", options=stamps(5020))
    assert stamp(peer.expect(ACK, after=30))[1] == 5010
    assert app.read(20) == b"firstsecond"


@on_wire
def test_peer_that_was_silent_for_25_days_is_heard():
    # Section 5.5: TS.Recent is not trusted for longer.
    wire, peer, app = opened(stamp=5000)
    for _ in range(5):
        wire.now += 5 * 86400000  # not advance(): nothing is due but what the stack looks after every second
        wire.settle()
    peer.send(ACK | PSH, text=b"back", options=stamps(4000))
    assert app.read(9) == b"back"
    peer.expect(ACK, after=40)

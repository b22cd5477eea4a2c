"""Text out of order: kept, and told to the sender. RFC 2018 sections 3 and 4, RFC 2883, RFC 5681 section 4.2."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import listed, offer, opened, ranges, stamps
    from rig import ACK, FIN, PSH, SYN, Wire, established, pattern


@on_wire
def test_sack_is_permitted_only_to_a_peer_that_permits_it():
    for permitted in (False, True):
        wire = Wire()
        wire.listen(80)
        peer = wire.peer()
        peer.send(SYN, options=offer(sack=permitted))
        assert (4 in listed(peer.expect(SYN | ACK, mss=1460))) == permitted


@on_wire
def test_text_out_of_order_is_kept_and_told_at_once():
    wire, peer, app = opened(sack=True)
    peer.send(ACK | PSH, seq=101, text=pattern(100, 100))
    assert ranges(peer.expect(ACK, ack=1), peer) == [(101, 201)]
    assert app.read(999) == b""
    # The gap closes: acknowledged at once, no SACK any more.
    peer.send(ACK | PSH, seq=1, text=pattern(0, 100))
    assert not ranges(peer.expect(ACK, ack=201), peer)
    assert app.read(999) == pattern(0, 200)


@on_wire
def test_first_range_is_the_one_that_changed_last():
    # Section 4, (a); the others follow.
    wire, peer, app = opened(sack=True)
    for at, expected in (
        (1000, [(1001, 1101)]),
        (3000, [(3001, 3101), (1001, 1101)]),
        (2000, [(2001, 2101), (1001, 1101), (3001, 3101)]),
        (1100, [(1001, 1201), (2001, 2101), (3001, 3101)]),  # a range grows
    ):
        peer.send(ACK | PSH, seq=at + 1, text=pattern(at, 100))
        got = ranges(peer.expect(ACK, ack=1), peer)
        assert got[0] == expected[0] and sorted(got) == sorted(expected), (at, got)


@on_wire
def test_four_ranges_fit_without_timestamps_and_three_with_them():
    # Section 3.
    for stamp, most in ((None, 4), (5000, 3)):
        wire, peer, app = opened(sack=True, stamp=stamp)
        for at in (1000, 2000, 3000, 4000):
            peer.send(ACK, seq=at + 1, text=pattern(at, 10), options=b"" if stamp is None else stamps(5001))
            got = ranges(peer.expect(ACK, ack=1), peer)
        assert len(got) == most and got[0] == (4001, 4011)


@on_wire
def test_without_permission_it_is_kept_but_not_told():
    wire, peer, app = established()
    peer.send(ACK | PSH, seq=101, text=pattern(100, 100))
    assert peer.expect(ACK, ack=1).options == b""
    peer.send(ACK | PSH, seq=1, text=pattern(0, 100))
    peer.expect(ACK, ack=201)
    assert app.read(999) == pattern(0, 200)


@on_wire
def test_duplicate_is_reported_first_and_once():
    # RFC 2883 section 4.
    wire, peer, app = opened(sack=True)
    peer.send(ACK | PSH, text=pattern(0, 100))
    peer.expect(ACK, ack=101, after=40)
    peer.send(ACK | PSH, seq=1, text=pattern(0, 100))
    assert ranges(peer.expect(ACK, ack=101), peer) == [(1, 101)]
    peer.send(ACK | PSH, seq=301, text=pattern(300, 100))
    assert ranges(peer.expect(ACK, ack=101), peer) == [(301, 401)]


@on_wire
def test_fin_behind_a_gap_waits_for_it():
    wire, peer, app = opened(sack=True)
    peer.send(FIN | ACK | PSH, seq=101, text=pattern(100, 100))
    peer.expect(ACK, ack=1)
    assert app.state == "ESTABLISHED"
    peer.send(ACK | PSH, seq=1, text=pattern(0, 100))
    peer.expect(ACK, ack=202)
    assert app.state == "CLOSE_WAIT" and app.read(999) == pattern(0, 200)


@on_wire
def test_text_beyond_the_window_is_not_kept():
    wire, peer, app = opened(sack=True, rcvbuf=1000)
    peer.send(ACK | PSH, seq=901, text=pattern(900, 200))
    assert ranges(peer.expect(ACK, ack=1), peer) == [(901, 1001)]


@on_wire
def test_what_overlaps_is_joined_and_delivered_once():
    wire, peer, app = opened(sack=True)
    for at, n in ((300, 100), (500, 100), (350, 200)):
        peer.send(ACK | PSH, seq=at + 1, text=pattern(at, n))
        last = peer.expect(ACK, ack=1)
    assert (301, 601) in ranges(last, peer)
    peer.send(ACK | PSH, seq=1, text=pattern(0, 301))
    peer.expect(ACK, ack=601)
    assert app.read(999) == pattern(0, 600)

"""Windows above 64 KB: RFC 7323 section 2."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import listed, offer, opened
    from barenet import fast
    from rig import ACK, PSH, SYN, Wire, pattern


@on_wire
def test_shift_is_what_the_receive_buffer_needs():
    # Section 2.3: a window of 65535 << shift covers the buffer.
    for rcvbuf, shift in ((8760, 0), (65535, 0), (65536, 1), (200000, 2)):
        wire = Wire()
        peer = wire.peer()
        wire.connect(peer, rcvbuf)
        syn = peer.expect(SYN, mss=1460, win=min(rcvbuf, 65535))
        # As Linux has them: MSS, SACK permitted, timestamps, no-operation, window scale.
        assert syn.options[:8] == b"\x02\x04\x05\xb4\x04\x02\x08\x0a" and syn.options[16:] == bytes((1, 3, 3, shift))


@on_wire
def test_scale_is_answered_only_when_the_peer_offers_it():
    # Section 2.2: both sides must send the option, or neither shifts.
    for shift in (None, 0, 7):
        wire = Wire()
        wire.listen(80)
        peer = wire.peer()
        peer.send(SYN, options=offer(shift=shift))
        answer = listed(peer.expect(SYN | ACK, mss=1460))
        assert answer.get(3) == (None if shift is None else b"\0")


@on_wire
def test_window_of_a_syn_is_never_scaled():
    # Section 2.2.
    wire, peer, app = opened(shift=7, win=1460)
    app.write(pattern(0, 4380))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect_nothing()


@on_wire
def test_windows_behind_the_handshake_are_scaled():
    # Section 2.3: 23 << 7 = 2944, room for two segments.
    wire, peer, app = opened(shift=7, win=1460)
    app.write(pattern(0, 4380))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.send(ACK, win=23)
    peer.expect(ACK, text=pattern(1460, 1460))
    peer.expect(ACK | PSH, text=pattern(2920, 1460))


@on_wire
def test_shift_above_14_counts_as_14():
    # Section 2.3: MUST.
    wire, peer, app = opened(shift=15)
    assert app.tcb[fast.SND_SCALE] == 14


@on_wire
def test_our_window_is_told_in_steps_of_the_scale():
    # 50000 << 2 = 200000.
    wire = Wire()
    peer = wire.peer()
    app = wire.connect(peer, 200000)
    peer.expect(SYN, mss=1460, win=65535)
    peer.send(SYN | ACK, options=offer(shift=0))
    peer.expect(ACK, win=50000)
    peer.send(ACK | PSH, text=b"x")
    # What was promised is never taken back by rounding (section 2.4).
    assert peer.expect(ACK, after=40).win << 2 >= 200000 - 1 and app.read(1) == b"x"


@on_wire
def test_without_the_option_the_window_stays_below_64_kb():
    wire = Wire()
    peer = wire.peer()
    wire.connect(peer, 200000)
    peer.expect(SYN, mss=1460, win=65535)
    peer.send(SYN | ACK, mss=1460)
    peer.expect(ACK, win=65535)

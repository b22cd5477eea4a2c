"""The end of the sender's patience with small windows, and of a connection nobody reads: RFC 9293 sections 3.8.6.2.1 and 3.6.1."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, FIN, PSH, RST, established, pattern


@on_wire
def test_small_window_is_used_when_the_override_timer_ends():
    # Section 3.8.6.2.1, (4): between 0.1 and 1 s.
    wire, peer, app = established(win=8000)
    peer.send(ACK, win=500)
    app.write(pattern(0, 1000))
    peer.expect_nothing()
    peer.expect(ACK, seq=1, text=pattern(0, 500), after=200)


@on_wire
def test_close_with_unread_data_resets_in_every_state_that_receives():
    for state in ("ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT"):
        wire, peer, app = established()
        if state.startswith("FIN"):
            app.shutdown()
            peer.expect(FIN | ACK)
        flags = FIN | ACK | PSH if state == "CLOSE_WAIT" else ACK | PSH
        peer.send(flags, ack=1 if state == "FIN_WAIT_1" else None, text=b"unread")
        if state == "CLOSE_WAIT":
            peer.expect(ACK)
        assert app.state == state
        app.close()
        peer.expect(RST | ACK)
        assert app.deleted()

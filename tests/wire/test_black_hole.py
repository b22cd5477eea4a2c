"""A path that swallows large packets and says nothing: RFC 4821 section 7.7."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from rig import ACK, PSH, established, pattern


@on_wire
def test_segments_get_smaller_when_large_ones_are_never_acknowledged():
    wire, peer, app = established(win=1460)
    app.write(pattern(0, 1460))
    peer.expect(ACK | PSH, text=pattern(0, 1460))
    for wait in (200, 400, 800):
        peer.expect(ACK | PSH, seq=1, text=pattern(0, 1460), after=wait)
    peer.expect(ACK, seq=1, text=pattern(0, 1024), after=1600)  # packets of 1064 bytes
    peer.expect(ACK, seq=1, text=pattern(0, 1024), after=3200)
    peer.expect(ACK, seq=1, text=pattern(0, 536), after=6400)  # of 576
    assert app.state == "ESTABLISHED"
    wire.frames.clear()

"""A TIME_WAIT that timestamps allow to reopen: RFC 6191 section 2."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from agreed import offer, stamps
    from rig import ACK, FIN, SYN, Wire

    def in_time_wait():
        wire = Wire()
        listener = wire.listen(80)
        wire.iss(0x10000000)
        peer = wire.peer()
        peer.send(SYN, options=offer(stamp=5000))
        peer.expect(SYN | ACK, mss=1460)
        peer.send(ACK, options=stamps(5001))
        app = wire.accept(listener)
        app.close()
        peer.expect(FIN | ACK)
        peer.send(FIN | ACK, options=stamps(5002))
        peer.expect(ACK)
        assert app.state == "TIME_WAIT"
        return wire, peer


@on_wire
def test_newer_timestamp_opens_the_pair_anew_whatever_the_number():
    for number in (-5000, 0, 5000):
        wire, peer = in_time_wait()
        new = wire.peer(iss=peer.iss + number)
        new.send(SYN, options=offer(stamp=6000))
        new.expect(SYN | ACK, ack=1, mss=1460)
        assert 0 < new.irs - peer.irs - peer.rcv < 0x80000000, "the new initial number lies beyond the old ones"


@on_wire
def test_older_timestamp_does_not():
    wire, peer = in_time_wait()
    old = wire.peer(iss=peer.iss + 5000)
    old.send(SYN, options=offer(stamp=4000))
    peer.expect(ACK, seq=2, ack=2)

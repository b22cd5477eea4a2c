"""Numbers that wrap: sequence numbers at 2**32 (and where a sign bit changes), ticks at 2**30 ms, IP identifications
at 2**16.
"""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from barenet.ticks import PERIOD
    from rig import ACK, FIN, PSH, RST, SYN, Wire, established, pattern

    # Just below each value at which one of the implementation's bit tests changes its mind.
    EDGES = (0x100000000, 0x80000000, 0x40000000, 0xC0000000)


@on_wire
def test_data_in_both_directions_across_the_wrap_of_its_sequence_numbers():
    for edge in EDGES:
        for before in (1, 2, 700, 2000, 8000):
            wire, peer, app = established(iss=edge - before, peer_iss=(edge - before + 1) & 0xFFFFFFFF)
            for at in range(0, 14600, 2920):
                peer.send(ACK, text=pattern(at, 1460))
                peer.send(ACK, text=pattern(at + 1460, 1460))
                peer.expect(ACK, ack=at + 2921)
                assert app.read(9000) == pattern(at, 2920)
                peer.expect(ACK)
                app.write(pattern(at, 2920))
                peer.expect(ACK, text=pattern(at, 1460))
                peer.expect(ACK | PSH, text=pattern(at + 1460, 1460))
                wire.advance(10)
                peer.send(ACK)
            assert app.tcb[fast.SND_LEN] == 0


@on_wire
def test_retransmission_and_duplicates_across_the_wrap():
    for edge in EDGES:
        wire, peer, app = established(iss=edge - 1000, peer_iss=edge - 1000)
        app.write(pattern(0, 2920))
        peer.expect(ACK, text=pattern(0, 1460))
        peer.expect(ACK | PSH, text=pattern(1460, 1460))
        peer.expect(ACK, seq=1, text=pattern(0, 1460), after=200)
        peer.send(ACK, ack=1461)
        peer.expect(ACK | PSH, seq=1461, text=pattern(1460, 1460))
        peer.send(ACK, ack=1)  # old
        peer.send(ACK)
        peer.send(ACK, seq=1461, text=pattern(1460, 1460))  # out of order
        peer.expect(ACK, ack=1)
        peer.send(ACK, seq=1, text=pattern(0, 1460))
        peer.expect(ACK, ack=2921)
        peer.send(ACK, seq=1461, text=pattern(1460, 1460))  # old
        peer.expect(ACK, ack=2921)
        peer.send(ACK, seq=1, text=pattern(0, 1460))  # old
        peer.expect(ACK, ack=2921)
        peer.send(ACK, seq=2001, text=pattern(2000, 1400))  # partly old
        peer.expect(ACK, ack=3401)
        peer.send(ACK, seq=12000, text=b"beyond the window")
        peer.expect(ACK, ack=3401)
        assert app.read(9000) == pattern(0, 3400)
        wire.frames.clear()


@on_wire
def test_syn_and_fin_at_the_wrap():
    for edge in EDGES:
        for before in (1, 2, 3):
            for active in (True, False):
                wire, peer, app = established(active, iss=edge - before, peer_iss=edge - before)
                app.close()
                peer.expect(FIN | ACK, seq=1)
                peer.expect(FIN | ACK, seq=1, after=200)
                peer.send(FIN | ACK)
                peer.expect(ACK, seq=2, ack=2)
                assert app.state == "TIME_WAIT"


@on_wire
def test_resets_and_challenges_at_the_wrap():
    for edge in EDGES:
        wire, peer, app = established(peer_iss=edge - 5)
        peer.send(RST, seq=-2)
        peer.send(RST, seq=20000)
        peer.expect_nothing()
        peer.send(RST, seq=100)
        peer.expect(ACK)
        peer.send(RST, seq=1)
        assert app.state == "CLOSED"


@on_wire
def test_closed_window_is_probed_across_the_wrap():
    for edge in EDGES:
        wire, peer, app = established(iss=edge - 1, win=0)
        app.write(b"hello")
        peer.expect(ACK, seq=1, text=b"h", after=200)
        peer.send(ACK, ack=1, win=0)
        peer.expect(ACK, seq=1, text=b"h", after=400)
        peer.send(ACK, ack=2, win=100)
        peer.expect(ACK | PSH, seq=2, text=b"ello")
        peer.send(ACK)


@on_wire
def test_timers_across_the_wrap_of_the_clock():
    for before in (1, 100, 250):
        wire, peer, app = established(now=PERIOD - before, rtt=50)
        app.write(b"hello")
        peer.expect(ACK | PSH, text=b"hello")
        for wait in (200, 400, 800):
            peer.expect(ACK | PSH, seq=1, text=b"hello", after=wait)
        peer.send(ACK)
    for before in (1, 20, 39, 40):
        wire, peer, app = established(now=PERIOD - before)
        peer.send(ACK | PSH, text=b"hello")
        peer.expect(ACK, ack=6, after=40)


@on_wire
def test_round_trip_measured_across_the_wrap_of_the_clock():
    wire, peer, app = established(now=PERIOD - 50, rtt=100)
    assert app.tcb[fast.RTO] == 300
    wire, peer, app = established(now=PERIOD - 150, rtt=100)
    app.write(b"x")
    peer.expect(ACK | PSH, text=b"x")
    wire.advance(100)
    peer.send(ACK)
    assert app.tcb[fast.RTO] == 250


@on_wire
def test_syn_is_repeated_across_the_wrap_of_the_clock():
    wire = Wire(now=PERIOD - 500)
    peer = wire.peer()
    wire.connect(peer)
    peer.expect(SYN, seq=0, mss=1460)
    peer.expect(SYN, seq=0, mss=1460, after=1000)
    peer.expect(SYN, seq=0, mss=1460, after=2000)


@on_wire
def test_time_wait_ends_across_the_wrap_of_the_clock():
    for before in (1, 30000, 59999, 60000, 60001):
        wire, peer, app = established(now=PERIOD - before)
        app.close()
        peer.expect(FIN | ACK)
        peer.send(FIN | ACK)
        peer.expect(ACK)
        wire.advance(59999)
        assert app.state == "TIME_WAIT"
        wire.advance(1)
        assert app.deleted()


@on_wire
def test_keepalive_and_probes_across_the_wrap_of_the_clock():
    wire, peer, app = established(now=PERIOD - 5000)
    app.keepalive(10000, 1000, 3)
    peer.expect(ACK, seq=0, after=10000)
    peer.send(ACK)
    wire, peer, app = established(now=PERIOD - 300, win=0)
    app.write(b"x")
    peer.expect(ACK | PSH, seq=1, text=b"x", after=200)
    peer.expect(ACK | PSH, seq=1, text=b"x", after=400)
    peer.send(ACK, ack=1, win=100)
    peer.expect(ACK | PSH, seq=1, text=b"x")


@on_wire
def test_challenges_are_limited_across_the_wrap_of_the_clock():
    wire, peer, app = established(now=PERIOD - 500)
    for _ in range(2):
        for _ in range(10):
            peer.send(RST, seq=100)
            peer.expect(ACK)
        peer.send(RST, seq=100)
        peer.expect_nothing()
        wire.advance(1000)


@on_wire
def test_a_connection_idle_for_ten_days_still_works():
    wire, peer, app = established(now=PERIOD - 100000)
    wire.now += 10 * 86400 * 1000
    wire.settle()
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    peer.expect(ACK | PSH, seq=1, text=b"hello", after=200)
    peer.send(ACK | PSH, text=b"hello")
    peer.expect(ACK, after=40)
    assert app.read(9) == b"hello"


@on_wire
def test_ip_identification_wraps():
    wire, peer, app = established()
    app.tcb[fast.TEMPLATE + 4] = 0xFFFF0000
    app.connection.configure(True)
    ids = []
    for _ in range(3):
        app.write(b"x")
        ids.append(peer.expect(ACK | PSH, text=b"x").id)
    assert len(set(ids)) == 3
    wire = Wire()
    wire.ip.identification = 0xFFFE
    ids = []
    for _ in range(3):
        peer = wire.peer()
        peer.send(SYN)
        ids.append(peer.expect(RST | ACK, seq=0).id)
    assert len(set(ids)) == 3

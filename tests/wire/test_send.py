"""How data leaves: segments, Nagle's rule, windows and probes (RFC 9293 sections 3.7, 3.8.6, RFC 5681)."""

from device import ON_DEVICE
from wire import on_wire

if ON_DEVICE:
    from barenet import fast
    from rig import ACK, BUFFER, FIN, PSH, RST, SYN, another, established, pattern

    ETIMEDOUT = 110


@on_wire
def test_long_data_is_cut_into_segments_and_the_last_one_pushed():
    # RFC 9293 section 3.8.5; PSH: section 3.9.1.2, MUST-61.
    wire, peer, app = established()
    assert app.write(pattern(0, 4380)) == 4380
    peer.expect(ACK, seq=1, text=pattern(0, 1460))
    peer.expect(ACK, seq=1461, text=pattern(1460, 1460))
    peer.expect(ACK | PSH, seq=2921, text=pattern(2920, 1460))
    peer.send(ACK)
    wire.advance(1000)
    peer.expect_nothing()
    assert app.tcb[fast.SND_LEN] == 0


@on_wire
def test_nagle_holds_a_small_segment_while_something_is_in_flight():
    # RFC 9293 section 3.7.4.
    wire, peer, app = established()
    app.write(b"one ")
    peer.expect(ACK | PSH, text=b"one ")
    app.write(b"two ")
    app.write(b"three")
    peer.expect_nothing()
    peer.send(ACK)
    peer.expect(ACK | PSH, text=b"two three")


@on_wire
def test_nagle_lets_full_segments_go_and_holds_the_rest():
    wire, peer, app = established()
    app.write(pattern(0, 4000))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK, text=pattern(1460, 1460))
    peer.expect_nothing()
    peer.send(ACK)
    peer.expect(ACK | PSH, text=pattern(2920, 1080))


@on_wire
def test_nodelay_switches_nagle_off():
    # RFC 9293 section 3.7.4, MUST-17.
    wire, peer, app = established()
    app.connection.configure(True)
    for text in (b"one", b"two", b"three"):
        app.write(text)
        peer.expect(ACK | PSH, text=text)
    app.connection.configure(False)
    app.write(b"four")
    peer.expect_nothing()
    peer.send(ACK)
    peer.expect(ACK | PSH, text=b"four")


@on_wire
def test_the_window_of_the_peer_is_never_exceeded():
    wire, peer, app = established(win=2920)
    app.write(pattern(0, 8760))
    for at in (0, 2920, 5840):
        peer.expect(ACK, text=pattern(at, 1460))
        last = at == 5840
        peer.expect(ACK | PSH if last else ACK, text=pattern(at + 1460, 1460))
        peer.expect_nothing()
        peer.send(ACK)


@on_wire
def test_a_window_update_lets_more_go():
    wire, peer, app = established(win=1460)
    app.write(pattern(0, 4380))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.send(ACK, ack=1, win=2920)
    peer.expect(ACK, text=pattern(1460, 1460))
    peer.send(ACK, win=2920)
    peer.expect(ACK | PSH, text=pattern(2920, 1460))


@on_wire
def test_sender_waits_for_a_window_worth_using():
    # RFC 9293 section 3.8.6.2.1: less than half of the largest window is not used while something is in flight.
    wire, peer, app = established(win=4000)
    app.write(pattern(0, 8000))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK, text=pattern(1460, 1460))
    peer.expect_nothing()
    peer.send(ACK, ack=1461, win=2000)
    peer.expect_nothing()
    peer.send(ACK, ack=2921, win=4000)
    peer.expect(ACK, text=pattern(2920, 1460))
    peer.expect(ACK, text=pattern(4380, 1460))


@on_wire
def test_half_of_a_small_peers_buffer_is_worth_sending():
    wire, peer, app = established(win=1000)
    app.write(pattern(0, 2000))
    peer.expect(ACK, text=pattern(0, 1000))
    peer.send(ACK, win=600)
    peer.expect(ACK, text=pattern(1000, 600))
    peer.send(ACK, win=1000)
    peer.expect(ACK | PSH, text=pattern(1600, 400))


@on_wire
def test_half_of_the_largest_window_ever_offered_counts():
    wire, peer, app = established(win=1000)
    peer.send(ACK, win=4000)
    app.write(pattern(0, 8000))
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect(ACK, text=pattern(1460, 1460))
    # 540 bytes fit: more than half of the first window, less than half of the largest.
    peer.send(ACK, ack=1461, win=2000)
    peer.expect_nothing()
    peer.send(ACK, ack=1461, win=4000)
    peer.expect(ACK, text=pattern(2920, 1460))


@on_wire
def test_old_segment_does_not_update_the_window():
    # RFC 9293 section 3.10.7.4: SND.WL1 and SND.WL2 "prevent using old segments to update the window".
    wire, peer, app = established(win=1460)
    peer.send(ACK, text=b"abc")
    peer.send(ACK, text=b"def")
    app.write(pattern(0, 4380))
    peer.expect(ACK, ack=7, text=pattern(0, 1460))
    peer.send(ACK, seq=1, ack=1, text=b"abc", win=8000)
    peer.expect(ACK)
    peer.expect_nothing()
    peer.send(ACK, seq=7, ack=1, win=2920)
    peer.expect(ACK, text=pattern(1460, 1460))


@on_wire
def test_window_that_shrinks_is_survived():
    # RFC 9293 section 3.8.6, SHLD-15: a sender is robust against it.
    wire, peer, app = established(win=4380)
    app.write(pattern(0, 4380))
    for at in (0, 1460, 2920):
        peer.expect(ACK | PSH if at == 2920 else ACK, text=pattern(at, 1460))
    peer.send(ACK, ack=1461, win=0)
    peer.expect_nothing()
    wire.advance(200)
    peer.expect_nothing()  # nothing fits, so nothing is repeated; the window is probed instead
    peer.expect(ACK, seq=1461, text=pattern(1460, 1), after=400)
    peer.send(ACK, ack=1461, win=2920)
    peer.expect(ACK, seq=1461, text=pattern(1460, 1460))
    peer.send(ACK, ack=2921, win=2920)
    peer.expect(ACK | PSH, seq=2921, text=pattern(2920, 1460))
    peer.send(ACK)
    wire.advance(60000)
    assert app.tcb[fast.SND_LEN] == 0


@on_wire
def test_closed_window_is_probed_with_growing_intervals():
    # RFC 9293 section 3.8.6.1: first after a retransmission timeout, then with exponential back-off.
    wire, peer, app = established(win=0)
    app.write(pattern(0, 3000))
    peer.expect_nothing()
    wait = 200
    for _ in range(12):
        peer.expect(ACK, seq=1, text=pattern(0, 1), after=wait)
        peer.send(ACK, ack=1, win=0)
        wait = min(2 * wait, 60000)
    # Probing for minutes does not end the connection: the peer answers (MUST-37).
    peer.send(ACK, ack=1, win=5000)
    peer.expect(ACK, seq=1, text=pattern(0, 1460))
    peer.expect(ACK, seq=1461, text=pattern(1460, 1460))
    peer.send(ACK)
    peer.expect(ACK | PSH, text=pattern(2920, 80))


@on_wire
def test_data_lost_after_the_window_opened_is_sent_again():
    wire, peer, app = established(win=0)
    app.write(b"hello")
    peer.expect(ACK, seq=1, text=b"h", after=200)
    peer.expect(ACK, seq=1, text=b"h", after=400)
    peer.send(ACK, ack=1, win=1000)
    peer.expect(ACK | PSH, seq=1, text=b"hello")
    for wait in (200, 400, 800):
        peer.expect(ACK | PSH, seq=1, text=b"hello", after=wait)


@on_wire
def test_probes_measure_no_round_trip():
    # Karn's rule: which of them was answered is not known.
    wire, peer, app = established(win=0)
    app.write(b"hello")
    for wait in (200, 400, 800, 1600):
        peer.expect(ACK, seq=1, text=b"h", after=wait)
    peer.send(ACK, ack=2, win=1000)
    peer.expect(ACK | PSH, seq=2, text=b"ello")
    assert app.tcb[fast.RTO] == 200


@on_wire
def test_window_that_closes_while_lost_segments_are_repeated_is_probed():
    wire, peer, app = established()
    app.write(pattern(0, 4380))
    for at in (0, 1460, 2920):
        peer.expect(ACK | PSH if at == 2920 else ACK, text=pattern(at, 1460))
    peer.expect(ACK, seq=1, text=pattern(0, 1460), after=200)
    peer.send(ACK, ack=1461, win=0)
    peer.expect_nothing()
    for wait in (400, 800, 1600):
        peer.expect(ACK, seq=1461, text=pattern(1460, 1), after=wait)
        peer.send(ACK, ack=1461, win=0)
    peer.send(ACK, ack=1461, win=5000)
    peer.expect(ACK, seq=1461, text=pattern(1460, 1460))
    peer.expect(ACK | PSH, seq=2921, text=pattern(2920, 1460))


@on_wire
def test_peer_that_does_not_answer_probes_is_given_up():
    wire, peer, app = established(win=0)
    app.write(b"hello")
    wait = 200
    for _ in range(20):
        wire.advance(wait)
        if app.state == "CLOSED":
            break
        peer.expect(ACK, seq=1, text=b"h")
        wait = min(2 * wait, 60000)
    assert app.error == ETIMEDOUT and wire.now > 100000


@on_wire
def test_probe_that_the_peer_takes_is_not_repeated():
    wire, peer, app = established(win=0)
    app.write(b"hello")
    peer.expect(ACK, seq=1, text=b"h", after=200)
    peer.send(ACK, ack=2, win=1000)
    peer.expect(ACK | PSH, seq=2, text=b"ello")
    peer.send(ACK)
    wire.advance(60000)
    peer.expect_nothing()


@on_wire
def test_last_byte_taken_from_a_probe_ends_probing():
    wire, peer, app = established(win=0)
    app.write(b"!")
    peer.expect(ACK | PSH, seq=1, text=b"!", after=200)
    peer.send(ACK, ack=2, win=0)
    wire.advance(600000)
    peer.expect_nothing()
    assert app.state == "ESTABLISHED"
    app.write(b"?")
    peer.expect_nothing()
    peer.expect(ACK | PSH, text=b"?", after=200)


@on_wire
def test_fin_needs_no_window():
    wire, peer, app = established(win=0)
    app.close()
    peer.expect(FIN | ACK)
    peer.send(ACK)
    assert app.state == "FIN_WAIT_2"
    peer.send(FIN | ACK)
    peer.expect(ACK)


@on_wire
def test_fin_waits_behind_data_that_the_window_holds_back():
    wire, peer, app = established(win=1460)
    app.write(pattern(0, 2000))
    app.close()
    peer.expect(ACK, text=pattern(0, 1460))
    peer.expect_nothing()
    assert app.state == "FIN_WAIT_1"
    peer.send(ACK)
    peer.expect(FIN | ACK | PSH, text=pattern(1460, 540))


@on_wire
def test_initial_window_is_ten_segments():
    # RFC 6928.
    wire, peer, app = established(sndbuf=30000, transmit=16)
    app.write(pattern(0, 30000))
    for at in range(0, 14600, 1460):
        peer.expect(ACK, text=pattern(at, 1460))
    peer.expect_nothing()
    # In slow start each acknowledged segment makes room for two.
    peer.send(ACK, ack=1461)
    peer.expect(ACK, text=pattern(14600, 1460))
    peer.expect(ACK, text=pattern(16060, 1460))
    peer.expect_nothing()


@on_wire
def test_send_buffer_is_a_ring():
    wire, peer, app = established(sndbuf=1000)
    at = 0
    for n in (700, 600, 999, 1000, 1, 998, 501):
        assert app.write(pattern(at, n)) == n
        peer.expect(ACK | PSH, text=pattern(at, n))
        peer.send(ACK)
        at += n


@on_wire
def test_full_send_buffer_takes_no_more():
    wire, peer, app = established(sndbuf=1000, win=0)
    assert app.write(pattern(0, 600)) == 600
    assert app.write(pattern(600, 600)) == 400
    assert app.write(b"x") == 0 and app.connection.writable() == 0
    peer.send(ACK, win=2000)
    peer.expect(ACK | PSH, text=pattern(0, 1000))
    peer.send(ACK)
    assert app.connection.writable() == 1000


@on_wire
def test_nothing_can_be_written_after_shutdown():
    wire, peer, app = established()
    app.shutdown()
    peer.expect(FIN | ACK)
    assert app.write(b"x") == 0 and app.connection.writable() == 0


@on_wire
def test_segments_that_find_the_transmit_ring_full_leave_when_it_drains():
    wire, peer, app = established(transmit=4)
    wire.cable.stuck = True
    app.write(pattern(0, 8760))
    peer.expect_nothing()
    wire.advance(20)
    peer.expect_nothing()
    wire.cable.unstick()
    wire.settle()
    for at in range(0, 8760, 1460):
        peer.expect(ACK | PSH if at == 7300 else ACK, text=pattern(at, 1460))
    peer.send(ACK)
    wire.advance(5000)
    peer.expect_nothing()


@on_wire
def test_ack_that_finds_the_transmit_ring_full_leaves_later():
    wire, peer, app = established(transmit=2)
    other, _ = another(wire, port=5001)
    wire.cable.stuck = True
    for _ in range(2):
        other.send(ACK, seq=50, text=b"out of order")
    peer.send(ACK | PSH, text=b"hello")
    wire.advance(60)
    wire.cable.unstick()
    other.expect(ACK)
    other.expect(ACK)
    wire.settle()
    peer.expect(ACK, ack=6)


@on_wire
def test_retransmission_that_finds_the_transmit_ring_full_leaves_later():
    wire, peer, app = established(transmit=2)
    app.write(b"hello")
    peer.expect(ACK | PSH, text=b"hello")
    other, _ = another(wire, port=5001)
    wire.cable.stuck = True
    for _ in range(2):
        other.send(ACK, seq=50, text=b"out of order")
    wire.advance(1000)
    wire.cable.unstick()
    other.expect(ACK)
    other.expect(ACK)
    wire.settle()
    peer.expect(ACK | PSH, seq=1, text=b"hello")
    peer.send(ACK)
    assert app.tcb[fast.SND_LEN] == 0
    wire.advance(2000)


@on_wire
def test_ttl_and_tos_are_the_connection_s_and_may_change_while_it_is_open():
    # RFC 9293 sections 3.9.1.9 and 3.9.2, MUST-48, MUST-49, SHLD-21 and SHLD-22.
    def header():
        frame = wire.next_frame()
        assert fast.add(frame, 0, 20, 14) == 0xFFFF, "IP checksum"
        return frame[15], frame[22]

    wire, peer, app = established()
    app.connection.configure(True)
    for tos, ttl in ((0xB8, 9), (0x20, 255), (0, 64)):
        app.connection.configure(True, ttl, tos)
        app.write(b"x")
        assert header() == (tos, ttl)
        peer.rcv += 1
        peer.send(FIN | ACK, seq=5)  # out of order: a bare ACK
        assert header() == (tos, ttl)
        peer.snd = 1
        peer.send(ACK)
    app.connection.configure(True, 64, 0xB8)
    app.abort()
    assert header() == (0xB8, 64)  # RST


@on_wire
def test_what_lies_inside_of_a_window_that_shrank_is_sent_again():
    # RFC 9293 section 3.8.6, SHLD-16 and SHLD-17: and what lies outside of it is not.
    wire, peer, app = established(win=4380)
    app.write(pattern(0, 4380))
    for at in (0, 1460, 2920):
        peer.expect(ACK | PSH if at == 2920 else ACK, text=pattern(at, 1460))
    peer.send(ACK, ack=1461, win=1460)
    for wait in (200, 400, 800):
        peer.expect(ACK, seq=1461, text=pattern(1460, 1460), after=wait)
        peer.expect_nothing()
    peer.send(ACK, ack=2921, win=1460)
    peer.expect(ACK | PSH, seq=2921, text=pattern(2920, 1460))
    peer.send(ACK, ack=4381)
    assert app.state == "ESTABLISHED" and app.tcb[fast.SND_LEN] == 0


@on_wire
def test_text_that_waits_for_the_dma_leaves_before_its_buffer_goes():
    wire, peer, app = established()
    stack = wire.stack
    stack.enter()
    app.connection.write(pattern(0, 2920), 0, 2920)
    app.connection.output(stack.now())
    app.connection.abort(stack.now())
    app.connection.close(stack.now())
    other = wire.peer(5001, 81)
    connection = stack.tcp.create(BUFFER, BUFFER)
    connection.connect((other.address, other.port), stack.now(), other.to)
    fast.copy(stack.tcp.rcv[connection.slot], bytes(BUFFER), BUFFER, 0, 0)  # which may be the other's send buffer
    stack.leave()
    wire.settle()
    peer.expect(ACK, seq=1, text=pattern(0, 1460))
    peer.expect(ACK | PSH, seq=1461, text=pattern(1460, 1460))
    peer.expect(RST | ACK, seq=2921)
    other.expect(SYN, mss=1460)


@on_wire
def test_two_connections_do_not_mix():
    wire, peer, app = established()
    other, second = another(wire, port=5001, iss=77, peer_iss=99)
    app.write(b"first")
    second.write(b"second")
    peer.expect(ACK | PSH, text=b"first")
    other.expect(ACK | PSH, text=b"second")
    other.send(ACK, text=b"to the second")
    peer.send(ACK, text=b"to the first")
    assert app.read(20) == b"to the first" and second.read(20) == b"to the second"
    wire.advance(40)
    peer.expect(ACK, after=None)
    other.expect(ACK, after=None)
    assert wire.words[fast.C_DROP_BAD_ACK] == 0

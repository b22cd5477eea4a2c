"""The fast path of UDP: every length, every place in the queue, on both word sizes; and what must not pass it."""

from device import ON_DEVICE
from grouped import grouped_on

if ON_DEVICE:
    import rig
    from barenet import socket
    from barenet.fast_udp import E_DROPPED
    from rig import OTHER, OURS, PEER, Wire, packet

    LENGTHS = tuple(range(140)) + (1000, 1471, 1472)
    EAGAIN = 11
    TO = ("10.77.0.1", 7777)

    def both(test):
        def checked():
            rig.begin(False)
            test()
            rig.end()

        return checked

    def udp(port=5000, rcvbuf=0):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if rcvbuf:
            s._endpoint.resize(rcvbuf)
        s.bind(("", port))
        s.settimeout(0)
        return s

    def pattern(n, seed=1):
        return bytes((seed * 37 + i * 11 + (i >> 8)) & 255 for i in range(n))

    def datagram(data, port=7777, to=5000, **changes):
        n = 8 + len(data)
        return packet(17, bytes((port >> 8, port & 255, to >> 8, to & 255, n >> 8, n & 255, 0, 0)) + data, **changes)

    def added(data):
        """Returns the sum of RFC 1071, byte by byte."""
        total = sum(data[i] << 8 for i in range(0, len(data), 2)) + sum(data[i] for i in range(1, len(data), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return total

    def nothing_waits(s):
        try:
            s.recv_into(bytearray(9))
        except OSError as e:
            return e.errno == EAGAIN

else:
    both = grouped_on(32, 64)


@both
def test_every_length_arrives_whole_by_the_queue():
    wire = Wire()
    s = udp()
    buffer = bytearray(1480)
    for n in LENGTHS:
        data = pattern(n, n)
        wire.receive(datagram(data))
        buffer[n] = 0xEE
        assert s.recv_into(buffer) == n and buffer[:n] == data and buffer[n] == 0xEE, n
    assert wire.drops() == {}
    s.close()


@both
def test_every_length_goes_straight_to_the_program():
    wire = Wire()
    s = udp()
    space = bytearray(1500)
    for n in LENGTHS:
        for shift in range(4):
            # The first is found by the poll, the second waits in the ring.
            for seed in range(2):
                wire.cable.inbox.append(datagram(pattern(n, seed)))
            buffer = memoryview(space)[shift : shift + n + 1]
            for seed in range(2):
                buffer[n] = 0xEE
                assert s.recv_into(buffer) == n and buffer[:n] == pattern(n, seed) and buffer[n] == 0xEE, (n, shift, seed)
    assert wire.drops() == {} and nothing_waits(s)
    s.close()


@both
def test_a_datagram_parts_anywhere_in_the_queue():
    wire = Wire()
    s = udp(rcvbuf=301)
    buffer = bytearray(300)
    waiting = []
    dropped = 0
    for i in range(600):
        data = pattern(i * 29 % 97, i)
        wire.receive(datagram(data, port=1 + i * 101))
        if s._endpoint.words[E_DROPPED] == dropped:
            waiting.append((data, i))
        dropped = s._endpoint.words[E_DROPPED]
        while len(waiting) > i % 5:
            data, number = waiting.pop(0)
            assert s.recvfrom_into(buffer) == (len(data), ("10.77.0.1", 1 + number * 101)) and buffer[: len(data)] == data, i
    assert dropped > 10 and wire.drops() == {("udp", "full"): dropped}
    s.close()


@both
def test_a_bit_that_is_wrong_anywhere_is_found():
    wire = Wire()
    s = udp()
    buffer = bytearray(200)
    wrong = 0
    for n in (0, 1, 2, 3, 4, 5, 7, 63, 64, 65, 130):
        for at in list(range(42, 42 + n)) + [38, 41]:
            frame = datagram(pattern(n))
            frame[at] ^= 1 << at % 8
            for straight in range(2):
                if straight:
                    wire.cable.inbox.append(frame)
                else:
                    wire.receive(frame)
                if at != 38:  # the length is a lie already
                    wrong += 1
                assert nothing_waits(s), (n, at, straight)
        wire.receive(datagram(b"good"))
        assert s.recv_into(buffer) == 4
    assert wire.drops()[("udp", "checksum")] == wrong
    s.close()


@both
def test_no_checksum_is_a_checksum():
    wire = Wire()
    s = udp()
    buffer = bytearray(9)
    for straight in range(2):
        frame = datagram(b"hello")
        frame[40] = frame[41] = 0
        if straight:
            wire.cable.inbox.append(frame)
        else:
            wire.receive(frame)
        assert s.recv_into(buffer) == 5 and buffer[:5] == b"hello"
    s.close()


@both
def test_what_is_too_long_for_the_program_is_cut_and_for_the_queue_dropped():
    wire = Wire()
    s = udp(rcvbuf=256)
    buffer = bytearray(9)
    for n in 5, 0:
        wire.cable.inbox.append(datagram(pattern(100)))
        assert s.recv_into(memoryview(buffer)[:n]) == n and buffer[:n] == pattern(n) and buffer[n] == 0
        assert nothing_waits(s)
        assert not any(buffer[n:])
        buffer[:n] = bytes(n)
    wire.cable.inbox.append(datagram(pattern(256)))
    assert nothing_waits(s) and wire.drops() == {("udp", "full"): 1}
    big = bytearray(70000)
    wire.cable.inbox.append(datagram(pattern(1400)))
    assert s.recv_into(big) == 1400 and big[:1400] == pattern(1400) and not any(big[1400:])
    s.close()


@both
def test_a_datagram_goes_to_the_socket_that_it_is_for():
    wire = Wire()
    noted, first, second = udp(5000), udp(5001), udp(5002)
    noted.setsockopt(socket.IPPROTO_IP, socket.IP_PKTINFO, 1)
    second.connect(("10.77.0.1", 7777))
    wire.cable.inbox.append(datagram(b"first", to=5001))
    wire.cable.inbox.append(datagram(b"second", to=5002))
    wire.cable.inbox.append(datagram(b"noted"))
    buffer = bytearray(9)
    assert noted.recv_into(buffer) == 5 and buffer[:5] == b"noted"
    assert first.recv_into(buffer) == 5 and buffer[:5] == b"first"
    wire.receive(datagram(b"stranger", port=7778, to=5002), datagram(b"stranger", to=5002, source=OTHER))
    assert second.recv_into(buffer) == 6 and buffer[:6] == b"second" and nothing_waits(second)
    assert wire.drops() == {("udp", "peer"): 2}
    wire.frames.clear()  # the strangers are told that the port is closed to them
    for s in first, second, noted:
        s.close()


@both
def test_a_socket_that_is_shut_for_reading_takes_nothing():
    wire = Wire()
    s, other = udp(), udp(5001)
    buffer = bytearray(8)
    for text in b"before", b"dropped":
        wire.cable.inbox.append(datagram(b"x", to=5001))
        assert other.recv_into(buffer) == 1  # its buffer is the last that something went to
        wire.cable.inbox.append(datagram(text))
        if text == b"before":
            assert s.recv_into(bytearray(9)) == 6
            s.connect(TO)
            s.shutdown(socket.SHUT_RD)
    wire.stack.poll()
    assert buffer == b"x" + bytes(7)
    wire.cable.inbox.append(datagram(b"dropped"))
    assert s.recv_into(buffer) == 0 and buffer == b"x" + bytes(7)
    assert s.info()["dropped"] == 2 and wire.drops() == {("udp", "full"): 2}
    s.close()
    other.close()


@both
def test_every_length_and_kind_of_object_leaves_whole():
    wire = Wire()
    s = udp()
    s.sendto(b"the way is learnt", TO)
    identification = wire.next_frame()[18:20]
    for n in LENGTHS:
        data = pattern(n, n)
        for kind in (data, bytearray(data), memoryview(b"xyz" + data)[3:], memoryview(bytearray(b"z" + data + b"z"))[1 : n + 1]):
            assert s.sendto(kind, TO) == n
            frame = wire.next_frame()
            end = 42 + n
            assert len(frame) == max(60, end) and frame[42:end] == data and not any(frame[end:]), n
            assert frame[:14] == rig.PEER_MAC + rig.MAC + b"\x08\0" and frame[26:38] == OURS + PEER + b"\x13\x88\x1e\x61"
            assert frame[16] << 8 | frame[17] == end - 14 and frame[38] << 8 | frame[39] == end - 34
            assert added(frame[14:34]) == 0xFFFF and frame[18:20] != identification, n
            assert added(frame[26:34] + b"\0\x11" + frame[38:40] + frame[34:end]) == 0xFFFF, n
            identification = frame[18:20]
    s.close()


@both
def test_a_sum_of_zero_leaves_as_ffff():
    wire = Wire()
    s = udp()
    s.sendto(b"\0\0", TO)
    frame = wire.next_frame()
    s.sendto(frame[40:42], TO)  # with its own checksum as data the sum is 0
    assert wire.next_frame()[40:42] == b"\xff\xff"
    s.sendto(frame[40:42] + b"\0", TO)
    assert wire.next_frame()[40:42] != b"\xff\xff"
    s.close()


@both
def test_what_has_no_bytes_to_send_is_refused_whole():
    wire = Wire()
    s = udp()
    s.sendto(b"first", TO)
    for wrong in 5, None, object(), 1 << 40, [1]:
        try:
            s.sendto(wrong, TO)
            raise AssertionError(wrong)
        except TypeError:
            pass
    s.sendto("text", TO)
    s.sendto(b"last", TO)
    assert [wire.next_frame()[42:47].rstrip(b"\0") for _ in range(3)] == [b"first", b"text", b"last"]
    for wrong in b"read only", memoryview(b"read only"), 5, None:
        wire.cable.inbox.append(datagram(b"data"))
        try:
            s.recv_into(wrong)
            raise AssertionError(wrong)
        except TypeError:
            pass
        assert s.recv_into(bytearray(9)) == 4
    s.close()

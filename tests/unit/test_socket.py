"""The socket module: what programs see of TCP and UDP. Two stacks talk in virtual time (two_stacks.py)."""

from device import ON_DEVICE, on_device

if ON_DEVICE:
    import errno
    import select
    import struct
    from array import array

    import micropython

    from barenet import errors, fast, socket
    from doubles import raises, same
    from two_stacks import Pair

    PORT = 8000
    RD, WR, ERR, HUP, NVAL = 1, 4, 8, 16, 32
    LINGER_RESET = struct.pack("ii", 1, 0)

    def listen(side, port=PORT, backlog=2, **options):
        """Return a listening socket of `side`."""
        with side:
            s = socket.socket()
        s.bind(("0.0.0.0", port))
        s.listen(backlog)
        return s

    def tcp(side):
        with side:
            return socket.socket()

    def udp(side, port=0):
        with side:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if port:
            s.bind(("0.0.0.0", port))
        return s

    def connected(pair=None):
        """Return (pair, left socket, right socket), connected."""
        pair = pair or Pair()
        server = listen(pair.right)
        client = tcp(pair.left)
        client.connect((pair.right.ip, PORT))
        peer, _ = server.accept()
        server.close()
        return pair, client, peer

    def poll(s, events=RD | WR):
        """Return what select.poll says about one socket."""
        poller = select.poll()
        poller.register(s, events)
        ready = poller.poll(0)
        return ready[0][1] if ready else 0

    def pattern(n):
        return bytes((i * 7 + (i >> 8)) & 255 for i in range(n))

    def free(side):
        """Assert that no connection of `side` is left over, besides those in TIME_WAIT."""
        left = [c for c in side.stack.tcp.connections if c is not None and c.state != fast.TIME_WAIT]
        assert not left, "left over: %r" % [c.state for c in left]


@on_device
def test_connect_and_accept_agree_on_both_addresses():
    pair = Pair()
    server = listen(pair.right)
    client = tcp(pair.left)
    same(client.connect(("10.0.0.2", PORT)), None)
    peer, address = server.accept()
    same(address, client.getsockname())
    same(peer.getpeername(), client.getsockname())
    same(client.getpeername(), ("10.0.0.2", PORT))
    same(peer.getsockname(), ("10.0.0.2", PORT))
    same(server.getsockname(), ("0.0.0.0", PORT))
    same(peer.gettimeout(), None)


@on_device
def test_a_new_socket_is_not_connected():
    pair = Pair()
    s = tcp(pair.left)
    for call in (s.recv, s.read, s.readline):
        raises(errno.ENOTCONN, call, 1)
    for call in (s.send, s.sendall, s.write):
        raises(errno.ENOTCONN, call, b"x")
    raises(errno.ENOTCONN, s.readinto, bytearray(1))
    raises(errno.ENOTCONN, s.getpeername)
    raises(errno.ENOTCONN, s.shutdown, socket.SHUT_RDWR)
    raises(errno.EINVAL, s.accept)
    same(s.getsockname(), ("0.0.0.0", 0))
    same(s.info()["STATE"], "CLOSED")


@on_device
def test_a_closed_socket_refuses_everything_and_closes_again():
    pair, client, peer = connected()
    assert client.fileno() >= 0 and client.fileno() != peer.fileno()
    with client:
        pass
    client.close()
    same(client.fileno(), -1)
    calls = [
        (client.recv, 1),
        (client.send, b"x"),
        (client.write, b"x"),
        (client.read, 1),
        (client.readline,),
        (client.recv_into, bytearray(1)),
        (client.connect, ("10.0.0.2", 1)),
        (client.bind, ("", 1)),
        (client.listen,),
        (client.accept,),
        (client.getsockname,),
        (client.getpeername,),
        (client.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (client.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR),
        (client.shutdown, socket.SHUT_WR),
    ]
    for call in calls:
        raises(errno.EBADF, *call)
    same(poll(client), NVAL)
    raises(errno.EBADF, udp_closed(pair).recv, 1)


if ON_DEVICE:

    def udp_closed(pair):
        s = udp(pair.left, 5000)
        s.close()
        s.close()
        return s


@on_device
def test_descriptors_are_reused():
    pair = Pair()
    first, second = tcp(pair.left), tcp(pair.left)
    n = first.fileno()
    first.close()
    same(udp(pair.left).fileno(), n)
    same(second.fileno(), n + 1)


@on_device
def test_constructor_checks_its_arguments():
    pair = Pair()
    with pair.left:
        for arguments in ((None,), (socket.AF_INET, None), (socket.AF_INET, socket.SOCK_RAW, None)):
            try:
                socket.socket(*arguments)
                assert False
            except TypeError:
                pass
        raises(errors.EPROTONOSUPPORT, socket.socket, socket.AF_INET, socket.SOCK_RAW)
        raises(errors.EPROTONOSUPPORT, socket.socket, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP)
        raises(errors.EAFNOSUPPORT, socket.socket, socket.AF_INET6)
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP).close()


@on_device
def test_without_lan_the_error_says_what_to_do():
    try:
        socket.socket()
    except OSError as e:
        same(e.errno, errors.ENETDOWN)
        assert "barenet.up()" in e.args[1]
    raises(errors.ENETDOWN, socket.getaddrinfo, "10.0.0.1", 80)


@on_device
def test_poll_before_during_and_after_connect():
    pair = Pair()
    server = listen(pair.right)
    s = tcp(pair.left)
    same(poll(s), WR | HUP)
    s.setblocking(False)
    raises(errno.EINPROGRESS, s.connect, ("10.0.0.2", PORT))
    same(poll(s), 0)
    raises(errno.EALREADY, s.connect, ("10.0.0.2", PORT))
    raises(errno.EAGAIN, s.send, b"1234")
    raises(errno.EAGAIN, s.sendall, b"1234")
    raises(errno.EAGAIN, s.recv, 10)
    same(s.write(b"1234"), None)
    same(s.read(10), None)
    same(s.readline(), None)
    same(s.readinto(bytearray(3)), None)
    pair.run(5)
    same(poll(s), WR)
    same(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
    raises(errors.EISCONN, s.connect, ("10.0.0.2", PORT))
    same(poll(server), RD)
    same(poll(server, WR), 0)
    server.accept()
    same(poll(server), 0)


@on_device
def test_refused_connection_reports_its_error_once():
    pair = Pair()
    s = tcp(pair.left)
    raises(errno.ECONNREFUSED, s.connect, ("10.0.0.2", PORT))
    s.setblocking(False)
    raises(errno.EINPROGRESS, s.connect, ("10.0.0.2", PORT))
    pair.run(5)
    same(poll(s), RD | WR | ERR | HUP)
    same(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
    same(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
    same(poll(s), RD | WR | HUP)
    raises(errors.EPIPE, s.send, b"x")
    same(s.recv(1), b"")
    # The socket can try again.
    server = listen(pair.right)
    s.settimeout(None)
    s.connect(("10.0.0.2", PORT))
    server.accept()[0].send(b"at last")
    same(s.recv(10), b"at last")


@on_device
def test_error_of_a_failed_connect_comes_from_the_next_operation():
    pair = Pair()
    for operation in ("recv", "write", "connect"):
        s = tcp(pair.left)
        s.setblocking(False)
        raises(errno.EINPROGRESS, s.connect, ("10.0.0.2", PORT))
        pair.run(5)
        argument = {"recv": 1, "write": b"x", "connect": ("10.0.0.2", PORT)}[operation]
        raises(errno.ECONNREFUSED, getattr(s, operation), argument)
        s.close()
    free(pair.left)


@on_device
def test_connect_to_nobody_fails_in_bounded_time():
    pair = Pair()
    s = tcp(pair.left)
    start = pair.time
    raises(errno.EHOSTUNREACH, s.connect, ("10.0.0.99", PORT))  # no answer to ARP
    assert pair.time - start < 10000
    # No route, or not one host.
    for host in ("192.168.1.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"):
        raises(errno.EHOSTUNREACH, s.connect, (host, PORT))
    for host in ("127.0.0.1", "10.0.0.1"):
        own = tcp(pair.left)
        raises(errno.ECONNREFUSED, own.connect, (host, PORT))  # the board itself, where nobody listens
        own.close()
    raises(errno.EINVAL, s.connect, ("10.0.0.2", 0))
    raises(errno.EINVAL, s.connect, ("10.0.0.2", 65536))
    for bad in ("10.0.0.2", ("10.0.0.2",), (None, 80)):
        try:
            s.connect(bad)
            assert False
        except TypeError:
            pass
    s.close()
    free(pair.left)


@on_device
def test_connect_times_out_and_goes_on_in_the_background():
    pair = Pair()
    server = listen(pair.right)
    pair.lose = lambda frame, length: frame[23] == 6
    s = tcp(pair.left)
    s.settimeout(0.5)
    start = pair.time
    raises(errno.ETIMEDOUT, s.connect, ("10.0.0.2", PORT))
    assert 500 <= pair.time - start < 550, pair.time - start
    raises(errno.EALREADY, s.connect, ("10.0.0.2", PORT))
    pair.lose = None
    pair.run(3000)
    raises(errors.EISCONN, s.connect, ("10.0.0.2", PORT))
    same(server.accept()[1], s.getsockname())
    # Without a timeout of the socket TCP's own ends it.
    pair.lose = lambda frame, length: frame[23] == 6
    s = tcp(pair.left)
    raises(errno.ETIMEDOUT, s.connect, ("10.0.0.2", PORT))
    s.close()


@on_device
def test_accept_waits_as_long_as_told():
    pair = Pair()
    server = listen(pair.right)
    server.setblocking(False)
    raises(errno.EAGAIN, server.accept)
    server.settimeout(1)
    start = pair.time
    raises(errno.ETIMEDOUT, server.accept)
    assert 1000 <= pair.time - start < 1050
    server.settimeout(None)
    client = tcp(pair.left)
    client.setblocking(False)

    def later():
        if pair.time == start + 3000:
            pair.tasks.clear()
            raises(errno.EINPROGRESS, client.connect, ("10.0.0.2", PORT))

    pair.tasks.append(later)
    peer, _ = server.accept()
    assert pair.time - start < 3050
    same(peer.gettimeout(), None)


@on_device
def test_recv_gives_what_is_there():
    pair, client, peer = connected()
    client.send(b"abcdef")
    same(peer.recv(4), b"abcd")
    same(peer.recv(100, socket.MSG_PEEK), b"ef")
    same(peer.recv(100), b"ef")
    same(peer.recv(0), b"")
    raises(errno.EAGAIN, peer.recv, 1, socket.MSG_DONTWAIT)
    peer.settimeout(0.3)
    start = pair.time
    raises(errno.ETIMEDOUT, peer.recv, 1)
    assert 300 <= pair.time - start < 350
    client.send(b"xyz")
    same(peer.recvfrom(2), (b"xy", client.getsockname()))
    buffer = bytearray(b"......")
    same(peer.recv_into(buffer), 1)
    same(buffer, b"z.....")
    client.send(b"12345")
    same(peer.recvfrom_into(buffer, 3), (3, client.getsockname()))
    same(buffer, b"123...")
    same(peer.recv_into(memoryview(buffer)[4:]), 2)
    same(buffer, b"123.45")
    client.close()
    same(peer.recv(1), b"")
    same(peer.recv_into(buffer), 0)


@on_device
def test_a_read_only_buffer_is_refused():
    pair, client, peer = connected()
    client.send(b"data")
    for buffer in (b"constant", "text", memoryview(b"constant")):
        for call in (peer.recv_into, peer.readinto):
            try:
                call(buffer)
                assert False
            except TypeError:
                pass
    same(peer.recv(10), b"data")


@on_device
def test_blocking_read_waits_for_all_or_the_end():
    pair, client, peer = connected()
    parts = [b"one", b"two", b"three"]
    start = pair.time

    def later():
        if parts and pair.time >= start + 100 * (4 - len(parts)):
            client.send(parts.pop(0))
            if not parts:
                client.close()

    pair.tasks.append(later)
    same(peer.read(5), b"onetw")
    buffer = bytearray(b"........")
    same(peer.readinto(buffer, 2), 2)
    same(buffer, b"ot......")
    same(peer.readinto(buffer), 4)
    same(buffer, b"hree....")
    same(peer.read(5), b"")
    same(peer.read(), b"")
    same(peer.readinto(buffer), 0)


@on_device
def test_read_without_size_goes_to_the_end():
    pair, client, peer = connected()
    data = pattern(20000)
    rest = [memoryview(data)]
    client.setblocking(False)

    def feed():
        if rest:
            n = client.write(rest[0])
            if n:
                rest[0] = rest[0][n:]
            if not rest[0]:
                client.close()
                rest.pop()

    pair.tasks.append(feed)
    same(peer.read(), data)


@on_device
def test_non_blocking_reads_give_none_data_and_the_end():
    pair, client, peer = connected()
    peer.setblocking(False)
    for call in (peer.read, peer.readline):
        same(call(), None)
    same(peer.read(5), None)
    same(peer.readinto(bytearray(4)), None)
    raises(errno.EAGAIN, peer.recv, 4)
    client.send(b"some data")
    pair.run(2)
    same(peer.read(4), b"some")
    same(peer.read(-1), b" data")
    same(peer.read(), None)
    client.send(b"a line\nhalf a ")
    pair.run(50)  # Nagle: it leaves when the first data is acknowledged
    same(peer.readline(), b"a line\n")
    same(peer.readline(), b"half a ")
    same(peer.readline(), None)
    client.close()
    pair.run(2)
    same(poll(peer), RD | WR)
    for call in (peer.read, peer.readline):
        same(call(), b"")
    same(peer.recv(1), b"")


@on_device
def test_readline():
    pair, client, peer = connected()
    long = pattern(500).replace(b"\n", b"_")
    client.send(b"first\n\r\nthird\n" + long + b"\nlast")
    same(peer.readline(), b"first\n")
    same(peer.readline(), b"\r\n")
    same(peer.readline(3), b"thi")
    same(peer.readline(3), b"rd\n")
    same(peer.readline(), long + b"\n")
    client.close()
    same(peer.readline(), b"last")
    same(peer.readline(), b"")


@on_device
def test_write_on_a_blocking_socket_is_complete():
    pair, client, peer = connected()
    data = pattern(50000)
    got = []
    peer.setblocking(False)

    def drain():
        part = peer.read(3000)
        if part:
            got.append(part)

    pair.tasks.append(drain)
    same(client.write(data), len(data))
    same(client.sendall(data), None)
    pair.run(2000)
    same(b"".join(got), data + data)


@on_device
def test_bulk_data_survives_loss_and_delay():
    pair, client, peer = connected()
    pair.delay = 20
    count = [0]

    def lose(frame, length):
        count[0] += 1
        return count[0] % 11 == 0

    data = pattern(40000)
    got = []
    peer.setblocking(False)

    def drain():
        part = peer.recv(1000) if poll(peer, RD) & RD else None
        if part:
            got.append(part)

    pair.lose = lose
    pair.tasks.append(drain)
    client.sendall(data)
    client.close()
    pair.until(lambda: sum(len(part) for part in got) == len(data), 120000)
    same(b"".join(got), data)


@on_device
def test_send_takes_what_fits_and_non_blocking_write_is_short():
    pair, client, peer = connected()
    client.setblocking(False)
    n = client.send(pattern(60000))
    assert 0 < n < 60000
    total = n
    for _ in range(20):
        pair.run(50)
        n = client.write(pattern(60000))
        if n is None:
            break
        total += n
    else:
        assert False, "the peer reads nothing, and everything fits"
    raises(errno.EAGAIN, client.send, b"x")
    same(poll(client), 0)
    assert peer.recv(60000)
    client.settimeout(0.2)
    pair.run(500)
    assert client.send(b"x") == 1
    client.setblocking(False)
    while client.write(pattern(9000)):
        pair.run(1)
    client.settimeout(0.2)
    raises(errno.ETIMEDOUT, client.write, b"x")
    raises(errno.ETIMEDOUT, client.sendall, b"x")


@on_device
def test_what_can_be_written():
    pair, client, peer = connected()
    same(client.write(b"abcdef", 3), 3)
    same(client.write(b"abcdef", 2, 2), 2)
    same(client.write(b"abcdef", 9, 9), 0)
    same(client.write(bytearray(b"gh")), 2)
    same(client.write(memoryview(b"xij")[1:]), 2)
    same(client.write("ä"), 2)
    same(client.send(array("H", (0x6261, 0x6463))), 4)
    same(client.send(b""), 0)
    same(peer.read(15), b"abccdghij\xc3\xa4abcd")
    for bad in (5, None, 1.5):
        try:
            client.send(bad)
            assert False
        except TypeError:
            pass


@on_device
def test_end_of_one_direction_leaves_the_other_open():
    pair, client, peer = connected()
    client.send(b"question")
    client.shutdown(socket.SHUT_WR)
    same(peer.read(), b"question")
    raises(errors.EPIPE, client.send, b"more")
    raises(errors.EPIPE, client.write, b"more")
    same(poll(client), WR)  # a write would not wait
    same(peer.send(b"answer"), 6)
    peer.close()
    same(client.read(), b"answer")
    same(poll(client), RD | WR | HUP)
    client.close()
    pair.run(2)
    free(pair.left)
    free(pair.right)


@on_device
def test_shutdown_of_reading_ends_reads_at_once():
    pair, client, peer = connected()
    client.send(b"rest")
    pair.run(2)
    peer.shutdown(socket.SHUT_RD)
    same(poll(peer), RD | WR)
    same(peer.recv(10), b"rest")
    same(peer.recv(10), b"")
    same(peer.send(b"still open"), 10)
    same(client.recv(20), b"still open")
    raises(errno.EINVAL, peer.shutdown, 3)


@on_device
def test_reset_by_the_peer_comes_after_the_data_and_once():
    # The sequence of MicroPython's tests/multi_net/tcp_client_rst.py, whose truth is CPython on Linux.
    pair, client, peer = connected()
    peer.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    client.close()
    pair.run(5)
    same(poll(peer, RD), RD | ERR | HUP)
    same(peer.recv(10), b"GET / HTTP")
    same(poll(peer, RD), RD | ERR | HUP)
    same(peer.recv(10), b"/1.0\r\n\r\n")
    same(poll(peer, RD), RD | ERR | HUP)
    raises(errno.ECONNRESET, peer.recv, 10)
    same(poll(peer, RD), RD | HUP)
    same(peer.recv(10), b"")
    raises(errors.EPIPE, peer.send, b"x")
    peer.close()
    same(poll(peer, RD), NVAL)
    raises(errno.EBADF, peer.recv, 10)
    free(pair.left)
    free(pair.right)


@on_device
def test_stream_methods_do_not_take_the_rest_before_a_reset_for_all():
    # As in MicroPython's tests/multi_net/asyncio_tcp_client_rst.py.
    for blocking in (True, False):
        for call in ("read", "readinto", "readline"):
            pair, client, peer = connected()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            client.send(b"GET / HTTP/1.0\r\n\r")
            client.close()
            pair.run(5)
            peer.setblocking(blocking)
            same(peer.readline(), b"GET / HTTP/1.0\r\n")
            argument = bytearray(100) if call == "readinto" else 100
            raises(errno.ECONNRESET, getattr(peer, call), argument)
            peer.close()


@on_device
def test_close_with_unread_data_resets():
    pair, client, peer = connected()
    client.send(b"nobody reads this")
    pair.run(2)
    peer.close()
    pair.run(2)
    raises(errno.ECONNRESET, client.recv, 1)
    raises(errors.EPIPE, client.send, b"x")
    client.close()
    free(pair.left)
    free(pair.right)


@on_device
def test_close_sends_what_was_written():
    pair, client, peer = connected()
    pair.delay = 50
    data = pattern(8000)
    client.write(data)
    start = pair.time
    client.close()
    same(pair.time, start)
    same(peer.read(), data)
    peer.close()
    pair.run(1000)
    free(pair.left)
    free(pair.right)


@on_device
def test_linger_waits_for_the_acknowledgement_but_not_for_ever():
    pair, client, peer = connected()
    pair.delay = 50
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    same(client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER), 5)
    same(client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8), struct.pack("ii", 1, 5))
    client.write(b"data")
    start = pair.time
    client.close()
    assert 100 <= pair.time - start < 200, pair.time - start
    same(peer.read(), b"data")
    pair, client, peer = connected(Pair())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
    pair.plugged = False
    client.write(b"data")
    start = pair.time
    client.close()
    assert 2000 <= pair.time - start < 2100, pair.time - start


@on_device
def test_bind():
    pair = Pair()
    s = tcp(pair.left)
    s.bind(("", 0))
    host, port = s.getsockname()
    same(host, "0.0.0.0")
    assert port >= 49152
    raises(errno.EINVAL, s.bind, ("", 0))
    raises(errors.EADDRNOTAVAIL, tcp(pair.left).bind, ("10.0.0.77", 1))
    raises(errno.EINVAL, tcp(pair.left).bind, ("", 65536))
    listen(pair.left, 80)
    raises(errno.EADDRINUSE, tcp(pair.left).bind, ("", 80))
    tcp(pair.left).bind(("127.0.0.1", 81))
    with pair.left:
        tcp(pair.left).bind(socket.getaddrinfo("10.0.0.1", 82)[0][-1])
    server = listen(pair.right)
    client = tcp(pair.left)
    client.bind(("10.0.0.1", 5555))
    client.connect(("10.0.0.2", PORT))
    same(server.accept()[1], ("10.0.0.1", 5555))
    raises(errno.EINVAL, client.bind, ("", 0))


@on_device
def test_listen():
    pair = Pair()
    s = tcp(pair.right)
    s.listen()
    assert s.getsockname()[1] >= 49152
    s.listen(5)
    same(s.info()["backlog"], 5)
    raises(errors.EISCONN, s.connect, ("10.0.0.1", 1))
    raises(errno.ENOTCONN, s.recv, 1)
    client = tcp(pair.left)
    client.connect(("10.0.0.2", s.getsockname()[1]))
    raises(errors.EISCONN, client.listen)
    raises(errno.EOPNOTSUPP, udp(pair.left).listen)
    second = tcp(pair.right)
    third = tcp(pair.right)
    second.bind(("", 99))
    third.bind(("", 99))
    second.listen(0)
    raises(errno.EADDRINUSE, third.listen)
    second.close()
    third.listen()


@on_device
def test_close_of_a_listening_socket_resets_who_waits_and_frees_the_port():
    pair = Pair()
    server = listen(pair.right)
    client = tcp(pair.left)
    client.connect(("10.0.0.2", PORT))
    server.close()
    pair.run(2)
    raises(errno.ECONNRESET, client.recv, 1)
    raises(errno.ECONNREFUSED, tcp(pair.left).connect, ("10.0.0.2", PORT))
    listen(pair.right)


@on_device
def test_backlog_bounds_the_waiting_connections():
    pair = Pair()
    server = listen(pair.right, backlog=2)
    clients = [tcp(pair.left) for _ in range(3)]
    for client in clients[:2]:
        client.connect(("10.0.0.2", PORT))
    clients[2].settimeout(0.3)
    raises(errno.ETIMEDOUT, clients[2].connect, ("10.0.0.2", PORT))
    same(server.accept()[1], clients[0].getsockname())
    pair.run(5000)  # its SYN is repeated
    same(server.accept()[1], clients[1].getsockname())
    same(server.accept()[1], clients[2].getsockname())


@on_device
def test_keepalive_is_off_and_waits_for_two_hours_by_default():
    # RFC 9293 section 3.8.4, MUST-25 and MUST-28.
    client = tcp(Pair().left)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7200
    client.close()


@on_device
def test_options_are_kept_and_reach_the_connection():
    pair = Pair()
    tcp_level, sol = socket.IPPROTO_TCP, socket.SOL_SOCKET
    settings = (
        (sol, socket.SO_REUSEADDR, 1),
        (sol, socket.SO_KEEPALIVE, 1),
        (sol, socket.SO_RCVBUF, 4096),
        (sol, socket.SO_SNDBUF, 2048),
        (tcp_level, socket.TCP_NODELAY, 1),
        (tcp_level, socket.TCP_KEEPIDLE, 10),
        (tcp_level, socket.TCP_KEEPINTVL, 2),
        (tcp_level, socket.TCP_KEEPCNT, 3),
        (tcp_level, socket.TCP_USER_TIMEOUT, 5000),
    )
    server = tcp(pair.right)
    client = tcp(pair.left)
    for level, option, value in settings:
        server.setsockopt(level, option, value)
        client.setsockopt(level, option, struct.pack("i", value))
    same(tcp(pair.left).getsockopt(sol, socket.SO_REUSEADDR), 0)
    server.bind(("", PORT))
    server.listen()
    client.connect(("10.0.0.2", PORT))
    peer, _ = server.accept()
    for s in (server, client, peer):
        for level, option, value in settings:
            same(s.getsockopt(level, option), value)
            same(s.getsockopt(level, option, 4), struct.pack("i", value))
    for s in (client, peer):
        connection = s._connection
        same((connection.tcb[fast.FLAGS] & fast.FLAG_NODELAY != 0, connection.keepalive), (True, 10000))
        same((connection.keep_interval, connection.keep_count, connection.user_timeout), (2000, 3, 5000))
        same((connection.tcb[fast.RCV_SIZE], connection.tcb[fast.SND_SIZE]), (4096, 2048))
    client.setsockopt(sol, socket.SO_RCVTIMEO, 1500)
    client.setsockopt(sol, socket.SO_SNDTIMEO, 0)
    same(client.gettimeout(), 1.5)
    same(client.getsockopt(sol, socket.SO_RCVTIMEO), 1500)
    same(client.getsockopt(sol, socket.SO_SNDTIMEO), 0)
    client.setsockopt(sol, socket.SO_BINDTODEVICE, "en0")
    raises(errors.ENOPROTOOPT, client.setsockopt, sol, 0x4242, 1)
    raises(errors.ENOPROTOOPT, client.getsockopt, sol, 0x4242)
    raises(errors.ENOPROTOOPT, client.getsockopt, 99, socket.SO_REUSEADDR)


@on_device
def test_timeouts():
    pair = Pair()
    s = tcp(pair.left)
    same(s.gettimeout(), None)
    for seconds, expected in ((0, 0), (0.25, 0.25), (3, 3), (1e9, 536870), (1e-9, 0.001), (None, None)):
        s.settimeout(seconds)
        same(s.gettimeout(), expected)
    s.setblocking(False)
    same(s.gettimeout(), 0)
    s.setblocking(True)
    same(s.gettimeout(), None)
    try:
        s.settimeout(-1)
        assert False
    except ValueError:
        pass


@on_device
def test_keepalive_notices_a_dead_peer():
    pair, client, peer = connected()
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ):
        client.setsockopt(level, option, value)
    pair.run(20000)
    client.send(b"alive")
    same(peer.recv(5), b"alive")
    pair.run(50)
    pair.plugged = False
    start = pair.time
    raises(errno.ETIMEDOUT, client.recv, 1)
    assert 8000 <= pair.time - start < 12000, pair.time - start


@on_device
def test_everything_works_across_the_wrap_of_the_clock():
    pair = Pair((1 << 30) - 700)
    server = listen(pair.right)
    server.settimeout(1)
    raises(errno.ETIMEDOUT, server.accept)
    assert pair.time < (1 << 30) + 400
    pair, client, peer = connected(Pair((1 << 30) - 700))
    client.settimeout(1)
    start = pair.time
    raises(errno.ETIMEDOUT, client.recv, 1)
    assert 1000 <= pair.time - start < 1050
    client.sendall(pattern(3000))
    same(peer.read(3000), pattern(3000))


@on_device
def test_udp_datagrams_keep_their_bounds_and_their_sender():
    pair = Pair()
    server = udp(pair.right, 5000)
    client = udp(pair.left)
    same(client.sendto(b"first", ("10.0.0.2", 5000)), 5)
    same(client.sendto(b"second", 0, ("10.0.0.2", 5000)), 6)
    same(client.sendto(b"", ("10.0.0.2", 5000)), 0)
    port = client.getsockname()[1]
    assert port >= 49152
    same(server.recvfrom(3), (b"fir", ("10.0.0.1", port)))  # the rest of a datagram is lost
    same(server.recvfrom(100, socket.MSG_PEEK), (b"second", ("10.0.0.1", port)))
    same(server.recv(100), b"second")
    same(server.recvfrom(100), (b"", ("10.0.0.1", port)))
    raises(errno.EAGAIN, server.recv, 10, socket.MSG_DONTWAIT)
    server.sendto(b"answer", ("10.0.0.1", port))
    same(client.recv(100), b"answer")  # ntptime receives on an unconnected socket
    buffer = bytearray(b"......")
    client.sendto(b"abc", ("10.0.0.2", 5000))
    same(server.recvfrom_into(buffer), (3, ("10.0.0.1", port)))
    same(buffer, b"abc...")
    server.settimeout(0.4)
    start = pair.time
    raises(errno.ETIMEDOUT, server.recvfrom, 10)
    assert 400 <= pair.time - start < 450
    raises(errors.EMSGSIZE, client.sendto, bytes(65508), ("10.0.0.2", 5000))
    same(client.sendto(pattern(1472), ("10.0.0.2", 5000)), 1472)
    same(server.recv(2000), pattern(1472))


@on_device
def test_udp_with_a_peer():
    pair = Pair()
    server = udp(pair.right, 5000)
    client = udp(pair.left)
    raises(errors.EDESTADDRREQ, client.send, b"x")
    raises(errno.ENOTCONN, client.getpeername)
    client.connect(("10.0.0.2", 5000))
    same(client.getpeername(), ("10.0.0.2", 5000))
    same(client.send(b"one"), 3)
    same(client.write(b"two"), 3)
    same(client.sendall(b"three"), None)
    pair.run(5)
    same([server.recv(10) for _ in range(3)], [b"one", b"two", b"three"])
    server.connect(client.getsockname()[:0] + ("10.0.0.1", client.getsockname()[1]))
    server.send(b"line one\nline two")
    same(client.read(100), b"line one\nline two")
    client.connect(("10.0.0.2", 5001))
    client.send(b"nobody")
    pair.run(5)
    same(poll(client), RD | WR | ERR)
    raises(errno.ECONNREFUSED, client.recv, 10)
    client.send(b"nobody")
    pair.run(5)
    same(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
    same(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)


@on_device
def test_udp_poll_and_non_blocking_reads():
    pair = Pair()
    server = udp(pair.right, 5000)
    server.settimeout(0)
    same(poll(server), WR)
    same(server.read(5), None)
    same(server.readinto(bytearray(3)), None)
    same(server.readline(), None)
    raises(errno.EAGAIN, server.recv, 1)
    udp(pair.left).sendto(b"x", ("10.0.0.2", 5000))
    pair.run(2)
    same(poll(server), RD | WR)
    same(poll(server, RD), RD)
    same(server.recv(1), b"x")
    raises(errno.EADDRINUSE, udp(pair.right).bind, ("", 5000))
    server.close()
    udp(pair.right, 5000).close()


@on_device
def test_broadcast_needs_the_option():
    pair = Pair()
    server = udp(pair.right, 5000)
    client = udp(pair.left)
    raises(errno.EACCES, client.sendto, b"all", ("255.255.255.255", 5000))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    client.sendto(b"all", ("255.255.255.255", 5000))
    client.sendto(b"net", ("10.0.0.255", 5000))
    same(server.recv(5), b"all")
    same(server.recv(5), b"net")


@on_device
def test_multicast_reaches_members_only():
    pair = Pair()
    first, second = udp(pair.right, 5353), udp(pair.right, 5354)
    sender = udp(pair.left)
    member = bytes((224, 0, 0, 251)) + bytes(4)
    link = pair.right.driver
    first.settimeout(0.1)
    sender.sendto(b"1", ("224.0.0.251", 5353))
    raises(errno.ETIMEDOUT, first.recv, 5)
    first.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    second.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    same(link.filters, {b"\x01\x00\x5e\x00\x00\xfb", b"\x01\x00\x5e\x00\x00\x01"})
    sender.sendto(b"2", ("224.0.0.251", 5353))
    same(first.recv(5), b"2")
    second.close()
    sender.sendto(b"3", ("224.0.0.251", 5353))
    same(first.recv(5), b"3")
    first.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, member)
    same(link.filters, set())
    sender.sendto(b"4", ("224.0.0.251", 5353))
    raises(errno.ETIMEDOUT, first.recv, 5)
    raises(errors.EADDRNOTAVAIL, first.setsockopt, socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, member)
    raises(errno.EINVAL, first.setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, bytes((10, 0, 0, 1)) + bytes(4))


@on_device
def test_getaddrinfo_of_numbers():
    pair = Pair()
    with pair.left:
        get = socket.getaddrinfo
        same(get("10.10.10.10", 80), [(2, 1, 6, "", ("10.10.10.10", 80))])
        same(get("10.10.10.10", "80", 0, socket.SOCK_DGRAM), [(2, 2, 17, "", ("10.10.10.10", 80))])
        same(get("", 80)[0][-1], ("0.0.0.0", 80))
        same(get(None, None)[0][-1], ("0.0.0.0", 0))
        same(get("localhost", 1)[0][-1], ("127.0.0.1", 1))
        raises(errors.EAFNOSUPPORT, get, "10.0.0.1", 80, socket.AF_INET6)
        raises(errno.EINVAL, get, "10.0.0.1", "http")
        for name in ("no.such.example", "hey.!!$$ ", "1.2.3.4.5"):
            raises(-202, get, name, 80)  # there is no DNS server
        s = socket.socket(*get("10.0.0.2", 80, 0, socket.SOCK_STREAM)[0][:3])
        s.close()


@on_device
def test_names_are_resolved_by_getaddrinfo_connect_and_sendto():
    pair = Pair()
    name = b"\x05board\x07example\x00"
    dns = udp(pair.right, 53)
    dns.setblocking(False)

    def answer():
        if not poll(dns, RD):
            return
        query, sender = dns.recvfrom(512)
        found = query[12 : 12 + len(name)] == name
        reply = query[:2] + (b"\x81\x80\0\x01\0\x01\0\0\0\0" if found else b"\x81\x83\0\x01\0\0\0\0\0\0") + query[12:]
        if found:
            reply += b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + pair.right.address
        dns.sendto(reply, sender)

    pair.tasks.append(answer)
    pair.left.stack.resolver.servers = [pair.right.address]
    with pair.left:
        same(socket.getaddrinfo("board.example", 80), [(2, 1, 6, "", ("10.0.0.2", 80))])
        try:
            socket.getaddrinfo("nobody.example", 80)
            assert False
        except OSError as e:
            same(e.errno, -202)
            assert "no such name" in e.args[1]
    server = listen(pair.right)
    client = tcp(pair.left)
    client.connect(("board.example", PORT))
    same(server.accept()[1], client.getsockname())
    receiver = udp(pair.right, 6000)
    udp(pair.left).sendto(b"hi", ("board.example", 6000))
    same(receiver.recv(10), b"hi")


@on_device
def test_text_and_bytes_of_addresses():
    same(socket.inet_pton(socket.AF_INET, "192.168.1.20"), b"\xc0\xa8\x01\x14")
    same(socket.inet_ntop(socket.AF_INET, b"\xc0\xa8\x01\x14"), "192.168.1.20")
    raises(errno.EINVAL, socket.inet_pton, socket.AF_INET, "192.168.1")
    raises(errno.EINVAL, socket.inet_ntop, socket.AF_INET, b"123")
    raises(errors.EAFNOSUPPORT, socket.inet_pton, socket.AF_INET6, "::1")
    raises(errors.EAFNOSUPPORT, socket.inet_ntop, socket.AF_INET6, bytes(16))


@on_device
def test_readable_callback_runs_until_the_data_is_read():
    pair, client, peer = connected()
    calls = []
    peer.setsockopt(socket.SOL_SOCKET, 20, calls.append)
    pair.run(5)
    same(calls, [])
    client.send(b"x")
    pair.run(5)
    assert len(calls) > 1 and calls[0] is peer
    same(peer.recv(1), b"x")
    pair.run(1)
    calls.clear()
    pair.run(5)
    same(calls, [])
    peer.setsockopt(socket.SOL_SOCKET, 20, None)
    client.send(b"x")
    pair.run(5)
    same(calls, [])
    same(pair.right.stack.on_poll, None)
    # A listening socket is readable when somebody has connected: webrepl accepts in its callback.
    server = listen(pair.right)
    server.setsockopt(socket.SOL_SOCKET, 20, lambda s: calls.append(s.accept()[1]))
    second = tcp(pair.left)
    second.connect(("10.0.0.2", PORT))
    pair.run(5)
    same(calls, [second.getsockname()])
    server.close()


@on_device
def test_asyncio_streams():
    import asyncio

    pair = Pair()
    log = []

    async def clock():
        while True:
            pair.run(1)
            await asyncio.sleep_ms(0)

    async def serve(reader, writer):
        while True:
            line = await reader.readline()
            if not line:
                break
            writer.write(b"echo " + line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        log.append("served")

    async def client(port, text):
        reader, writer = await asyncio.open_connection("10.0.0.2", port)
        writer.write(text)
        await writer.drain()
        same(await reader.readexactly(5), b"echo ")
        same(await reader.readline(), text)
        big = pattern(30000).replace(b"\n", b"_") + b"\n"
        writer.write(big)
        await writer.drain()
        same(await reader.readline(), b"echo " + big)
        writer.close()
        await writer.wait_closed()

    async def main():
        asyncio.create_task(clock())
        with pair.right:
            server = await asyncio.start_server(serve, "0.0.0.0", PORT)
            try:
                await asyncio.start_server(serve, "0.0.0.0", PORT)
                assert False
            except OSError as e:
                same(e.errno, errno.EADDRINUSE)
        with pair.left:
            clients = [asyncio.create_task(client(PORT, b"line %d\n" % n)) for n in range(3)]
            await asyncio.sleep_ms(0)
            for task in clients:
                await task
            reader, writer = await asyncio.open_connection("10.0.0.2", 1)
            try:
                await reader.read(1)
                assert False
            except OSError as e:
                same(e.errno, errno.ECONNREFUSED)
            await writer.wait_closed()
        while log.count("served") < 3:
            await asyncio.sleep_ms(1)
        server.close()
        await server.wait_closed()

    import sys

    sys.modules["socket"] = socket
    asyncio.run(asyncio.wait_for(main(), 30))
    pair.run(500)
    free(pair.left)
    free(pair.right)


@on_device
def test_bulk_transfer_allocates_nothing():
    pair, client, peer = connected()
    data = pattern(4000)
    out = bytearray(4000)
    peer.setblocking(False)
    got = [0]

    def drain():
        n = peer.readinto(out)
        if n:
            got[0] += n

    pair.tasks.append(drain)
    client.sendall(data)
    pair.run(50)
    errors_before = pair.left.stack.errors + pair.right.stack.errors
    micropython.heap_lock()
    try:
        for _ in range(5):
            client.sendall(data)
            client.write(data)
        client.send(data)
        pair.run(200)
    finally:
        micropython.heap_unlock()
    same(pair.left.stack.errors + pair.right.stack.errors, errors_before)
    assert got[0] > 44000
    # The other way round, with a blocking reader.
    pair.tasks.clear()
    peer.settimeout(None)
    client.setblocking(False)

    def feed():
        client.write(data)

    pair.tasks.append(feed)
    micropython.heap_lock()
    try:
        for _ in range(5):
            peer.readinto(out)
            peer.recv_into(out)
            peer.recv_into(out, 100)
    finally:
        micropython.heap_unlock()
    same(pair.left.stack.errors + pair.right.stack.errors, errors_before)


@on_device
def test_a_keyboard_interrupt_leaves_everything_usable():
    pair, client, peer = connected()
    server = listen(pair.right)
    waiting = udp(pair.right, 5000)
    stopped = []

    def interrupt():
        if not stopped:
            stopped.append(1)
            raise KeyboardInterrupt

    for call in (lambda: peer.recv(1), lambda: peer.read(), lambda: server.accept(), lambda: waiting.recvfrom(5)):
        stopped.clear()
        pair.tasks.append(interrupt)
        try:
            call()
            assert False
        except KeyboardInterrupt:
            pass
        pair.tasks.clear()
        pair.left.stack.enter()
        pair.left.stack.leave()
        pair.right.stack.enter()
        pair.right.stack.leave()
    client.send(b"still here")
    same(peer.recv(20), b"still here")


@on_device
def test_close_in_a_callback_ends_the_wait():
    pair, client, peer = connected()
    start = pair.time

    def closer():
        if pair.time > start + 100:
            peer.close()

    pair.tasks.append(closer)
    raises(errno.EBADF, peer.recv, 1)


@on_device
def test_lan_down_ends_waits_and_connections_but_listening_ports_survive():
    pair, client, peer = connected()
    server = listen(pair.right)
    start = pair.time

    def down():
        if pair.time == start + 100:
            pair.tasks.clear()
            pair.right.down()

    pair.tasks.append(down)
    with pair.right:
        raises(errors.ENETDOWN, server.accept)
    same(poll(peer), RD | WR | ERR | HUP)
    raises(errno.ECONNABORTED, peer.recv, 1)
    raises(errno.ECONNRESET, client.recv, 1)
    pair.right.up()
    again = tcp(pair.left)
    again.connect(("10.0.0.2", PORT))
    same(server.accept()[1], again.getsockname())


@on_device
def test_sockets_give_everything_back():
    pair = Pair()
    server = listen(pair.right)
    for i in range(80):  # more than there are slots
        client = tcp(pair.left)
        client.connect(("10.0.0.2", PORT))
        peer, _ = server.accept()
        peer.close()
        same(client.read(), b"")
        client.close()
        pair.run(2)
    free(pair.left)
    free(pair.right)
    same([s for s in socket._open if s is not None], [server])
    # What is in TIME_WAIT keeps its numbers only: buffers of 16 such connections would fill the heap of a board.
    tcp_layer = pair.right.stack.tcp
    assert any(c is not None for c in tcp_layer.connections)
    assert not any(tcp_layer.rcv) and not any(tcp_layer.snd)


@on_device
def test_info_shows_the_control_block():
    pair, client, peer = connected()
    client.send(b"12345")
    pair.run(100)
    info = client.info()
    same(info["STATE"], "ESTABLISHED")
    same(info["peer"], ("10.0.0.2", PORT))
    same(info["BYTES_OUT"], 5)
    same(info["SND_UNA"], 6)
    same(peer.info()["RCV_LEN"], 5)
    same([info[name] for name in ("RETRIES", "SOFT_ERROR", "URGENT")], [0, errors.ETIMEDOUT, 0])
    same(udp(pair.left, 7).info()["local"], ("0.0.0.0", 7))


@on_device
def test_stream_protocol_codes():
    pair, client, peer = connected()
    same(client.ioctl(1, 0), 0)
    for unknown in (10, 99):  # 10 is GET_FILENO: Unix's select would poll a descriptor of Linux
        assert client.ioctl(unknown, 0) < 0
    same(client.ioctl(3, WR), WR)
    same(client.ioctl(4, 0), 0)
    same(client.fileno(), -1)
    assert peer.makefile("rb") is peer


@on_device
def test_ttl_tos_and_multicast_options_reach_the_endpoint():
    pair = Pair()
    s = udp(pair.left, 5000)
    level = socket.IPPROTO_IP
    same([s.getsockopt(level, o) for o in (socket.IP_TTL, socket.IP_TOS, socket.IP_MULTICAST_TTL, socket.IP_MULTICAST_LOOP)], [64, 0, 1, 1])
    s.setsockopt(level, socket.IP_TTL, 7)
    s.setsockopt(level, socket.IP_TOS, struct.pack("i", 0x10))
    s.setsockopt(level, socket.IP_MULTICAST_TTL, 255)
    s.setsockopt(level, socket.IP_MULTICAST_LOOP, 0)
    endpoint = s._endpoint
    same((endpoint.ttl, endpoint.tos, endpoint.group_ttl, endpoint.loop), (7, 0x10, 255, False))
    same(s.getsockopt(level, socket.IP_TTL), 7)
    for option, value in ((socket.IP_TTL, 0), (socket.IP_TTL, 256), (socket.IP_TOS, 256), (socket.IP_TOS, -1), (socket.IP_MULTICAST_TTL, 256)):
        raises(errno.EINVAL, s.setsockopt, level, option, value)


@on_device
def test_a_socket_can_talk_to_another_of_the_same_board():
    pair = Pair()
    for host in ("127.0.0.1", "10.0.0.2"):
        server = udp(pair.right)
        server.bind((host, 5000))
        client = udp(pair.right)
        client.sendto(b"hello", (host, 5000))
        data, peer = server.recvfrom(9)
        same((data, peer[0]), (b"hello", host))
        server.sendto(b"and back", peer)
        same(client.recv(9), b"and back")
        server.close()
        client.close()


@on_device
def test_datagrams_that_wait_in_the_ring_go_to_the_reader_one_by_one():
    pair = Pair()
    server = udp(pair.right, 5000)
    other = udp(pair.right, 5001)
    client = udp(pair.left)
    client.sendto(b"first", ("10.0.0.2", 5000))
    same(server.recv_into(bytearray(9)), 5)
    buffer = bytearray(9)
    for text, to in ((b"a", 5000), (b"bb", 5001), (b"", 5000), (b"c" * 20, 5000), (b"dd", 5000)):
        client.sendto(text, ("10.0.0.2", to))
    sender = ("10.0.0.1", client.getsockname()[1])
    same(server.recvfrom_into(buffer), (1, sender))
    same(server.recvfrom_into(buffer), (0, sender))
    same(server.recvfrom_into(buffer), (9, sender))  # the rest is lost
    same(other.recv_into(buffer), 2)
    same(bytes(buffer[:2]), b"bb")
    server.settimeout(0)
    same(server.recvfrom(9), (b"dd", sender))
    raises(errno.EAGAIN, server.recv_into, buffer)
    again = udp(pair.left, 7000)
    again.sendto(b"x", ("10.0.0.2", 5000))
    same(server.recvfrom_into(buffer), (1, ("10.0.0.1", 7000)))
    server.close()
    raises(errno.EBADF, server.recv_into, buffer)


@on_device
def test_methods_that_move_data_find_room_for_their_locals_on_the_c_stack():
    import uctypes
    from barenet.endpoint import Endpoint
    from barenet.tcp.connection import Connection
    from barenet.tcp.listener import Listener

    word = struct.calcsize("P")

    def frame_words(function):
        # py/objfun.h: type, context, child table, byte code. py/bc.h: the byte code begins with the sizes of state and exception stack.
        code = int.from_bytes(uctypes.bytes_at(id(function) + 3 * word, word), "little")
        at = code
        z = uctypes.bytes_at(at, 1)[0]
        state = z >> 3 & 15
        tries = z >> 2 & 1
        n = 0
        while z & 0x80:
            at += 1
            z = uctypes.bytes_at(at, 1)[0]
            state |= (z & 0x30) << 2 * n
            tries |= (z & 2) << n
            n += 1
        return state + 1 + 3 * tries

    def example(a, b, c=0):
        try:
            return a(b, c)
        finally:
            b = c

    assert frame_words(example) > 6
    methods = "recv _recv recv_into recvfrom_into read readinto _ready _arrived _wait send sendall sendto write ioctl _events"
    # What opens and ends a connection, as far as it is short enough.
    steps = "__init__ place begin set_ring output shutdown close settle compress unlist delete free_ring _expect _send_syn _timer _end _enter_time_wait"
    functions = [getattr(socket.socket, name) for name in methods.split()] + [getattr(Connection, name) for name in steps.split()]
    steps = (Listener.knock, Listener.next, Listener.accept, Listener.ready, socket.socket.close, socket.socket.accept, socket._until, socket._resolve)
    for function in functions + list(steps):
        words = frame_words(function)
        assert words <= 11, (function, words)

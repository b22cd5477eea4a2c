"""DHCP: the client of RFC 2131, message by message, on a clock of its own."""

from device import ON_DEVICE, on_device

if ON_DEVICE:
    import gc

    import micropython

    from barenet.dhcp import Client
    from barenet.errors import EADDRINUSE
    from barenet.ticks import PERIOD, add, diff
    from barenet.udp import UDP
    from doubles import (
        ANY,
        BROADCAST,
        MAC,
        MASK,
        OTHER,
        OURS,
        PEER,
        Random,
        arrive,
        checked,
        frame_of,
        make_ip,
        mutate,
        only_drop,
        raises,
        same,
    )

    UDP_PROTOCOL = 17
    DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
    COOKIE = b"\x63\x82\x53\x63"
    SERVER_ID = b"\x36\x04" + PEER
    # Mask, router, two name servers, 1000 s, T1 400 s, T2 800 s.
    GRANT = (
        SERVER_ID
        + b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x4d\x00\x01\x06\x08\x0a\x4d\x00\x01\x08\x08\x08\x08"
        + b"\x33\x04\x00\x00\x03\xe8\x3a\x04\x00\x00\x01\x90\x3b\x04\x00\x00\x03\x20"
    )

    class Board:
        """A client on its stack, the server's side of the cable, and a clock."""

        def __init__(self, now=0, hostname="board", start=True):
            self.ip = make_ip(ANY)
            self.udp = UDP(self.ip, Random())
            self.configured = []
            # Zeros: the middle of no range, but the same each time; the lowest back-off, and T1 as it was given.
            self.client = Client(self.udp, MAC, hostname, self.note, lambda n: bytes(n))
            self.now = now
            if start:
                self.client.start(now)

        def note(self, lease):
            self.configured.append(lease)
            if lease:
                self.ip.configure(lease.address, lease.netmask, lease.gateway)
            else:
                self.ip.configure(ANY, ANY, ANY)

        def sent(self):
            """Return the messages sent since the last call, as frames."""
            frames = self.ip.link.sent[:]
            self.ip.link.sent.clear()
            return frames

        def poll(self):
            """Poll now, and return the messages that this sent."""
            self.deadline = self.client.poll(self.now)
            return self.sent()

        def wait(self):
            """Sleep until the deadline; return how many ms that took, and what was sent then."""
            ms = diff(self.deadline, self.now)
            self.now = self.deadline
            return ms, self.poll()

        def answer(self, kind, options=GRANT, address=OURS, xid=None, to=BROADCAST, port=67, change=None, source=PEER):
            """Let a message of the server arrive."""
            message = bytearray(240)
            message[0:4] = b"\x02\x01\x06\x00"
            message[4:8] = self.client._xid or b"\0\0\0\0" if xid is None else xid
            message[16:20] = address
            message[28:34] = MAC
            message[236:240] = COOKIE
            if kind is not None:
                message += bytes((53, 1, kind))
            message += options + b"\xff"
            if change:
                message = change(message) or message
            length = 8 + len(message)
            header = bytes((0, port, 0, 68, length >> 8, length & 255, 0, 0))
            payload = checked(self.ip, UDP_PROTOCOL, header + message, 6, True, source, to)
            arrive(self.ip, frame_of(UDP_PROTOCOL, payload, source, to), self.now)

        def bind(self):
            """Go through the four messages to BOUND."""
            self.poll()
            self.answer(OFFER)
            self.answer(ACK)
            same(self.client.state, "BOUND")
            self.sent()
            self.poll()

    def options_of(frame):
        """Return the options of a message that was sent, code → value."""
        same(frame[278:282], COOKIE)
        found = {}
        at = 282
        while frame[at] != 255:
            found[frame[at]] = frame[at + 2 : at + 2 + frame[at + 1]]
            at += 2 + frame[at + 1]
        return found

    def kind_of(frame):
        return options_of(frame)[53][0]


@on_device
def test_discover_is_as_rfc_2131_table_5_says():
    board = Board()
    (frame,) = board.poll()
    same(board.client.state, "SELECTING")
    same(frame[:6], b"\xff" * 6)
    same(frame[26:34], ANY + BROADCAST)
    same(frame[34:38], b"\x00\x44\x00\x43")
    message = frame[42:]
    same(message[:12], b"\x01\x01\x06\x00" + bytes(4) + b"\0\0\0\0")
    same(message[12:28], bytes(16))
    same(message[28:44], MAC + bytes(10))
    same(message[44:236], bytes(192))
    same(
        message[236:],
        COOKIE
        + b"\x35\x01\x01"
        + b"\x3d\x07\x01\x02\x00\x00\x00\x00\x02"
        + b"\x39\x02\x05\xdc"
        + b"\x37\x08\x01\x03\x06\x1a\x33\x36\x3a\x3b"
        + b"\x0c\x05board"
        + b"\xff"
        + bytes(300 - 240 - 3 - 9 - 4 - 10 - 7 - 1),
    )


@on_device
def test_offer_is_requested_and_the_ack_configures():
    board = Board()
    board.poll()
    board.now = 700
    board.answer(OFFER, to=OURS)
    same(board.client.state, "REQUESTING")
    (frame,) = board.sent()
    same(frame[26:34], ANY + BROADCAST)
    options = options_of(frame)
    same(options[53], b"\x03")
    same(options[50], OURS)
    same(options[54], PEER)
    same(frame[54:58], ANY)
    same(board.configured, [])
    board.answer(ACK, to=OURS)
    same(board.client.state, "BOUND")
    lease = board.client.lease
    same(board.configured, [lease])
    same((lease.address, lease.netmask, lease.gateway, lease.server), (OURS, MASK, PEER, PEER))
    same(lease.dns, [PEER, b"\x08\x08\x08\x08"])
    same((lease.seconds, lease.t1, lease.t2, lease.mtu), (1000, 400, 800, 0))
    same(sum(board.client.drops.values()), 0)


@on_device
def test_request_repeats_xid_and_secs_of_the_discover():
    board = Board(start=False)
    board.client._random = Random(3)
    board.client.start(0)
    (discover,) = board.poll()
    board.now = 700
    board.wait()
    board.sent()
    board.now = 2100
    board.answer(OFFER)
    (request,) = board.sent()
    same(request[46:50], discover[46:50])
    assert discover[46:50] != bytes(4)
    # And `secs` counts on.
    same(request[50:52], b"\x00\x02")


@on_device
def test_discover_backs_off_to_64_seconds():
    for start in (0, PERIOD - 5000):
        board = Board(now=start)
        same(len(board.poll()), 1)
        waits = []
        for _ in range(8):
            ms, frames = board.wait()
            same([kind_of(frame) for frame in frames], [DISCOVER])
            waits.append(ms)
        same(waits, [750, 1500, 3000, 7000, 15000, 31000, 63000, 63000])
    # `secs` counts from the first one.
    same(frames[0][50:52], b"\x00\xb8")


@on_device
def test_the_random_part_of_the_back_off_is_within_a_second():
    board = Board(start=False)
    board.client._random = Random(5)
    for n, low, high in ((0, 750, 1250), (1, 1500, 2500), (2, 3000, 5000), (6, 63000, 65000), (60, 63000, 65000)):
        seen = [board.client._backoff(n) for _ in range(200)]
        assert low <= min(seen) < low + (high - low) // 5, seen
        assert high - (high - low) // 5 < max(seen) <= high, seen


@on_device
def test_four_requests_without_an_answer_start_over():
    board = Board()
    board.poll()
    board.answer(OFFER)
    same([kind_of(frame) for frame in board.sent()], [REQUEST])
    board.poll()
    kinds = []
    for _ in range(4):
        for frame in board.wait()[1]:
            kinds.append(kind_of(frame))
    same(kinds, [REQUEST, REQUEST, REQUEST])
    same([kind_of(frame) for frame in board.poll()], [DISCOVER])
    same(board.client.state, "SELECTING")


@on_device
def test_renewal_is_unicast_at_t1():
    board = Board(now=PERIOD - 1000)
    board.bind()
    ms, frames = board.wait()
    same(ms, 400000)
    same(board.client.state, "RENEWING")
    (frame,) = frames
    same(frame[26:34], OURS + PEER)
    same(frame[54:58], OURS)
    options = options_of(frame)
    same(options[53], b"\x03")
    assert 50 not in options and 54 not in options
    board.answer(ACK, to=OURS)
    same(board.client.state, "BOUND")
    # Nothing has changed, so nobody is disturbed.
    same(len(board.configured), 1)
    board.poll()
    same(board.wait()[0], 400000)


@on_device
def test_renewal_that_changes_something_configures_again():
    board = Board()
    board.bind()
    board.wait()
    board.answer(ACK, GRANT.replace(b"\x06\x08\x0a\x4d\x00\x01", b"\x06\x08\x0a\x4d\x00\x05"), to=OURS)
    same(len(board.configured), 2)
    same(board.configured[1].dns, [b"\x0a\x4d\x00\x05", b"\x08\x08\x08\x08"])


@on_device
def test_renewal_halves_the_wait_then_rebinds_by_broadcast_then_the_lease_ends():
    board = Board()
    board.bind()
    log = []
    while board.client.lease:
        frames = board.wait()[1]
        for frame in frames:
            log.append((board.now // 1000, board.client.state, frame[30:34]))
    # Renewing at 400 s, again after half of what is left to T2 = 800 s, not within 60 s; rebinding alike until 1000 s.
    same(
        log,
        [
            (400, "RENEWING", PEER),
            (600, "RENEWING", PEER),
            (700, "RENEWING", PEER),
            (760, "RENEWING", PEER),
            (800, "REBINDING", BROADCAST),
            (900, "REBINDING", BROADCAST),
            (960, "REBINDING", BROADCAST),
            (1000, "SELECTING", BROADCAST),
        ],
    )
    same(board.configured[1:], [None])
    same(board.ip.address, ANY)


@on_device
def test_any_server_may_answer_while_rebinding():
    board = Board()
    board.bind()
    while board.client.state != "REBINDING":
        board.wait()
    board.answer(ACK, GRANT.replace(SERVER_ID, b"\x36\x04" + OTHER), to=OURS, source=OTHER)
    same(board.client.state, "BOUND")
    same(board.client.lease.server, OTHER)


@on_device
def test_nak_takes_the_address_away_and_starts_over():
    for until in ("RENEWING", "REBINDING"):
        board = Board()
        board.bind()
        while board.client.state != until:
            board.wait()
        board.answer(NAK, SERVER_ID)
        same(board.configured[1:], [None])
        same([kind_of(frame) for frame in board.poll()], [DISCOVER])


@on_device
def test_a_server_that_always_says_nak_is_asked_more_and_more_slowly():
    board = Board()
    waits = []
    for _ in range(6):
        before = board.now
        while not board.poll():
            board.now = board.deadline
        waits.append(board.now - before)
        board.answer(OFFER)
        board.answer(NAK, SERVER_ID)
        board.sent()
    same(waits, [0, 0, 750, 1500, 3000, 7000])


@on_device
def test_stop_releases_the_address():
    board = Board()
    board.bind()
    board.client.stop(board.now)
    (frame,) = board.sent()
    same(frame[26:34], OURS + PEER)
    same(frame[54:58], OURS)
    options = options_of(frame)
    same(options[53], b"\x07")
    same(options[54], PEER)
    assert 50 not in options and 55 not in options
    same(board.configured[1:], [None])
    same(board.client.state, "STOPPED")
    same(board.client.poll(board.now), None)
    same(board.udp.ports, {})
    board.client.stop(board.now)
    board.client.start(board.now)
    same([kind_of(frame) for frame in board.poll()], [DISCOVER])


@on_device
def test_stop_without_an_address_releases_nothing():
    board = Board()
    board.poll()
    board.client.stop(0)
    same(board.sent(), [])
    same(board.configured, [])


@on_device
def test_port_68_in_use_is_told():
    board = Board(start=False)
    board.udp.endpoint().bind(ANY, 68)
    raises(EADDRINUSE, board.client.start, 0)


@on_device
def test_a_link_that_comes_back_confirms_the_address():
    board = Board()
    board.bind()
    board.client.link_changed(False, board.now)
    board.now += 5000
    board.poll()
    board.client.link_changed(True, board.now)
    same(board.client.state, "REBOOTING")
    (frame,) = board.poll()
    same(frame[26:34], ANY + BROADCAST)
    options = options_of(frame)
    same(options[53], b"\x03")
    same(options[50], OURS)
    assert 54 not in options
    same(frame[54:58], ANY)
    board.answer(ACK, to=OURS)
    same(board.client.state, "BOUND")
    same(len(board.configured), 1)


@on_device
def test_a_link_that_comes_back_on_another_network():
    board = Board()
    board.bind()
    board.client.link_changed(True, board.now)
    board.poll()
    board.answer(NAK, b"\x36\x04" + OTHER, source=OTHER)
    same(board.configured[1:], [None])
    same([kind_of(frame) for frame in board.poll()], [DISCOVER])
    # Nobody answers at all: four requests, then the address is given up.
    board = Board()
    board.bind()
    board.client.link_changed(True, board.now)
    board.poll()
    while board.client.state == "REBOOTING":
        board.wait()
    same(board.configured[1:], [None])
    assert board.now < 20000


@on_device
def test_without_a_link_nothing_is_sent_but_the_lease_ends_in_time():
    board = Board()
    board.bind()
    board.client.link_changed(False, board.now)
    board.poll()
    ms, frames = board.wait()
    same(ms, 1000000)
    same(frames, [])
    same(board.configured[1:], [None])
    same(board.deadline, None)
    board.client.link_changed(True, board.now)
    same([kind_of(frame) for frame in board.poll()], [DISCOVER])


@on_device
def test_a_link_that_comes_late_is_used_at_once():
    board = Board()
    board.client.link_changed(False, 0)
    same(board.poll(), [])
    same(board.deadline, None)
    board.now = 3600000
    board.client.link_changed(True, board.now)
    same([kind_of(frame) for frame in board.poll()], [DISCOVER])


@on_device
def test_leases_longer_than_the_ticks_can_count():
    # 30 days; the ticks wrap after 12.4 days and compare up to 6.2.
    board = Board(now=12345)
    grant = SERVER_ID + b"\x33\x04\x00\x27\x8d\x00"
    board.poll()
    board.answer(OFFER, grant)
    board.answer(ACK, grant)
    board.sent()
    board.poll()
    days = 0
    seconds = 0
    while board.client.state == "BOUND":
        seconds += board.wait()[0] // 1000
        days += 1
        assert days < 40
    same(seconds, 15 * 86400)
    same(board.client.state, "RENEWING")


@on_device
def test_an_infinite_lease_never_ends():
    board = Board()
    grant = SERVER_ID + b"\x33\x04\xff\xff\xff\xff"
    board.poll()
    board.answer(OFFER, grant)
    board.answer(ACK, grant)
    same(board.client.state, "BOUND")
    same(board.client.poll(0), None)


@on_device
def test_the_shortest_lease_is_not_renewed_at_wire_speed():
    board = Board()
    grant = SERVER_ID + b"\x33\x04\x00\x00\x00\x01"
    board.poll()
    board.answer(OFFER, grant)
    board.answer(ACK, grant)
    board.sent()
    same(board.poll(), [])
    same(board.wait()[0], 1000)


@on_device
def test_t1_and_t2_that_make_no_sense_are_replaced():
    for times in (
        b"",
        b"\x3a\x04\x00\x00\x03\x20\x3b\x04\x00\x00\x01\x90",
        b"\x3a\x04\x00\x00\x00\x00\x3b\x04\x00\x00\x03\x20",
        b"\x3a\x04\x00\x00\x01\x90\x3b\x04\x00\x00\x03\xe8",
        b"\x3a\x04\xff\xff\xff\xff\x3b\x04\xff\xff\xff\xff",
        b"\x3a\x02\x01\x90\x3b\x04\x00\x00\x03\x20",
    ):
        board = Board()
        grant = SERVER_ID + b"\x33\x04\x00\x00\x03\xe8" + times
        board.poll()
        board.answer(OFFER, grant)
        board.answer(ACK, grant)
        same((board.client.lease.t1, board.client.lease.t2), (500, 875))


@on_device
def test_t1_comes_up_to_one_32nd_early():
    board = Board()
    board.client._random = lambda n: b"\xff" * n
    board.bind()
    same(board.client.lease.t1, 400 - 11)


@on_device
def test_masks_routers_and_name_servers_that_make_no_sense():
    time = b"\x33\x04\x00\x00\x03\xe8"
    for options, address, mask, gateway, dns in (
        # No mask, or a wrong one: the class of the address.
        (b"", OURS, b"\xff\0\0\0", ANY, []),
        (b"", b"\xac\x10\x00\x05", b"\xff\xff\0\0", ANY, []),
        (b"", b"\xc0\xa8\x01\x05", MASK, ANY, []),
        (b"\x01\x04\xff\x00\xff\x00", b"\xc0\xa8\x01\x05", MASK, ANY, []),
        (b"\x01\x04\x00\x00\x00\x00", OURS, b"\xff\0\0\0", ANY, []),
        (b"\x01\x03\xff\xff\xff", b"\xc0\xa8\x01\x05", MASK, ANY, []),
        # /31: no broadcast address.
        (b"\x01\x04\xff\xff\xff\xfe", b"\x0a\x4d\x00\x01", b"\xff\xff\xff\xfe", ANY, []),
        # Routers: one on another network, ourselves, then a good one; a last one cut off.
        (
            b"\x01\x04\xff\xff\xff\x00\x03\x0f\xc0\xa8\x01\x01\x0a\x4d\x00\x02\x0a\x4d\x00\x07\x0a\x4d\x00",
            OURS,
            MASK,
            b"\x0a\x4d\x00\x07",
            [],
        ),
        # Name servers: zero, loopback and multicast are skipped, two are kept.
        (
            b"\x01\x04\xff\xff\xff\x00\x06\x18\0\0\0\0\x7f\0\0\x01\xe0\0\0\x01"
            + b"\x01\x01\x01\x01\x02\x02\x02\x02\x03\x03\x03\x03",
            OURS,
            MASK,
            ANY,
            [b"\x01\x01\x01\x01", b"\x02\x02\x02\x02"],
        ),
    ):
        board = Board()
        grant = SERVER_ID + time + options
        board.poll()
        board.answer(OFFER, grant, address)
        board.answer(ACK, grant, address)
        lease = board.client.lease
        same((lease.address, lease.netmask, lease.gateway, lease.dns), (address, mask, gateway, dns))


@on_device
def test_mtu_is_kept_when_it_is_one():
    for value, mtu in ((b"\x05\xdc", 1500), (b"\x02\x40", 576), (b"\x02\x3f", 0), (b"\x23\x28", 0)):
        board = Board()
        board.poll()
        board.answer(OFFER)
        board.answer(ACK, GRANT + b"\x1a\x02" + value)
        same(board.client.lease.mtu, mtu)


@on_device
def test_options_continue_in_file_and_sname():
    def overloaded(which):
        def change(message):
            message[108:111] = b"\x35\x01\x02"
            message[111:117] = SERVER_ID
            message[117] = 255
            message[44:50] = b"\x33\x04\x00\x00\x03\xe8"
            message[50] = 255
            message[240:] = b"\x00\x00\x34\x01" + bytes((which,)) + b"\xff"

        return change

    board = Board()
    board.poll()
    board.answer(OFFER, change=overloaded(3))
    same(board.client.state, "REQUESTING")
    # Only `file` is said to hold options, so the lease time in `sname` does not count; only `sname`, and there is no
    # message type.
    board = Board()
    board.poll()
    board.answer(OFFER, change=overloaded(1))
    only_drop(board.client, "lease time")
    board.answer(OFFER, change=overloaded(2))
    only_drop(board.client, "type")


@on_device
def test_an_option_in_two_parts_is_joined():
    board = Board()
    board.poll()
    board.answer(OFFER)
    whole = b"\x06\x08\x0a\x4d\x00\x01\x08\x08\x08\x08"
    parts = b"\x06\x04\x0a\x4d\x00\x01\x06\x04\x08\x08\x08\x08"
    board.answer(ACK, GRANT.replace(whole, parts))
    same(board.client.lease.dns, [PEER, b"\x08\x08\x08\x08"])


@on_device
def test_a_message_without_an_end_option_is_taken():
    board = Board()
    board.poll()
    board.answer(OFFER, change=lambda message: message[:-1])
    same(board.client.state, "REQUESTING")


@on_device
def test_a_zero_length_option_is_harmless():
    board = Board()
    board.poll()
    board.answer(OFFER, b"\x50\x00\x34\x00" + GRANT)
    same(board.client.state, "REQUESTING")


def _expect_drop(reason, kind=2, **how):
    # Lets a message arrive while the client is SELECTING, and asserts that it was dropped for `reason` and the next
    # good one is taken.
    board = Board()
    board.poll()
    board.answer(kind, **how)
    only_drop(board.client, reason)
    same(board.client.state, "SELECTING")
    same(board.sent(), [])
    board.answer(OFFER)
    same(board.client.state, "REQUESTING")


@on_device
def test_drop_port():
    _expect_drop("port", port=68)


@on_device
def test_drop_short():
    _expect_drop("short", change=lambda message: message[:239])


@on_device
def test_drop_op():
    def change(message):
        message[0] = 1

    _expect_drop("op", change=change)


@on_device
def test_drop_hardware_address():
    def other(message):
        message[33] ^= 1

    def kind(message):
        message[1] = 6

    def length(message):
        message[2] = 16

    for change in (other, kind, length):
        _expect_drop("hardware address", change=change)


@on_device
def test_drop_xid():
    _expect_drop("xid", xid=b"\0\0\0\x01")


@on_device
def test_drop_cookie():
    def change(message):
        message[236] = 0

    _expect_drop("cookie", change=change)


@on_device
def test_drop_options_that_end_beyond_their_field():
    _expect_drop("options", change=lambda message: message[:240] + b"\x35\x01\x02\x36")
    _expect_drop("options", change=lambda message: message[:240] + b"\x35\x01\x02\x36\x04\x0a\x4d\x00")
    _expect_drop("options", change=lambda message: message[:240] + b"\x35\x01\x02\x06\xff\x0a\x4d\x00\x01")

    def in_file(message):
        message[108:110] = b"\x06\x7f"
        return message[:-1] + b"\x34\x01\x01\xff"

    def in_sname(message):
        message[44:46] = b"\x06\x3f"
        return message[:-1] + b"\x34\x01\x02\xff"

    _expect_drop("options", change=in_file)
    _expect_drop("options", change=in_sname)


@on_device
def test_drop_type():
    _expect_drop("type", kind=None)
    _expect_drop("type", kind=None, options=b"\x35\x02\x02\x02" + GRANT)
    for kind in (0, DISCOVER, REQUEST, DECLINE, RELEASE, 8, 255):
        _expect_drop("type", kind=kind)


@on_device
def test_drop_unexpected_in_each_state():
    _expect_drop("unexpected", kind=ACK)
    _expect_drop("unexpected", kind=NAK)
    board = Board()
    board.answer(OFFER)
    only_drop(board.client, "unexpected")
    board.poll()
    board.answer(OFFER)
    board.answer(OFFER, GRANT.replace(SERVER_ID, b"\x36\x04" + OTHER), OTHER)
    only_drop(board.client, "unexpected")
    board.answer(ACK)
    same(board.client.lease.address, OURS)
    # Once bound no transaction is open, so no xid fits.
    board.answer(NAK)
    only_drop(board.client, "xid")
    same(board.client.state, "BOUND")


@on_device
def test_drop_server_that_is_missing_or_not_the_chosen_one():
    nobody = GRANT[6:]
    _expect_drop("server", options=nobody)
    _expect_drop("server", options=b"\x36\x03\x0a\x4d\x00" + nobody)
    _expect_drop("server", options=b"\x36\x04\xff\xff\xff\xff" + nobody)
    for state in ("REQUESTING", "RENEWING"):
        board = Board()
        board.poll()
        board.answer(OFFER)
        if state == "RENEWING":
            board.answer(ACK)
            board.poll()
            board.wait()
        same(board.client.state, state)
        for kind in (ACK, NAK):
            board.answer(kind, b"\x36\x04" + OTHER + nobody)
            only_drop(board.client, "server")
        same(board.client.state, state)


@on_device
def test_drop_address_that_no_host_can_have():
    for address in (
        ANY,
        BROADCAST,
        b"\x7f\x00\x00\x01",
        b"\xe0\x00\x00\x01",
        b"\xf0\x00\x00\x01",
        b"\x0a\x4d\x00\x00",
        b"\x0a\x4d\x00\xff",
    ):
        _expect_drop("address", address=address)


@on_device
def test_drop_lease_time_that_is_zero_missing_or_too_short():
    for time in (b"", b"\x33\x04\x00\x00\x00\x00", b"\x33\x02\x03\xe8"):
        _expect_drop("lease time", options=SERVER_ID + time)


@on_device
def test_idle_polls_allocate_nothing():
    board = Board()
    board.poll()
    board.answer(OFFER)
    board.answer(ACK)
    client = board.client
    micropython.heap_lock()
    try:
        for now in range(0, 390000, 50):
            client.poll(now)
    finally:
        micropython.heap_unlock()
    same(client.state, "BOUND")


@on_device
def test_fuzz_nothing_raised_nothing_leaked():
    random = Random(2131)
    base = Board()
    base.poll()
    kept = []
    base.udp._receive = lambda frame, start, end, *rest: kept.append(bytes(frame[start + 8 : end]))
    base.ip.handlers[UDP_PROTOCOL] = base.udp._receive
    base.answer(OFFER)
    base.answer(ACK)
    base.answer(NAK)
    board = Board()
    client = board.client
    frame = bytearray(700)
    view = memoryview(frame)
    used = 0
    states = set()
    for i in range(5000):
        data = bytearray(kept[random.below(3)])
        # The option area is where the traps are.
        for _ in range(1 + random.below(3)):
            data[236 + random.below(len(data) - 236)] = (0, 255, 4, random.below(256))[random.below(4)]
        if i % 3 == 0:
            data[16] = (0, 127, 224, 255)[random.below(4)]
        if i % 4 == 0:
            data = mutate(data, random)
        frame[42 : 42 + len(data)] = data
        client.receive(view, 42, 42 + len(data), PEER, 67, BROADCAST, board.now)
        states.add(client.state)
        if random.below(3) == 0:
            board.poll()
            if board.deadline is not None and random.below(3) == 0:
                board.now = board.deadline
        board.configured.clear()
        board.sent()
        if i == 2000:
            gc.collect()
            used = gc.mem_alloc()
    gc.collect()
    # A lease more or less is no leak.
    assert gc.mem_alloc() <= used + 1000, "{} bytes leaked".format(gc.mem_alloc() - used)
    assert {"SELECTING", "REQUESTING", "BOUND", "RENEWING"} <= states, states
    for reason in client.drops:
        assert client.drops[reason] or reason == "port", "never seen: " + reason
    board.now = add(board.now, 1000)
    client.stop(board.now)
    client.start(board.now)
    board.bind()

"""The resolver: RFC 1035 messages, byte by byte, on a clock of its own."""

from device import ON_DEVICE, on_device

if ON_DEVICE:
    import gc

    import micropython

    from barenet.errors import ECONNREFUSED, EHOSTUNREACH
    from barenet.resolver import EAI_FAIL, Resolver, encode_name, parse_address
    from barenet.ticks import PERIOD, diff
    from barenet.udp import UDP
    from doubles import ANY, OTHER, OURS, PEER, Random, arrive, checked, frame_of, make_ip, mutate, only_drop, same

    UDP_PROTOCOL = 17
    SECOND = b"\x0a\x4d\x00\x03"

    # The question for example.com, type A, class IN.
    QUESTION = b"\x07example\x03com\x00\x00\x01\x00\x01"
    # Response, recursion desired and available, no error; one question.
    FLAGS = b"\x81\x80"
    # An A record whose owner is the question's name (a pointer to offset 12), TTL 300 s.
    A_RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x5d\xb8\xd8\x22"
    ADDRESS = b"\x5d\xb8\xd8\x22"

    class Board:
        """A resolver on its stack, and the server's side of the cable."""

        def __init__(self, servers=(PEER,), now=0):
            self.ip = make_ip()
            self.udp = UDP(self.ip, Random(9))
            self.resolver = Resolver(self.udp, Random(10))
            self.resolver.servers = list(servers)
            self.now = now

        def query(self, name="example.com"):
            return self.resolver.query(name, self.now)

        def sent(self):
            """Return the frames sent since the last call."""
            frames = self.ip.link.sent[:]
            self.ip.link.sent.clear()
            return frames

        def wait(self):
            """Sleep until the deadline; return how many ms that took."""
            deadline = self.resolver.poll(self.now)
            ms = diff(deadline, self.now)
            self.now = deadline
            self.resolver.poll(self.now)
            return ms

        def answer(
            self,
            query,
            records=A_RECORD,
            count=1,
            flags=FLAGS,
            question=QUESTION,
            source=PEER,
            port=53,
            id=None,
            change=None,
        ):
            """Let an answer to `query` arrive."""
            message = (id or query._id) + flags + b"\0\x01" + bytes((0, count)) + b"\0\0\0\0" + question + records
            if change:
                message = change(message)
            length = 8 + len(message)
            to = query._port
            header = bytes((port >> 8, port & 255, to >> 8, to & 255, length >> 8, length & 255, 0, 0))
            payload = checked(self.ip, UDP_PROTOCOL, header + message, 6, True, source)
            arrive(self.ip, frame_of(UDP_PROTOCOL, payload, source), self.now)

    def name(text):
        return encode_name(text)

    def record(owner, kind, value, ttl=300):
        """Return a resource record; owner and value are in wire form."""
        return owner + bytes((0, kind, 0, 1)) + ttl.to_bytes(4, "big") + bytes((0, len(value))) + value

    def failed(query):
        assert query.done, "not done"
        same((query.error, query.addresses), (EAI_FAIL, []))
        assert query.reason
        same(query._resolver._queries, [])
        same(query._resolver.udp.ports, {})
        return query.reason


@on_device
def test_a_query_is_one_question_with_recursion_desired():
    board = Board()
    query = board.query("Example.COM.")
    (frame,) = board.sent()
    same(frame[26:34], OURS + PEER)
    same(frame[36:38], b"\x00\x35")
    same(frame[42:44], query._id)
    same(frame[44:], b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + QUESTION)
    assert not query.done


@on_device
def test_an_a_record_answers_it():
    board = Board()
    query = board.query()
    board.answer(query)
    assert query.done
    same((query.addresses, query.error, query.reason), ([ADDRESS], 0, ""))
    same(board.udp.ports, {})
    same(sum(board.resolver.drops.values()), 0)


@on_device
def test_ids_and_ports_differ_from_query_to_query():
    board = Board()
    seen = set()
    for i in range(50):
        query = board.query("h%d.example" % i)
        assert 49152 <= query._port <= 65535
        seen.add((query._id, query._port))
        board.resolver.cancel(query)
    same(len(seen), 50)
    same(len({id for id, port in seen}), 50)
    assert len({port for id, port in seen}) > 40


@on_device
def test_several_addresses_are_kept_once_each_and_at_most_eight():
    board = Board()
    query = board.query()
    board.answer(query, A_RECORD + A_RECORD[:-1] + b"\x23" + A_RECORD, 3)
    same(query.addresses, [ADDRESS, b"\x5d\xb8\xd8\x23"])
    board = Board()
    query = board.query()
    board.answer(query, b"".join(A_RECORD[:-1] + bytes((i,)) for i in range(30)), 30)
    same(query.addresses, [b"\x5d\xb8\xd8" + bytes((i,)) for i in range(8)])


@on_device
def test_a_cname_chain_is_followed_whatever_its_order():
    target = b"\x03www\xc0\x0c"
    board = Board()
    query = board.query()
    # www.example.com A, then example.com CNAME www.example.com.
    board.answer(query, record(target, 1, ADDRESS) + record(b"\xc0\x0c", 5, target), 2)
    same(query.addresses, [ADDRESS])


@on_device
def test_names_compare_without_case():
    board = Board()
    query = board.query("example.com")
    board.answer(
        query,
        record(b"\x07EXAMPLE\xc0\x14", 5, b"\x03WwW\xc0\x14") + record(b"\x03wWw\x03CoM\x00", 1, ADDRESS),
        2,
        question=QUESTION.upper(),
    )
    same(query.addresses, [ADDRESS])


@on_device
def test_a_chain_that_ends_outside_is_asked_for_again():
    board = Board()
    query = board.query()
    first = (query._id, query._port)
    board.sent()
    board.answer(query, record(b"\xc0\x0c", 5, name("cdn.example.net"), 60))
    assert not query.done
    (frame,) = board.sent()
    again = name("cdn.example.net") + b"\0\x01\0\x01"
    same(frame[54:], again)
    assert (query._id, query._port) != first
    same(list(board.udp.ports), [query._port])
    board.answer(query, question=again)
    same(query.addresses, [ADDRESS])
    # It is cached under the name that was asked for, for the shortest TTL of the chain.
    board.now += 59999
    same(board.query().addresses, [ADDRESS])
    board.now += 1
    assert not board.query().done


@on_device
def test_a_cname_loop_ends():
    board = Board()
    query = board.query()
    board.answer(query, record(b"\xc0\x0c", 5, name("b.example")) + record(name("b.example"), 5, b"\xc0\x0c"), 2)
    assert "never end" in failed(query)
    # An alias of itself.
    query = board.query()
    board.answer(query, record(b"\xc0\x0c", 5, b"\xc0\x0c"))
    assert "never end" in failed(query)
    # A loop over several answers.
    query = board.query()
    asked = 0
    here, there = "example.com", "b.example"
    while not query.done:
        board.answer(query, record(b"\xc0\x0c", 5, name(there)), question=name(here) + b"\0\x01\0\x01")
        here, there = there, here
        asked += 1
        assert asked < 20
    assert "never end" in failed(query)
    same(asked, 9)


@on_device
def test_no_answer_is_repeated_after_1_1_2_and_4_seconds():
    for start in (0, PERIOD - 1500):
        board = Board(now=start)
        query = board.query()
        same([board.wait() for _ in range(4)], [1000, 1000, 2000, 4000])
        same(len(board.sent()), 4)
        assert "no DNS server answered" in failed(query)
        same(board.resolver.poll(board.now), None)


@on_device
def test_each_try_asks_the_next_server_and_a_late_answer_counts():
    board = Board((PEER, SECOND))
    query = board.query()
    board.wait()
    board.wait()
    same([frame[30:34] for frame in board.sent()], [PEER, SECOND, PEER])
    board.answer(query, source=SECOND)
    same(query.addresses, [ADDRESS])


@on_device
def test_a_server_that_fails_or_refuses_makes_the_next_one_asked_at_once():
    # SERVFAIL, NOTIMP, REFUSED, and a code that does not exist.
    for code in (2, 4, 5, 15):
        board = Board((PEER, SECOND))
        query = board.query()
        board.sent()
        board.answer(query, b"", 0, bytes((0x81, 0x80 | code)))
        (frame,) = board.sent()
        same(frame[30:34], SECOND)
        board.answer(query, source=SECOND)
        same(query.addresses, [ADDRESS])


@on_device
def test_when_every_server_fails_the_query_does():
    board = Board((PEER, SECOND))
    query = board.query()
    board.answer(query, b"", 0, b"\x81\x82")
    board.answer(query, b"", 0, b"\x81\x85", source=SECOND)
    assert "code 5" in failed(query)
    same(len(board.sent()), 2)


@on_device
def test_port_unreachable_and_a_dead_neighbour_make_the_next_one_asked_at_once():
    for code in (ECONNREFUSED, EHOSTUNREACH):
        board = Board((PEER, SECOND))
        query = board.query()
        (frame,) = board.sent()
        board.ip.errors[UDP_PROTOCOL](code, OTHER, frame[34:42], 0)
        same(board.sent(), [])
        board.ip.errors[UDP_PROTOCOL](code, PEER, frame[34:42], 0)
        (frame,) = board.sent()
        same(frame[30:34], SECOND)
        board.ip.errors[UDP_PROTOCOL](code, SECOND, frame[34:42], 0)
        failed(query)


@on_device
def test_a_name_that_does_not_exist_is_the_error_of_the_esp32():
    board = Board((PEER, SECOND))
    query = board.query()
    board.answer(query, b"", 0, b"\x81\x83")
    assert "no such name" in failed(query)
    same(query.error, -202)
    same(len(board.sent()), 1)
    # Not cached: it may be there the next time.
    assert not board.query().done


@on_device
def test_a_name_without_an_address_fails():
    board = Board()
    query = board.query()
    board.answer(query, b"", 0)
    assert "no IPv4 address" in failed(query)


@on_device
def test_a_server_without_recursion_is_not_believed():
    board = Board((PEER, SECOND))
    query = board.query()
    board.answer(query, b"", 0, b"\x81\x00")
    assert not query.done
    board.answer(query, b"", 0, b"\x81\x00", source=SECOND)
    assert "another server" in failed(query)


@on_device
def test_truncated_answers_are_used_when_they_hold_an_address():
    board = Board()
    query = board.query()
    board.answer(query, flags=b"\x83\x80")
    same(query.addresses, [ADDRESS])
    board = Board()
    query = board.query()
    board.answer(query, b"", 0, b"\x83\x80")
    assert "cut off" in failed(query)


@on_device
def test_no_server_and_no_route_are_told_at_once():
    board = Board(())
    assert "no DNS server" in failed(board.query())
    board = Board((b"\x08\x08\x08\x08", b"\x01\x01\x01\x01"))
    board.ip.configure(ANY, ANY, ANY)
    assert "no DNS server can be reached" in failed(board.query())


@on_device
def test_servers_that_change_while_a_query_runs():
    board = Board()
    query = board.query()
    board.resolver.servers = [SECOND]
    board.wait()
    same([frame[30:34] for frame in board.sent()], [PEER, SECOND])
    board.resolver.servers = []
    board.wait()
    failed(query)


@on_device
def test_a_full_ring_only_delays():
    board = Board()
    board.ip.link.full = True
    query = board.query()
    board.ip.link.full = False
    same(board.sent(), [])
    board.wait()
    same(len(board.sent()), 1)
    board.answer(query)
    same(query.addresses, [ADDRESS])


@on_device
def test_four_queries_at_a_time():
    board = Board()
    queries = [board.query("h%d.example" % i) for i in range(4)]
    fifth = board.query()
    same((fifth.done, fifth.error), (True, EAI_FAIL))
    assert "too many" in fifth.reason
    board.resolver.cancel(queries[1])
    board.resolver.cancel(queries[1])
    assert not board.query().done
    for query in queries:
        board.resolver.cancel(query)
    same(len(board.udp.ports), 1)


@on_device
def test_no_free_port_is_an_error_not_an_exception():
    class Full(dict):
        def __contains__(self, port):
            return True

    board = Board()
    board.udp.ports = Full()
    failed(board.query())


@on_device
def test_the_cache_respects_ttl_and_holds_eight_names():
    board = Board()
    for i in range(9):
        host = "h%d.example" % i
        query = board.query(host)
        ttl = 100 + i
        board.answer(query, record(b"\xc0\x0c", 1, ADDRESS, ttl), question=name(host) + b"\0\x01\0\x01")
        same(query.addresses, [ADDRESS])
    same(len(board.resolver._cache), 8)
    board.sent()
    # The one that would have expired first made room.
    assert not board.query("h0.example").done
    query = board.query("H8.example.")
    same(query.addresses, [ADDRESS])
    query.addresses.append(ANY)
    same(board.query("h8.example").addresses, [ADDRESS])
    same(len(board.sent()), 1)
    same(board.resolver.poll(board.now), 1000)
    board.now = 107999
    same(board.query("h8.example").addresses, [ADDRESS])
    board.now = 108000
    assert not board.query("h8.example").done


@on_device
def test_a_ttl_is_at_most_an_hour_and_zero_or_negative_is_not_cached():
    for ttl, expected in (
        (0xFFFF, 3600),
        (0x7FFFFFFF, 3600),
        (3599, 3599),
        (0, None),
        (0x80000000, None),
        (0xFFFFFFFF, None),
    ):
        board = Board(now=PERIOD - 10)
        query = board.query()
        board.answer(query, record(b"\xc0\x0c", 1, ADDRESS, ttl))
        same(query.addresses, [ADDRESS])
        deadline = board.resolver.poll(board.now)
        same(None if deadline is None else diff(deadline, board.now), expected and expected * 1000)
        if deadline is not None:
            same(board.resolver.poll(deadline), None)
            same(board.resolver._cache, {})


@on_device
def test_names_that_need_no_server():
    board = Board(())
    for text, address in (
        ("192.168.1.2", b"\xc0\xa8\x01\x02"),
        ("0.0.0.0", ANY),
        ("255.255.255.255", b"\xff\xff\xff\xff"),
        ("", ANY),
        ("localhost", b"\x7f\x00\x00\x01"),
        ("LocalHost.", b"\x7f\x00\x00\x01"),
    ):
        query = board.query(text)
        same((query.done, query.addresses, query.error), (True, [address], 0))
    same(board.sent(), [])


@on_device
def test_names_that_cannot_exist():
    board = Board()
    for text in (
        ".",
        "..",
        ".example",
        "a..b",
        "example..",
        "a" * 64 + ".example",
        ".".join(["a" * 63] * 4),
        "ex ample.com",
        "exa\0mple.com",
        "b\u00fccher.example",
        "1.2.3.256",
        "1.2.3",
        "1.2.3.4.5",
        "7",
    ):
        query = board.query(text)
        same((text, query.done, query.error), (text, True, EAI_FAIL))
        assert query.reason
    same(board.sent(), [])


@on_device
def test_the_longest_name_is_asked_for():
    board = Board()
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    same(len(longest), 253)
    assert not board.query(longest + ".").done
    (frame,) = board.sent()
    same(len(frame), 54 + 255 + 4)


@on_device
def test_dotted_quads():
    same(parse_address("10.77.0.2"), OURS)
    same(parse_address("010.077.000.002"), OURS)
    for text in "|1.2.3|1.2.3.4.5|1.2.3.256|1.2.3.-4|1.2.3.4 |1..2.3|a.b.c.d|1.2.3.0x4|1.2.3.0004".split("|"):
        same((text, parse_address(text)), (text, None))


def _expect_drop(reason, **how):
    # Lets an answer arrive, and asserts that it was dropped for `reason` and that the next good one is taken.
    board = Board()
    query = board.query()
    board.answer(query, **how)
    only_drop(board.resolver, reason)
    assert not query.done
    board.answer(query)
    same(query.addresses, [ADDRESS])


@on_device
def test_drop_server():
    _expect_drop("server", source=OTHER)


@on_device
def test_drop_port():
    _expect_drop("port", port=5353)


@on_device
def test_drop_short():
    _expect_drop("short", change=lambda message: message[:11])
    _expect_drop("short", change=lambda message: b"")


@on_device
def test_drop_id():
    _expect_drop("id", id=b"\x00\x00")


@on_device
def test_drop_header_that_is_a_query_or_another_operation():
    _expect_drop("header", flags=b"\x01\x80")
    _expect_drop("header", flags=b"\x89\x80")
    _expect_drop("header", flags=b"\xa1\x80")


@on_device
def test_drop_question_that_is_not_ours():
    _expect_drop("question", question=QUESTION.replace(b"m", b"n"))
    # Type AAAA, class CH, none, two, cut off.
    _expect_drop("question", question=QUESTION[:-3] + b"\x1c\x00\x01")
    _expect_drop("question", question=QUESTION[:-1] + b"\x03")
    _expect_drop("question", change=lambda message: message[:4] + b"\0\0" + message[6:])
    _expect_drop("question", change=lambda message: message[:4] + b"\0\x02" + message[6:])
    _expect_drop("question", change=lambda message: message[: 12 + len(QUESTION) - 1])
    # A name that looks like ours when a length byte is taken for a letter.
    _expect_drop("question", question=b"\x0bexample\x03com\x00\x00\x01\x00\x01")


@on_device
def test_drop_format_of_a_name():
    for owner in (
        b"\xc0",
        b"\xc0\x1d",  # to itself
        b"\xc0\x1e",  # forward, into itself
        b"\xc0\xff",  # forward, beyond the end
        b"\xff\xff",
        b"\xc0\x00",  # into the header
        b"\xc0\x0b",
        b"\x40\x0c",  # reserved kinds of label
        b"\x80\x0c",
        b"\x03www\xc0\x1d",  # back to its own start: a loop
        b"\x3f",
        b"\x03www",
    ):
        _expect_drop("format", records=owner + A_RECORD[2:])
    # Two names that point at each other: the second pointer would have to go forward.
    _expect_drop("format", records=record(b"\xc0\x0c", 5, b"\xc0\x37") + record(b"\xc0\x29", 1, ADDRESS), count=2)
    # 4 labels of 63 are more than a name can have.
    _expect_drop("format", records=(b"\x3f" + b"a" * 63) * 4 + b"\x00" + A_RECORD[2:])


@on_device
def test_a_name_of_many_pointers_is_bounded():
    # Each of these names is the one before with one more letter, by a pointer; 32 of them are looked at.
    records = b""
    at = 12 + len(QUESTION)
    previous = 12
    for i in range(60):
        owner = b"\x01a" + bytes((0xC0 | previous >> 8, previous & 255))
        records += record(owner, 1, ADDRESS)
        previous = at
        at += len(owner) + 14
    board = Board()
    query = board.query()
    board.answer(query, records + A_RECORD, 61)
    assert "no IPv4 address" in failed(query)


@on_device
def test_drop_format_of_a_chain_of_pointers():
    # Pointers in the data of two TXT records, each to the one before, the first to the question's name.
    def chain(n):
        data = []
        at = 12 + len(QUESTION) + 12
        previous = 12
        for i in range(n):
            data.append(bytes((0xC0 | previous >> 8, previous & 255)))
            previous = at
            at += 2 if i != 99 else 2 + 12
        texts = [record(b"\xc0\x0c", 16, b"".join(data[:100])), record(b"\xc0\x0c", 16, b"".join(data[100:]))]
        return b"".join(texts) + record(bytes((0xC0 | previous >> 8, previous & 255)), 1, ADDRESS)

    _expect_drop("format", records=chain(150), count=3)
    board = Board()
    query = board.query()
    board.answer(query, chain(120), 3)
    same(query.addresses, [ADDRESS])


@on_device
def test_drop_format_of_a_record():
    _expect_drop("format", count=2)
    for n in range(1, len(A_RECORD)):
        _expect_drop("format", records=A_RECORD[:n])
    # Lengths that are wrong for the type, or that lead out of the message.
    _expect_drop("format", records=record(b"\xc0\x0c", 1, ADDRESS[:3]))
    _expect_drop("format", records=record(b"\xc0\x0c", 1, ADDRESS + b"\0"))
    _expect_drop("format", records=record(b"\xc0\x0c", 5, b"\xc0\x0c\0"))
    _expect_drop("format", records=record(b"\xc0\x0c", 5, b""))
    _expect_drop("format", records=A_RECORD[:10] + b"\xff\xff" + ADDRESS)


@on_device
def test_records_of_other_types_classes_and_owners_are_passed_over():
    board = Board()
    query = board.query()
    other_class = b"\xc0\x0c\x00\x01\x00\x03" + A_RECORD[6:-1] + b"\x01"
    other_type = record(b"\xc0\x0c", 16, b"\x03txt")
    other_owner = record(name("evil.example"), 1, OTHER)
    board.answer(query, other_type + other_class + other_owner + record(b"\0", 2, b"\0") + A_RECORD, 5)
    same(query.addresses, [ADDRESS])


@on_device
def test_idle_polls_allocate_nothing():
    board = Board()
    query = board.query()
    board.answer(query)
    resolver = board.resolver
    waiting = resolver.query("other.example", 0)
    micropython.heap_lock()
    try:
        for now in range(50):
            resolver.poll(now)
    finally:
        micropython.heap_unlock()
    resolver.cancel(waiting)
    micropython.heap_lock()
    try:
        # An entry of the cache that expires does not allocate either.
        resolver.poll(301000)
    finally:
        micropython.heap_unlock()
    same(resolver._cache, {})


@on_device
def test_fuzz_nothing_raised_nothing_leaked():
    board = Board((PEER, SECOND))
    random = Random(1035)
    tail = b"\x00\x01\x00\x02\x00\x00\x00\x00" + QUESTION
    packets = (
        FLAGS + tail + A_RECORD + A_RECORD,
        FLAGS + tail + record(b"\xc0\x0c", 5, b"\x03www\xc0\x0c") + record(b"\x03www\xc0\x0c", 1, ADDRESS),
        FLAGS + tail + record(b"\xc0\x0c", 5, name("elsewhere.example")) + record(name("x.example"), 1, ADDRESS),
    )
    frame = bytearray(400)
    view = memoryview(frame)
    used = 0
    done = 0
    query = board.query()
    for i in range(6000):
        if query.done:
            done += 1
            board.resolver.flush()
            query = board.query()
        good = packets[random.below(3)]
        if random.below(3):
            # The answers are where the traps are.
            data = bytearray(query._id + good[:10] + query._question + good[10 + len(QUESTION) :])
            start = 12 + len(query._question)
            for _ in range(1 + random.below(3)):
                data[start + random.below(len(data) - start)] = (0, 255, 0xC0, 12, random.below(256))[random.below(5)]
        else:
            data = mutate(query._id + good, random)
        frame[42 : 42 + len(data)] = data
        query.receive(view, 42, 42 + len(data), (PEER, SECOND)[random.below(2)], 53, OURS, board.now)
        if random.below(20) == 0:
            board.now += 1000
            board.resolver.poll(board.now)
        assert len(board.udp.ports) == len(board.resolver._queries) <= 1
        board.sent()
        if i == 2000:
            gc.collect()
            used = gc.mem_alloc()
    gc.collect()
    assert gc.mem_alloc() <= used + 1000, "{} bytes leaked".format(gc.mem_alloc() - used)
    assert done > 100
    for reason in ("server", "id", "header", "question", "format", "short"):
        assert board.resolver.drops[reason], "never seen: " + reason
    board.resolver.cancel(query)
    board.resolver.flush()
    query = board.query()
    board.answer(query)
    same(query.addresses, [ADDRESS])

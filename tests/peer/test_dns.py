"""The resolver against dnsmasq, and against DNS servers that misbehave (written here)."""

import random
import socket
import struct
import subprocess
import threading
import time

import pytest
from linux import LINUX, run, until, value

from host_tools.setup_system import program

DEAD = "10.77.0.9"  # nobody is there
# For the board.
LOOK_UP = """
def servers(*addresses):
    lan.stack.resolver.flush()
    lan.stack.resolver.servers = [socket.inet_pton(socket.AF_INET, a) for a in addresses]
def look_up(name):
    global ms
    start = time.ticks_ms()
    try:
        result = socket.getaddrinfo(name, 80)[0][-1][0]
    except OSError as e:
        result = e.errno
    ms = time.ticks_diff(time.ticks_ms(), start)
    return result
"""


@pytest.fixture(scope="module", autouse=True)
def helpers(board):
    run(board, LOOK_UP)


@pytest.fixture(autouse=True)
def fresh(board, helpers):
    """An empty cache, and the Linux side as the only server."""
    run(board, f"servers('{LINUX}')")


def look_up(board, name):
    """Returns what the board's look-up gives: an address, or the errno of the OSError."""
    return value(board, f"look_up({name!r})", 40)


@pytest.fixture(scope="module")
def dnsmasq(board, linux, tmp_path_factory):
    log = tmp_path_factory.mktemp("dnsmasq") / "log"
    chain = [f"--cname=a{i}.test,a{i + 1}.test" for i in range(6)]
    long = [f"--cname=l{i}.test,l{i + 1}.test" for i in range(20)]
    process = board.popen(
        [program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--interface=tap0",
         "--bind-interfaces", f"--listen-address={LINUX}", "--pid-file=", "--user=", "--group=", "--log-queries", f"--log-facility={log}",
         "--host-record=www.test,192.0.2.1", "--host-record=two.test,192.0.2.2", "--host-record=a6.test,192.0.2.6",
         "--host-record=l20.test,192.0.2.20", "--host-record=six.test,2001:db8::1", "--cname=alias.test,www.test", *chain, *long,
         "--local=/test/", "--local-ttl=300", f"--host-record={'x' * 63}.{'y' * 63}.{'z' * 63}.test,192.0.2.3"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: log.exists() and "started" in log.read_text(), "dnsmasq")
    yield log
    process.kill()
    process.wait()


# dnsmasq


@pytest.mark.parametrize(
    "name, address",
    [("www.test", "192.0.2.1"), ("WWW.Test.", "192.0.2.1"), ("alias.test", "192.0.2.1"), ("a0.test", "192.0.2.6")],
)
def test_names_and_aliases(board, dnsmasq, name, address):
    assert look_up(board, name) == address


def test_the_longest_labels(board, dnsmasq):
    assert look_up(board, f"{'x' * 63}.{'y' * 63}.{'z' * 63}.test") == "192.0.2.3"
    assert look_up(board, f"{'x' * 64}.test") == -202


def test_a_name_that_does_not_exist(board, dnsmasq):
    assert look_up(board, "missing.test") == -202
    assert value(board, "ms < 1000")


def test_a_name_without_an_ipv4_address(board, dnsmasq):
    assert look_up(board, "six.test") == -202


def test_too_long_a_chain_of_aliases_ends(board, dnsmasq):
    assert look_up(board, "l0.test") == -202
    assert value(board, "ms < 2000")


def test_the_cache_answers_the_second_time(board, dnsmasq):
    assert look_up(board, "two.test") == "192.0.2.2"
    asked = dnsmasq.read_text().count("query[A] two.test")
    assert look_up(board, "two.test") == "192.0.2.2"
    assert dnsmasq.read_text().count("query[A] two.test") == asked


def test_the_second_server_is_asked_when_the_first_is_dead(board, dnsmasq):
    run(board, f"servers('{DEAD}', '{LINUX}')")
    assert look_up(board, "www.test") == "192.0.2.1"
    assert value(board, "ms < 4000")


def test_the_second_server_is_asked_at_once_when_the_first_refuses(board, linux, dnsmasq):
    linux.ip("address", "add", "10.77.0.8/32", "dev", "tap0")  # nobody listens on its port 53
    try:
        run(board, f"servers('10.77.0.8', '{LINUX}')")
        assert look_up(board, "www.test") == "192.0.2.1"
        assert value(board, "ms < 900")
    finally:
        linux.ip("address", "del", "10.77.0.8/32", "dev", "tap0")


def test_dead_servers_end_in_an_error_in_bounded_time(board):
    run(board, f"servers('{DEAD}')")
    assert look_up(board, "www.test") == -202
    assert value(board, "ms < 12000")


# Servers of our own


class Server:
    """A DNS server at port 53 of another address of the Linux side; answer(question) returns the messages that it sends."""

    ADDRESS = "10.77.0.4"

    def __init__(self, linux, answer):
        self._linux = linux
        self.answer = answer
        self.asked = 0
        self.peer = None

    def __enter__(self):
        self._linux.ip("address", "add", f"{self.ADDRESS}/32", "dev", "tap0")
        self._socket = self._linux.socket(socket.SOCK_DGRAM, bind=(self.ADDRESS, 53))
        self._socket.settimeout(0.1)
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._stop = True
        self._thread.join(5)
        self._socket.close()
        self._linux.ip("address", "del", f"{self.ADDRESS}/32", "dev", "tap0")

    def _run(self):
        while not self._stop:
            try:
                question, self.peer = self._socket.recvfrom(600)
            except TimeoutError:
                continue
            self.asked += 1
            for message in self.answer(question):
                self._socket.sendto(message, self.peer)


def answer(question, records=(), flags=0x8180, count=None, number=None):
    """An answer: the question and records, each of which is (owner, type, data), owner and data in wire form."""
    body = b"".join(owner + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for owner, kind, data in records)
    header = (number or question[:2]) + struct.pack(">HHHHH", flags, 1, len(records) if count is None else count, 0, 0)
    return header + question[12:] + body


OWNER = b"\xc0\x0c"  # points to the question
ADDRESS = (OWNER, 1, bytes((192, 0, 2, 7)))


def good(question):
    return answer(question, [ADDRESS])


BAD = {
    "of another id": lambda q: answer(q, [ADDRESS], number=bytes((q[0] ^ 1, q[1]))),
    "that is a question": lambda q: answer(q, [ADDRESS], flags=0x0100),
    "to another question": lambda q: answer(q[:13] + b"X" + q[14:], [ADDRESS]),
    "cut in the header": lambda q: good(q)[:11],
    "cut in the question": lambda q: good(q)[:20],
    "cut in the record": lambda q: good(q)[:-1],
    "with a name that points at itself": lambda q: answer(q, [(struct.pack(">H", 0xC000 | len(q)), 1, ADDRESS[2])]),
    "with a name that points forward": lambda q: answer(q, [(struct.pack(">H", 0xC000 | len(q) + 4), 1, ADDRESS[2])]),
    "with a name of two pointers in a circle": lambda q: answer(
        q, [(struct.pack(">HH", 0xC000 | len(q) + 2, 0xC000 | len(q)), 1, ADDRESS[2])]
    ),
    "with a pointer beyond the end": lambda q: answer(q, [(b"\xff\xff", 1, ADDRESS[2])]),
    "with a reserved kind of label": lambda q: answer(q, [(b"\x80\x0c", 1, ADDRESS[2])]),
    "with an address of 3 bytes": lambda q: answer(q, [(OWNER, 1, b"\xc0\0\x02")]),
    "with a length beyond the end": lambda q: good(q)[:-6] + b"\xff\xff" + good(q)[-4:],
    "that promises more records than it has": lambda q: answer(q, [], count=65535),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_answer_is_counted_and_the_good_one_behind_it_is_taken(board, linux, what):
    before = value(board, "sum(lan.stack.resolver.drops.values())")
    with Server(linux, lambda q: [BAD[what](q), good(q)]) as server:
        run(board, f"servers('{server.ADDRESS}')")
        assert look_up(board, "name.test") == "192.0.2.7"
        assert server.asked == 1
    assert value(board, "sum(lan.stack.resolver.drops.values())") == before + 1


def test_a_cut_off_answer_is_an_error_at_once(board, linux):
    with Server(linux, lambda q: [answer(q, flags=0x8380)]) as server:
        run(board, f"servers('{server.ADDRESS}')")
        assert look_up(board, "name.test") == -202
        assert value(board, "ms < 1000")


def test_an_alias_of_itself_ends(board, linux):
    with Server(linux, lambda q: [answer(q, [(OWNER, 5, OWNER)])]) as server:
        run(board, f"servers('{server.ADDRESS}')")
        assert look_up(board, "name.test") == -202
        assert server.asked < 20


def test_aliases_in_a_circle_over_many_answers_end(board, linux):
    def circle(question):
        other = b"\x01b\0" if question[12:15] == b"\x01a\0" else b"\x01a\0"
        return [answer(question, [(OWNER, 5, other)])]

    with Server(linux, circle) as server:
        run(board, f"servers('{server.ADDRESS}')")
        assert look_up(board, "a") == -202
        assert server.asked < 20


def test_a_server_that_fails_is_followed_by_the_next(board, linux, dnsmasq):
    with Server(linux, lambda q: [answer(q, flags=0x8182)]) as server:
        run(board, f"servers('{server.ADDRESS}', '{LINUX}')")
        assert look_up(board, "www.test") == "192.0.2.1"
        assert value(board, "ms < 900")


def test_an_answer_from_somebody_who_was_not_asked_is_ignored(board, linux):
    before = value(board, "lan.stack.resolver.drops['server']")
    with linux.udp(5354) as stranger, Server(linux, None) as server:

        def first_the_stranger(question):
            stranger.sendto(answer(question, [(OWNER, 1, bytes((6, 6, 6, 6)))]), server.peer)
            return [good(question)]

        server.answer = first_the_stranger
        run(board, f"servers('{server.ADDRESS}')")
        assert look_up(board, "name.test") == "192.0.2.7"
    assert value(board, "lan.stack.resolver.drops['server']") == before + 1


def test_garbage_does_no_harm_and_the_good_answer_is_taken(board, linux):
    seeded = random.Random(3)

    def garbage(question):
        for _ in range(30):
            time.sleep(0.006)  # a board has eight receive buffers, and 10 ms may pass until it looks
            yield seeded.randbytes(seeded.randrange(0, 400))
            yield question[:2] + seeded.randbytes(seeded.randrange(0, 400))
        yield good(question)

    with Server(linux, garbage) as server:
        run(board, f"servers('{server.ADDRESS}')")
        assert look_up(board, "name.test") == "192.0.2.7"
    assert value(board, "lan.stack.errors") == 0


def test_eight_names_after_each_other_and_more_than_the_cache_holds(board, linux):
    with Server(linux, lambda q: [good(q)]) as server:
        run(board, f"servers('{server.ADDRESS}')")
        for i in range(12):
            assert look_up(board, f"name{i}.test") == "192.0.2.7"
        assert value(board, "len(lan.stack.resolver._cache)") == 8

"""The DHCP client against dnsmasq, and against servers that misbehave (written here)."""

import contextlib
import socket
import struct
import subprocess
import time

import pytest
from linux import BOARD_MAC, LINUX, advance, run, until, value

from host_tools.setup_system import program
from host_tools.virtual_board import VirtualBoard

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
MAC = bytes.fromhex(BOARD_MAC.replace(":", ""))
MASK, ROUTER, DNS, NAME, REQUESTED, LEASE, TYPE, SERVER, T1, T2, CLIENT, END = 1, 3, 6, 12, 50, 51, 53, 54, 58, 59, 61, 255


@pytest.fixture(scope="module")
def board():
    with VirtualBoard(network="dhcp", main=False) as board:
        board.exec("import barenet; lan = barenet.LAN()")
        yield board
        assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)


@pytest.fixture
def down(board):
    """The board with its LAN down, before and after the test."""
    run(board, "lan.active(False)")
    yield board
    run(board, "lan.active(False)")


def packed(text):
    return socket.inet_aton(text)


class Message:
    """A DHCP message that the board sent."""

    def __init__(self, data, source):
        self.xid = data[4:8]
        self.secs = int.from_bytes(data[8:10], "big")
        self.ciaddr = socket.inet_ntoa(data[12:16])
        self.chaddr = data[28:34]
        self.source = source
        self.options = {}
        at = 240
        while data[at] != END:
            if data[at] == 0:
                at += 1
                continue
            self.options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
            at += 2 + data[at + 1]
        self.type = self.options[TYPE][0]


class Server:
    """A DHCP server that does what the test says, at an address of the Linux side."""

    def __init__(self, linux, address=LINUX):
        options = [
            (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
            (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
            (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0\0"),
        ]
        self.socket = linux.socket(socket.SOCK_DGRAM, bind=("0.0.0.0", 67), options=options)
        self.address = address

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.socket.close()

    def receive(self, *types, timeout=5):
        """Returns the next message of one of these types (default: any)."""
        deadline = time.monotonic() + timeout
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            data, source = self.socket.recvfrom(2000)
            message = Message(data, source[0])
            assert message.chaddr == MAC
            if not types or message.type in types:
                return message

    def forget(self):
        """Drops what has arrived so far."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(2000)

    def options(self, kind, lease=3600, **more):
        options = {TYPE: bytes([kind]), SERVER: packed(self.address), MASK: packed("255.255.255.0"), ROUTER: packed(LINUX)}
        options |= {DNS: packed(LINUX), LEASE: struct.pack(">I", lease)}
        return options

    def reply(self, message, options, yiaddr="10.77.0.60", xid=None, op=2, chaddr=MAC, cookie=b"\x63\x82\x53\x63", raw=None):
        """Broadcasts an answer. options: {code: bytes}, or None for an entry that is left out; raw: the options field instead."""
        header = struct.pack(">BBBB4sHH", op, 1, 6, 0, xid or message.xid, 0, 0x8000)
        header += bytes(4) + packed(yiaddr) + bytes(8) + chaddr + bytes(10 + 64 + 128)
        if raw is None:
            raw = b"".join(bytes((code, len(v))) + v for code, v in options.items() if v is not None) + b"\xff"
        self.socket.sendto(header + cookie + raw, ("255.255.255.255", 68))
        time.sleep(0.003)  # a board has eight receive buffers, and 10 ms may pass until it looks

    def lease(self, board, yiaddr="10.77.0.60", seconds=3600, **changes):
        """Gives the board a lease; returns the REQUEST."""
        self.reply(self.receive(DISCOVER), self.options(OFFER, seconds), yiaddr)
        request = self.receive(REQUEST)
        options = self.options(ACK, seconds) | {T1: changes.get("t1"), T2: changes.get("t2")}
        self.reply(request, options, yiaddr)
        until(lambda: value(board, "lan.ifconfig()[0]") == yiaddr, f"the address {yiaddr}")
        return request


@pytest.fixture
def server(linux):
    with Server(linux) as server:
        yield server


def state(board):
    return value(board, "lan.stack.dhcp.state")


# dnsmasq


@pytest.fixture
def dnsmasq(down, linux, tmp_path):
    """dnsmasq as DHCP server; gives the path of its log."""
    log = tmp_path / "log"
    leases = tmp_path / "leases"
    process = down.popen(
        [program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=tap0", "--bind-interfaces",
         "--dhcp-range=10.77.0.50,10.77.0.59,255.255.255.0,120", f"--dhcp-leasefile={leases}", "--dhcp-authoritative", "--pid-file=",
         "--user=", "--group=", "--no-ping", "--log-dhcp", f"--log-facility={log}", f"--dhcp-option=option:router,{LINUX}",
         f"--dhcp-option=option:dns-server,{LINUX},10.77.0.7"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: log.exists() and "DHCP, IP range" in log.read_text(), "dnsmasq")
    yield log, leases
    process.kill()
    process.wait()


def test_a_lease_from_dnsmasq(board, dnsmasq):
    log, leases = dnsmasq
    assert value(board, "lan.active(True)") is True
    assert value(board, "lan.wait(10)") is True
    address, mask, gateway, dns = value(board, "lan.ifconfig()")
    assert address.startswith("10.77.0.5") and (mask, gateway, dns) == ("255.255.255.0", LINUX, LINUX)
    assert value(board, "lan.ipconfig('dns')") == [LINUX, "10.77.0.7"]
    assert value(board, "(lan.ipconfig('dhcp4'), lan.ipconfig('has_dhcp4'), lan.status())") == (True, True, 5)
    assert BOARD_MAC in leases.read_text() and address in leases.read_text()
    assert "client provides name: barenet" in log.read_text()
    assert board.run(["ping", "-n", "-c", "1", "-W", "2", address], capture_output=True, timeout=10).returncode == 0


def test_the_lease_is_renewed_at_half_of_its_time(board, dnsmasq):
    log, _ = dnsmasq
    run(board, "lan.active(True); lan.wait(10)")
    before = log.read_text().count("DHCPACK")
    granted = value(board, "lan.stack.dhcp._granted")
    advance(board, 61_000)
    until(lambda: log.read_text().count("DHCPACK") > before, "renewed")
    until(lambda: value(board, "lan.stack.dhcp._granted") >= granted + 60, "the new lease")
    assert state(board) == "BOUND"


def test_the_lease_is_given_back_when_the_board_goes_down(board, dnsmasq):
    log, leases = dnsmasq
    run(board, "lan.active(True); lan.wait(10)")
    assert BOARD_MAC in leases.read_text()
    run(board, "lan.active(False)")
    until(lambda: "DHCPRELEASE" in log.read_text(), "DHCPRELEASE")
    until(lambda: BOARD_MAC not in leases.read_text(), "the lease to be free")
    assert value(board, "lan.ifconfig()[0]") == "0.0.0.0"


def test_the_same_address_comes_back_after_a_soft_reset(board, dnsmasq):
    run(board, "lan.active(True); lan.wait(10)")
    address = value(board, "lan.ifconfig()[0]")
    with board.program("import barenet; lan = barenet.up(); print(lan.ifconfig()[0])") as program:
        assert program.output(20) == address + "\n"
    assert value(board, "lan.ifconfig()[0]") == "0.0.0.0"  # restarted, and not up yet


def test_the_host_name_that_was_set_is_sent(board, dnsmasq):
    log, _ = dnsmasq
    run(board, "lan.config(hostname='kitchen'); lan.active(True); lan.wait(10); lan.active(False); lan.config(hostname='barenet')")
    assert "client provides name: kitchen" in log.read_text()


# Servers of our own


def test_the_first_of_two_offers_is_taken_and_the_request_names_its_server(down, linux, server):
    run(down, "lan.active(True)")
    discover = server.receive(DISCOVER)
    assert discover.options[CLIENT] == b"\x01" + MAC and discover.options[NAME] == b"barenet"
    server.reply(discover, server.options(OFFER), "10.77.0.61")
    other = server.options(OFFER) | {SERVER: packed("10.77.0.3")}
    server.reply(discover, other, "10.77.0.62")
    request = server.receive(REQUEST)
    assert request.options[REQUESTED] == packed("10.77.0.61") and request.options[SERVER] == packed(LINUX)
    assert request.xid == discover.xid
    # The other server's ACK is not for us.
    server.reply(request, server.options(ACK) | {SERVER: packed("10.77.0.3")}, "10.77.0.62")
    server.reply(request, server.options(ACK), "10.77.0.61")
    until(lambda: value(down, "lan.ifconfig()[0]") == "10.77.0.61", "the address of the first")


def test_renewal_rebinding_and_the_end_of_a_lease_that_nobody_renews(down, server):
    run(down, "lan.active(True)")
    server.lease(down, "10.77.0.63", 8, t1=struct.pack(">I", 1), t2=struct.pack(">I", 3))
    renewing = server.receive(REQUEST)
    assert renewing.source == renewing.ciaddr == "10.77.0.63"  # to this server alone, from the address
    assert SERVER not in renewing.options and REQUESTED not in renewing.options
    assert state(down) == "RENEWING"
    rebinding = server.receive(REQUEST)
    assert rebinding.ciaddr == "10.77.0.63" and state(down) == "REBINDING"
    assert value(down, "lan.ifconfig()[0]") == "10.77.0.63"
    server.receive(DISCOVER, timeout=8)
    assert value(down, "lan.ifconfig()[0]") == "0.0.0.0"
    assert value(down, "lan.isconnected()") is False


def test_a_renewed_lease_begins_anew(down, server):
    run(down, "lan.active(True)")
    server.lease(down, "10.77.0.64", 6, t1=struct.pack(">I", 1), t2=struct.pack(">I", 3))
    for _ in range(2):
        request = server.receive(REQUEST)
        server.reply(request, server.options(ACK, 6) | {T1: struct.pack(">I", 1), T2: struct.pack(">I", 3)}, "10.77.0.64")
        until(lambda: state(down) == "BOUND", "BOUND")
        assert value(down, "lan.ifconfig()[0]") == "10.77.0.64"


def test_a_nak_takes_the_address_away_and_the_search_begins_again(down, server):
    run(down, "lan.active(True)")
    server.lease(down, "10.77.0.65", 60, t1=struct.pack(">I", 1), t2=struct.pack(">I", 30))
    request = server.receive(REQUEST)
    server.reply(request, {TYPE: bytes([NAK]), SERVER: packed(LINUX)}, "0.0.0.0")
    server.lease(down, "10.77.0.66")


def test_a_silent_network_is_asked_again_and_again(down, server):
    run(down, "lan.active(True)")
    first = server.receive(DISCOVER)
    second = server.receive(DISCOVER, timeout=3)
    assert second.xid == first.xid
    assert value(down, "lan.wait(0.2)") is False


def test_bad_offers_are_counted_and_the_next_good_one_is_taken(down, server):
    before = value(down, "dict(lan.status('counters')['dhcp'])")
    run(down, "lan.active(True)")
    discover = server.receive(DISCOVER)
    good = server.options(OFFER)
    with_type = bytes((TYPE, 1, OFFER))
    server.reply(discover, good, xid=b"none")
    server.reply(discover, good, op=1)
    server.reply(discover, good, chaddr=b"\x02\0\0\0\0\x09")
    server.reply(discover, good, cookie=b"none")
    server.reply(discover, None, raw=with_type + bytes((SERVER, 200, 1)))  # a length beyond the end
    server.reply(discover, None, raw=with_type + bytes((SERVER,)))  # no length
    server.reply(discover, good | {TYPE: None})
    server.reply(discover, good | {TYPE: b"\x63"})
    server.reply(discover, good | {SERVER: None})
    server.reply(discover, good | {SERVER: packed("255.255.255.255")})
    server.reply(discover, good | {LEASE: None})
    server.reply(discover, good | {LEASE: bytes(4)})
    server.reply(discover, good, "0.0.0.0")
    server.reply(discover, good, "224.0.0.1")
    server.reply(discover, good, "10.77.0.255")
    server.reply(discover, good | {TYPE: bytes([ACK])})
    server.socket.sendto(b"\x02\x01\x06\0", ("255.255.255.255", 68))
    until(lambda: value(down, "lan.stack.dhcp.drops['short']") > before["short"], "the last one")
    after = value(down, "lan.stack.dhcp.drops")
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "xid": 1,
        "op": 1,
        "hardware address": 1,
        "cookie": 1,
        "options": 2,
        "type": 2,
        "server": 2,
        "lease time": 2,
        "address": 3,
        "unexpected": 1,
        "short": 1,
    }
    assert state(down) == "SELECTING"
    server.lease(down, "10.77.0.67")


def test_silly_options_are_put_right(down, server):
    """A netmask with holes, a router that is not a neighbour, T1 behind T2, options in pieces and unknown ones."""
    run(down, "lan.active(True)")
    discover = server.receive(DISCOVER)
    silly = {MASK: packed("255.0.255.0"), ROUTER: packed("192.0.2.1"), T1: struct.pack(">I", 50), T2: struct.pack(">I", 20)}
    silly |= {DNS: packed(LINUX)[:3], 43: bytes(200), 82: b"", 252: b"http://wpad/"}
    server.reply(discover, server.options(OFFER, 100) | silly, "10.77.0.68")
    server.reply(server.receive(REQUEST), server.options(ACK, 100) | silly, "10.77.0.68")
    until(lambda: value(down, "lan.ifconfig()[0]") == "10.77.0.68", "the address")
    assert value(down, "lan.ifconfig()") == ("10.77.0.68", "255.0.0.0", "0.0.0.0", "0.0.0.0")
    assert value(down, "(45 < lan.stack.dhcp.lease.t1 <= 50, lan.stack.dhcp.lease.t2)") == (True, 88)


def test_random_answers_do_no_harm(down, server):
    import random

    seeded = random.Random(5)
    run(down, "lan.active(True)")
    discover = server.receive(DISCOVER)
    for _ in range(300):
        raw = seeded.randbytes(seeded.randrange(0, 300))
        server.reply(discover, None, seeded.choice(("10.77.0.69", "0.0.0.0")), raw=raw)
    assert value(down, "lan.stack.errors") == 0
    run(down, "lan.active(False)")
    server.forget()
    run(down, "lan.active(True)")
    server.lease(down, "10.77.0.70")


def test_a_fixed_address_stops_the_client(down, server):
    run(down, "lan.active(True)")
    server.lease(down, "10.77.0.71")
    run(down, "lan.ifconfig(('10.77.0.2', '255.255.255.0', '10.77.0.1', '10.77.0.1'))")
    try:
        released = server.receive(RELEASE)
        assert released.ciaddr == "10.77.0.71"
        assert value(down, "(lan.ipconfig('dhcp4'), lan.stack.dhcp.state)") == (False, "STOPPED")
        assert down.run(["ping", "-n", "-c", "1", "-W", "2", "10.77.0.2"], capture_output=True, timeout=10).returncode == 0
    finally:
        run(down, "lan.ifconfig('dhcp')")

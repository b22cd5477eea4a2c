"""The Linux side of a virtual board's cable, used from the test's own process.

A socket belongs to the network namespace in which it was made, wherever it is used. So a small process inside the namespace makes the
sockets and hands their descriptors over; the test then uses them as its own, without a program and a thread for each of them.
"""

import array
import concurrent.futures
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress

from mpremote.transport import TransportError

from host_tools import ROOT

LINUX, BOARD = "10.77.0.1", "10.77.0.2"
BOARD_MAC = "02:ba:4e:00:00:02"
TIMEOUT = 10  # s, of every socket
SO_RCVBUFFORCE = 33
BURST = 6  # frames that may come at once: the EMAC has 8 receive descriptors, and Linux may have something to say, too
FRAMES_IN = "lan.status('counters')['frames']['in']"

_AGENT = """
import array, json, socket, sys
from host_tools.virtual_board import network
import ipaddress
orders = socket.socket(fileno=int(sys.argv[1]))
while order := orders.recv(1 << 16):
    order = json.loads(order)
    answer, fds = {}, []
    try:
        if "write" in order:
            with open(order["write"], "w") as file:
                file.write(order["text"])
        elif "link" in order:
            fd, answer["kind"] = network.open_link(order["link"], ipaddress.IPv4Interface(order["address"]))
            fds.append(fd)
        else:
            s = socket.socket(*order["socket"])
            fds.append(s.detach())
            s = socket.socket(fileno=fds[0])
            if order["socket"][1] == socket.SOCK_STREAM:
                # The peer is the usual Linux, whatever congestion control this machine prefers.
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            for level, option, value in order["options"]:
                s.setsockopt(level, option, bytes.fromhex(value) if isinstance(value, str) else value)
            if order["bind"]:
                s.bind(tuple(order["bind"]))
            s.detach()
    except OSError as e:
        answer["error"] = [e.errno, str(e)]
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    orders.sendmsg([json.dumps(answer).encode()], ancillary)
    for fd in fds:
        socket.close(fd)
"""

_executor = concurrent.futures.ThreadPoolExecutor(8)


class Namespace:
    """A network namespace without a board, in which programs start as they do in a board's; each program has one of its own."""

    def popen(self, argv, **options):
        """Starts a program of this PC, as subprocess.Popen does."""
        enter = "import os, sys; from host_tools.virtual_board import network; network.enter_namespace(); os.execvp(sys.argv[1], sys.argv[1:])"
        return subprocess.Popen([sys.executable, "-c", enter, *argv], env=dict(os.environ, PYTHONPATH=str(ROOT)), **options)


class Linux:
    """What tests need of the Linux side of `board`, or of a Namespace; ends with the `with` block."""

    def __init__(self, board):
        self.board = board
        self._lock = threading.Lock()

    def __enter__(self):
        self._orders, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(TIMEOUT)
        with orders:
            command = [sys.executable, "-c", _AGENT, str(orders.fileno())]
            self._agent = self.board.popen(command, pass_fds=[orders.fileno()])
        # For programs; the kernel lets a namespace choose no other that everybody has.
        self.sysctl("net.ipv4.tcp_congestion_control", "reno")
        return self

    def __exit__(self, *_exception):
        self._orders.close()
        self._agent.wait(TIMEOUT)

    def _order(self, **order):
        with self._lock:
            self._orders.send(json.dumps(order).encode())
            answer, fds, _, _ = socket.recv_fds(self._orders, 1 << 16, 1)
        answer = json.loads(answer)
        if "error" in answer:
            raise OSError(*answer["error"])
        return answer, fds

    def sysctl(self, name, value):
        """Sets a variable of the namespace."""
        self._order(write="/proc/sys/" + name.replace(".", "/"), text=str(value))

    def link(self, name, address):
        """Makes a further network interface with that address and prefix; returns the descriptor of its other end (see network.open_link)."""
        _, fds = self._order(link=name, address=address)
        return fds[0]

    def socket(self, kind=socket.SOCK_STREAM, bind=None, options=(), family=socket.AF_INET, protocol=0):
        """Returns a socket of the namespace. options: (level, option, int or bytes)."""
        options = [(a, b, v.hex() if isinstance(v, bytes) else v) for a, b, v in options]
        _, fds = self._order(socket=[family, kind, protocol], options=options, bind=bind)
        s = socket.socket(fileno=fds[0])
        s.settimeout(TIMEOUT)
        return s

    def listen(self, port, backlog=50):
        """Returns a listening TCP socket."""
        s = self.socket(bind=(LINUX, port), options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)])
        s.listen(backlog)
        return s

    def connect(self, port, options=()):
        """Returns a TCP socket that is connected to the board."""
        s = self.socket(options=options)
        try:
            s.connect((BOARD, port))
        except OSError:
            s.close()
            raise
        return s

    def udp(self, port=0):
        """Returns a UDP socket."""
        return self.socket(socket.SOCK_DGRAM, bind=(LINUX, port))

    def packets(self, interface="tap0", ethertype=0x0003):
        """Returns a packet socket for whole Ethernet frames on an interface; default: all of them, in both directions."""
        room = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)]  # so that a busy test loses none of them
        s = self.socket(socket.SOCK_RAW, family=socket.AF_PACKET, protocol=socket.htons(ethertype), options=room)
        s.bind((interface, ethertype))
        return s

    def ip(self, *arguments):
        """Runs `ip` in the namespace and returns what it prints."""
        return self.board.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout

    def patient(self):
        """Lets Linux repeat nothing for lack of an answer: a busy machine may let the board wait, for some ms or for more than the usual 200.

        New connections have neither the tail loss probe nor a retransmission timer below 5 s.
        """
        self.sysctl("net.ipv4.tcp_early_retrans", 0)
        self.ip("route", "change", "10.77.0.0/24", "dev", "tap0", "src", LINUX, "rto_min", "5s")

    def capture(self):
        """Records what crosses the cable in a `with` block; gives a Capture."""
        return Capture(self.packets())


class Capture:
    """Records the frames on a packet socket.

    frames: list of (seconds, True when the board sent it, bytes), in order.
    """

    def __init__(self, packets):
        self.frames = []
        self._packets = packets
        with suppress(PermissionError):  # an ordinary user has what net.core.rmem_max allows
            packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        packets.settimeout(0.1)
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        time.sleep(0.05)
        self._stop = True
        self._thread.join(TIMEOUT)
        self._packets.setblocking(False)
        with suppress(BlockingIOError):  # what waits is part of it: a busy machine may have let the thread fall behind
            for _ in range(100_000):
                self._take()
        self._packets.close()

    def _run(self):
        while not self._stop:
            with suppress(TimeoutError):
                self._take()

    def _take(self):
        frame, address = self._packets.recvfrom(2000)
        self.frames.append((time.monotonic(), address[2] != socket.PACKET_OUTGOING, frame))

    def tcp(self, port=None):
        """Returns the TCP segments as Segment, of one port (on either side) if given."""
        segments = [Segment(*frame) for frame in self.frames if frame[2][12:14] == b"\x08\x00" and frame[2][23] == 6]
        return [s for s in segments if port is None or port in (s.source, s.destination)]


class Segment:
    """A TCP segment of a capture: time, from_board, source and destination port, seq, ack, flags, window, options, data."""

    def __init__(self, at, from_board, frame):
        self.time = at
        self.from_board = from_board
        length = int.from_bytes(frame[16:18], "big")
        start = 14 + (frame[14] & 15) * 4
        header = frame[start:]
        self.source, self.destination, self.seq, self.ack, offset, self.flags, self.window = struct.unpack_from(">HHIIBBH", header)
        self.options = header[20 : (offset >> 4) * 4]
        self.data = frame[start + (offset >> 4) * 4 : 14 + length]

    def __repr__(self):
        arrow = ">" if self.from_board else "<"
        names = "".join(name for bit, name in enumerate("FSRPAU") if self.flags >> bit & 1)
        return f"{arrow} {names} seq={self.seq} ack={self.ack} win={self.window} len={len(self.data)}"


def run(board, code, timeout=30):
    """Runs code on the board, with the usual modules imported, and returns the lines that it prints.

    When it fails, its connections are reset, so that the Linux side does not wait for them.
    """
    imports = "import barenet, errno, gc, select, struct, time\nfrom barenet import socket\nlan = barenet.LAN()\ngc.collect()\n"
    try:
        return board.exec(imports + textwrap.dedent(code), timeout).splitlines()
    except TransportError:
        board.exec("import barenet\nstack = barenet.LAN().stack\nstack.enter()\nstack.tcp.abort_all(stack.now())\nstack.leave()")
        raise


def value(board, expression, timeout=30):
    """Returns the value of an expression on the board."""
    return eval("\n".join(run(board, f"print(repr({expression}))", timeout)))


def advance(board, ms):
    """Lets the board believe that `ms` milliseconds have passed."""
    run(board, f"lan.stack.clock = (lambda clock: lambda: clock() + {ms} & 0x3FFFFFFF)(lan.stack.clock)")


@contextmanager
def running(board, code, timeout=30):
    """Runs code on the board beside the block; gives a Future of what `run` returns.

    When both fail, what is raised is the board's exception, which is likely the cause.
    """
    future = _executor.submit(run, board, code, timeout)
    try:
        yield future
    except Exception:
        concurrent.futures.wait([future], 2)
        if future.done() and future.exception():
            raise future.exception() from None
        raise
    future.result(timeout)


def until(condition, what, timeout=10):
    """Waits until condition() is true and returns its value; fails the test with `what` after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


def taken(board):
    """Waits until the board has taken all frames that were sent: no more come."""
    last = -1
    while (now := value(board, FRAMES_IN)) != last:
        last = now
        time.sleep(0.02)


def receive_exactly(s, n):
    """Returns n bytes from a socket, fewer at its end."""
    data = bytearray()
    while len(data) < n and (part := s.recv(n - len(data))):
        data += part
    return bytes(data)


def receive_all(s):
    """Returns everything up to the end of a connection."""
    data = bytearray()
    while part := s.recv(1 << 16):
        data += part
    return bytes(data)


def linger_zero(s):
    """Makes close() send RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def checksum(data):
    """The Internet checksum of data (RFC 1071)."""
    total = sum(array.array("H", bytes(data) + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "little")

"""What takes time: throughput as a ratio, latency under load, fairness, on a virtual board beside the Linux kernel.

A rate says nothing on a machine whose speed nobody knows, so each is divided by one that the same interpreter, or the
same kernel, reaches a moment before. Medians of a few short runs, interleaved.
"""

from __future__ import annotations

import re
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

PEER = Path(__file__).resolve().parent.parent / "peer"
if str(PEER) not in sys.path:
    sys.path.insert(0, str(PEER))

from linux import BOARD, LINUX, Linux, run, running  # noqa: E402

from host_tools.virtual_board import VirtualBoard  # noqa: E402

SECONDS = 2.0  # of each transfer
ROUNDS = 5
PINGS = 1500  # a second
_BUFFER = 16 * 1460
_BARE_MAC = bytes.fromhex("02ba4e000002")

_PREPARE = f"""
import gc, time
def receive(port, seconds):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {_BUFFER})
    s.connect(("{LINUX}", port))
    buffer = bytearray(4096)
    total = 0
    end = time.ticks_add(time.ticks_ms(), seconds)
    while time.ticks_diff(end, time.ticks_ms()) > 0:
        total += s.recv_into(buffer)
    s.close()
    print(total)
def send(port, seconds):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {_BUFFER})
    s.connect(("{LINUX}", port))
    block = bytes(4096)
    total = 0
    end = time.ticks_add(time.ticks_ms(), seconds)
    while time.ticks_diff(end, time.ticks_ms()) > 0:
        s.sendall(block)
        total += 4096
    s.close()
    print(total)
def bare_receive(frames):
    # Reads and drops frames, as fast as the interpreter can.
    from barenet.driver import tap
    lan.stack.enter()
    try:
        frame = lan.stack.pool.frames[0]
        fd = lan.driver._wait[0]
        n = 0
        start = 0
        read = tap._read
        while n < frames:
            length = read(fd, frame, 1536)
            if length > 1000:
                if n == 0:
                    start = time.ticks_us()
                n += 1
        print(time.ticks_diff(time.ticks_us(), start))
    finally:
        lan.stack.leave()
def bare_send(frames):
    from array import array
    from barenet.driver import tap
    from uctypes import addressof
    lan.stack.enter()
    try:
        frame = bytes(6) + b"\\x02\\xba\\x4e\\0\\0\\2\\x88\\xb5" + bytes(1500)
        fd = lan.driver._wait[0]
        write = tap._write
        pieces = array("I", [addressof(frame) & 0xFFFFFFFF, addressof(frame) >> 32, 1514, 0, 0, 0, 0, 0])  # struct iovec on 64 bits
        start = time.ticks_us()
        for _ in range(frames):
            write(fd, pieces, 2)
        print(time.ticks_diff(time.ticks_us(), start))
    finally:
        lan.stack.leave()
"""


class Bench:
    """The measurements, on one board."""

    def __init__(self, board: VirtualBoard, linux: Linux):
        self.board = board
        self.linux = linux
        self.port = 7600
        run(board, _PREPARE)

    def listen(self):
        """Returns (listening socket, its port)."""
        self.port += 1
        return self.linux.listen(self.port), self.port

    def receive(self) -> float:
        """Returns bytes a second that the board's program receives."""
        listener, port = self.listen()
        with listener, running(self.board, f"receive({port}, {int(SECONDS * 1000)})", 60) as future, listener.accept()[0] as c:
            data = bytes(1 << 16)
            try:
                while not future.done():
                    c.sendall(data)
            except OSError:
                pass  # the board has closed
            return int(future.result(30)[-1]) / SECONDS

    def send(self) -> float:
        """Returns bytes a second that the board's program sends."""
        listener, port = self.listen()
        with listener, running(self.board, f"send({port}, {int(SECONDS * 1000)})", 60) as future, listener.accept()[0] as c:
            while c.recv(1 << 16):
                pass
            return int(future.result(30)[-1]) / SECONDS

    def bare_receive(self, frames: int = 10_000) -> float:
        """Returns bytes of segments' text a second that the same interpreter reads from the TAP device and drops."""
        packets = self.linux.packets()
        frame = _BARE_MAC + bytes(6) + b"\x88\xb5" + bytes(1500)
        with packets, running(self.board, f"bare_receive({frames})", 60) as future:
            while not future.done():
                try:
                    packets.send(frame)
                except OSError:
                    time.sleep(0.0001)  # the queue of the device is full
            return frames * 1460 / int(future.result(30)[-1]) * 1e6

    def bare_send(self, frames: int = 10_000) -> float:
        """Returns bytes of segments' text a second that the same interpreter writes to the TAP device."""
        return frames * 1460 / int(run(self.board, f"bare_send({frames})", 60)[-1]) * 1e6

    def kernel(self) -> float:
        """Returns bytes a second between two sockets of the kernel at the other end, segments as large as ours."""
        listener, port = self.listen()
        with listener, self.linux.socket() as a:
            for s in (a, listener):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
            a.connect((LINUX, port))
            b, _ = listener.accept()
            total = 0
            end = time.monotonic() + SECONDS / 4

            def feed():
                data = bytes(1 << 16)
                try:
                    while time.monotonic() < end:
                        a.sendall(data)
                finally:
                    a.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=feed, daemon=True)
            start = time.monotonic()
            thread.start()
            with b:
                while part := b.recv(1 << 16):
                    total += len(part)
            thread.join(10)
            return total / (time.monotonic() - start)

    def ping(self, count: int, interval: float) -> tuple[float, float, int]:
        """Returns (median, largest round-trip time in ms, how many were lost) of pings."""
        command = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", "2", BOARD]
        output = self.board.run(command, capture_output=True, text=True, timeout=60).stdout
        times = [float(t) for t in re.findall(r"time=([\d.]+)", output)]
        return (statistics.median(times), max(times), count - len(times)) if times else (float("inf"), float("inf"), count)

    def ping_under_load(self) -> tuple[float, float, int]:
        """The same during a bulk transfer to the board."""
        listener, port = self.listen()
        with listener, running(self.board, f"receive({port}, {int(SECONDS * 1000)})", 60), listener.accept()[0] as c:
            feeder = threading.Thread(target=self._feed, args=(c,), daemon=True)
            feeder.start()
            found = self.ping(50, 0.02)
            feeder.join(30)
        return found

    def flooded(self) -> float:
        """Returns what receive() gives while somebody sends PINGS echo requests a second."""
        stop = threading.Event()
        s = self.linux.socket(socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
        request = bytearray(b"\x08\0\0\0\x12\x34\0\1" + bytes(56))
        total = sum(int.from_bytes(request[i : i + 2], "big") for i in range(0, len(request), 2))
        request[2:4] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")

        def flood():
            following = time.monotonic()
            while not stop.is_set():
                following += 1 / PINGS
                try:
                    s.sendto(request, (BOARD, 0))
                except OSError:
                    pass
                time.sleep(max(0, following - time.monotonic()))

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        try:
            return self.receive()
        finally:
            stop.set()
            thread.join(5)
            s.close()

    def echo(self, rounds: int = 200) -> tuple[float, float]:
        """Returns (median, largest) time in ms of an echo of one byte by an asyncio server on the board."""
        self.port += 1
        code = f"""
            import barenet
            barenet.install()
            import asyncio
            async def serve(reader, writer):
                while True:
                    data = await reader.read(1)
                    if not data:
                        break
                    writer.write(data)
                    await writer.drain()
                writer.close()
                done.set()
            async def main():
                global done
                done = asyncio.Event()
                server = await asyncio.start_server(serve, "0.0.0.0", {self.port})
                await done.wait()
                server.close()
            asyncio.run(main())
        """
        with running(self.board, code, 60):
            deadline = time.monotonic() + 5
            while True:
                try:
                    c = self.linux.connect(self.port, options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)])
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            times = []
            with c:
                for _ in range(rounds):
                    start = time.perf_counter()
                    c.send(b"x")
                    assert c.recv(1) == b"x"
                    times.append((time.perf_counter() - start) * 1000)
                    time.sleep(0.003)  # so that the program is asleep again
        return statistics.median(times), max(times)

    @staticmethod
    def _feed(c):
        data = bytes(1 << 16)
        try:
            while True:
                c.sendall(data)
        except OSError:
            pass


def measure() -> dict[str, float]:
    """Returns all values by name: bytes a second, ms, or a ratio."""
    with VirtualBoard(bits=64, heap="2m") as board, Linux(board) as linux:
        bench = Bench(board, linux)
        kinds = {"bare receive": bench.bare_receive, "receive": bench.receive, "bare send": bench.bare_send, "send": bench.send, "flooded": bench.flooded}
        rates: dict[str, list[float]] = {kind: [] for kind in [*kinds, "kernel"]}
        for _ in range(ROUNDS):
            for kind, function in kinds.items():
                rates[kind].append(function())
            rates["kernel"].append(bench.kernel())
        values = {f"{kind}, MB/s": statistics.median(found) / 1e6 for kind, found in rates.items()}
        idle = bench.ping(100, 0.01)
        loaded = bench.ping_under_load()
        echo = bench.echo()

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))

    return {
        **values,
        "receive / bare receive": ratio("receive", "bare receive"),
        "send / bare receive": ratio("send", "bare receive"),
        "send / bare send": ratio("send", "bare send"),
        "receive / kernel": ratio("receive", "kernel"),
        "send / kernel": ratio("send", "kernel"),
        f"receive under {PINGS} pings a second / receive": ratio("flooded", "receive"),
        "idle ping, median, ms": idle[0],
        "idle ping, largest, ms": idle[1],
        "idle ping, lost": idle[2],
        "ping under load, median, ms": loaded[0],
        "ping under load, largest, ms": loaded[1],
        "ping under load, lost": loaded[2],
        "asyncio echo, median, ms": echo[0],
        "asyncio echo, largest, ms": echo[1],
    }


# Name: (mark, whether larger is better).
MARKS = {
    "receive / bare receive": (0.4, True),
    "send / bare receive": (0.4, True),
    f"receive under {PINGS} pings a second / receive": (0.8, True),
    "idle ping, median, ms": (10.0, False),
    "asyncio echo, median, ms": (2.0, False),
}


def show(console: Console) -> dict[str, float]:
    """Measures and prints a table; returns the values."""
    with console.status(f"measuring time, some {int(ROUNDS * SECONDS * 5)} s …"):
        values = measure()
    table = Table(title="Measured beside each other on this machine (64-bit interpreter, TAP, medians)")
    for name in ("figure", "now", "mark", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    for name, value in values.items():
        mark, larger = MARKS.get(name, (None, True))
        met = mark is not None and (value >= mark if larger else value <= mark)
        verdict = "" if mark is None else "[green]met[/]" if met else "[yellow]target not met[/]"
        table.add_row(name, f"{value:.3g}", "" if mark is None else f"{'≥' if larger else '≤'} {mark}", verdict)
    console.print(table)
    return values

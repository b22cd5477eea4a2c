"""TCP over every kind of bad cable, against the Linux kernel, with Linux against Linux on the same cable beside it.

    .venv/bin/python tests/peer/grid.py --help        (make grid ARGS="…")

A cell is one loss, one delay, one further fault and one direction of the data. It passes when every byte arrived (SHA-256 of both sides), and
the board, as sender, was never silent for longer than its timer may be. Goodput stands beside what Linux reaches against Linux over the
same relay with the same faults, seeds, window and congestion control. A transfer lasts a given time, so the volume follows from the conditions.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import queue
import random
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socket import SHUT_WR, SO_RCVBUF, SO_REUSEADDR, SO_SNDBUF, SOL_SOCKET

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from impairment import board_cable, kernel_cable  # noqa: E402
from linux import LINUX, Linux, run, running, value  # noqa: E402

from host_tools.virtual_board import VirtualBoard  # noqa: E402

LOSSES = (0, 1, 5, 10, 20)  # % of the frames, each way
DELAYS = (0, 20, 200)  # ms of round trip, half of it each way
FAULTS = {
    "none": {},
    "reordering": {"reordering": 0.1},  # late by up to 8 ms
    "duplication": {"duplication": 0.1},
    "corruption": {"corruption": 0.02},
}
DIRECTIONS = ("to board", "from board")
JUDGED = (1, 20, "none")  # the cell whose goodput is judged
REQUIRED_SHARE = {"to board": 0.8, "from board": 0.8}  # of Linux's goodput
REPETITIONS = 5  # of the judged cell
BUFFER = 16384  # bytes, of the receiver's window and the board's send buffer
PORT = 7200
BLOCK = 2048
RTO_MIN = 0.2  # s
RTO_FIRST = 3.0  # s, without a measurement and after a lost SYN (RFC 6298 section 5.7)
RTO_MAX = 120.0  # s, of Linux
TIMER_WHEEL = 9 / 8  # Linux's timers are late by up to an eighth
SLACK = 0.35  # s that a loaded machine may add to a timer
CONNECT_TIMEOUT = 60  # s
_TAIL = 60  # s that the last window may take on the worst cable


@dataclass(frozen=True)
class Cell:
    """One condition: loss in %, delay in ms of round trip, a name of FAULTS, and the direction of the data."""

    loss: int
    delay: int
    fault: str
    direction: str

    def __str__(self):
        return f"{self.loss} % {self.delay} ms {self.fault} {self.direction}"

    def faults(self):
        """The arguments of Relay.set."""
        return {"loss": self.loss / 100, "delay": self.delay / 2000, **FAULTS[self.fault]}


@dataclass
class Transfer:
    """What one transfer gave: bytes, whether they are the right ones, goodput in byte/s, and what the watch saw (see Watch)."""

    bytes: int = 0
    intact: bool = False
    goodput: float = 0.0
    longest_stall: float = 0.0
    excess: float = 0.0
    window: int = 0
    in_flight: int = 0
    retransmitted: int = 0
    relay: dict = field(default_factory=dict)
    error: str = ""


class Watch:
    """Follows one connection on the relay, as the sender of the data knows it.

    The sender may be silent, with data unacknowledged, for no longer than its retransmission timer. That is at most RTO_MIN and three times
    the longest round trip seen (RFC 6298 section 2, as Linux reads it), which begins as `rtt`, s, and is counted from the first time that data
    was sent: with timestamps, a sender that lost ACKs measures up to that (RFC 7323 section 4). And it is doubled
    with every retransmission in a row, until data that was sent once is acknowledged (Karn's algorithm). It begins anew with each new
    ACK that reaches the sender.

    Attributes:
        longest_stall: s between two advances of the acknowledgement number.
        excess: s by which a silence was longer than the timer allows; 0 when none was.
        window, in_flight: the largest seen, bytes.
        retransmitted: data segments that were sent again.
        bytes, seconds: of the data acknowledged, from the first data segment to the last advance.
    """

    def __init__(self, port, from_near, rtt):
        self._port, self._from_near, self._rtt = port, from_near, rtt
        self._sent = collections.deque()  # (sequence number behind it, when it was sent first) of each segment on its way
        self._una = self._max = self._first = None
        self._scale = [None, None]
        self._began = self._advanced = self._alive = 0.0
        self._measured = False
        self._doubled = 0
        self._again = None  # sequence number up to which data was sent twice
        self.longest_stall = self.excess = 0.0
        self.window = self.in_flight = self.retransmitted = 0

    @property
    def bytes(self):
        return (self._una - self._first) & 0xFFFFFFFF if self._una is not None else 0

    @property
    def seconds(self):
        return max(self._advanced - self._began, 1e-6)

    def _parse(self, frame):
        """Returns (sequence number, length of the data, acknowledgement number, flags, window) of a segment of the connection, else None."""
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
            return None
        at = 14 + (frame[14] & 15) * 4
        if self._port not in (int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")):
            return None
        length = 14 + int.from_bytes(frame[16:18], "big") - at - (frame[at + 12] >> 4) * 4
        seq, ack = int.from_bytes(frame[at + 4 : at + 8], "big"), int.from_bytes(frame[at + 8 : at + 12], "big")
        return seq, length, ack, frame[at + 13], int.from_bytes(frame[at + 14 : at + 16], "big")

    def sent(self, frame, from_near, now):
        segment = self._parse(frame)
        if segment is None:
            return
        seq, length, _, flags, window = segment
        if flags & 2:
            self._scale[from_near] = _scale(frame)
            return
        if from_near != self._from_near:
            shift = 0 if None in self._scale else self._scale[from_near]
            self.window = max(self.window, window << shift)
            return
        if length <= 0:
            return
        if self._first is None:
            self._first = self._una = self._max = seq
            self._began = self._advanced = self._alive = now
        self._check(now)
        end = (seq + length) & 0xFFFFFFFF
        if _after(self._max, seq):
            self.retransmitted += 1
            if self._again is None or _after(end, self._again):
                self._again = end
        if _after(end, self._max):
            self._max = end
            self._sent.append((end, now))
        self.in_flight = max(self.in_flight, (self._max - self._una) & 0xFFFFFFFF)
        self._alive = now

    def delivered(self, frame, from_near, now):
        if from_near == self._from_near or self._first is None:
            return
        segment = self._parse(frame)
        if segment is None or not segment[3] & 16:
            return
        ack = self._max if _after(segment[2], self._max) else segment[2]  # a FIN is no data
        if not _after(ack, self._una):
            return
        self._check(now)
        self.longest_stall = max(self.longest_stall, now - self._advanced)
        if self._again is None or not _after(self._again, self._una):
            # All that is acknowledged now was sent once.
            self._measured, self._doubled, self._again = True, 0, None
        self._rtt = max(self._rtt, now - self._sent[0][1])
        while self._sent and not _after(self._sent[0][0], ack):
            self._sent.popleft()
        self._una = ack
        self._advanced = self._alive = now

    def _check(self, now):
        """Something ended the sender's silence."""
        if self._una == self._max:
            return  # nothing was on its way: it was the program that was silent
        silence = now - self._alive
        rto = RTO_MIN + 3 * self._rtt
        if not self._measured:
            rto = max(rto, RTO_FIRST)
        self.excess = max(self.excess, silence - min(rto * 2**self._doubled, RTO_MAX) * TIMER_WHEEL - SLACK)
        if silence > RTO_MIN / 2:
            self._doubled += 1


def _after(a, b):
    """Whether sequence number a is after b."""
    return 0 < (a - b) & 0xFFFFFFFF < 0x80000000


def _scale(frame):
    """Returns the shift of the window scale option of a SYN, None without it."""
    at = 14 + (frame[14] & 15) * 4
    end = at + (frame[at + 12] >> 4) * 4
    at += 20
    while at < end and frame[at]:
        if frame[at] == 3:
            return frame[at + 2]
        at += 1 if frame[at] == 1 else frame[at + 1]
    return None


class Data:
    """The data of every transfer: blocks of BLOCK bytes, each with its number in front, so that no two are the same."""

    _body = random.Random(7).randbytes(BLOCK - 4)

    @classmethod
    def block(cls, i):
        return i.to_bytes(4, "little") + cls._body

    @classmethod
    def digest(cls, blocks):
        """The SHA-256 of the first `blocks` blocks, hex."""
        h = hashlib.sha256()
        for i in range(blocks):
            h.update(cls.block(i))
        return h.hexdigest()


class Side:
    """One end of a transfer. `send` and `receive` return (number of bytes, SHA-256 in hex)."""

    @staticmethod
    def send(c, seconds):
        """Sends whole blocks for some seconds, then FIN."""
        until, i = time.monotonic() + seconds, 0
        h = hashlib.sha256()
        while time.monotonic() < until:
            block = Data.block(i)
            c.sendall(block)
            h.update(block)
            i += 1
        c.shutdown(SHUT_WR)
        return i * BLOCK, h.hexdigest()

    @staticmethod
    def receive(c, seconds):
        """Receives up to the end, which must come soon after those seconds."""
        h, n = hashlib.sha256(), 0
        until = time.monotonic() + seconds + _TAIL
        while part := c.recv(1 << 16):
            h.update(part)
            n += len(part)
            if time.monotonic() > until:
                raise TimeoutError
        return n, h.hexdigest()


# The board connects; both programs print (number of bytes, SHA-256). The first bytes that the board sends are its own block, which the
# other side rebuilds.
_CONNECT = """
import binascii, hashlib
gc.collect()
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {receive})
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {send})
s.settimeout({connect})
s.connect(("{linux}", {port}))
s.settimeout({tail})
h = hashlib.sha256()
buffer = bytearray({block})
n = 0
"""
_RECEIVE = """
try:
    while True:
        k = s.recv_into(buffer)
        if not k:
            break
        n += k
        h.update(memoryview(buffer)[:k])
finally:
    s.close()
print(n, binascii.hexlify(h.digest()).decode())
"""
_SEND = """
buffer[:] = binascii.unhexlify("{body}")
began = time.ticks_ms()
i = 0
try:
    while time.ticks_diff(time.ticks_ms(), began) < {milliseconds}:
        buffer[0] = i & 255
        buffer[1] = i >> 8 & 255
        buffer[2] = i >> 16
        s.write(buffer)
        h.update(buffer)
        i += 1
finally:
    s.close()
print(i * {block}, binascii.hexlify(h.digest()).decode())
"""


class Rig:
    """A board and two kernels, each on a cable of its own with faults, for as long as the `with` block lasts.

    driver: the board's. buffer: bytes, of the receiver's window and the board's send buffer.
    """

    def __init__(self, driver="tap", buffer=BUFFER):
        self._driver = driver
        self._buffer = buffer
        self._port = PORT
        self._exit = contextlib.ExitStack()

    def __enter__(self):
        sys.setswitchinterval(0.0005)  # s; the relays shall not wait for the threads that send and receive
        with contextlib.ExitStack() as stack:
            cables = []

            def before(board):
                linux = stack.enter_context(Linux(board))
                cables.extend((linux, stack.enter_context(board_cable(linux))))

            self.board = stack.enter_context(VirtualBoard(driver=self._driver, before=before))
            self._linux, self._board_relay = cables
            self._kernel, self._far, self._kernel_relay = stack.enter_context(kernel_cable())
            for side in self._linux, self._kernel, self._far:
                side.sysctl("net.ipv4.tcp_no_metrics_save", 1)  # no cell learns from the one before
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_exception):
        self._exit.close()

    def errors(self):
        """Returns the number of exceptions in the board's stack, and the last."""
        return value(self.board, "(lan.stack.errors, lan.stack.last_error)")

    def transfer(self, cell, seconds, seed=1, kernel=False):
        """Transfers data for some seconds under a cell's conditions, with the board or, in its place, a kernel; returns a Transfer."""
        relay = self._kernel_relay if kernel else self._board_relay
        watch = Watch(self._port, cell.direction == "from board", cell.delay / 1000 + 0.01)
        result = Transfer()
        relay.set(**cell.faults(), seed=seed)
        relay.watch = watch
        try:
            result.bytes, result.intact = (self._with_kernel if kernel else self._with_board)(cell, seconds)
        except TimeoutError:
            result.error = f"no end {_TAIL} s after the last byte was sent, or no connection; {watch.bytes} bytes are acknowledged"
        except Exception as e:  # whatever it is, it is this cell's result, and the next cell is tried
            result.error = " ".join(f"{type(e).__name__}: {e}".split())[-300:]
        finally:
            relay.watch = None
            result.relay = dict(relay.faults, passed=relay.passed, latest_ms=round(relay.latest * 1000, 1))
            relay.set()
            self._port += 1
        result.goodput = watch.bytes / watch.seconds
        for name in "longest_stall", "excess", "window", "in_flight", "retransmitted":
            setattr(result, name, getattr(watch, name))
        return result

    def _buffers(self, factor=1):
        """The options that give a kernel our window, or a multiple of it.

        The kernel doubles SO_RCVBUF and then gives as the window the share that segments of this size fill of their buffers, 0.64.
        """
        return [(SOL_SOCKET, SO_RCVBUF, int(factor * self._buffer / 1.28)), (SOL_SOCKET, SO_SNDBUF, self._buffer)]

    def _listen(self, side, buffers):
        listener = side.socket(bind=(LINUX, self._port), options=[*buffers, (SOL_SOCKET, SO_REUSEADDR, 1)])
        listener.listen(1)
        listener.settimeout(CONNECT_TIMEOUT)
        return listener

    def _with_board(self, cell, seconds):
        sending = cell.direction == "from board"
        numbers = {"linux": LINUX, "port": self._port, "block": BLOCK, "connect": CONNECT_TIMEOUT, "tail": _TAIL}
        numbers |= {"receive": 536 if sending else self._buffer, "send": self._buffer if sending else 536}
        numbers |= {"milliseconds": int(seconds * 1000), "body": Data.block(0).hex()}
        code = (_CONNECT + (_SEND if sending else _RECEIVE)).format(**numbers)
        with (
            # The board's send buffer bounds what it sends; the window shall not.
            self._listen(self._linux, self._buffers(2 if sending else 1)) as listener,
            running(self.board, code, CONNECT_TIMEOUT + seconds + _TAIL) as future,
            listener.accept()[0] as c,
        ):
            c.settimeout(_TAIL)
            here = Side.receive(c, seconds) if sending else Side.send(c, seconds)
            n, digest = future.result(seconds + _TAIL)[-1].split()
        return _compare(here, (int(n), digest))

    def _with_kernel(self, cell, seconds):
        with self._listen(self._far, self._buffers()) as listener, self._kernel.socket(options=self._buffers()) as near:
            near.settimeout(CONNECT_TIMEOUT)
            near.connect((LINUX, self._port))
            with listener.accept()[0] as far, ThreadPoolExecutor(1) as executor:
                near.settimeout(_TAIL)
                far.settimeout(_TAIL)
                sender, receiver = (near, far) if cell.direction == "from board" else (far, near)
                future = executor.submit(Side.receive, receiver, seconds)
                sent = Side.send(sender, seconds)
                return _compare(sent, future.result())


def _compare(a, b):
    """Returns (bytes, whether both sides have the same and it is the data)."""
    return a[0], a == b and a[0] % BLOCK == 0 and a[1] == Data.digest(a[0] // BLOCK)


def measure(rig, cell, seconds=None, repetitions=1, seed=1):
    """Returns a cell's outcome as a dict: the cell, the Transfers of board and kernel, the medians of goodput, and `failures` in words.

    A transfer between kernels that does not end is a remark, in `reference`: on the worst cables Linux gives up, too.
    seconds: of sending in each transfer; None for a time that suits the delay. Repetition i has the seed `seed + i`.
    """
    seconds = seconds or 3 + cell.delay / 50
    boards, kernels = [], []
    for i in range(repetitions):
        boards.append(rig.transfer(cell, seconds, seed + i))
        kernels.append(rig.transfer(cell, seconds, seed + i, kernel=True))
        if boards[-1].error:
            break
    failures = []
    for name, transfer in [("board", t) for t in boards] + [("kernel", t) for t in kernels]:
        if transfer.error and name == "board":
            failures.append(f"{name}: {transfer.error}")
        elif not transfer.error and not transfer.intact:
            failures.append(f"{name}: the bytes differ")
    worst = max(t.excess for t in boards)
    if worst > 0 and cell.direction == "from board":  # Linux's timer is not ours to judge; its excess is in the JSON
        failures.append(f"the board was silent for {worst:.1f} s longer than its retransmission timer may be")
    ours, theirs = (statistics.median(t.goodput for t in ts) for ts in (boards, kernels))
    if (cell.loss, cell.delay, cell.fault) == JUDGED and theirs and ours / theirs < REQUIRED_SHARE[cell.direction]:
        failures.append(f"goodput is {ours / theirs:.0%} of Linux's; {REQUIRED_SHARE[cell.direction]:.0%} are required")
    return {
        **asdict(cell),
        "goodput": round(ours),
        "kernel_goodput": round(theirs),
        "share": round(ours / theirs, 3) if theirs else None,
        "failures": failures,
        "reference": "; ".join(t.error for t in kernels if t.error),
        "board": [asdict(t) for t in boards],
        "kernel": [asdict(t) for t in kernels],
    }


class Worker:
    """A process with a Rig that measures cells one after another, and is replaced after a failure or a hang."""

    def __init__(self, driver, buffer):
        self._command = [sys.executable, __file__, "--worker", "--driver", driver, "--buffer", str(buffer)]
        self._process = None

    def measure(self, order, timeout):
        """Returns the outcome of a cell within `timeout` s."""
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        killer = threading.Timer(timeout, self._process.kill)
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        if line:
            outcome = json.loads(line)
        else:
            last = (self._process.stderr.read().strip().splitlines() or [f"no result within {timeout:.0f} s"])[-1]
            outcome = {**order["cell"], "failures": [f"the harness ended: {last}"], "board": [], "kernel": []}
        if not line or any(t["error"] for t in outcome["board"] + outcome["kernel"]):
            self.close()
        return outcome

    def close(self):
        """Ends the process and its board."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process.stderr.close()
            self._process = None


def work(driver, buffer):
    """Measures the cells that come on standard input, one JSON line each, and prints the outcomes."""
    with Rig(driver, buffer) as rig:
        for line in sys.stdin:
            order = json.loads(line)
            outcome = measure(rig, Cell(**order["cell"]), order["seconds"], order["repetitions"], order["seed"])
            if not any(t["error"] for t in outcome["board"]) and (errors := rig.errors()) != (0, None):
                outcome["failures"].append(f"exceptions in the board's stack: {errors}")
            print(json.dumps(outcome), flush=True)


def rate(n):
    """A goodput in words."""
    return "–" if n is None else f"{n / 1e6:.2f} MB/s" if n >= 1e6 else f"{n / 1e3:.1f} kB/s"


def table(outcomes):
    """Returns a rich Table of outcomes."""
    result = Table(title="goodput over a bad cable")
    for name in "direction", "fault":
        result.add_column(name)
    for name in "loss", "delay", "board", "Linux", "share", "longest stall", "sent again":
        result.add_column(name, justify="right")
    result.add_column("")
    order = [key(cell) for cell in CELLS]
    for o in sorted(outcomes, key=lambda o: order.index(key(o))):
        boards = o.get("board") or [asdict(Transfer())]
        result.add_row(
            o["direction"],
            o["fault"],
            f"{o['loss']} %",
            f"{o['delay']} ms",
            rate(o.get("goodput")),
            rate(o.get("kernel_goodput")),
            f"{o['share']:.0%}" if o.get("share") is not None else "–",
            f"{max(t['longest_stall'] for t in boards):.2f} s",
            str(sum(t["retransmitted"] for t in boards)),
            "[red]" + "; ".join(o["failures"]) if o["failures"] else "[green]good" + (", Linux not" if o.get("reference") else ""),
        )
    return result


def key(cell):
    """What tells one cell from another, of a Cell or an outcome."""
    get = cell.get if isinstance(cell, dict) else lambda name: getattr(cell, name)
    return tuple(get(name) for name in ("direction", "fault", "loss", "delay"))


CELLS = [Cell(loss, delay, fault, way) for way, fault, loss, delay in itertools.product(DIRECTIONS, FAULTS, LOSSES, DELAYS)]


@click.command()
@click.option("--loss", type=click.Choice([str(n) for n in LOSSES]), multiple=True, help="Only these losses, % of the frames.")
@click.option("--delay", type=click.Choice([str(n) for n in DELAYS]), multiple=True, help="Only these round trips, ms.")
@click.option("--fault", type=click.Choice(list(FAULTS)), multiple=True, help="Only these further faults.")
@click.option("--direction", type=click.Choice(DIRECTIONS), multiple=True, help="Only this direction of the data.")
@click.option("--driver", type=click.Choice(["tap", "emac"]), default="tap", show_default=True, help="The board's driver.")
@click.option("--buffer", type=click.IntRange(1500, 65535), default=BUFFER, show_default=True, help="Window and send buffer, bytes.")
@click.option("--seconds", type=click.FloatRange(0.5, 60), help="Of sending in each transfer; default: 3 to 7, with the delay.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the faults.")
@click.option("--minutes", type=click.FloatRange(1), default=55, show_default=True, help="No cell begins later; what is left has failed.")
@click.option("--jobs", type=click.IntRange(1, 16), default=2, show_default=True, help="Cells at a time.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / ".cache" / "grid.json", help="Outcomes.")
@click.option("--resume", is_flag=True, help="Skip the cells that are good in the JSON file, and keep them there.")
@click.option("--worker", is_flag=True, hidden=True)
def main(loss, delay, fault, direction, driver, buffer, seconds, seed, minutes, jobs, file, resume, worker):
    """TCP over every kind of bad cable, against the Linux kernel, beside Linux against Linux.

    Ends with 1 when a cell failed.
    """
    if worker:
        work(driver, buffer)
        return
    cells = [
        cell
        for cell in CELLS
        if (not loss or str(cell.loss) in loss)
        and (not delay or str(cell.delay) in delay)
        and (not fault or cell.fault in fault)
        and (not direction or cell.direction in direction)
    ]
    done = {}
    if resume and file.exists():
        done = {key(o): o for o in json.loads(file.read_text()) if not o["failures"]}
    waiting = queue.SimpleQueue()
    for cell in cells:
        if key(cell) not in done:
            waiting.put(cell)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    began = time.monotonic()
    lock = threading.Lock()
    file.parent.mkdir(parents=True, exist_ok=True)
    with Progress(console=console) as progress:
        task = progress.add_task("cells", total=waiting.qsize())

        def run_cells():
            cables = Worker(driver, buffer)
            try:
                while True:
                    cell = waiting.get_nowait()
                    repetitions = REPETITIONS if (cell.loss, cell.delay, cell.fault) == JUDGED else 1
                    order = {"cell": asdict(cell), "seconds": seconds, "repetitions": repetitions, "seed": seed}
                    if time.monotonic() - began > minutes * 60:
                        outcome = {**asdict(cell), "failures": ["no time left; use --resume"], "board": [], "kernel": []}
                    else:
                        outcome = cables.measure(order, 30 + repetitions * 2 * (CONNECT_TIMEOUT + (seconds or 7) + _TAIL))
                    with lock:
                        done[key(cell)] = outcome
                        file.write_text(json.dumps(list(done.values()), indent=1))
                        share = f" ({outcome['share']:.0%} of Linux)" if outcome.get("share") is not None else ""
                        verdict = "; ".join(outcome["failures"]) or "good"
                        console.print(f"{cell}: {rate(outcome.get('goodput'))}{share}, {verdict}", highlight=False)
                        progress.advance(task)
            except queue.Empty:
                pass
            finally:
                cables.close()

        with ThreadPoolExecutor(jobs) as executor:
            futures = [executor.submit(run_cells) for _ in range(jobs)]
            try:
                for future in futures:
                    future.result()
            finally:  # after Ctrl-C, too, the threads find nothing more to do
                with contextlib.suppress(queue.Empty):
                    while True:
                        waiting.get_nowait()
    chosen = [done[key(cell)] for cell in cells]
    console.print(table(chosen))
    failed = sum(bool(o["failures"]) for o in chosen)
    console.print(f"{len(chosen)} cells, {failed} failed, {time.monotonic() - began:.0f} s; outcomes in {file}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

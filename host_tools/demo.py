"""The tour: a virtual board gets a lease, resolves a name, fetches a page and serves one, against real servers, each step shown.

What is typed is typed at the board's serial prompt; what is shown comes from the board's own trace (firmware/barenet/trace.py).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import serial
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from host_tools import setup_system
from host_tools.errors import BarenetError
from host_tools.virtual_board import VirtualBoard
from host_tools.virtual_board.command import driver_option

NAME = "www.barenet.test"
LINUX = "10.77.0.1"
LEASES = "10.77.0.50,10.77.0.99,255.255.255.0,1h"
PAGE_BYTES = 20_000  # more than the receive buffer holds, so that the window has to close and open
SERVED_BYTES = 5_000  # four segments
STEP_TIMEOUT = 20  # s
QUIET = 0.3  # s without a word after which a step counts as over
EVENT = '@{"'  # how the board's trace begins a line
_FRAMES_SHOWN = 4  # of one kind in a step; the rest is counted

# The words of the control block, for somebody who sees them for the first time.
WORDS = {
    "STATE": "where the conversation stands",
    "SND_UNA": "first byte sent that the peer has not confirmed",
    "SND_NXT": "next byte to send",
    "SND_WND": "how much the peer lets us send ahead",
    "SND_LEN": "bytes kept in the send buffer",
    "SND_MSS": "longest segment the peer takes",
    "CWND": "how much we dare to have on the way",
    "RCV_NXT": "next byte we expect",
    "RCV_ADV": "up to here we let the peer send",
    "RCV_LEN": "bytes waiting in the receive buffer",
    "RTO": "patience before sending again, ms",
}


class Prompt:
    """The board's serial prompt, typed at as a person would.

    port: path of the serial port. Raises BarenetError when the prompt does not come.
    """

    def __init__(self, port: str):
        self.port = serial.Serial(port, 115200, timeout=0.05)
        self.port.write(b"\r\x03\r")
        for _ in self._lines():
            pass

    def close(self) -> None:
        self.port.close()

    def type(self, code: str, pause: float = 0.0) -> Iterator[str]:
        """Types one line and yields what the board writes, line by line, until the prompt is back and the network is quiet."""
        for character in code:
            self.port.write(character.encode())
            time.sleep(pause)
        self.port.write(b"\r")
        echo = True
        for line in self._lines():
            if echo and not line.startswith(EVENT):
                echo = False
            else:
                yield line

    def _lines(self) -> Iterator[str]:
        """Yields whole lines. A trace line may cut through another one: packets arrive while the prompt waits and while one types."""
        started = heard = time.monotonic()
        cut = kept = ""
        while time.monotonic() - started < STEP_TIMEOUT:
            data = self.port.read(4096).decode(errors="replace")
            if data:
                heard = time.monotonic()
            *whole, kept = (kept + data).replace("\r\n", "\n").split("\n")
            for line in whole:
                before, event, rest = line.partition(EVENT)
                cut += before
                if event:
                    yield event + rest
                else:
                    yield cut
                    cut = ""
            if cut + kept == ">>> ":
                now = time.monotonic()
                if now - heard > QUIET or now - started > STEP_TIMEOUT / 2:
                    return
        raise BarenetError(f"the board's prompt did not come back within {STEP_TIMEOUT} s; it wrote last: {cut + kept!r}")


class Tour:
    """Shows the steps as they happen.

    console: where to. pause: seconds between typed characters (0 for tests).
    """

    def __init__(self, console: Console, pause: float):
        self.console = console
        self.pause = pause
        self.prompt: Prompt | None = None
        self._seen: dict[str, int] = {}  # frames of each kind in this step
        self._hidden = 0
        self._hide = False

    def chapter(self, step: str, text: str) -> None:
        self.console.print()
        self.console.print(Panel(Text(text), title=f"[bold]{step}[/]", title_align="left", border_style="cyan"))

    def type(self, code: str) -> str:
        """Types a line, shows what happens, and returns what the board printed besides."""
        self.console.print(Text(">>> ", style="bold green") + Text(code.strip(), style="bold"))
        printed = []
        self._seen.clear()
        self._hide = False
        for line in self.prompt.type(code, self.pause):
            if line.startswith(EVENT):
                self._event(json.loads(line[1:]))
            elif line.strip() != "...":
                printed.append(line)
                self.console.print(Text(line if len(line) < 200 else line[:200] + " …"))
        self._tell_hidden()
        text = "\n".join(printed)
        if "Traceback" in text:
            raise BarenetError("the board raised: " + printed[-1])
        return text

    def _event(self, event: dict) -> None:
        kind = event["event"]
        if kind in ("received", "sent"):
            self._frame(event)
            return
        if kind == "state":
            self._tell_hidden()
            self._hide = False
            if event["why"] == "delete":
                self.console.print("      [magenta]its control block and buffers are freed[/]")
            elif event["why"] == "create":
                self.console.print("      [magenta]memory is reserved: a control block, a send buffer, a receive buffer[/]")
            else:
                self.console.print(f"      [magenta]{event['before']} → {event['after']}[/]   because of: {event['why']}")
        elif not self._hide:
            self._block(event)

    def _frame(self, event: dict) -> None:
        arrow = "[yellow]board ──▶ wire[/]" if event["event"] == "sent" else "[blue]board ◀── wire[/]"
        what = " ".join(str(event[key]) for key in ("what", "flags") if event.get(key))
        text = f"  {arrow}  [bold]{event['protocol']}[/] {what}"
        if event["protocol"] == "ARP":
            text += f" {event['address']}"
        elif event["protocol"] == "TCP":
            text += f", {event['length']} bytes, window {event['window']}"
        elif "to" in event:
            text += f"  {event['from']} → {event['to']}"
        kind = f"{event['event']} {event['protocol']} {event.get('length', 0) > 0}"
        self._seen[kind] = self._seen.get(kind, 0) + 1
        self._hide = self._seen[kind] > _FRAMES_SHOWN
        if self._hide:
            self._hidden += 1
        else:
            self.console.print(text)

    def _tell_hidden(self) -> None:
        if self._hidden:
            self.console.print(f"      … and {self._hidden} more segments and ACKs like these")
        self._hidden = 0

    def _block(self, event: dict) -> None:
        before, after = event["before"], event["after"]
        changed = [name for name in after if before[name] != after[name]]
        if not changed:
            return
        table = Table(show_header=True, header_style="dim", box=None, padding=(0, 2, 0, 0))
        for title in ("control block", "before", "after", ""):
            table.add_column(title, justify="right" if title in ("before", "after") else "left")
        for name in sorted(changed, key=list(WORDS).index):
            table.add_row(name, str(before[name]), f"[bold]{after[name]}[/]", f"[dim]{WORDS.get(name, '')}[/]")
        self.console.print(Padding(table, (0, 0, 0, 6)))


@click.command("demo")
@driver_option
def command(driver: str | None) -> None:
    """Watch a connection work, step by step.

    A virtual board gets a lease, resolves a name, fetches a page and serves one, against real servers.
    """
    setup_system.provide()
    console = Console(highlight=False)
    # Who reads a file does not watch the typing.
    run(console, driver, pause=0.02 if console.is_terminal else 0.0)


def run(console: Console, driver: str | None, pause: float) -> None:
    """Runs the tour on a virtual board with this LAN driver (see VirtualBoard).

    Raises BarenetError when a step does not do what it should. The programs dnsmasq, nginx and curl must be on PATH.
    """
    tour = Tour(console, pause)
    with tempfile.TemporaryDirectory(prefix="barenet-demo-") as folder:
        page = _page("the Linux side", PAGE_BYTES)
        with VirtualBoard(driver=driver, network="dhcp", main=False) as board:
            interpreter = board.description["interpreter"]
            console.print(f"A virtual board is running: MicroPython {interpreter['version']}, {interpreter['bits']} bits ({interpreter['origin']}).")
            console.print(f"Its serial port is {board.serial}; its cable ends in a network namespace of its own.")
            _start_servers(board, Path(folder), page)
            tour.prompt = Prompt(board.serial)
            try:
                _walk(tour, board, page)
            finally:
                tour.prompt.close()
    _what_next(console)


def _walk(tour: Tour, board: VirtualBoard, page: bytes) -> None:
    tour.chapter("driver and layers", "The LAN driver takes over the adapter: a pool of frames, a ring for each direction, and the layers above them.")
    tour.type("import gc, time; gc.threshold(16384); import barenet; lan = barenet.LAN()")
    tour.type('from barenet import trace; trace.on(style="json", stack=lan.stack)')

    tour.chapter("our own address (DHCP)", "The board shouts into the network: who can give me an address? A real dnsmasq answers.")
    tour.type("lan.active(True); lan.wait(10)")
    address = _text(tour.type("lan.ifconfig()[0]"))
    if not address.startswith("10.77.0."):
        raise BarenetError(f"no lease: the board's address is {address}")

    tour.chapter("names (resolver)", f"The program knows a name, the network wants a number: the resolver asks the DNS server for {NAME}.")
    tour.type("socket = barenet.install()")
    if LINUX not in tour.type(f'where = socket.getaddrinfo("{NAME}", 80)[0][-1]; where'):
        raise BarenetError(f"the resolver did not find {NAME}")

    tour.chapter("create", "socket() gives the program a descriptor; behind it stands a control block that will hold the conversation.")
    tour.type("s = socket.socket()")

    tour.chapter("connect", "Three packets: SYN “my numbers start here”, SYN+ACK “and mine here”, ACK. Both sides fill in their control blocks.")
    tour.type("s.connect(where)")

    tour.chapter("send, acknowledge", "What is written goes into the send buffer and leaves as a segment; it is kept until the peer has confirmed it.")
    tour.type(f's.write("GET / HTTP/1.0\\r\\nHost: {NAME}\\r\\n\\r\\n")')

    tour.chapter(
        "receive, window",
        f"The page has {PAGE_BYTES} bytes, the receive buffer fewer. The window tells the server how much may come; it closes as the buffer fills "
        "and opens as the program reads.",
    )
    tour.type("while s.readline() != b'\\r\\n': pass\r")
    tour.type("import hashlib, binascii; h = hashlib.sha256(); piece = bytearray(1000)")
    tour.type("while n := s.readinto(piece): h.update(memoryview(piece)[:n])\r")
    digest = _text(tour.type("binascii.hexlify(h.digest()).decode()"))
    if digest != hashlib.sha256(page).hexdigest():
        raise BarenetError("the page that the board received is not the page that nginx sent")
    tour.console.print(f"      [green]all {len(page)} bytes arrived, SHA-256 equal[/]")

    tour.chapter("disconnect, delete", "The server has said FIN; now the board says FIN, too, each confirmed by an ACK. Then the memory is freed.")
    tour.type("s.close(); time.sleep_ms(200)")

    tour.chapter("serve", "Now the other way: the board opens a port and waits; curl on the Linux side connects.")
    tour.type('door = socket.socket(); door.bind(("", 80)); door.listen(2)')
    curl = board.popen(
        ["sh", "-c", f"sleep 0.5; exec curl -s --max-time 15 http://{address}/"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    tour.type("guest, peer = door.accept(); peer")
    tour.type("request = guest.recv(500); request.split(b'\\r\\n')[0]")
    tour.chapter("segment", f"{SERVED_BYTES} bytes are written at once; the send buffer is cut into pieces of at most MSS = MTU − headers = 1460 bytes.")
    tour.type(f"guest.write(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + b'barenet! ' * {SERVED_BYTES // 9} + b'.' * {SERVED_BYTES % 9})")
    tour.chapter("disconnect, from our side", "Who closes first waits longest: the control block stays in TIME_WAIT so that late packets cannot hurt a new connection.")
    tour.type("guest.close(); time.sleep_ms(300)")
    served, errors = curl.communicate(timeout=20)
    if curl.returncode or len(served) != SERVED_BYTES:
        raise BarenetError(f"curl did not get the page: exit code {curl.returncode}, {len(served)} bytes {errors.decode()}")
    tour.console.print(f"      [green]curl got all {len(served)} bytes from the board[/]")
    tour.type("trace.off(); door.close()")


def _start_servers(board: VirtualBoard, folder: Path, page: bytes) -> None:
    folder.chmod(0o755)
    (folder / "www").mkdir()
    (folder / "www" / "index.html").write_bytes(page)
    board.popen(
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--interface=tap0", "--bind-interfaces",
         f"--dhcp-range={LEASES}", f"--dhcp-leasefile={folder}/leases", "--dhcp-authoritative", "--pid-file=", "--user=", "--group=",
         f"--address=/{NAME}/{LINUX}", f"--listen-address={LINUX}", "--no-ping"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    (folder / "nginx.conf").write_text(
        # "user": as root of a user namespace nginx must not try to become somebody else.
        f"""user root root; daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen {LINUX}:80; root {folder}/www; }}
}}
"""
    )
    board.popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _page(who: str, size: int) -> bytes:
    text = f"<html><title>barenet</title><p>Hello from {who}.\n".encode()
    line = b"<p>Every byte of this page went through a TCP/IP stack written in Python.\n"
    return (text + line * (size // len(line) + 1))[:size]


def _text(printed: str) -> str:
    return printed.strip().splitlines()[-1].strip("'\"") if printed.strip() else ""


def _what_next(console: Console) -> None:
    console.print()
    console.print(
        Panel(
            "make virtual              a virtual board of your own; type at its serial port\n"
            "make test                 the whole test suite\n"
            "make boards               is yours among them?\n"
            "make flash BOARD=… PORT=… then make deploy BOARD=… PORT=… and make repl PORT=…",
            title="[bold]What to type next[/]",
            title_align="left",
            border_style="green",
        )
    )

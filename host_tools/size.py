"""How much heap barenet takes on a board: by stage of coming up, and its code by module. `make size` prints it.

The firmware is compiled as a deploy compiles it and runs in the 32-bit interpreter with a board's heap. The cable is a socket; at its other
end a thread here leases the board an address and accepts its connection. Figures are what `gc.mem_alloc()` counts after a collection, and are
the same in each run to within some blocks of 16 bytes: the collector takes stale words on the stack for references.
"""

import json
import os
import select
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import click

from host_tools import deploy
from host_tools.errors import BarenetError
from host_tools.virtual_board import interpreter

HEAP = 160 * 1024

# Bytes: what must hold today, and the target where there is one. One is lowered as the other comes near; a guard never goes up unnoticed.
GUARDS = {"LAN up": 59_300, "its code": 36_200, "with socket": 72_300, "code with socket": 49_100, "connection": 600}
TARGETS = {"LAN up": 64 * 1024, "its code": 36 * 1024, "connection": 600}

_BUFFER = 5840  # the receive buffer of a connection, the program's to size; the send buffer comes with the first write
_TIMEOUT = 60  # s
_HEAP_FOR_ALL = 256 * 1024  # all modules at once, which no board ever loads

_OWN_MAC = b"\x02\xba\x4e\0\0\1"
_OWN, _LEASED, _MASK = bytes((10, 77, 0, 1)), bytes((10, 77, 0, 2)), bytes((255, 255, 255, 0))

_STAGES = """
import gc
def used(what):
    gc.collect()
    print(what, gc.mem_alloc())
used("interpreter")
import barenet
used("import barenet")
import barenet.driver.tap
used("import driver")
lan = barenet.LAN(board={"driver": "tap", "board": "size"})
used("LAN made")
lan.active(True)
assert lan.wait(10), "no lease"
for _ in range(400):  # what only getting the lease needs is unloaded, at last what announces the address 2 s later
    lan.stack.wait(10)
    lan.stack.poll()
    if not lan.stack.ip.late:
        break
used("LAN up")
barenet.install()
import socket
used("import socket")
s = [socket.socket()]
used("first socket")
s[0].connect(("10.77.0.1", 7))
used("first connection")
s.append(socket.socket())
s[1].connect(("10.77.0.1", 8))
used("one more connection")
"""

# Loading a module loads those that it imports, which count for themselves: `inner` is what they took.
_MODULES = """
import builtins, gc, json, sys
class machine:
    mem32 = Pin = unique_id = None
load = builtins.__import__
inner = 0
sizes = []
def measured(name, *rest):
    global inner
    if not name.startswith("barenet") or (name in sys.modules and not (rest and len(rest) > 2 and rest[2])):
        return load(name, *rest)
    outer, inner, known = inner, 0, len(sys.modules)
    gc.collect()
    before = gc.mem_alloc()
    module = load(name, *rest)
    gc.collect()
    taken = gc.mem_alloc() - before
    if len(sys.modules) > known:
        sizes.append((name, taken - inner))
        inner = taken
    inner += outer
    return module
"""


@dataclass(frozen=True)
class Report:
    """Bytes everywhere.

    Attributes:
        stages: (stage, heap in use), in order; the first is the interpreter without barenet.
        modules: (module, heap that loading it takes, size of its .mpy) of those that a LAN with the TAP driver loads.
        late: the same of the others: other drivers, and what is loaded when it is needed.
    """

    stages: list[tuple[str, int]]
    modules: list[tuple[str, int, int]]
    late: list[tuple[str, int, int]]

    @property
    def figures(self) -> dict[str, int]:
        """What the budget is about: heap with the LAN up, its code, both once `socket` is loaded, and one more connection's own.

        Code is all of it but what making the LAN allocates: also what DHCP leaves behind when it is unloaded.
        """
        heap = dict(self.stages)
        up = heap["LAN up"] - heap["interpreter"]
        with_socket = heap["import socket"] - heap["interpreter"]
        made = heap["LAN made"] - heap["import driver"]
        return {
            "LAN up": up,
            "its code": up - made,
            "with socket": with_socket,
            "code with socket": with_socket - made,
            "connection": heap["one more connection"] - heap["first connection"] - _BUFFER,
        }


def measure() -> Report:
    """Compiles the firmware and measures it. Raises BarenetError when it does not run."""
    board = interpreter.find(bits=32)
    architecture, why_not = deploy.target(board.mpy)
    if board.bits != 32 or not architecture:
        raise BarenetError(f"no 32-bit MicroPython that loads compiled modules: {why_not or board}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = deploy.compile_all(deploy.sources(), architecture)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        stages = [
            (what, int(size)) for what, size in (line.rsplit(" ", 1) for line in _run(board, folder, _STAGES).splitlines())
        ]
        modules = _modules(board, folder, files)
    return Report(stages, *modules)


def _modules(board, folder, files):
    sizes = {
        path.removesuffix(".mpy").removesuffix("/__init__").replace("/", "."): len(content)
        for path, content in files.items()
        if path.endswith(".mpy")
    }
    used = "import barenet.driver.tap, barenet.socket"
    rest = ", ".join(sorted(sizes))
    text = _run(
        board,
        folder,
        _MODULES
        + f'sys.modules["machine"] = machine\nbuiltins.__import__ = measured\n{used}\nn = len(sizes)\nimport {rest}\n'
        + "builtins.__import__ = load\nprint(json.dumps([sizes[:n], sizes[n:]]))\n",
        _HEAP_FOR_ALL,
    )
    return [[(name, taken, sizes[name]) for name, taken in part] for part in json.loads(text)]


def _run(board, folder: Path, program: str, heap: int = HEAP) -> str:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    ended = threading.Event()
    peer = threading.Thread(target=_peer, args=(ours, ended), daemon=True)
    peer.start()
    try:
        done = subprocess.run(
            [*board.command, "-X", f"heapsize={heap}", "-c", program],
            env=dict(os.environ, MICROPYPATH=f"{folder}:.frozen", BARENET_LINK_FD=str(theirs.fileno())),
            cwd=folder,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise BarenetError(f"the measured program did not end within {_TIMEOUT} s; try again") from None
    finally:
        ended.set()
        peer.join()
        ours.close()
        theirs.close()
    if done.returncode:
        raise BarenetError(f"the measured program failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _peer(cable: socket.socket, ended: threading.Event) -> None:
    while not ended.is_set():
        if select.select([cable], [], [], 0.05)[0] and (answer := _answer(cable.recv(2048))):
            cable.send(answer)


def _answer(frame: bytes) -> bytes | None:
    """Returns what the other end says to a frame: ARP reply, DHCP offer or ACK, SYN-ACK; None to all else."""
    ethernet = frame[6:12] + _OWN_MAC + frame[12:14]
    if frame[12:14] == b"\x08\x06" and frame[21] == 1 and frame[38:42] == _OWN:
        return ethernet + frame[14:20] + b"\0\2" + _OWN_MAC + _OWN + frame[22:32] + bytes(18)
    if frame[12:14] != b"\x08\0":
        return None
    payload = frame[34:]
    if frame[23] == 17 and payload[:4] == b"\0\x44\0\x43":
        request = payload[8:]
        kind = 2 if request[242] == 1 else 5
        options = bytes((53, 1, kind, 54, 4)) + _OWN + b"\x33\4\0\0\x0e\x10\1\4" + _MASK + b"\3\4" + _OWN + b"\6\4" + _OWN
        reply = b"\2" + request[1:16] + _LEASED + request[20:240] + options + b"\xff"
        udp = b"\0\x43\0\x44" + (len(reply) + 8).to_bytes(2, "big") + b"\0\0"
        return ethernet + _ip(17, b"\xff\xff\xff\xff", udp + reply)
    if frame[23] == 6 and payload[13] == 0x02:
        after = (int.from_bytes(payload[4:8], "big") + 1).to_bytes(4, "big")
        tcp = payload[2:4] + payload[:2] + b"\0\0\x10\0" + after + b"\x60\x12\xff\xff\0\0\0\0\2\4\5\xb4"
        check = _checksum(_OWN + _LEASED + b"\0\6" + len(tcp).to_bytes(2, "big") + tcp)
        return ethernet + _ip(6, _LEASED, tcp[:16] + check + tcp[18:])
    return None


def _ip(protocol: int, destination: bytes, payload: bytes) -> bytes:
    header = b"\x45\0" + (20 + len(payload)).to_bytes(2, "big") + b"\0\0\0\0\x40" + bytes((protocol, 0, 0)) + _OWN + destination
    return header[:10] + _checksum(header) + header[12:] + payload


def _checksum(data: bytes) -> bytes:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data) & ~1, 2)) + (data[-1] << 8) * (len(data) & 1)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def main(as_json: bool) -> None:
    """Measure the heap that barenet takes on a board; fail when it is past the budget."""
    report = measure()
    figures = report.figures
    if as_json:
        data = {"stages": report.stages, "modules": report.modules, "late": report.late}
        click.echo(json.dumps(data | {"figures": figures, "guards": GUARDS, "targets": TARGETS}))
    else:
        before = report.stages[0][1]
        click.echo(f"{'heap by stage, bytes':32}{'in use':>8}{'more':>8}")
        for what, size in report.stages:
            click.echo(f"  {what:30}{size:8}{size - before:8}")
            before = size
        for title, rows in (("code by module", report.modules), ("loaded when needed", report.late)):
            click.echo(f"\n{title:32}{'heap':>8}{'.mpy':>8}")
            for name, heap, size in sorted(rows, key=lambda row: -row[1]):
                click.echo(f"  {name:30}{heap:8}{size:8}")
            click.echo(f"  {'':30}{sum(row[1] for row in rows):8}{sum(row[2] for row in rows):8}")
        click.echo(f"\n{'budget':32}{'now':>8}{'at most':>8}{'target':>8}")
        for what, value in figures.items():
            click.echo(f"  {what:30}{value:8}{GUARDS[what]:8}{TARGETS.get(what, ''):>8}")
    past = [what for what, value in figures.items() if value > GUARDS[what]]
    if past:
        raise click.ClickException(f"past the budget: {', '.join(past)}")


if __name__ == "__main__":
    main()

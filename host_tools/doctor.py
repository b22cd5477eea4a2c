"""Find out what is wrong with a board's Ethernet, from this PC: `barenet doctor`.

The diagnosis is made on the board (firmware/barenet/driver/doctor.py), which sends it line by line; here it becomes an
object, a board that fits is suggested, and a board of which nothing is known is searched for its PHY (`probe`).
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import serial

from host_tools import boards
from host_tools.boards import Board
from host_tools.connection import Connection, RemoteError
from host_tools.errors import BarenetError

Say = Callable[[str], None]

FAULT = 3  # exit code: the doctor has found something

_NO_MAC = "{}; a board with the chip's driver is needed (virtual: --driver emac)"
_SILENCE = 40  # seconds; the board's own waits are shorter

_EXAMINE = """
import json, gc, errno
def report(*row): print(json.dumps(row))
try:
    import barenet
except ImportError:
    report("missing")
else:
    try:
        lan = barenet.LAN()
    except OSError as e:
        report("refused", str(e.args[-1]))
    else:
        report("state", "up" if lan.active() else "down", lan.config("board"))
        try:
            lan.doctor(report)
        except OSError as e:
            if e.args[0] == errno.ENODEV:
                report("unable", str(e.args[-1]))
            else:
                report("finding", "the examination breaks off", str(e.args[-1]))
    gc.collect()
"""

# The LAN is taken down for this. Its frames serve, because there is no room for more.
_BORROW = """
import json, gc
config = json.loads({config!r})
def report(*row): print(json.dumps(row))
try:
    import barenet
except ImportError:
    report("missing")
else:
    from barenet.lan import LAN
    from barenet.pool import Pool
    lan = LAN._one
    if lan and lan.active():
        report("was", True)
    barenet.stop()
    gc.collect()
    try:
        from barenet.driver.emac import EMAC
        driver = EMAC(config)
        {work}
    except (ImportError, AttributeError):
        report("unable", "this board has no EMAC")
    except OSError as e:
        report("refused", str(e.args[-1]))
    gc.collect()
"""
_BRING_BACK = """
import barenet, gc
gc.collect()
try:
    barenet.LAN().active(True)
except OSError as e:
    print(e.args[-1])
"""
_TRY = """
        from barenet.driver import borrow
        report("state", "tried", config["board"])
        borrow("doctor", "walk", driver, lan.stack.pool if lan else Pool(4, 2), report)
"""
# Power, clock and management pins, then the PHY is asked for its id. The RMII's data pins stay as they are, for their
# outputs could work against what else a board has there.
_SEARCH = """
        from barenet.driver import bring_up, drop, emac
        from machine import Pin
        steps = dict(bring_up.steps(driver, None))
        clocked = False
        try:
            for name in ("power", "clock gate", "RMII mode", "reference clock", "PHY reset pin", "MAC reset"):
                steps[name]()
            clocked = True
            bring_up.connect_management(config)
            for address in range(32):
                if bring_up.answers(address):
                    phy = driver.phy
                    phy.address = address
                    bring_up.find(phy)
                    report("found", address, phy.id, phy.type, phy.name)
                    break
        except OSError as e:
            report("failed", str(e.args[-1]))
        finally:
            report("clock", clocked)
            emac.stop_dma()
            for gpio in [config["mdc"], config["mdio"]] + [p["gpio"] for p in config["pins"]]:
                Pin(gpio, Pin.IN)
            drop()
"""
# As after power on, long enough for a slow supply to fall.
_RELEASE = """
        from time import sleep_ms
        from machine import Pin
        for gpio in {gpios}:
            Pin(gpio, Pin.IN)
        sleep_ms(500)
"""
_PSRAM = "import uctypes; print(0x3F800000 <= uctypes.addressof(bytearray(64)) < 0x3FC00000)"


# The ROM loader's SYNC command in SLIP, and how its answer begins (ESP32 serial protocol).
_SYNC = b"\xc0\x00\x08\x24\x00\x00\x00\x00\x00\x07\x07\x12\x20" + b"\x55" * 32 + b"\xc0"
_SYNCED = b"\xc0\x01\x08"
IN_ROM_LOADER = (
    "the board waits for a download: GPIO0 was low at its reset, or had the PHY's clock on it; take wires and programmer "
    "(DTR) off GPIO0, let the board file's oscillator or power pin switch the clock, and reset it"
)


@dataclass
class Diagnosis:
    """What was found on a board.

    Attributes:
        board: identifier in its board file, None when it has none.
        state: "up" when the running interface was looked at; "down" or "tried" when it was brought up for this (with
            its own board file, or the one that was named) and taken down again.
        steps: [(name, "ok" or the error)] of that. status, phy: as texts by name.
        registers: [(name, "0x…", fields)]; of the PHY: [(name, number, "0x…", fields)].
        findings: [(symptom, cause and remedy)]; empty for a healthy board.
        candidates: identifiers of the boards that fit, those that fit best first.
        next: what to do.
    """

    board: str | None = None
    state: str = "down"
    steps: list[tuple[str, str]] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)
    phy: dict[str, str] = field(default_factory=dict)
    registers: list[tuple[str, str, str]] = field(default_factory=list)
    phy_registers: list[tuple[str, str, str, str]] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    next: str = ""

    @property
    def healthy(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        return {"healthy": self.healthy, **asdict(self)}


@dataclass
class Probe:
    """What a search found: the PHY with its family, the clock mode and pins with which it answered; the tries before it."""

    tries: list[dict[str, Any]] = field(default_factory=list)
    phy: dict[str, Any] | None = None
    ref_clk: str | None = None
    mdc: int | None = None
    mdio: int | None = None
    pins: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return self.phy is not None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(connection: Connection, board: Board | None = None) -> Diagnosis:
    """Examine the board behind a connection.

    board: try this board file in place of the one on the board; the interface is taken down for it and comes back.

    An interface that is up is looked at without disturbing it; one that is down is brought up, tested and taken down.
    Raises BarenetError when nothing can be examined; the message says what to do first.
    """
    if board is None:
        program = _EXAMINE
    else:
        program = _BORROW.format(config=json.dumps(boards.device_config(board)), work=_TRY.strip())
    diagnosis = Diagnosis()
    rows = _rows(connection, program)
    if ["was", True] in rows:
        connection.run(_BRING_BACK, _SILENCE)
    for kind, *row in rows:
        if kind == "unable":
            raise BarenetError(_NO_MAC.format(row[0]))
        if kind == "refused":
            if "There is no board.json" in row[0]:
                raise BarenetError(
                    "the board does not know what it is (it has no board.json): name it with --board, or search for its "
                    "PHY with --probe"
                )
            diagnosis.findings.append(("the board file cannot work", row[0]))
        elif kind == "state":
            diagnosis.state, diagnosis.board = row
        elif kind == "step":
            diagnosis.steps.append(tuple(row))
        elif kind in ("status", "phy"):
            getattr(diagnosis, kind)[row[0]] = row[1]
        elif kind == "register":
            diagnosis.registers.append(tuple(row))
        elif kind == "phy register":
            diagnosis.phy_registers.append(tuple(row))
        elif kind == "finding":
            diagnosis.findings.append(tuple(row))
    _suggest(diagnosis, board)
    return diagnosis


def in_rom_loader(port: str) -> bool:
    """Whether the chip on this port sits in its ROM loader, where no program runs."""
    with contextlib.suppress(OSError, ValueError), serial.serial_for_url(port, 115200, timeout=0.3) as line:
        for _ in range(3):
            line.write(_SYNC)
            if _SYNCED in line.read(64):
                return True
    return False


def _suggest(diagnosis: Diagnosis, board: Board | None) -> None:
    texts = " ".join(cause for _, cause in diagnosis.findings)
    elsewhere = re.search(r"one answers at (\d+)", texts)
    if board is None and diagnosis.board:
        try:
            board = boards.find(diagnosis.board)
        except BarenetError:
            pass  # a file of the user's own
    management = (board.data["phy"]["mdc"], board.data["phy"]["mdio"]) if board else None
    clock = board.data["clock"]["mode"] if board else None
    found: list[Board] = []
    if elsewhere and board:
        found = boards.candidates("generic", int(elsewhere[1]), clock, management)
    elif diagnosis.phy.get("type", "None") != "None":
        found = boards.candidates(diagnosis.phy["type"], int(diagnosis.phy["address"]), clock, management)
    diagnosis.candidates = [candidate.id for candidate in found]
    if diagnosis.healthy:
        diagnosis.next = "nothing to do" if diagnosis.state == "up" else "barenet.up() on the board brings it up"
        if diagnosis.state == "tried":
            diagnosis.next = f"barenet deploy --board {diagnosis.board}"
    elif elsewhere and diagnosis.candidates:
        diagnosis.next = f"perhaps it is another board: barenet doctor --board {diagnosis.candidates[0]}"
    elif any(words in texts for words in ("no RMII clock", "no PHY answers", "all MDIO reads")):
        diagnosis.next = "check what the finding names; if it may be another board: barenet doctor --probe"
    else:
        diagnosis.next = "remove the cause that the first finding names, then run barenet doctor again"


def probe(connection: Connection, say: Say = lambda line: None) -> Probe:
    """Search for the PHY of a board of which nothing is known: tries clock modes and pins of all board files in turn.

    It drives MDC, MDIO, control and clock pins of other boards, so nothing else may be connected to those of this one.
    Stops at the first answer. Where a clock arrives at GPIO0, the chip never drives that pin or another clock.

    say: gets a line for each try. Raises BarenetError as `examine` does.
    """
    result = Probe()
    psram = connection.run(_PSRAM).strip() == "True"
    every = shapes()
    gpios = {pin["gpio"] for config in every for pin in config["pins"]} - (set(boards.PSRAM_PINS) if psram else set())
    first = _search(connection, every[0], _RELEASE.format(gpios=sorted(gpios)))
    try:
        _try_all(connection, every, psram, result, say)
    finally:
        if ["was", True] in first:
            connection.run(_BRING_BACK, _SILENCE)
    return result


def _try_all(connection: Connection, every: list[dict[str, Any]], psram: bool, result: Probe, say: Say) -> None:
    for config in every:
        used = {config["mdc"], config["mdio"], boards.CLOCK_PIN[config["ref_clk"]], *(p["gpio"] for p in config["pins"])}
        if psram and used & set(boards.PSRAM_PINS):
            continue
        if config["ref_clk"] != "gpio0_in" and any(attempt["clock"] for attempt in result.tries if attempt["in"]):
            break
        attempt = {"in": config["ref_clk"] == "gpio0_in", "clock": False, "found": False}
        attempt["text"] = describe(config)
        for kind, *row in _search(connection, config, _SEARCH):
            if kind == "clock":
                attempt["clock"] = row[0]
            elif kind == "found":
                attempt["found"] = True
                address, number, family, name = row
                result.phy = {"address": address, "id": f"0x{number:08X}", "type": family, "name": name}
        say(attempt["text"] + (": a PHY answers" if attempt["found"] else ": nothing"))
        result.tries.append(attempt)
        if result.phy:
            result.ref_clk, result.mdc, result.mdio = config["ref_clk"], config["mdc"], config["mdio"]
            result.pins = config["pins"]
            result.candidates = [
                board.id
                for board in boards.candidates(
                    result.phy["type"],
                    result.phy["address"],
                    result.ref_clk,
                    (result.mdc, result.mdio),
                    frozenset(pin["gpio"] for pin in result.pins),
                )
            ]
            return


def _search(connection: Connection, config: dict[str, Any], work: str) -> list[list[Any]]:
    # Whether GPIO16 and GPIO17 are free was found out; what the file of another board says of them does not count.
    rows = _rows(connection, _BORROW.format(config=json.dumps(config | {"psram": False}), work=work.strip()))
    for kind, *row in rows:
        if kind in ("unable", "refused"):
            raise BarenetError(_NO_MAC.format(row[0]))
    return rows


def shapes() -> list[dict[str, Any]]:
    """What `probe` tries: the different ways in which the shipped boards are wired, as board.json; the harmless first.

    That is: clock inputs before outputs, GPIO17 before the rest, few control pins before many.
    """
    order = ("gpio0_in", "gpio17_out", "gpio16_out", "gpio0_out")
    found: dict[str, dict[str, Any]] = {}
    for board in boards.load_all():
        config = boards.device_config(board)
        key = json.dumps([config[name] for name in ("ref_clk", "mdc", "mdio")] + [p["gpio"] for p in config["pins"]])
        if key not in found or config["startup_ms"] > found[key]["startup_ms"]:
            found[key] = config
    return sorted(found.values(), key=lambda c: (order.index(c["ref_clk"]), len(c["pins"]), c["mdc"] != 23))


def describe(config: dict[str, Any]) -> str:
    """A board.json in a few words."""
    pins = ", ".join(f"GPIO{pin['gpio']} {pin['role']}" for pin in config["pins"]) or "no control pin"
    return f"{config['ref_clk']}, MDC {config['mdc']}, MDIO {config['mdio']}, {pins}"


def _rows(connection: Connection, program: str) -> list[list[Any]]:
    """Runs a program that prints JSON lists, and returns them."""
    try:
        printed = connection.run(program, _SILENCE)
    except RemoteError as error:
        if "MemoryError" in error.traceback:
            raise BarenetError("the board has too little free memory for the doctor; restart it without a program") from None
        raise
    rows = []
    for line in printed.splitlines():
        with contextlib.suppress(ValueError):  # a program's timer may print, too
            rows.append(json.loads(line))
    rows = [row for row in rows if isinstance(row, list) and row and isinstance(row[0], str)]
    if ["missing"] in rows:
        raise BarenetError(
            "barenet is not on the board; put it there with 'barenet deploy --board NAME' ('barenet boards' lists them; "
            "if you do not know yours, take one that looks like it, then run 'barenet doctor --probe')"
        )
    return rows

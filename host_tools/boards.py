"""Board files: find them, check them, and turn one into what the driver reads.

A board is one TOML file of `boards/` (or anywhere else). `board_schema.json` says what it may contain, `check` what
the ESP32 cannot do whatever the file says, and `device_config` is the only place that knows which part of it travels
to the board, and in which shape.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from host_tools import ROOT
from host_tools.errors import BarenetError

BOARDS = ROOT / "boards"
SCHEMA = Path(__file__).with_name("board_schema.json")

# Fixed by the IO_MUX of the ESP32: no board can have them elsewhere.
RMII_PINS = {19: "TXD0", 21: "TX_EN", 22: "TXD1", 25: "RXD0", 26: "RXD1", 27: "CRS_DV"}
FLASH_PINS = range(6, 12)
CONSOLE_PINS = {1: "TX", 3: "RX"}
PSRAM_PINS = (16, 17)
INPUT_ONLY_PINS = range(34, 40)
MISSING_PINS = (24, 28, 29, 30, 31)

CLOCK_PIN = {"gpio0_in": 0, "gpio0_out": 0, "gpio16_out": 16, "gpio17_out": 17}
LEVELS = {"low": 0, "high": 1}

_TABLE_START = "<!-- table: start -->"
_TABLE_END = "<!-- table: end -->"


class BoardError(BarenetError):
    """A board file that is missing or wrong; `rule` names the rule that it breaks."""

    def __init__(self, rule: str, message: str):
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True)
class Board:
    """One board: its identifier (the file's name), where it was read and what is in the file."""

    id: str
    path: Path
    data: dict[str, Any]

    @property
    def name(self) -> str:
        return self.data["name"]

    @property
    def flash_mb(self) -> int | None:
        """Size of the flash in MiB, None when no source tells."""
        return self.data["module"].get("flash_mb")

    @property
    def auto_reset(self) -> bool | None:
        """Whether the serial port can start the ROM loader; None when no source tells."""
        return self.data.get("usb", {}).get("auto_reset")

    @property
    def manual(self) -> str:
        """How a person starts the ROM loader of this board."""
        text = self.data.get("usb", {}).get("manual")
        return text or "hold BOOT (connect GPIO0 to GND), press and release EN (RESET), then release BOOT"

    def as_json(self) -> dict[str, Any]:
        """The file's content with the identifier in front, for scripts."""
        return {"id": self.id, **self.data}


def load(path: Path) -> Board:
    """Read and check one board file.

    Raises BoardError: `file` (unreadable or not TOML), `schema`, or a rule of `check`.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError("file", f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BoardError("file", f"{path} is not TOML: {error}") from None
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    error = jsonschema.exceptions.best_match(validator.iter_errors(data))
    if error:
        place = ".".join(str(part) for part in error.absolute_path) or "the file"
        raise BoardError("schema", f"{path}: schema: {place}: {error.message}")
    board = Board(path.stem, path, data)
    check(board)
    return board


def check(board: Board) -> None:
    """Check a board against what the ESP32 can do.

    Raises BoardError with one of the rules

    * `pin-missing`: the chip has no such pin
    * `pin-flash`: GPIO6 to GPIO11 belong to the flash
    * `pin-rmii`: the pin is one of the six RMII data pins
    * `pin-psram`: GPIO16 or GPIO17 on a module with PSRAM
    * `pin-console`: GPIO1 or GPIO3, the serial console
    * `pin-input-only`: GPIO34 to GPIO39 cannot drive anything
    * `pin-used-twice`: two uses of one pin
    """
    psram = board.data["module"]["psram_mb"] > 0

    def fail(rule: str, text: str) -> None:
        raise BoardError(rule, f"{board.path}: {rule}: {text}")

    users: dict[int, str] = {}
    for gpio, use, output in _uses(board.data):
        if gpio in MISSING_PINS:
            fail("pin-missing", f"the ESP32 has no GPIO{gpio} ({use})")
        if gpio in FLASH_PINS:
            fail("pin-flash", f"GPIO{gpio} ({use}) belongs to the flash memory")
        if gpio in RMII_PINS:
            fail("pin-rmii", f"GPIO{gpio} ({use}) is {RMII_PINS[gpio]} of the RMII on every ESP32")
        if psram and gpio in PSRAM_PINS:
            fail("pin-psram", f"GPIO{gpio} ({use}) belongs to the PSRAM of this module")
        if gpio in CONSOLE_PINS:
            fail("pin-console", f"GPIO{gpio} ({use}) is {CONSOLE_PINS[gpio]} of the serial console")
        if output and gpio in INPUT_ONLY_PINS:
            fail("pin-input-only", f"GPIO{gpio} ({use}) is an input only and cannot drive it")
        if gpio in users:
            fail("pin-used-twice", f"GPIO{gpio} is both {users[gpio]} and {use}")
        users[gpio] = use


def _uses(data: dict[str, Any]) -> Iterator[tuple[int, str, bool]]:
    """Every use of a pin: (GPIO, what for, whether the ESP32 drives it)."""
    yield data["phy"]["mdc"], "phy.mdc", True
    yield data["phy"]["mdio"], "phy.mdio", True
    mode = data["clock"]["mode"]
    yield CLOCK_PIN[mode], f"the clock ({mode})", mode.endswith("_out")
    for pin in data.get("pins", ()):
        yield pin["gpio"], f"the {pin['role']} pin", True
    for led in data.get("leds", ()):
        yield led["gpio"], "an LED", True
    for button in data.get("buttons", ()):
        yield button["gpio"], "a button", False


def load_all(folder: Path = BOARDS) -> list[Board]:
    """All boards of a folder, sorted by identifier. Raises BoardError as `load` does."""
    return [load(path) for path in sorted(folder.glob("*.toml"))]


def find(name: str, folder: Path = BOARDS) -> Board:
    """The board with this identifier or alias, or the board file at this path.

    Raises BoardError `unknown-board` with the names that come close, or as `load` does.
    """
    if name.endswith(".toml") or "/" in name:
        return load(Path(name))
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    boards = {path.stem: path for path in folder.glob("*.toml")}
    if key in boards:
        return load(boards[key])
    aliases = {alias: board for board in load_all(folder) for alias in board.data.get("aliases", ())}
    if key in aliases:
        return aliases[key]
    close = difflib.get_close_matches(key, [*boards, *aliases], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "'barenet boards' lists them"
    raise BoardError("unknown-board", f"no board is called '{name}'; {hint}")


def candidates(
    phy: str,
    address: int,
    clock: str | None = None,
    management: tuple[int, int] | None = None,
    gpios: frozenset[int] | None = None,
    boards: list[Board] | None = None,
) -> list[Board]:
    """The boards that fit what was found on one, those that fit best first.

    phy: family as in the board files; "generic" fits any. address: of the PHY. clock: mode that works, None when
    unknown. management: (MDC, MDIO). gpios: pins that had to be driven. boards: default all shipped ones.

    PHY, address, clock and management pins must fit where they are known; the same control pins and good evidence come
    first.
    """
    evidence = ("schematic", "vendor", "community")
    fitting = [
        board
        for board in (load_all() if boards is None else boards)
        if phy in ("generic", board.data["phy"]["type"])
        and address == board.data["phy"]["address"]
        and clock in (None, board.data["clock"]["mode"])
        and management in (None, (board.data["phy"]["mdc"], board.data["phy"]["mdio"]))
    ]

    def rank(board: Board) -> tuple:
        driven = {pin["gpio"] for pin in board.data.get("pins", ())}
        return gpios is not None and driven != gpios, evidence.index(board.data["evidence"]), board.id

    return sorted(fitting, key=rank)


def device_config(board: Board, network: str | dict[str, str] = "dhcp") -> dict[str, Any]:
    """What the driver on the board needs to know, as it is stored there in `board.json`.

    network: "dhcp", or {"ip": "192.168.1.5/24", "gw": "192.168.1.1", "dns": "192.168.1.1"} with gw and dns optional.

    Returns a dict with these keys and no others:

    * `board`: identifier, for messages
    * `driver`: "emac"
    * `phy`: {"type", "address"}, the types being those of the schema
    * `mdc`, `mdio`: GPIO numbers
    * `ref_clk`: "gpio0_in", "gpio0_out", "gpio16_out" or "gpio17_out"
    * `pins`: in the order in which to drive them, {"gpio", "role", "active", "hold_ms", "delay_ms"}. `role` is "power"
      or "oscillator" (`active` is the level that switches it on; off for `hold_ms` first, wait `delay_ms` after) or
      "reset" (`active` is the level that holds the PHY in reset, for `hold_ms`; wait `delay_ms` after its release,
      which must come when the clock runs)
    * `startup_ms`: how long after the start of the CPU the PHY and its clock appear by themselves
    * `psram`: whether the module has PSRAM
    * `network`: as given
    """
    data = board.data
    return {
        "board": board.id,
        "driver": "emac",
        "phy": {"type": data["phy"]["type"], "address": data["phy"]["address"]},
        "mdc": data["phy"]["mdc"],
        "mdio": data["phy"]["mdio"],
        "ref_clk": data["clock"]["mode"],
        "pins": [
            {
                "gpio": pin["gpio"],
                "role": pin["role"],
                "active": LEVELS[pin["active"]],
                "hold_ms": pin.get("hold_ms", 0),
                "delay_ms": pin.get("delay_ms", 0),
            }
            for pin in data.get("pins", ())
        ],
        "startup_ms": data.get("startup_ms", 0),
        "psram": data["module"]["psram_mb"] > 0,
        "network": network,
    }


def row(board: Board) -> dict[str, str]:
    """The facts of a board that fit in one line of a table, by column."""
    data = board.data
    control = [f"GPIO{pin['gpio']} {pin['role']} ({pin['active']})" for pin in data.get("pins", ())]
    reset = {True: "automatic", False: "by hand", None: "?"}[board.auto_reset]
    module = data["module"]
    flash = f"{board.flash_mb} MB" if board.flash_mb else "?"
    return {
        "board": board.id,
        "name": f"{data['vendor']} {data['name']}",
        "PHY": f"{data['phy'].get('part', data['phy']['type'])} at {data['phy']['address']}",
        "MDC/MDIO": f"{data['phy']['mdc']}/{data['phy']['mdio']}",
        "clock": data["clock"]["mode"],
        "control": ", ".join(control) or "none",
        "flash, PSRAM": f"{flash}, {module['psram_mb']} MB" if module["psram_mb"] else f"{flash}, none",
        "reset": reset,
        "evidence": data["evidence"],
    }


def readme_table(boards: list[Board]) -> str:
    """The Markdown table of boards/README.md."""
    rows = [row(board) for board in boards]
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(entry[column] for column in columns) + " |" for entry in rows]
    return "\n".join(lines)


def readme_with_table(text: str, boards: list[Board]) -> str:
    """The text of boards/README.md with its table made new."""
    before, _, rest = text.partition(_TABLE_START)
    _, _, after = rest.partition(_TABLE_END)
    return f"{before}{_TABLE_START}\n{readme_table(boards)}\n{_TABLE_END}{after}"


if __name__ == "__main__":
    readme = BOARDS / "README.md"
    readme.write_text(readme_with_table(readme.read_text(), load_all()))

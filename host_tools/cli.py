"""The command `barenet`: every subcommand is a thin layer over a function of this package."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from host_tools import ROOT, __version__, setup_system
from host_tools.errors import BarenetError

# Commands that live elsewhere, imported when they are asked for.
ELSEWHERE = {
    "demo": "host_tools.demo:command",
    "virtual": "host_tools.virtual_board.command:command",
}

_INTERRUPTED = 130

# What the list of boards shows of each; the rest does not fit into a terminal.
_LISTED = ("board", "name", "PHY", "clock", "evidence")


class Commands(click.Group):
    """A group that finds commands elsewhere too, and puts every expected failure on one line of stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        elsewhere = [name for name, place in ELSEWHERE.items() if _exists(place.partition(":")[0])]
        return sorted([*super().list_commands(ctx), *elsewhere])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in ELSEWHERE and name in self.list_commands(ctx):
            module, _, attribute = ELSEWHERE[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        return super().get_command(ctx, name)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = 0
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "barenet"
            _complain(command, f"{_one_line(error.format_message())} ('{command} --help' explains)")
            code = error.exit_code
        except click.ClickException as error:
            _complain("barenet", _one_line(error.format_message()))
            code = error.exit_code
        except BarenetError as error:
            _complain("barenet", _one_line(str(error)))
            code = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            _complain("barenet", "stopped")
            code = _INTERRUPTED
        except BrokenPipeError:
            # The reader of our output went away (| head): no reason to complain, now or while Python shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _complain(who: str, text: str) -> None:
    click.echo(f"{who}: {text}", err=True)


def _console() -> Console:
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 240
    return console


def _say(line: str) -> None:
    click.echo(line, err=True)


def _dump(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


@contextmanager
def _progress(description: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr that appears with the first call of what it yields: (done, total, description)."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(description)

    def update(done: int, total: int, text: str = description) -> None:
        bar.start()
        bar.update(task, completed=done, total=total or None, description=text)

    try:
        yield update
    finally:
        bar.stop()


port_option = click.option(
    "--port",
    envvar="BARENET_PORT",
    metavar="DEVICE",
    help="Serial port, such as /dev/ttyUSB0 or COM3. Default: $BARENET_PORT, or the only one on USB.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    "barenet", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="barenet")
def main() -> None:
    """A TCP/IP stack in MicroPython for ESP32 Ethernet boards: flash, deploy, talk to and simulate a board."""
    # An ordinary user's PATH lacks the sbin folders, and nobody's has the programs that were unpacked.
    os.environ["PATH"] = setup_system.search_path()


@main.command()
@click.argument("name", required=False)
@json_option
def boards(name: str | None, as_json: bool) -> None:
    """List the boards, or show the board NAME (or board file)."""
    from host_tools import boards as library

    if name:
        board = library.find(name)
        if as_json:
            _dump(board.as_json())
        else:
            _show_board(board)
        return
    found = library.load_all()
    if as_json:
        _dump([board.as_json() for board in found])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    console = _console()
    rows = [library.row(board) for board in found]
    widths = {column: max(len(row[column]) for row in rows) for column in _LISTED}
    # Only the names may be cut where the terminal is narrow.
    widths["name"] = max(8, console.width - sum(widths.values()) + widths["name"] - 2 * len(_LISTED))
    for column in _LISTED:
        table.add_column(column, no_wrap=True, max_width=widths[column])
    for row in rows:
        table.add_row(*(row[column] for column in _LISTED), style="dim" if row["evidence"] == "community" else None)
    console.print(table)
    _say("'barenet boards NAME' shows the pins, notes and sources of one")


def _show_board(board: Any) -> None:
    from host_tools import boards as library

    console = _console()
    data = board.data
    for key, texts in (
        *((key, [value]) for key, value in library.row(board).items()),
        ("file", [str(board.path)]),
        ("revisions", [data.get("revisions", "")]),
        ("leds", [f"GPIO{led['gpio']} ({led['active']}) {led.get('name', '')}" for led in data.get("leds", ())]),
        ("buttons", [f"GPIO{led['gpio']} ({led['active']}) {led.get('name', '')}" for led in data.get("buttons", ())]),
        ("never use", [f"GPIO{pin['gpio']}: {pin['why']}" for pin in data.get("never_use", ())]),
        ("straps", [f"GPIO{pin['gpio']}: {pin['why']}" for pin in data.get("straps", ())]),
        ("flashing", [board.manual] if board.auto_reset is False else []),
        ("notes", data.get("notes", [])),
        ("unconfirmed", data.get("unconfirmed", [])),
        ("sources", data["sources"]),
    ):
        for text in filter(None, texts):
            console.print(Text.assemble((f"{key:14}", "bold"), text))
            key = ""


@main.command()
@json_option
def ports(as_json: bool) -> None:
    """List the serial ports."""
    from host_tools import serial_ports

    found = serial_ports.ports()
    if as_json:
        _dump([port.as_json() for port in found])
    elif not found:
        raise BarenetError("no serial port found; plug the board in, or start a virtual one: barenet virtual")
    else:
        table = Table("port", "USB id", "description", "serial number", box=None, pad_edge=False, header_style="bold")
        for port in found:
            table.add_row(port.device, port.usb, port.description, port.serial_number)
        _console().print(table)


@main.command()
@click.option("--board", "board_name", required=True, envvar="BARENET_BOARD", help="Board name or board file.")
@port_option
@click.option("--firmware", metavar="FILE|VERSION", help="Firmware file, or version to download.")
@click.option("--erase", is_flag=True, help="Erase the whole flash first, the files on the board included.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--baud", type=click.IntRange(9600, 2_000_000), default=460800, show_default=True)
@click.option("--no-stub", is_flag=True, help="Use the ROM loader alone: slower, for boards on which the stub hangs.")
def flash(
    board_name: str, port: str | None, firmware: str | None, erase: bool, yes: bool, baud: int, no_stub: bool
) -> None:
    """Put MicroPython into the board's flash.

    The firmware is checked before anything is erased, and verified after it was written.
    """
    from host_tools import boards as board_files
    from host_tools import firmware as images
    from host_tools import flash as flasher
    from host_tools import serial_ports

    board = board_files.find(board_name)
    with _progress("downloading") as update:
        path = images.obtain(firmware, progress=update)
    image = images.inspect(path)
    port = serial_ports.choose(port)
    _say(f"MicroPython {image.version} ({path.name}): complete and undamaged")
    if image.psram and board.data["module"]["psram_mb"]:
        _say("note: this firmware keeps its heap in PSRAM, which the Ethernet DMA cannot reach; use ESP32_GENERIC")
    if board.auto_reset is False and not yes:
        _say(f"{board.name} has no automatic reset: {board.manual}.")
        click.pause("Press any key when the board is in the ROM loader …", err=True)

    def confirm(summary: str) -> bool:
        if yes:
            _say(summary)
        return yes or click.confirm(f"{summary}?", err=True)

    with _progress("writing") as update:
        flasher.flash(
            image,
            board,
            port,
            erase=erase,
            baud=baud,
            stub=not no_stub,
            confirm=confirm,
            progress=update,
            say=_say,
        )
    if board.auto_reset is not False:
        version = flasher.first_boot(port)
        if version is None:
            raise BarenetError("the board was written and verified but does not answer; press its reset button (EN)")
        _say(f"the board answers: MicroPython {version}")
    _say(f"next: barenet deploy --board {board_name} --port {port}")


@main.command()
@click.option(
    "--board", "board_name", envvar="BARENET_BOARD", help="Board name or board file. Default: what the board knows."
)
@port_option
@click.option("--ip", metavar="ADDRESS/LENGTH", help="Fixed address of the board.")
@click.option("--gw", metavar="ADDRESS", help="Router, with --ip.")
@click.option("--dns", metavar="ADDRESS", help="DNS server, with --ip.")
@click.option("--dhcp", is_flag=True, help="Get the address by DHCP (what a new board does).")
@click.option("--source", is_flag=True, help="Copy sources in place of compiled modules (but for viper): line numbers in tracebacks.")
@click.option("--clean", is_flag=True, help="Copy every file, changed or not.")
@json_option
def deploy(
    board_name: str | None,
    port: str | None,
    ip: str | None,
    gw: str | None,
    dns: str | None,
    dhcp: bool,
    source: bool,
    clean: bool,
    as_json: bool,
) -> None:
    """Put barenet and the board file onto the board.

    The board must run MicroPython; it restarts at the end. Copies what changed, removes what is stale, leaves all
    other files alone. The addresses that the board has stay unless one of --ip and --dhcp is given.
    """
    from host_tools import boards as board_files
    from host_tools import deploy as deployer
    from host_tools import serial_ports
    from host_tools.connection import connect

    board = board_files.find(board_name) if board_name else None
    network = deployer.network_config(ip, gw, dns, dhcp)
    with connect(serial_ports.choose(port)) as connection, _progress("copying") as update:
        result = deployer.deploy(
            connection,
            board,
            network=network,
            source=source,
            clean=clean,
            progress=update,
            say=_say,
        )
    if as_json:
        _dump(vars(result))
        return
    if result.printed:
        click.echo(result.printed)
    for path in result.kept:
        _say(f"note: {path} on the board is not barenet's and stays")
    click.echo(
        f"{len(result.copied)} files copied ({result.size / 1024:.1f} KB, {result.format}), "
        f"{len(result.removed)} removed, {result.unchanged} unchanged; the board has restarted"
    )


@main.command()
@click.option("--board", "board_name", help="Try this board (name or file) in place of the one that the board knows.")
@port_option
@click.option("--probe", "search", is_flag=True, help="Search for the PHY of an unknown board; drives pins of all boards.")
@json_option
def doctor(board_name: str | None, port: str | None, search: bool, as_json: bool) -> None:
    """Find out what is wrong with a board's Ethernet.

    Looks at a running interface without disturbing it; brings one that is down up, step by step, and takes it down
    again. The exit code is 0 for a healthy board, 3 when a fault was found, 1 when nothing could be examined.
    """
    from host_tools import boards as board_files
    from host_tools import doctor as library
    from host_tools import serial_ports
    from host_tools.connection import connect

    if search and board_name:
        raise click.UsageError("--probe searches for an unknown board; leave --board out")
    board = board_files.find(board_name) if board_name else None
    port = serial_ports.choose(port)
    try:
        with connect(port) as connection:
            found = library.probe(connection, say=_say) if search else library.examine(connection, board)
    except BarenetError:
        if library.in_rom_loader(port):
            raise BarenetError(library.IN_ROM_LOADER) from None
        raise
    if as_json:
        _dump(found.as_json())
    elif search:
        _show_probe(found)
    else:
        _show_diagnosis(found)
    sys.exit(0 if found.healthy else library.FAULT)


def _show_probe(found: Any) -> None:
    if not found.phy:
        click.echo(
            "no PHY answers with any board's pins: check its supply, and look for MDC, MDIO and the clock in its schematic "
            "(boards/README.md says how to write a board file)"
        )
        return
    phy = found.phy
    click.echo(f"{phy['name']} ({phy['id']}) at address {phy['address']}, {found.tries[-1]['text']}")
    if found.candidates:
        click.echo(f"boards that fit: {', '.join(found.candidates)}")
        click.echo(f"next: compare with what is printed on the board, then barenet doctor --board {found.candidates[0]}")
    else:
        click.echo("no board file fits; next: write one (boards/README.md), then barenet doctor --board FILE")


def _show_diagnosis(diagnosis: Any) -> None:
    console = _console()
    plain = {"box": None, "pad_edge": False, "header_style": "bold"}
    if diagnosis.registers:
        table = Table("register", "", "value", "fields", **plain)
        for name, value, fields in diagnosis.registers:
            table.add_row(name, "", value, fields)
        for name, number, value, fields in diagnosis.phy_registers:
            table.add_row(name, f"PHY {number}", value, fields)
        console.print(table)
    facts = [f"{name} {value}" for name, value in (diagnosis.status | diagnosis.phy).items() if value not in ("None", "0")]
    console.print(f"\n{diagnosis.board or 'board'}, {diagnosis.state}: {', '.join(facts)}", markup=False)
    for name, text in diagnosis.steps:
        console.print(Text.assemble(f"  {name:16} ", (text, "green" if text == "ok" else "red")))
    for symptom, cause in diagnosis.findings:
        console.print(Text.assemble((symptom, "bold red"), f": {cause}"))
    if diagnosis.healthy:
        console.print("[green]healthy[/green]")
    if diagnosis.candidates and not diagnosis.healthy:
        console.print(f"boards that fit: {', '.join(diagnosis.candidates)}", markup=False)
    console.print(f"next: {diagnosis.next}", markup=False)


@main.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Count what barenet costs, beside its targets."""
    program = ROOT / "tests" / "bench" / "bench.py"
    if not program.exists():
        raise BarenetError("the bench belongs to a checkout of barenet: tests/bench is not here")
    sys.exit(subprocess.run([sys.executable, program, *arguments]).returncode)


@main.command("exec")
@click.argument("program", metavar="CODE|FILE|-")
@port_option
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=60, show_default=True,
    help="Longest silence in seconds before the program is interrupted; 0 for no limit.",
)  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Start the program and leave it running.")
def execute(program: str, port: str | None, timeout: float, no_wait: bool) -> None:
    """Run a program on the board.

    The program is code, a file of this PC, or what comes on the standard input (-). Does not reset the board.
    The exit code is 1 when the program raises.
    """
    from host_tools import serial_ports
    from host_tools.connection import RemoteError, connect

    code = _program(program)
    with connect(serial_ports.choose(port)) as connection:
        if no_wait:
            connection.start(code)
            return
        out = click.get_binary_stream("stdout")

        def show(data: bytes) -> None:
            out.write(data.replace(b"\x04", b"").replace(b"\r", b""))
            out.flush()

        try:
            connection.run(code, timeout or None, show)
        except RemoteError as error:
            click.echo(error.traceback, err=True)
            sys.exit(1)


def _program(program: str) -> bytes:
    if program == "-":
        return click.get_binary_stream("stdin").read()
    path = Path(program)
    try:
        if path.is_file():
            return path.read_bytes()
    except OSError as error:
        raise BarenetError(f"cannot read {program}: {error.strerror}") from None
    if program.endswith(".py"):
        raise BarenetError(f"there is no file {program}")
    return program.encode()


@main.command()
@port_option
@click.option("--capture", type=click.Path(dir_okay=False, writable=True), help="Also write the session to a file.")
def repl(port: str | None, capture: str | None) -> None:
    """Open the board's REPL in this terminal. Ctrl-] leaves."""
    from host_tools import serial_ports

    name = serial_ports.choose(port)
    if not sys.stdin.isatty():
        raise BarenetError("the REPL needs a terminal; in scripts use 'barenet exec'")
    # "resume" keeps mpremote from a soft reset, which would pull the heap from under a running MAC.
    command = [sys.executable, "-m", "mpremote", "connect", name, "resume", "repl"]
    sys.exit(subprocess.run(command + (["--capture", capture] if capture else [])).returncode)


@main.command()
@port_option
@click.option("--log", type=click.Path(dir_okay=False, writable=True), help="Also append to a file, with dates.")
def monitor(port: str | None, log: str | None) -> None:
    """Show what the board prints, with the time.

    Goes on through resets and unplugging. Ctrl-C leaves.
    """
    from host_tools import monitor as library
    from host_tools import serial_ports

    console = _console()

    def show(time: str, line: str) -> None:
        console.print(f"[dim]{time}[/dim] ", end="")
        console.print(line, markup=False, soft_wrap=True)

    with ExitStack() as stack:
        file = stack.enter_context(open(log, "a")) if log else None
        try:
            library.monitor(
                serial_ports.choose(port),
                show,
                _say,
                file,
            )
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()

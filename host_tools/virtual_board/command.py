"""The command `barenet virtual`."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import socket
import sys
from pathlib import Path

import click

from host_tools import boards
from host_tools.errors import BarenetError
from host_tools.virtual_board import interpreter
from host_tools.virtual_board.child import heap_on_chip
from host_tools.virtual_board.emac_model import memory
from host_tools.virtual_board.interpreter import Interpreter
from host_tools.virtual_board.supervisor import Options, Supervisor

DRIVERS = ("emac", "tap")
MODELLED = "wt32_eth01"  # what the virtual board is wired as
_SMALLEST_HEAP = 32 * 1024
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def _heap(_context, _parameter, text: str) -> int:
    match = re.fullmatch(r"(\d+)([kKmM]?)", text)
    size = int(match[1]) << {"": 0, "k": 10, "m": 20}[match[2].lower()] if match else 0
    if size < _SMALLEST_HEAP:
        raise click.BadParameter(f"{text!r} is not a size of at least 32k, for example 160k")
    return size


def _interface(_context, _parameter, text: str | None) -> ipaddress.IPv4Interface | None:
    try:
        if text is not None and "/" not in text:
            raise ValueError
        return text and ipaddress.IPv4Interface(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an address with its prefix, for example 10.77.0.2/24") from None


def _address(_context, _parameter, text: str | None) -> str | None:
    try:
        return text and str(ipaddress.IPv4Address(text))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an IPv4 address") from None


driver_option = click.option(
    "--driver",
    type=click.Choice(DRIVERS),
    help="The board's LAN driver: the chip's, on a model of it, or one for the bare cable.  "
    "[default: emac, where the model can run; else tap]",
)


@click.command("virtual", context_settings={"allow_interspersed_args": False})
@click.option("--ip", callback=_interface, metavar="ADDRESS/PREFIX", help="The board.  [default: 10.77.0.2/24]")
@click.option("--gw", callback=_address, metavar="ADDRESS", help="Its gateway.  [default: the Linux side]")
@click.option("--dns", callback=_address, metavar="ADDRESS", help="Its name server.  [default: the gateway]")
@click.option("--dhcp", is_flag=True, help="The board asks for its address by DHCP.")
@click.option("--host-ip", callback=_interface, metavar="ADDRESS/PREFIX", help="Linux's side.  [default: the gateway]")
@driver_option
@click.option("--board", metavar="NAME", help=f"The board that the model is wired as.  [default: {MODELLED}]")
@click.option("--heap", default="160k", show_default=True, callback=_heap, metavar="SIZE", help="The board's heap.")
@click.option("--bits", default="32", show_default=True, type=click.Choice(["32", "64"]), help="The CPU's word size.")
@click.option("--tap", metavar="NAME", help="Attach to this TAP device, which exists; no namespace is made.")
@click.option("--fs", type=_FOLDER, help="The board's folder.  [default: a temporary one, removed at the end]")
@click.option("--no-main", is_flag=True, help="Do not run main.py.")
@click.option("--enter", "beside", multiple=True, metavar="COMMAND", help="Run this in the board's namespace.")
@click.option("--run", "program", type=_FILE, help="Run this file in place of the REPL, with ARGS.")
@click.option("--control", type=int, hidden=True)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(ip, gw, dns, dhcp, host_ip, driver, board, heap, bits, tap, fs, no_main, beside, program, control, args):
    """Boot a virtual board: this checkout's firmware on this PC, with a serial port, files and a network of its own.

    Prints one line of JSON when the board is up and runs until Ctrl-C; with --run, until the program ends, whose exit
    code it passes on. Everything behind the first of ARGS is the program's.
    """
    if args and not program:
        raise click.UsageError(f"unexpected argument {args[0]!r}; a program to run is named with --run")
    if dhcp and (ip or gw or dns):
        raise click.UsageError("--dhcp gets the addresses from a server; leave --ip, --gw and --dns out")
    if tap and host_ip:
        raise click.UsageError("--tap leaves the Linux side as it is; leave --host-ip out")
    network, host = addresses(ip, gw, dns, dhcp, host_ip)
    if board and driver == "tap":
        raise click.UsageError("--board is what --driver emac models; --driver tap has no chip")
    if (board or driver == "emac") and bits != "32":
        raise click.UsageError("the EMAC's DMA reaches 32-bit addresses only: use --bits 32 or --driver tap")
    config = {"network": network} if ip or gw or dns or dhcp else {}
    wired = boards.device_config(boards.find(board or MODELLED))
    if tap:
        # Several boards may share a bridge: each gets an address of its own.
        config["mac"] = "02:" + hashlib.sha256(tap.encode()).digest()[:5].hex(":")
    micropython = interpreter.find(int(bits))
    if micropython.bits != int(bits):
        click.echo(f"barenet: no {bits}-bit MicroPython here, using the {micropython.bits}-bit one", err=True)
    if _runs_model("emac" if board else driver, bits, micropython, heap, wired["psram"]):
        driver = "emac"
        config = {**{name: value for name, value in wired.items() if name != "network"}, **config}
    else:
        driver = "tap"
    options = Options(
        interpreter=micropython,
        driver=driver,
        heap=heap,
        tap=tap,
        host=host,
        network=network,
        config=config,
        fs=fs,
        main=not no_main,
        program=program,
        arguments=args,
        beside=beside,
    )
    supervisor = Supervisor(options, _announce, control and socket.socket(fileno=control))
    sys.exit(supervisor.serve())


def _runs_model(driver: str | None, bits: str, micropython: Interpreter, heap: int, psram: bool) -> bool:
    """Returns whether the board gets the chip's driver on the model: that was asked for, or nothing was and it can.

    Raises BarenetError when it was asked for and cannot.
    """
    if driver == "tap" or driver is None and bits == "64":
        return False  # who wants 64 bits knows that the chip has 32
    try:
        if micropython.bits != 32:
            raise BarenetError("the EMAC's DMA reaches 32-bit addresses only")
        memory.layout(micropython.command, heap_on_chip(micropython, heap), psram)
    except BarenetError as error:
        if driver:
            raise BarenetError(f"the model of the chip cannot run here: {error}; use --driver tap") from None
        click.echo(f"barenet: the model of the chip cannot run here: {error}; using --driver tap", err=True)
        return False
    return True


def addresses(
    ip: ipaddress.IPv4Interface | None,
    gw: str | None,
    dns: str | None,
    dhcp: bool,
    host: ipaddress.IPv4Interface | None,
) -> tuple[dict | str, ipaddress.IPv4Interface]:
    """Returns the entry "network" of board.json and the Linux side's address."""
    board = ip or ipaddress.IPv4Interface("10.77.0.2/24")
    gateway = gw or str(host.ip if host else _other(board))
    host = host or ipaddress.IPv4Interface(f"{gateway}/{board.network.prefixlen}")
    if dhcp:
        return "dhcp", host
    return {"ip": str(board), "gw": gateway, "dns": dns or gateway}, host


def _other(board: ipaddress.IPv4Interface) -> ipaddress.IPv4Address:
    first = next(board.network.hosts())
    return first if first != board.ip else first + 1


def _announce(description: dict) -> None:
    print(json.dumps(description), flush=True)

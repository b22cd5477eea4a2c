"""The command line: one clear line and a non-zero exit for bad input, JSON for scripts, ports that come and go."""

import contextlib
import json
import os
import pty
import threading
import time
import tty

import pytest
from click.testing import CliRunner

from host_tools import cli, connection, monitor, serial_ports
from host_tools.errors import BarenetError
from host_tools.serial_ports import Port


def barenet(*arguments, **options):
    return CliRunner().invoke(cli.main, arguments, **options)


def test_the_command_lists_what_there_is():
    result = barenet("--help")
    assert result.exit_code == 0
    for command in ("boards", "demo", "deploy", "doctor", "exec", "flash", "monitor", "ports", "repl", "virtual"):
        assert f"\n  {command} " in result.output


def test_boards_as_json_is_a_list_with_every_board():
    found = json.loads(barenet("boards", "--json").stdout)
    assert isinstance(found, list) and len(found) > 30
    board = next(board for board in found if board["id"] == "wt32_eth01")
    assert board["phy"] == {"type": "LAN8720", "part": "LAN8720A", "address": 1, "mdc": 23, "mdio": 18}


def test_boards_for_people_names_every_board():
    output = barenet("boards").stdout
    assert all(board["id"] in output for board in json.loads(barenet("boards", "--json").stdout))


def test_one_board_shows_its_pins_quirks_and_sources():
    output = barenet("boards", "wt32_eth01").stdout
    for fact in ("GPIO16 oscillator (high)", "GPIO13: wired to RX_ER", "unconfirmed", "V1.4.schematic.pdf"):
        assert fact in output


def test_ports_as_json_is_a_list(monkeypatch):
    monkeypatch.setattr(serial_ports, "ports", lambda: [Port("/dev/ttyUSB0", "CH340", "1a86:7523", "")])
    assert json.loads(barenet("ports", "--json").stdout) == [
        {"device": "/dev/ttyUSB0", "description": "CH340", "usb": "1a86:7523", "serial_number": ""}
    ]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["bogus"], "No such command 'bogus'"),
        (["flash"], "Missing option '--board'"),
        (["flash", "--board", "wt32_eth01", "--baud", "12"], "--baud"),
        (["boards", "wt32_eth02x"], "did you mean wt32_eth02"),
        (["boards", "no/file.toml"], "cannot read no/file.toml"),
        (["flash", "--board", "nothing_like_it"], "no board is called"),
        (["flash", "--board", "wt32_eth01", "--firmware", "nowhere.bin"], "there is no firmware file nowhere.bin"),
        (["flash", "--board", "wt32_eth01", "--firmware", "/etc/hostname"], "not an ESP32 firmware image"),
        (["exec", "1", "--port", "/dev/nowhere"], "there is no port /dev/nowhere"),
        (["exec", "1", "--port", "/dev/null"], "cannot use /dev/null"),
        (["exec", "nowhere.py", "--port", "/dev/null"], "there is no file nowhere.py"),
        (["monitor", "--port", "/etc/hostname"], "/etc/hostname is not a serial port"),
        (["deploy", "--dhcp", "--ip", "10.0.0.2/24"], "--dhcp gets the addresses"),
    ],
)
def test_bad_input_is_one_clear_line_on_stderr(arguments, complaint):
    result = barenet(*arguments)
    assert result.exit_code not in (0, None)
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("barenet")
    assert result.stdout == ""


@pytest.mark.parametrize(
    "devices, complaint",
    [
        ([], "no USB serial port found"),
        (["/dev/ttyUSB0", "/dev/ttyUSB1"], "choose one with --port: /dev/ttyUSB0, /dev/ttyUSB1"),
    ],
)
def test_without_port_there_must_be_exactly_one(monkeypatch, devices, complaint):
    monkeypatch.setattr(serial_ports, "ports", lambda: [Port(device, "", "1a86:7523", "") for device in devices])
    result = barenet("exec", "1")
    assert result.exit_code == 1 and complaint in result.stderr


@pytest.fixture
def terminal():
    """A pseudo-terminal; yields (our end, the name of the other)."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    name = os.ttyname(theirs)
    yield ours, name
    for descriptor in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_the_only_usb_port_is_taken_without_asking(monkeypatch, terminal):
    _, name = terminal
    found = [Port(name, "", "1a86:7523", ""), Port("/dev/ttyS0", "", "", "")]
    monkeypatch.setattr(serial_ports, "ports", lambda: found)
    assert serial_ports.choose(None) == name


def test_a_port_without_permission_names_the_remedy(monkeypatch, terminal):
    _, name = terminal
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BarenetError, match=f"no permission to use {name}"):
        serial_ports.choose(name)


def test_a_port_in_use_is_called_so(terminal):
    import serial

    _, name = terminal
    with serial.Serial(name, exclusive=True):
        result = barenet("exec", "1", "--port", name)
    assert result.exit_code == 1 and f"{name} is in use by another program" in result.stderr


def test_a_port_without_micropython_is_called_so(terminal, monkeypatch):
    monkeypatch.setattr(connection, "_ANSWER", 1)
    _, name = terminal
    start = time.monotonic()
    result = barenet("exec", "1", "--port", name)
    assert result.exit_code == 1 and "no MicroPython prompt" in result.stderr
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("every", [0.001, 0.15])
def test_a_board_that_never_stops_printing_does_not_hang_the_tools(terminal, monkeypatch, every):
    monkeypatch.setattr(connection, "_ANSWER", 1)
    ours, name = terminal
    stop = threading.Event()
    os.set_blocking(ours, False)

    def chatter():
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(ours, b"noise ")
            time.sleep(every)

    thread = threading.Thread(target=chatter, daemon=True)
    thread.start()
    try:
        result = barenet("exec", "1", "--port", name)
    finally:
        stop.set()
        thread.join(5)
    # On a busy machine the noise may pause for the 0.1 s that count as silence; then there is no prompt.
    assert result.exit_code == 1 and ("keeps printing" in result.stderr or "no MicroPython prompt" in result.stderr)


def test_the_repl_needs_a_terminal(terminal):
    result = barenet("repl", "--port", terminal[1])
    assert result.exit_code == 1 and "barenet exec" in result.stderr


def test_lines_survive_any_cutting_and_bad_utf8():
    lines = monitor.Lines()
    text = "grüße\r\nzwei\n".encode() + b"\xff!\n>>> "
    found = [line for index in range(len(text)) for line in lines.feed(text[index : index + 1])]
    assert found == ["grüße", "zwei", "\ufffd!"]
    assert lines.flush() == ">>> " and lines.flush() == ""


def test_monitor_shows_lines_prompts_and_keeps_a_log(terminal, tmp_path):
    ours, name = terminal
    shown, log = [], tmp_path / "log.txt"
    threading.Timer(0.3, os.write, (ours, b"hello\r\n>>> ")).start()
    with log.open("w") as file:
        monitor.monitor(name, lambda at, line: shown.append(line), shown.append, file, duration=1.2)
    assert shown == ["hello", ">>> "]
    assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == ["hello", ">>> "]


def test_monitor_waits_for_a_port_that_vanishes(tmp_path):
    link = tmp_path / "port"
    ends = []

    def plug(text):
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(theirs))
        ends[:] = [ours, theirs]
        time.sleep(0.8)
        os.write(ours, text)

    def unplug():
        link.unlink()
        for descriptor in ends:
            os.close(descriptor)

    def story():
        time.sleep(0.5)
        unplug()
        time.sleep(0.7)
        plug(b"second\n")

    plug(b"")
    shown, notices = [], []
    thread = threading.Thread(target=story, daemon=True)
    thread.start()
    monitor.monitor(str(link), lambda at, line: shown.append(line), notices.append, duration=4)
    thread.join(5)
    assert shown == ["second"]
    assert "is gone" in notices[0] and notices[-1].endswith("is back")
    for descriptor in ends:
        os.close(descriptor)

"""The LAN object through the serial port: up and down, addresses, status, and what it says when the board file is wrong."""

import json
import textwrap

import pytest

from host_tools.virtual_board import VirtualBoard

FIXED = ("10.77.0.2", "255.255.255.0", "10.77.0.1", "10.77.0.1")
STOPPED, DISCONNECTED, CONNECTED, GOT_IP = 2, 4, 3, 5


@pytest.fixture(scope="module")
def board():
    with VirtualBoard(main=False) as board:
        yield board


@pytest.fixture
def lan(board):
    """The board with its LAN up at the address of its board file."""
    run(board, f"import barenet; lan = barenet.LAN(); lan.active(True); lan.ifconfig({FIXED!r}); lan.wait(2)")
    return board


def run(board, code):
    return board.exec(textwrap.dedent(code), 20).splitlines()


def value(board, expression):
    return eval("\n".join(run(board, f"print(repr({expression}))")))


def wait(board, condition):
    """Waits until an expression on the board is true; its timer goes on meanwhile."""
    run(board, f"import time\nfor _ in range(500):\n    if {condition}: break\n    time.sleep_ms(10)")


def raises(board, statement):
    """Returns (name of the exception, its text) that a statement raises."""
    code = f"""
        try:
            {statement}
            print("nothing")
        except Exception as e:
            print(type(e).__name__)
            print(e.args[-1] if e.args else "")
    """
    return tuple(run(board, code))


def ping(board, address=FIXED[0]):
    return board.run(["ping", "-n", "-c", "1", "-W", "1", address], capture_output=True, timeout=10).returncode == 0


# Before it is up


def test_without_the_lan_sockets_say_so(board):
    code = """
        import barenet
        socket = barenet.install()
        try:
            socket.socket()
        except OSError as e:
            print(e.args[1])
    """
    assert run(board, code) == ["the LAN is down: bring it up with barenet.up()"]
    assert value(board, "barenet.stop()") is None  # harmless


def test_a_new_lan_is_down_and_silent(board):
    run(board, "lan = barenet.LAN()")
    assert value(board, "(lan.active(), lan.isconnected(), lan.status(), lan.ifconfig()[0])") == (False, False, STOPPED, "0.0.0.0")
    assert not ping(board)


def test_there_is_one_lan(lan):
    assert value(lan, "(barenet.LAN() is lan, barenet.LAN(0) is lan, barenet.LAN(hostname='other') is lan)") == (True, True, True)
    assert value(lan, "lan.config('hostname')") == "barenet"


def test_up_gives_the_lan_and_installs_the_socket_module(lan):
    assert value(lan, "barenet.up() is lan") is True
    assert run(lan, "import socket, usocket; print(socket.__name__, usocket is socket)") == ["barenet.socket True"]


# Up and down


def test_up_and_down_20_times(lan):
    run(lan, "import gc")
    for i in range(20):
        assert value(lan, "lan.active(False)") is False
        assert value(lan, "(lan.status(), lan.ifconfig()[0], lan.isconnected())") == (STOPPED, "0.0.0.0", False)
        assert value(lan, "lan.active(True)") is True
        assert value(lan, "lan.wait(2)") is True
        if i % 5 == 0:
            assert ping(lan)
        used = value(lan, "(gc.collect(), gc.mem_alloc())[1]")
        if i == 2:
            before = used
    assert used - before < 512, f"{used - before} bytes"
    assert ping(lan)


def test_switching_twice_does_nothing(lan):
    run(lan, "d = barenet.install().socket(); d.bind(('', 80)); d.listen()")
    assert value(lan, "(lan.active(True), lan.active(True), lan.active())") == (True, True, True)
    assert value(lan, "len(lan.stack.tcp.listeners)") == 1
    run(lan, "d.close()")
    assert value(lan, "(lan.active(False), lan.active(False), lan.active())") == (False, False, False)


def test_barenet_stop_takes_it_down_and_up_brings_it_back(lan):
    run(lan, "barenet.stop(); barenet.stop()")
    assert value(lan, "lan.status()") == STOPPED and not ping(lan)
    run(lan, "barenet.up(2)")
    assert ping(lan)


def test_a_blocking_call_ends_when_the_lan_goes_down(lan):
    code = """
        import errno, machine
        socket = barenet.install()
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 7500))
        t = machine.Timer(-1, mode=machine.Timer.ONE_SHOT, period=200, callback=lambda t: lan.active(False))
        try:
            s.recv(10)
        except OSError as e:
            print(e.args[1])
        s.close()
    """
    assert run(lan, code) == ["the LAN is down: bring it up with barenet.up()"]
    assert value(lan, "lan.active()") is False


# Addresses


def test_ifconfig_sets_and_shows_the_address(lan):
    try:
        run(lan, "lan.ifconfig(('10.77.0.5', '255.255.255.0', '10.77.0.1', '10.77.0.9'))")
        assert value(lan, "lan.ifconfig()") == ("10.77.0.5", "255.255.255.0", "10.77.0.1", "10.77.0.9")
        assert ping(lan, "10.77.0.5") and not ping(lan, "10.77.0.2")
    finally:
        run(lan, f"lan.ifconfig({FIXED!r})")
    assert ping(lan)


def test_ipconfig_sets_and_shows_each_part(lan):
    assert value(lan, "lan.ipconfig('addr4')") == ("10.77.0.2", "255.255.255.0")
    assert value(lan, "(lan.ipconfig('gw4'), lan.ipconfig('dhcp4'), lan.ipconfig('has_dhcp4'))") == ("10.77.0.1", False, False)
    try:
        run(lan, "lan.ipconfig(addr4='10.77.0.6/16', gw4='10.77.0.3', dns='10.77.0.4')")
        assert value(lan, "lan.ifconfig()") == ("10.77.0.6", "255.255.0.0", "10.77.0.3", "10.77.0.4")
        assert ping(lan, "10.77.0.6")
        run(lan, "lan.ipconfig(addr4=('10.77.0.7', '255.255.255.0'))")
        assert value(lan, "lan.ifconfig()") == ("10.77.0.7", "255.255.255.0", "10.77.0.3", "10.77.0.4")
        run(lan, "lan.ipconfig(addr4='10.77.0.8')")
        assert value(lan, "lan.ipconfig('addr4')") == ("10.77.0.8", "255.255.255.0")
    finally:
        run(lan, f"lan.ifconfig({FIXED!r})")


def test_dhcp_can_be_switched_on_and_off(lan):
    run(lan, "lan.ifconfig('dhcp')")
    try:
        assert value(lan, "(lan.ipconfig('dhcp4'), lan.ipconfig('has_dhcp4'))") == (True, False)
        run(lan, f"lan.ifconfig({FIXED!r})")
        assert value(lan, "(lan.ipconfig('dhcp4'), lan.ifconfig())") == (False, FIXED)
    finally:
        run(lan, f"lan.ifconfig({FIXED!r})")


@pytest.mark.parametrize(
    "call",
    [
        "lan.ifconfig(('10.77.0', '255.255.255.0', '10.77.0.1', '10.77.0.1'))",
        "lan.ifconfig(('10.77.0.2', '255.0.255.0', '10.77.0.1', '10.77.0.1'))",
        "lan.ifconfig(('10.77.0.2', '255.255.255.0', 'gateway', '10.77.0.1'))",
        "lan.ifconfig('10.77.0.2')",
        "lan.ipconfig(addr4='10.77.0.2/33')",
        "lan.ipconfig(addr4='nonsense')",
        "lan.ipconfig(addr6='::1')",
        "lan.ipconfig('addr6')",
        "lan.config('nonsense')",
        "lan.status('nonsense')",
    ],
)
def test_a_wrong_setting_is_refused_and_changes_nothing(lan, call):
    name, text = raises(lan, call)
    assert name == "ValueError" and text
    assert value(lan, "lan.ifconfig()") == FIXED
    assert ping(lan)


# Status and configuration


def test_status_values(lan):
    assert value(lan, "lan.status()") == GOT_IP
    run(lan, "lan.ifconfig('dhcp')")
    assert value(lan, "lan.status()") == CONNECTED
    run(lan, f"lan.ifconfig({FIXED!r})")
    driver = value(lan, "lan.status('driver')")
    assert driver["driver"] == lan.description["driver"] and driver["speed"] == 100
    counters = value(lan, "lan.status('counters')")
    assert {"frames", "ethernet", "arp", "ip", "icmp", "udp", "tcp", "dhcp", "resolver"} <= set(counters)
    assert all(isinstance(n, int) for layer in counters.values() for n in layer.values())


def test_config_values(lan):
    name = json.loads((lan.fs / "board.json").read_text())["board"]
    mac = bytes.fromhex("02ba4e000002")
    assert value(lan, "(lan.config('mac'), lan.config('ifname'), lan.config('board'))") == (mac, "en0", name)
    assert raises(lan, "lan.config(hostname='late')") == ("OSError", "active(False) first")
    run(lan, "lan.active(False); lan.config(hostname='early')")
    assert value(lan, "lan.config('hostname')") == "early"
    for wrong in ("b'short'", r"b'\x01\0\0\0\0\0'"):
        assert raises(lan, f"lan.config(mac={wrong})")[0] == "ValueError"


def test_a_cable_that_is_pulled_and_put_back(lan):
    run(lan, "ups = []; lan.stack.on_link = ups.append; link = lan.driver.link")
    if not lan.chip(faults={"cable": False}):
        run(lan, "lan.driver.link = lambda: False")  # the TAP driver's cable is always connected
    wait(lan, "len(ups) == 1")
    assert value(lan, "(lan.isconnected(), lan.status(), ups)") == (False, DISCONNECTED, [False])
    assert value(lan, "lan.ifconfig()") == FIXED
    if not lan.chip(faults={"cable": True}):
        run(lan, "lan.driver.link = link")
    wait(lan, "len(ups) == 2")
    assert value(lan, "(lan.isconnected(), lan.status(), ups)") == (True, GOT_IP, [False, True])
    run(lan, "lan.stack.on_link = None")
    assert ping(lan)


# What can be wrong

# What replaces entries of the board file, or all of it; and what the board says.
WRONG_FILES = {
    "no driver": ({"driver": None}, "which board is this? There is no board.json"),
    "an unknown driver": ({"driver": "wifi"}, "unknown driver in the board file: wifi"),
    "a wrong address": ({"network": {"ip": "10.77.0"}}, "wrong network in the board file (not an IPv4 address: 10.77.0)"),
    "a wrong gateway": ({"network": {"ip": "10.77.0.2/24", "gw": "x"}}, "wrong network in the board file (not an IPv4 address: x)"),
    "a wrong prefix": ({"network": {"ip": "10.77.0.2/99"}}, "wrong network in the board file (a prefix has 0 to 32 bits)"),
    "no address": ({"network": {}}, "wrong network in the board file (ip)"),
    "a network that is a word": ({"network": "static"}, "wrong network in the board file"),
    "a wrong MAC address": ({"mac": "zz:zz"}, "wrong mac in the board file: zz:zz"),
    "a group's MAC address": ({"mac": "01:00:5e:00:00:01"}, "wrong mac in the board file: 01:00:5e:00:00:01"),
    "no JSON": ("nonsense", "board.json is damaged: deploy the board file again"),
    "JSON that is no object": ("[1, 2]", "board.json is damaged: deploy the board file again"),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_wrong_board_file_gives_one_clear_line(board, what):
    content, text = WRONG_FILES[what]
    file = board.fs / "board.json"
    good = file.read_text()
    if isinstance(content, dict):
        content = json.dumps(json.loads(good) | content)
    try:
        file.write_text(content)
        with board.program("exec(open('/.firmware/main.py').read())") as program:
            output = program.output(20)
    finally:
        file.write_text(good)
    assert output.startswith("barenet: the LAN did not come up:") and text in output, output
    assert len(output.splitlines()) == 1 and "Traceback" not in output


def test_a_board_without_any_board_file_says_what_to_do(board):
    code = """
        import barenet
        from barenet import lan as module
        barenet.stop()
        module.LAN._one = None
        module.BOARD_FILE = "missing.json"
        try:
            barenet.LAN()
        except OSError as e:
            print(e.args[1])
        module.BOARD_FILE = "board.json"
        print(barenet.LAN().active())
    """
    lines = run(board, code)
    assert lines[0].startswith("which board is this? There is no board.json: run `barenet deploy --board NAME`") and lines[1] == "False"

"""LAN: the interface as a program sees it, in the shape of MicroPython's network.LAN."""

import json

from barenet import ticks
from barenet.errors import EINVAL
from barenet.ip import ANY
from barenet.resolver import parse_address
from barenet.stack import Stack
from micropython import const

ETH_INITIALIZED = const(0)
ETH_STARTED = const(1)
ETH_STOPPED = const(2)
ETH_CONNECTED = const(3)
ETH_DISCONNECTED = const(4)
ETH_GOT_IP = const(5)

BOARD_FILE = "board.json"
_TIMER = const(3)
_PERIOD_MS = const(10)  # how late a ping is answered while the REPL waits


def text(address):
    """Returns an IPv4 address (4 bytes) as dotted text."""
    return "%d.%d.%d.%d" % tuple(address)


def address(dotted):
    """Returns dotted text as an IPv4 address of 4 bytes. Raises ValueError when it is none."""
    packed = parse_address(dotted)
    if packed is None:
        raise ValueError("not an IPv4 address: %s" % dotted)
    return packed


def netmask(bits):
    """Returns the netmask of a prefix of `bits` bits as 4 bytes."""
    if not 0 <= bits <= 32:
        raise ValueError("a prefix has 0 to 32 bits")
    return (0xFFFFFFFF << (32 - bits) & 0xFFFFFFFF).to_bytes(4, "big")


def board():
    """Returns the board file's content that `barenet deploy` left on the board, {} when there is none.

    Raises OSError(EINVAL) when it cannot be read as JSON.
    """
    try:
        with open(BOARD_FILE) as f:
            config = json.load(f)
    except OSError:
        return {}
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise OSError(EINVAL, BOARD_FILE + " is damaged: deploy the board file again")
    return config


def _driver(config):
    name = config.get("driver")
    if name == "tap":
        from barenet.driver.tap import TAP

        return TAP(config)
    if name == "emac":
        from barenet.driver.emac import EMAC

        return EMAC(config)
    if name is None:
        raise OSError(EINVAL, "which board is this? There is no board.json: run `barenet deploy --board NAME`, or pass LAN(board={…})")
    raise OSError(EINVAL, "unknown driver in the board file: %s" % name)


class LAN:
    """The Ethernet interface. There is one: a second call returns the same object and ignores its arguments.

    board: dict with the board file's content; default: what deploy left on the board. Further keyword arguments replace single entries of it
    (receive=, transmit=: frames in the rings; hostname=; network=: "dhcp" or {"ip": "10.0.0.2/24", "gw": …, "dns": …}).
    The constructor stops a MAC that an earlier program left running and touches nothing else.
    """

    _one = None

    def __new__(cls, *args, **kwargs):
        if LAN._one is None:
            LAN._one = object.__new__(cls)
            LAN._one._made = False
        return LAN._one

    def __init__(self, id=None, *, board=None, **options):
        if self._made:
            return
        try:
            config = dict(globals()["board"]() if board is None else board)
            config.update(options)
            self._build(config)
        except Exception:
            LAN._one = None
            raise

    def _build(self, config):
        _check(config)
        self._config = config
        self._network = config.get("network", "dhcp")
        self.driver = _driver(config)
        self.stack = Stack(self.driver, config.get("receive", 8), config.get("transmit", 4), config.get("hostname", "barenet"))
        self._active = False
        self._timer = None
        self._made = True

    def active(self, on=None):
        """Returns whether the interface is active; with an argument, switches it on or off. Switching twice does nothing.

        Raises OSError with the cause and the remedy when the hardware does not come up.
        """
        if on is None:
            return self._active
        if on and not self._active:
            self.stack.start()
            self._active = True
            self._apply_network()
            self._start_timer()
        elif not on and self._active:
            self._active = False
            self._stop_timer()
            self.stack.stop()
            self.stack.ip.configure(ANY, ANY, ANY)
        return self._active

    def isconnected(self):
        """True when the cable is connected and there is an address."""
        return self._active and self.stack.link_up and self.stack.ip.address != ANY

    def status(self, name=None):
        """Returns one of ETH_…; status("driver") returns the driver's own dict, status("counters") all counters."""
        if name == "driver":
            return self.driver.status()
        if name == "counters":
            return self.stack.counters()
        if name is not None:
            raise ValueError("unknown status: %s" % name)
        if not self._active:
            return ETH_STOPPED
        if not self.stack.link_up:
            return ETH_DISCONNECTED
        return ETH_CONNECTED if self.stack.ip.address == ANY else ETH_GOT_IP

    def ifconfig(self, config=None):
        """Returns (address, netmask, gateway, dns) as text; with such a tuple, or "dhcp", sets it."""
        ip = self.stack.ip
        if config is None:
            dns = self.stack.resolver.servers
            return (text(ip.address), text(ip.netmask), text(ip.gateway), text(dns[0]) if dns else "0.0.0.0")
        if config == "dhcp":
            self._set_network("dhcp")
            return None
        ip_text, mask, gw, dns = config
        bits = sum(bin(b).count("1") for b in address(mask))
        if netmask(bits) != address(mask):
            raise ValueError("not a netmask: %s" % mask)
        self._set_network({"ip": "%s/%d" % (ip_text, bits), "gw": gw, "dns": dns})

    def ipconfig(self, name=None, **settings):
        """ipconfig("addr4") → (address, netmask), ("gw4"), ("dhcp4"), ("has_dhcp4"), ("dns"); with keywords, sets addr4, gw4, dhcp4 or dns."""
        ip = self.stack.ip
        if name is not None:
            if name == "addr4":
                return (text(ip.address), text(ip.netmask))
            if name == "gw4":
                return text(ip.gateway)
            if name == "dhcp4":
                return self._network == "dhcp"
            if name == "has_dhcp4":
                return self.stack.dhcp.lease is not None
            if name == "dns":
                return [text(a) for a in self.stack.resolver.servers]
            raise ValueError("unknown config param: %s" % name)
        now = self.ifconfig()
        network = None if self._network == "dhcp" else dict(self._network)
        for key, value in settings.items():
            if key == "dhcp4":
                network = None if value else network or {"ip": "0.0.0.0/0"}
                continue
            if network is None:
                network = {"ip": "%s/%d" % (now[0], sum(bin(b).count("1") for b in ip.netmask)), "gw": now[2], "dns": now[3]}
            if key == "addr4":
                if isinstance(value, tuple):
                    value = "%s/%d" % (value[0], sum(bin(b).count("1") for b in address(value[1])))
                elif "/" not in value:
                    value += "/24"
                network["ip"] = value
            elif key == "gw4":
                network["gw"] = value
            elif key == "dns":
                network["dns"] = value
            else:
                raise ValueError("unknown config param: %s" % key)
        self._set_network("dhcp" if network is None else network)

    def config(self, name=None, **settings):
        """config("mac"), ("ifname"), ("hostname"), ("board"); with keywords sets mac=b'6 bytes' or hostname= while the interface is down."""
        if name == "mac":
            return self.driver.mac
        if name == "ifname":
            return "en0"
        if name == "hostname":
            return self.stack.dhcp.hostname
        if name == "board":
            return self._config.get("board")
        if name is not None or not settings:
            raise ValueError("unknown config param: %s" % name)
        if self._active:
            raise OSError(EINVAL, "active(False) first")
        for key, value in settings.items():
            if key == "hostname":
                self.stack.dhcp.hostname = value
            elif key == "mac":
                if len(value) != 6 or value[0] & 1:
                    raise ValueError("a MAC address has 6 bytes and bit 0 of the first is 0")
                self.driver.mac = self.stack.link.mac = self.stack.dhcp.mac = bytes(value)
            else:
                raise ValueError("unknown config param: %s" % key)

    def wait(self, seconds=15):
        """Waits until the interface is connected and has an address, at most `seconds`. Returns isconnected()."""
        stack = self.stack
        end = ticks.add(stack.now(), int(seconds * 1000))
        while self._active and not self.isconnected() and not ticks.reached(stack.now(), end):
            stack.poll()
            stack.wait(10)
        return self.isconnected()

    def ping(self, host, count=4, timeout=1, size=56):
        """Sends `count` echo requests to a host (name or address); returns a list of round-trip times in ms, None for each that was lost."""
        from barenet import socket

        stack = self.stack
        target = socket.getaddrinfo(host, 0)[0][4][0]
        times = []
        for _ in range(count):
            stack.enter()
            try:
                echo = stack.icmp.echo(address(target), stack.now(), size)
            finally:
                stack.leave()
            end = ticks.add(stack.now(), int(timeout * 1000))
            while echo.time is None and echo.error is None and not ticks.reached(stack.now(), end):
                stack.poll()
                stack.wait(10)
            stack.icmp.forget(echo)
            times.append(echo.time)
        return times

    def doctor(self, report=None):
        """Examines the hardware and prints each step, register and fault with its cause.

        Up or down, the interface stays as it is. report(kind, name, *texts), when given, gets each line instead (see
        driver/doctor.py). Takes a second when the interface is up; else it is tried, in 30 s at most. Raises
        OSError(ENODEV) for a driver without a MAC.
        """
        from barenet.driver import borrow

        borrow("doctor", "run", self, report)

    def _set_network(self, network):
        if network != "dhcp":
            _parse(network)
        self._network = network
        if self._active:
            self._apply_network()

    def _apply_network(self):
        stack = self.stack
        if self._network != "dhcp":
            stack.stop_dhcp()
        stack.enter()
        try:
            if self._network == "dhcp":
                if stack.dhcp.state == "STOPPED":
                    stack.configure(ANY, ANY, ANY, [])  # a fixed address that was set before is not the lease's
                stack.dhcp.start(stack.now())
            else:
                stack.configure(*_parse(self._network))
        finally:
            stack.leave()

    def _start_timer(self):
        try:
            from machine import Timer
        except ImportError:
            return  # an interpreter without timers answers only inside socket calls
        poll = self.stack.poll
        self._timer = Timer(self._config.get("timer", _TIMER))
        self._timer.init(period=_PERIOD_MS, mode=Timer.PERIODIC, callback=lambda _: poll())

    def _stop_timer(self):
        if self._timer is not None:
            self._timer.deinit()
            self._timer = None


def _check(config):
    """Raises OSError(EINVAL) for a board file with which active(True) would fail for lack of an address."""
    network = config.get("network", "dhcp")
    if network != "dhcp":
        try:
            _parse(network)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise OSError(EINVAL, 'wrong network in the board file (%s): it is "dhcp" or {"ip": "10.0.0.2/24", "gw": …, "dns": …}' % e)


def _parse(network):
    """Returns (address, netmask, gateway, dns list) of {"ip": "a.b.c.d/bits", "gw": …, "dns": …}. Raises ValueError."""
    ip, _, bits = network["ip"].partition("/")
    gw = network.get("gw") or "0.0.0.0"
    dns = network.get("dns") or []
    if isinstance(dns, str):
        dns = [dns]
    return address(ip), netmask(int(bits or "24")), address(gw), [address(d) for d in dns if d != "0.0.0.0"]

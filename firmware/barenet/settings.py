"""What a program sets and asks a LAN now and then: the board file, addresses, names, and ping.

lan.py loads this for each call and lets go of it afterwards: it would take more memory than a connection.
"""

import json

from barenet import ticks
from barenet.driver import mac_address
from barenet.errors import EINVAL
from barenet.ip import ANY, parse_address
from barenet.lan import text
from micropython import const

_TIMER = const(3)
_PERIOD_MS = const(10)  # how late a ping is answered while the REPL waits


def read(file, board, options):
    """Returns (config, driver) of a LAN: the board file's content, or `board` in its place, with `options` set in it.

    Raises OSError(EINVAL) with the remedy when the file is damaged or an entry wrong, and what the driver raises.
    """
    config = dict(_board(file) if board is None else board)
    config.update(options)
    _check(config)
    return config, _driver(config)


def _board(file):
    try:
        with open(file) as f:
            config = json.load(f)
    except OSError:
        return {}
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise OSError(EINVAL, file + " is damaged: deploy the board file again")
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


def _check(config):
    """Raises OSError(EINVAL) for a board file with which active(True) would fail for lack of an address."""
    network = config.get("network", "dhcp")
    if network != "dhcp":
        try:
            parse(network)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise OSError(EINVAL, 'wrong network in the board file (%s): it is "dhcp" or {"ip": "10.0.0.2/24", "gw": …, "dns": …}' % e)
    if config.get("mac") is not None:
        mac_address(config["mac"])


def parse(network):
    """Returns (address, netmask, gateway, dns list) of {"ip": "a.b.c.d/bits", "gw": …, "dns": …}. Raises ValueError."""
    ip, _, bits = network["ip"].partition("/")
    gw = network.get("gw") or "0.0.0.0"
    dns = network.get("dns") or []
    if isinstance(dns, str):
        dns = [dns]
    return address(ip), netmask(int(bits or "24")), address(gw), [address(d) for d in dns if d != "0.0.0.0"]


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


def start(lan):
    """Gives a LAN whose driver runs its address, or lets it look for one, and starts the timer that runs it while the program does other things."""
    _apply_network(lan)
    try:
        from machine import Timer
    except ImportError:
        return  # an interpreter without timers answers only inside socket calls
    lan._timer = Timer(lan._config.get("timer", _TIMER))
    lan._timer.init(period=_PERIOD_MS, mode=Timer.PERIODIC, callback=lan._tick)


def _apply_network(lan):
    stack = lan.stack
    fixed = None
    if lan._network != "dhcp":
        fixed = parse(lan._network)
        stack.stop_dhcp()
    stack.enter()
    try:
        if fixed is None:
            if stack.dhcp.state == "STOPPED":
                stack.configure(ANY, ANY, ANY, [])  # a fixed address that was set before is not the lease's
            stack.dhcp.start(stack.now())
        else:
            stack.configure(*fixed)
    finally:
        stack.leave()


def ifconfig(lan, config):
    """Sets (address, netmask, gateway, dns), or "dhcp"; see LAN."""
    if config == "dhcp":
        _set_network(lan, "dhcp")
        return
    ip_text, mask, gw, dns = config
    bits = sum(bin(b).count("1") for b in address(mask))
    if netmask(bits) != address(mask):
        raise ValueError("not a netmask: %s" % mask)
    _set_network(lan, {"ip": "%s/%d" % (ip_text, bits), "gw": gw, "dns": dns})


def _set_network(lan, network):
    if network != "dhcp":
        parse(network)
    lan._network = network
    if lan._active:
        _apply_network(lan)


def ipconfig(lan, name, **settings):
    """See LAN."""
    ip = lan.stack.ip
    if name is not None:
        if name == "addr4":
            return (text(ip.address), text(ip.netmask))
        if name == "gw4":
            return text(ip.gateway)
        if name == "dhcp4":
            return lan._network == "dhcp"
        if name == "has_dhcp4":
            return lan.stack.dhcp.lease is not None
        if name == "dns":
            return [text(a) for a in lan.stack.dns]
        raise ValueError("unknown config param: %s" % name)
    now = lan.ifconfig()
    network = None if lan._network == "dhcp" else dict(lan._network)
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
    _set_network(lan, "dhcp" if network is None else network)


def config(lan, name, **settings):
    """See LAN."""
    if name == "mac":
        return lan.driver.mac
    if name == "ifname":
        return "en0"
    if name == "hostname":
        return lan.stack.dhcp.hostname
    if name == "board":
        return lan._config.get("board")
    if name is not None or not settings:
        raise ValueError("unknown config param: %s" % name)
    if lan._active:
        raise OSError(EINVAL, "active(False) first")
    for key, value in settings.items():
        if key == "hostname":
            lan.stack.dhcp.hostname = value
        elif key == "mac":
            if len(value) != 6 or value[0] & 1:
                raise ValueError("a MAC address has 6 bytes and bit 0 of the first is 0")
            lan.driver.mac = lan.stack.link.mac = lan.stack.dhcp.mac = bytes(value)
        else:
            raise ValueError("unknown config param: %s" % key)


def ping(stack, host, count, timeout, size):
    """See LAN."""
    from barenet import socket

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

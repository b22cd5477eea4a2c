"""LAN: the interface as a program sees it, in the shape of MicroPython's network.LAN."""

from barenet import late, ticks
from barenet.ip import ANY
from barenet.stack import Stack
from micropython import const

ETH_INITIALIZED = const(0)
ETH_STARTED = const(1)
ETH_STOPPED = const(2)
ETH_CONNECTED = const(3)
ETH_DISCONNECTED = const(4)
ETH_GOT_IP = const(5)

BOARD_FILE = "board.json"


def text(address):
    """Returns an IPv4 address (4 bytes) as dotted text."""
    return "%d.%d.%d.%d" % tuple(address)


def _settings(name, *args, **options):
    # Runs a function of settings.py, which stays in memory only meanwhile. One may come here from within another.
    try:
        return getattr(late.load("settings"), name)(*args, **options)
    finally:
        late.drop("settings")


class LAN:
    """The Ethernet interface. There is one: a second call returns the same object and ignores its arguments.

    board: dict with the board file's content; default: what deploy left on the board. Further keyword arguments replace single entries of it
    (receive=, transmit=: frames in the rings; hostname=; network=: "dhcp" or {"ip": "10.0.0.2/24", "gw": …, "dns": …};
    link_local=True: an address 169.254.x.y while no DHCP server answers).
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
            config, driver = _settings("read", BOARD_FILE, board, options)
            self.stack = Stack(driver, config.get("receive", 8), config.get("transmit", 4), config.get("hostname", "barenet"))
        except Exception:
            LAN._one = None
            raise
        self.stack.link_local = config.get("link_local", False)
        self.driver = driver
        self._config = config
        self._network = config.get("network", "dhcp")
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
            _settings("start", self)
        elif not on and self._active:
            self._active = False
            if self._timer is not None:
                self._timer.deinit()
                self._timer = None
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
            dns = self.stack.dns
            return (text(ip.address), text(ip.netmask), text(ip.gateway), text(dns[0]) if dns else "0.0.0.0")
        _settings("ifconfig", self, config)

    def ipconfig(self, name=None, **settings):
        """ipconfig("addr4") → (address, netmask), ("gw4"), ("dhcp4"), ("has_dhcp4"), ("dns"); with keywords, sets addr4, gw4, dhcp4 or dns."""
        return _settings("ipconfig", self, name, **settings)

    def config(self, name=None, **settings):
        """config("mac"), ("ifname"), ("hostname"), ("board"); with keywords sets mac=b'6 bytes' or hostname= while the interface is down."""
        return _settings("config", self, name, **settings)

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
        return _settings("ping", self.stack, host, count, timeout, size)

    def doctor(self, report=None):
        """Examines the hardware and prints each step, register and fault with its cause.

        Up or down, the interface stays as it is. report(kind, name, *texts), when given, gets each line instead (see
        driver/doctor.py). Takes a second when the interface is up; else it is tried, in 30 s at most. Raises
        OSError(ENODEV) for a driver without a MAC.
        """
        from barenet.driver import borrow

        borrow("doctor", "run", self, report)

    def _tick(self, timer):
        # Here, because a function that stays would hold all of settings.py.
        self.stack.poll()

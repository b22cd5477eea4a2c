# Brings the network up and leaves `lan` (and `nic`, the name MicroPython's own tests look for) at the prompt.
import gc

# Collecting early keeps what lives long together: otherwise it ends up scattered among garbage, and no large buffer fits between. And the heap
# need not grow while barenet is imported, which would take the executable RAM that its machine code needs.
gc.threshold(16384)

import barenet  # noqa: E402

try:
    nic = lan = barenet.LAN()  # for lan.doctor(), should it not come up
    barenet.up()
    if lan.isconnected():
        print("barenet: %s is up at %s" % (lan.config("board"), lan.ifconfig()[0]))
    elif lan.stack.link_up:
        print("barenet: no address yet, DHCP goes on asking; lan.ifconfig((ip, netmask, gateway, dns)) sets a fixed one")
    else:
        print("barenet: no cable; it comes up by itself when one is connected")
except OSError as e:
    print("barenet: the LAN did not come up:", *e.args)

"""What all tests stand on."""

import signal

# A shell without job control starts what runs in its background with SIGINT ignored, and every process inherits that: no program under test
# would end on Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

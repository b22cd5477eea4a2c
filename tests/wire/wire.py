"""The decorator of the wire tests: `on_wire`."""

from device import ON_DEVICE

if ON_DEVICE:
    import rig

    def on_wire(test):
        """Runs the test twice, as it is and with an observer attached, which must change nothing; each time nothing
        may be left over.
        """

        def checked():
            for observed in (False, True):
                rig.begin(observed)
                try:
                    test()
                    rig.end()
                except Exception:
                    if observed:
                        print("(while somebody observes the stack)")
                    raise

        return checked

else:
    from grouped import grouped as on_wire  # noqa: F401

"""Modules that are loaded when they are needed."""

import sys


def load(name):
    """Returns the module barenet.<name>, which is loaded when it is not there.

    Raises MemoryError; a later call tries again. (MicroPython's own import would give out the half of it that it had made.)
    """
    name = "barenet." + name
    module = sys.modules.get(name)
    if module is None:
        known = tuple(sys.modules)
        try:
            __import__(name)
        except BaseException:
            for new in tuple(sys.modules):
                if new not in known:
                    del sys.modules[new]
            raise
        module = sys.modules[name]
    return module


def drop(name):
    """Takes the module barenet.<name> out of memory, as far as nobody else holds what is in it. Fine when it is not there."""
    if sys.modules.pop("barenet." + name, None):
        delattr(sys.modules["barenet"], name)

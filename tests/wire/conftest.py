"""Makes tests/device.py, tests/grouped.py and wire.py importable for the wire tests."""

import sys
from pathlib import Path

WIRE = Path(__file__).resolve().parent
for folder in (WIRE, WIRE.parent, WIRE.parent.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

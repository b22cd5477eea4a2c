"""What people install by other ways than `barenet deploy` is complete."""

import json
import re

from host_tools import ROOT

FIRMWARE = ROOT / "firmware"


def test_package_json_lists_every_module():
    listed = {target for target, _ in json.loads((FIRMWARE / "package.json").read_text())["urls"]}
    modules = {path.relative_to(FIRMWARE).as_posix() for path in (FIRMWARE / "barenet").rglob("*.py")}
    assert listed == modules


def test_package_json_points_at_the_files_beside_it():
    for target, source in json.loads((FIRMWARE / "package.json").read_text())["urls"]:
        assert (FIRMWARE / source).is_file(), target


def test_one_version_everywhere():
    version = re.search(r'__version__ = "(.*)"', (FIRMWARE / "barenet" / "__init__.py").read_text())[1]
    assert json.loads((FIRMWARE / "package.json").read_text())["version"] == version
    assert f'version="{version}"' in (FIRMWARE / "manifest.py").read_text()
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()

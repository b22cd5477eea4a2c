"""What deploy decides to copy, to remove and to keep, and what it compiles for."""

import hashlib

import pytest

from host_tools import boards, deploy
from host_tools.deploy import DeployError, make_plan


def digest(content):
    return hashlib.sha256(content).hexdigest()


WANTED = {"boot.py": b"boot", "main.py": b"main", "barenet/a.mpy": b"a2", "barenet/b.mpy": b"b", "board.json": b"{}"}
UP_TO_DATE = {path: digest(content) for path, content in WANTED.items()}


def test_an_empty_board_gets_everything():
    plan = make_plan(WANTED, {}, {}, clean=False)
    assert plan.write == WANTED and plan.remove == [] and plan.kept == []


def test_a_board_that_is_up_to_date_gets_nothing():
    plan = make_plan(WANTED, UP_TO_DATE, {}, clean=False)
    assert plan.write == {} and plan.remove == [] and plan.rename == {}


def test_only_what_differs_is_copied():
    plan = make_plan(WANTED, UP_TO_DATE | {"barenet/a.mpy": digest(b"changed on the board")}, {}, clean=False)
    assert plan.write == {"barenet/a.mpy": b"a2"}


def test_clean_copies_everything():
    assert make_plan(WANTED, UP_TO_DATE, {}, clean=True).write == WANTED


def test_stale_modules_and_sources_that_shadow_them_are_removed():
    present = UP_TO_DATE | {"barenet/a.py": digest(b"source"), "barenet/old/gone.mpy": digest(b"x")}
    assert make_plan(WANTED, present, {}, clean=False).remove == ["barenet/a.py", "barenet/old/gone.mpy"]


def test_going_back_to_sources_removes_the_compiled_modules():
    wanted = {"barenet/a.py": b"source"}
    assert make_plan(wanted, {"barenet/a.mpy": digest(b"a")}, {}, clean=False).remove == ["barenet/a.mpy"]


def test_a_main_of_the_user_stays_and_a_boot_of_the_user_is_put_aside():
    present = UP_TO_DATE | {"main.py": digest(b"my program"), "boot.py": digest(b"my boot")}
    plan = make_plan(WANTED, present, {}, clean=False)
    assert plan.kept == ["main.py"]
    assert plan.write == {"boot.py": b"boot"} and plan.rename == {"boot.py": "boot.py.old"}


def test_a_starter_that_an_earlier_deploy_wrote_is_replaced_in_silence():
    old = {"main.py": digest(b"old main"), "boot.py": digest(b"old boot")}
    plan = make_plan(WANTED, UP_TO_DATE | old, old, clean=False)
    assert plan.write == {"boot.py": b"boot", "main.py": b"main"}
    assert plan.kept == [] and plan.rename == {}


# sys.implementation._mpy: version, sub-version << 8, architecture << 10


@pytest.mark.parametrize("mpy, architecture", [(0x2B06, "xtensawin"), (0x0706, "x86"), (0x0B06, "x64")])
def test_the_board_says_what_to_compile_for(mpy, architecture):
    assert deploy.target(mpy) == (architecture, "")


def test_a_micropython_with_another_mpy_than_the_compiler_s_gets_sources():
    architecture, reason = deploy.target(0x2807)
    assert architecture is None and "loads .mpy 7.0" in reason


@pytest.mark.parametrize("mpy, complaint", [(0x2805, "older than 1.23"), (0x2A06, "older than 1.23"), (0x0306, "no native code")])
def test_a_firmware_that_cannot_run_barenet_is_refused(mpy, complaint):
    with pytest.raises(DeployError, match=complaint):
        deploy.target(mpy)


def test_sources_are_the_firmware_without_what_packages_need():
    names = set(deploy.sources())
    assert {"main.py", "barenet/__init__.py"} <= names
    assert not {"manifest.py", "package.json"} & names
    assert all(name.endswith(".py") for name in names)


def test_compiling_keeps_the_starters_and_makes_mpy_6_3_of_the_rest():
    source = b"import micropython\n@micropython.viper\ndef f(x: int) -> int:\n    return x + 1\n"
    compiled = deploy.compile_all({"boot.py": b"pass\n", "barenet/f.py": source}, "xtensawin")
    assert compiled["boot.py"] == b"pass\n"
    content = compiled["barenet/f.mpy"]
    assert content[:3] == bytes([ord("M"), 6, 10 << 2 | 3])
    assert b"barenet/f.mpy" in content


def test_the_whole_firmware_compiles_for_the_esp32():
    compiled = deploy.compile_all(deploy.sources(), "xtensawin")
    assert all(name.endswith(".mpy") or name in deploy.STARTERS for name in compiled)


def test_a_syntax_error_names_the_file_on_one_line():
    with pytest.raises(DeployError, match="cannot compile barenet/bad.py: SyntaxError") as raised:
        deploy.compile_all({"barenet/bad.py": b"def f(:\n"}, "x86")
    assert "\n" not in str(raised.value)


def test_network_options():
    assert deploy.network_config() is None
    assert deploy.network_config(dhcp=True) == "dhcp"
    assert deploy.network_config("10.0.0.2/24") == {"ip": "10.0.0.2/24"}
    assert deploy.network_config("10.0.0.2/24", "10.0.0.1", "9.9.9.9") == {
        "ip": "10.0.0.2/24", "gw": "10.0.0.1", "dns": "9.9.9.9",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"ip": "10.0.0.2/24", "dhcp": True}, "--dhcp gets the addresses"),
        ({"gateway": "10.0.0.1"}, "need --ip"),
        ({"ip": "10.0.0.300/24"}, "--ip 10.0.0.300/24: not an IPv4 address"),
        ({"ip": "10.0.0.2"}, "prefix length is missing"),
        ({"ip": "fe80::1/64"}, "not an IPv4 address"),
        ({"ip": "10.0.0.2/24", "gateway": "router"}, "--gw router: not an IPv4 address"),
        ({"ip": "10.0.0.2/24", "gateway": "10.0.1.1"}, "is not in the network 10.0.0.0/24"),
    ],
)
def test_network_options_that_make_no_sense_are_one_line(options, complaint):
    with pytest.raises(DeployError, match=complaint):
        deploy.network_config(**options)


def test_a_new_board_needs_a_name_and_an_old_one_keeps_its_own():
    with pytest.raises(DeployError, match="name it with --board"):
        deploy.board_config(None, None, None)
    old = {"board": "wt32_eth01", "network": "dhcp"}
    assert deploy.board_config(old, None, None) == old
    assert deploy.board_config(old, None, {"ip": "10.0.0.2/24"})["network"] == {"ip": "10.0.0.2/24"}


def test_a_new_board_file_leaves_the_network_and_the_board_s_own_keys_alone():
    old = {"board": "x", "mdc": 1, "network": {"ip": "10.0.0.2/24"}, "mac": "02:00:00:00:00:01", "driver": "tap"}
    config = deploy.board_config(old, boards.find("wt32_eth01"), None)
    assert config["network"] == {"ip": "10.0.0.2/24"}
    assert (config["board"], config["mdc"]) == ("wt32_eth01", 23)
    assert (config["mac"], config["driver"]) == ("02:00:00:00:00:01", "tap")
    assert deploy.board_config(None, boards.find("wt32_eth01"), None)["driver"] == "emac"


def test_a_branch_too_long_for_the_processor_is_an_error():
    body = "".join(f"        a[{i % 99}] = a[{i % 99 + 1}] + {i}\n" for i in range(12_000))
    code = f"@micropython.viper\ndef f(a: ptr32, n: int):\n    while n:\n{body}        n -= 1\n"
    with pytest.raises(deploy.DeployError, match="cannot compile barenet/long.py: .*out of range"):
        deploy.compile_all({"barenet/long.py": code.encode()}, "xtensawin")


def test_the_firmware_compiles_for_the_esp32():
    assert deploy.compile_all(deploy.sources(), "xtensawin")["barenet/fast.mpy"]


def test_what_depends_on_the_size_of_ints_is_fitted_where_they_have_64_bits():
    sources = deploy.sources()
    for files in (sources, deploy.fold_constants(sources)):
        fitted = deploy.fit(files, "x64")
        assert all(b"\n_WIDE = const(1)\n" in fitted[name] for name in ("barenet/fast.py", "barenet/fast_udp.py", "barenet/driver/tap.py"))
        for architecture in ("x86", "xtensawin", "armv7emsp"):
            assert deploy.fit(files, architecture) == files

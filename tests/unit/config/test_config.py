from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from msgspec import structs
from pydantic import BaseModel

from baremetal.config import Config, ProfileConfig, is_loopback, load, split_listen
from baremetal.config.lines import find_line
from baremetal.config.settings import StorageConfig, SubnetConfig
from baremetal.errors import Invalid
from baremetal.lifecycle.model import Budgets, Limits
from baremetal.storage.settings import StorageSettings

ROOT = Path(__file__).parents[3]
SUBNET = "range = '10.0.1.100-10.0.1.199'\nmask = '255.255.255.0'\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refused(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(Invalid) as caught:
        load(file)
    assert caught.value.code == "BM506"
    return str(caught.value).replace(str(file), "FILE")


# ---- names that the control app may be called by


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("BM.example.net.", "bm.example.net"),
        ("bm", "bm"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
    ],
)
def test_a_host_name_is_kept_as_requests_are_compared(file: Path, given: str, kept: str) -> None:
    file.write_text(f'[server]\ncontrol_hosts = ["{given}"]\n')
    assert load(file).server.control_hosts == [kept]


@pytest.mark.parametrize(
    "given", ["", "*", "*.example.net", "bm.example.net:8000", "https://bm.example.net", "a b", "-a", "a..b"]
)
def test_what_is_no_host_name_is_refused_at_its_line(file: Path, given: str) -> None:
    said = refused(file, f'[server]\n\ncontrol_hosts = ["{given}"]\n')
    assert said.startswith("FILE:3: server.control_hosts.0: not a host's name or address alone"), said


# ---- the shipped file


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads((ROOT / "config.toml").read_text())
    del shown["profile"]
    defaults = Config.model_construct().model_dump(mode="json")
    del defaults["profile"], defaults["storage"]
    # Shown in words: an empty list in the file would forbid a reader to add his [[dhcp.subnet]] below it.
    assert defaults["dhcp"].pop("subnet") == []
    assert shown == defaults


def test_the_shipped_file_shows_every_key_of_a_subnet() -> None:
    text = (ROOT / "config.toml").read_text()
    example = [line.removeprefix("#") for line in text.splitlines() if line.startswith("#   ")]
    begin = next(at for at, line in enumerate(example) if line.strip() == "[[dhcp.subnet]]")
    shown = tomllib.loads("\n".join(example[begin : begin + len(SubnetConfig.model_fields) + 1]))
    assert set(shown["dhcp"]["subnet"][0]) == set(SubnetConfig.model_fields)
    SubnetConfig(**shown["dhcp"]["subnet"][0])


def test_the_shipped_file_shows_every_key_of_a_storage_host() -> None:
    text = (ROOT / "config.toml").read_text()
    example = [line.removeprefix("#") for line in text.splitlines() if line.startswith("#   ")]
    begin = next(at for at, line in enumerate(example) if line.strip() == "[storage.nas]")
    shown = tomllib.loads("\n".join(example[begin : begin + len(StorageConfig.model_fields) + 1]))
    assert set(shown["storage"]["nas"]) == set(StorageConfig.model_fields)
    settings = StorageSettings.parse("nas", StorageConfig(**shown["storage"]["nas"]).model_dump())
    assert settings.as_dict() == StorageConfig(**shown["storage"]["nas"]).model_dump()


def test_the_shipped_file_is_valid_and_describes_the_shipped_profiles() -> None:
    config = load(ROOT / "config.toml")
    assert set(config.profile) >= {"tiny", "centos7", "rocky9", "debian12", "debian13", "esxi8", "image"}
    assert config.profile["esxi8"].kernel == ""
    assert config.profile["tiny"].budgets.boot_s == 300.0


def test_budgets_and_limits_are_those_of_the_core() -> None:
    config = Config.model_construct()
    assert config.deploy.budgets.model_dump() == structs.asdict(Budgets())
    assert config.deploy.limits.model_dump() == structs.asdict(Limits())
    assert set(ProfileConfig.model_fields["budgets"].default.model_dump()) == set(structs.asdict(Budgets()))


def test_every_setting_is_read_by_the_program() -> None:
    """A key that nothing reads would be a promise that nobody keeps."""
    texts = [path.read_text() for path in (ROOT / "baremetal").rglob("*.py") if path.name != "settings.py"]
    program = "\n".join([*texts, _properties()])
    whole = ("budgets", "limits")  # handed on as they are
    for section, model in _sections().items():
        for name in model.model_fields:
            found = re.search(
                rf"\b(config|server|bmc|deploy|dhcp|subnet|security|database|profile|self)\.(\w+\.)?{name}\b",
                program,
            )
            assert found or name in whole, f"[{section}] {name} is read nowhere"


def _sections() -> dict[str, type[BaseModel]]:
    fields = Config.model_fields
    found = {
        name: type(field.default) for name, field in fields.items() if name not in ("profile", "storage")
    }
    return {**found, "dhcp.subnet": SubnetConfig, "profile.NAME": ProfileConfig}


def _properties() -> str:
    """The part of the settings' own module that reads them."""
    text = (ROOT / "baremetal" / "config" / "settings.py").read_text()
    return text[text.index("    @property") :]


# ---- sources


def test_later_sources_win_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, local = tmp_path / "etc.toml", tmp_path / "local.toml"
    system.write_text('[server]\nboot_listen = "10.0.0.1:80"\nlog_level = "debug"\n[bmc]\nread_s = 7\n')
    local.write_text('[server]\nlog_level = "warning"\n[profile.tiny]\ntitle = "Mine"\n')
    monkeypatch.setenv("BAREMETAL_BMC__READ_S", "9")
    monkeypatch.setenv("BAREMETAL_DEPLOY__BUDGETS__BOOT_S", "60")
    config = load(system=system, local=local)
    assert config.server.boot_listen == "10.0.0.1:80"
    assert config.server.log_level == "warning"
    assert config.bmc.read_s == 9.0
    assert config.bmc.write_s == 35.0
    assert config.deploy.budgets.boot_s == 60.0
    assert config.deploy.budgets.install_s == 5400.0
    assert config.profile["tiny"].title == "Mine"
    assert config.profile["tiny"].template == "kickstart/tiny.ks.j2"
    assert "rocky9" in config.profile


def test_a_named_file_takes_the_place_of_the_others(tmp_path: Path, file: Path) -> None:
    file.write_text('[server]\nlog_level = "debug"\n')
    ignored = tmp_path / "ignored.toml"
    ignored.write_text("not toml at all")
    assert load(file, system=ignored, local=ignored).server.log_level == "debug"


def test_without_any_file_the_defaults_and_the_shipped_profiles_hold(tmp_path: Path) -> None:
    config = load(system=tmp_path / "none", local=tmp_path / "none")
    assert config.server == Config.model_construct().server
    assert "tiny" in config.profile


def test_paths_are_relative_to_their_file(file: Path) -> None:
    file.write_text('[server]\ndata_dir = "data"\n[security]\nkey_file = "/run/key"\n')
    config = load(file)
    assert config.data_dir == file.parent / "data"
    assert config.media_dir == file.parent / "data" / "media"
    assert config.templates_dir == file.parent / "data" / "templates"
    assert config.database_url == f"sqlite:///{file.parent}/data/baremetal.sqlite3"
    assert config.key_file == Path("/run/key")
    assert config.token_file == file.parent / "data" / "control.token"


def test_variables_that_belong_to_the_command_line_are_left_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAREMETAL_BMC_PASSWORD", "hunter2")
    monkeypatch.setenv("BAREMETAL_TOKEN", "abc")
    file.write_text("")
    assert "hunter2" not in repr(load(file))


# ---- what is wrong, and where


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[server]\n\nboot_lisen = "0.0.0.0:80"\n',
            "FILE:3: unknown key 'server.boot_lisen', did you mean 'boot_listen'?",
        ),
        (
            '[server]\ncontrol_host = ["bm.example.net"]\n',
            "FILE:2: unknown key 'server.control_host', did you mean 'control_hosts'?",
        ),
        ("[bmc]\nread_s = 1\n[deplyo]\n", "FILE:3: unknown key 'deplyo', did you mean 'deploy'?"),
        (
            "[deploy]\nbudgets = { boot_s = 1, boots_s = 2 }\n",
            "FILE:2: unknown key 'deploy.budgets.boots_s', did you mean 'boot_s'?",
        ),
        (
            "deploy.limits.max_serve = 2\n",
            "FILE:1: unknown key 'deploy.limits.max_serve', did you mean 'max_serves'?",
        ),
        (
            '[profile.mine]\nfamily = "kickstart"\nkernal = "k"\n',
            "FILE:3: unknown key 'profile.mine.kernal', did you mean 'kernel'?",
        ),
        ("[database]\npassword = 1\n", "FILE:2: unknown key 'database.password'. Known here: url"),
        ("[server\n", "FILE:1: not TOML:"),
        ('[server]\nboot_listen = "0.0.0.0"\n', "FILE:2: server.boot_listen: not HOST:PORT"),
        ("[bmc]\nread_s = 0\n", "FILE:2: bmc.read_s: Input should be greater than 0"),
        ('[bmc]\nread_s = "soon"\n', "FILE:2: bmc.read_s: Input should be a valid number"),
        (
            '[server]\npublic_url = "10.0.0.1:8080"\n',
            "FILE:2: server.public_url: not an http:// or https:// URL",
        ),
        ('[deploy]\nssh_authorized_keys = ["a\\nb"]\n', "FILE:2: deploy.ssh_authorized_keys.0: not one line"),
        ('[profile.mine]\nfamily = "kickstart"\n', "FILE:1: profile.mine.kernel: is missing"),
        (
            '[profile.mine]\nfamily = "winnt"\n',
            "FILE:2: profile.mine.family: Input should be 'kickstart', 'preseed', 'autoinstall'",
        ),
        (
            '[server]\ncontrol_listen = "0.0.0.0:8000"\n',
            "FILE:2: the control app would answer on 0.0.0.0:8000",
        ),
        (
            '[server]\ncontrol_tls_cert = "a.pem"\n',
            "FILE:2: server.control_tls_cert and server.control_tls_key go",
        ),
        (
            '[dhcp]\nmode = "full"\ninterface = "eth1"\n',
            'FILE:2: dhcp.mode is "full" and there is no [[dhcp.subnet]]',
        ),
        (
            f"[dhcp]\nmode = 'full'\n[[dhcp.subnet]]\n{SUBNET}",
            "FILE:3: no interface is named on which 10.0.1.0/24 is heard",
        ),
        (
            f"[[dhcp.subnet]]\n{SUBNET}[[dhcp.subnet]]\n{SUBNET}rooters = []\n",
            "FILE:7: unknown key 'dhcp.subnet.1.rooters', did you mean 'routers'?",
        ),
        (
            f"[[dhcp.subnet]]\n{SUBNET}[[dhcp.subnet]]\nrange = '10.0.2.9'\nmask = '255.0.255.0'\n",
            "FILE:4: dhcp.subnet.1: mask 255.0.255.0 is no network mask",
        ),
        (
            "[[dhcp.subnet]]\nmask = '255.255.255.0'\nrange = '10.0.0.9-10.0.1.9'\n",
            "FILE:1: dhcp.subnet.0: range 10.0.0.9-10.0.1.9 does not fit into one network",
        ),
        (
            "[[dhcp.subnet]]\nmask = '255.255.255.0'\nrange = '10.0.0.9-10.0.0.8'\n",
            "FILE:1: dhcp.subnet.0: range 10.0.0.9-10.0.0.8 ends before it begins",
        ),
        (
            f"[[dhcp.subnet]]\n{SUBNET}routers = ['10.0.2.1']\n",
            "FILE:1: dhcp.subnet.0: router 10.0.2.1 is not in 10.0.1.0/24",
        ),
        (
            f"[[dhcp.subnet]]\n{SUBNET}relay = '10.0.1.256'\n",
            "FILE:4: dhcp.subnet.0.relay: not an IPv4 address",
        ),
        (
            f"[dhcp]\nmode = 'proxy'\ninterface = 'eth1'\n[[dhcp.subnet]]\n{SUBNET}relay = '10.0.1.1'\n",
            "FILE:4: 10.0.1.0/24 is behind a relay, where a proxy is not heard",
        ),
        (
            f"[dhcp]\nmode = 'full'\ninterface = 'eth1'\n[[dhcp.subnet]]\n{SUBNET}[[dhcp.subnet]]\n{SUBNET}",
            "FILE:7: 10.0.1.0/24 overlaps 10.0.1.0/24",
        ),
        ('[dhcp]\nfilename = "a,b"\n', "FILE:2: dhcp.filename: not a file name or URL"),
        ('[dhcp]\ninterface = "eth1,eth2"\n', "FILE:2: dhcp.interface: String should match"),
    ],
)
def test_complaints_name_the_line_and_the_nearest_key(file: Path, text: str, says: str) -> None:
    assert refused(file, text).startswith(says)


def test_a_complaint_about_a_password_does_not_repeat_it(file: Path) -> None:
    assert "hunter2" not in refused(file, '[server]\npublic_url = "http://root:hunter2@h"\n')


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"there is no configuration file .*nowhere\.toml"):
        load(tmp_path / "nowhere.toml")


def test_complaints_name_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("")
    monkeypatch.setenv("BAREMETAL_SERVER__BOOT_LISEN", "x")
    with pytest.raises(
        Invalid, match=r"BAREMETAL_SERVER__BOOT_LISEN .* did you mean BAREMETAL_SERVER__BOOT_LISTEN\?"
    ):
        load(file)
    monkeypatch.delenv("BAREMETAL_SERVER__BOOT_LISEN")
    monkeypatch.setenv("BAREMETAL_SERVER__BOOT_LISTEN", "x")
    with pytest.raises(Invalid, match=r"environment variable BAREMETAL_SERVER__BOOT_LISTEN: .*not HOST:PORT"):
        load(file)


@pytest.mark.parametrize(
    "said",
    [
        "[security]\nallow_public_control = true\n[server]\n",
        '[server]\ncontrol_tls_cert="c"\ncontrol_tls_key="k"\n',
    ],
)
def test_control_beyond_the_loopback_needs_tls_or_words(file: Path, said: str) -> None:
    file.write_text(f'{said}control_listen = "0.0.0.0:8000"\n')
    assert load(file).server.control_listen == "0.0.0.0:8000"


# ---- small parts


def test_finds_lines_in_every_form_a_key_can_have() -> None:
    text = '''a = 1
[b]
"c" = """
d = 2
"""
d = 3
e.f = 4
[b.g]
h = { i = 5, j = { k = 6 } }
[[l]]
m = 7
'''
    assert find_line(text, ["a"]) == 1
    assert find_line(text, ["b", "c"]) == 3
    assert find_line(text, ["b", "d"]) == 6
    assert find_line(text, ["b", "e", "f"]) == 7
    assert find_line(text, ["b", "g"]) == 8
    assert find_line(text, ["b", "g", "h", "j", "k"]) == 9
    assert find_line(text, ["z"]) is None
    assert find_line(text, ["l", "0", "m"]) == 11
    twice = "[[a.b]]\nc = 1\n[[a.b]]\nd = 1\n[a.b.e]\nf = 1\n"
    assert find_line(twice, ["a", "b", "0"]) == 1
    assert find_line(twice, ["a", "b", "1"]) == 3
    assert find_line(twice, ["a", "b", "1", "d"]) == 4
    assert find_line(twice, ["a", "b", "1", "e", "f"]) == 6


def test_listeners() -> None:
    assert split_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert split_listen("[::1]:8000") == ("::1", 8000)
    for bad in ("8000", ":8000", "::1:8000", "h:65536", "h:x"):
        with pytest.raises(ValueError):
            split_listen(bad)
    assert is_loopback("127.0.0.1:1")
    assert is_loopback("[::1]:1")
    assert is_loopback("localhost:1")
    assert not is_loopback("0.0.0.0:1")
    assert not is_loopback("example.net:1")


def test_every_section_refuses_what_it_does_not_know() -> None:
    def sections(model: type[BaseModel]) -> None:
        assert model.model_config["extra"] == "forbid", model
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                sections(field.annotation)

    sections(Config)
    sections(ProfileConfig)

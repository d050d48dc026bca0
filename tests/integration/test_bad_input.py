"""BMCs that refuse, vanish or lie, and call-backs that come twice, late, too soon or from elsewhere, on real sockets.

The BMCs speak IPMI on loopback; only the machines behind them are not there, and the tests say what they would say.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from baremetal.sim.bmc import SimulatedBmc
from baremetal.sim.chassis import DummyChassis
from baremetal.sim.knobs import Knobs
from baremetal.sim.rmcp import BmcFarm
from baremetal.sim.sessions import User
from tests.integration.conftest import MAC, Runner, Service, connect, prepare

pytestmark = pytest.mark.timeout(120)

PASSWORD = "right-horse-battery"
BUDGETS = """
[deploy.budgets]
access_s = 12.0
ensure_s = 12.0
"""
LOGINS = ("open-session", "rakp1", "rakp3", "log-in")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1hZGVVcEtleUZvclRlc3RzT25seTAwMDAwMDAwMDA root@r1"


@dataclass
class Site:
    """The service and a farm of BMCs that it reaches by IPMI."""

    service: Service
    farm: BmcFarm
    made: int = 0

    def bmc(self, **knobs: Any) -> tuple[SimulatedBmc, str]:
        """Put up a BMC with these knobs; returns it and its URL without a password."""
        bmc = SimulatedBmc(
            DummyChassis(), time.monotonic, Knobs(**knobs), random.Random(1), users=(User("admin", PASSWORD),)
        )
        return bmc, f"ipmi://admin@127.0.0.1:{self.farm.add(bmc)}"

    def enrol(self, url: str, password: str = PASSWORD, **more: Any) -> str:
        """Enrol a server behind this URL; returns its name."""
        self.made += 1
        name = f"s{self.made}"
        body = {"name": name, "bmc": url, "bmc_password": password, "macs": [mac_of(name)], **more}
        self.service.post("/v1/servers", body, 201)
        return name

    def refused(self, name: str) -> dict[str, Any]:
        return self.service.wait(name, lambda shown: shown["last_error"] != "", 40)

    def available(self, url: str, **more: Any) -> str:
        name = self.enrol(url, **more)
        self.service.wait(name, lambda shown: shown["provision_state"] == "available", 40)
        return name


def mac_of(name: str) -> str:
    return f"52:54:00:00:01:{int(name.removeprefix('s')):02x}"


def logins(bmc: SimulatedBmc) -> dict[str, int]:
    return {name: bmc.requests[name] for name in LOGINS}


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = prepare(folder := tmp_path_factory.mktemp("site"))
    settings.write_text(settings.read_text() + BUDGETS)
    runner = Runner(settings)
    runner.begin()
    service = connect(folder, runner)
    try:
        with BmcFarm() as farm:
            yield Site(service, farm)
    finally:
        service.api.close()
        service.machine.close()
        runner.end()


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    for server in shared_site.service.get("/v1/servers")["servers"]:
        shared_site.service.api.delete(f"/v1/servers/{server['name']}?force=true")


class TestBmcs:
    def test_a_wrong_password_is_tried_once_and_then_frozen(self, site: Site) -> None:
        """P10: no caller asks again, whoever it is; the right password ends it."""
        bmc, url = site.bmc()
        name = site.enrol(url, "wrong-horse")
        shown = site.refused(name)
        assert shown["provision_state"] == "enroll"
        assert "BM102" in shown["last_error"]
        tried = logins(bmc)
        assert tried["rakp1"] == 1, "one login was tried"
        assert site.service.get(f"/v1/servers/{name}/power", 502)["code"] == "BM102"
        site.service.post(f"/v1/servers/{name}/manage")
        site.service.wait(name, lambda shown: shown["run"] is None and shown["provision_state"] == "enroll")
        put = site.service.api.put(f"/v1/servers/{name}/power", json={"target": "on"})
        assert (put.status_code, put.json()["code"]) == (502, "BM102")
        time.sleep(1)
        assert logins(bmc) == tried, "not one packet more"
        mended = site.service.api.patch(f"/v1/servers/{name}", json={"bmc": url, "bmc_password": PASSWORD})
        assert mended.status_code == 200, mended.text
        assert site.service.get(f"/v1/servers/{name}/power")["power_state"] == "off"

    def test_an_unknown_user_is_a_wrong_account_too(self, site: Site) -> None:
        bmc, url = site.bmc()
        name = site.enrol(url.replace("admin@", "nobody@"))
        assert "BM102" in site.refused(name)["last_error"]
        tried = logins(bmc)
        assert site.service.get(f"/v1/servers/{name}/power", 502)["code"] == "BM102"
        assert logins(bmc) == tried

    def test_no_common_cipher_suite_is_said_and_final(self, site: Site) -> None:
        _, url = site.bmc(suites=(3,))
        name = site.enrol(f"{url}?cipher=17")
        shown = site.refused(name)
        assert "BM104" in shown["last_error"]
        assert shown["provision_state"] == "enroll"

    def test_nobody_there(self, site: Site) -> None:
        bmc, url = site.bmc()
        bmc.freeze(for_s=600)
        name = site.enrol(url)
        shown = site.refused(name)
        assert shown["provision_state"] == "enroll"
        assert "BM101" in shown["last_error"]
        answer = site.service.get(f"/v1/servers/{name}/power", 504)
        assert answer["code"] == "BM101"
        assert answer["fix"], answer

    def test_yes_without_effect_and_flags_that_do_not_stick_fail_the_deploy(self, site: Site) -> None:
        """P8: four BMCs that lie, each caught by the read-back, each named by what it did."""
        liars = {
            "BM112": site.bmc(lie_power=1.0)[1],
            "BM105": site.bmc(stale_flags=1.0)[1],
        }
        names = {code: site.available(url) for code, url in liars.items()}
        _, drops = site.bmc(efi_policy="drops")
        names["EFI"] = site.available(drops, boot_mode="uefi")
        for name in names.values():
            site.service.post(f"/v1/servers/{name}/deploy", {"profile": "test"})
        for code, name in names.items():
            shown = site.service.wait(name, lambda shown: shown["run"] is None, 60)
            assert shown["provision_state"] == "deploy failed"
            assert code in shown["last_error"], shown["last_error"]
            assert "installs" not in site.service.script(mac_of(name)), "no window was opened"

    def test_two_servers_cannot_share_a_bmc_a_mac_or_a_name(self, site: Site) -> None:
        _, url = site.bmc()
        first = site.enrol(url)
        for body, word in (
            ({"name": "other", "bmc": url, "macs": ["52:54:00:00:02:01"]}, "BMC"),
            ({"name": "other", "bmc": "ipmi://admin@127.0.0.1:9", "macs": [mac_of(first).upper()]}, "MAC"),
            ({"name": first, "bmc": "ipmi://admin@127.0.0.1:9", "macs": ["52:54:00:00:02:01"]}, "name"),
        ):
            answer = site.service.post("/v1/servers", body | {"bmc_password": "x"}, 409)
            assert answer["code"] == "BM501"
            assert first in answer["message"]
            assert word.lower() in answer["message"].lower()

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"bmc": "ipmi://admin@127.0.0.1:99999"}, "port"),
            ({"bmc": "telnet://admin@127.0.0.1"}, "telnet"),
            ({"bmc": "ipmi://127.0.0.1", "bmc_password": ""}, ""),
            ({"macs": ["52:54:00:00:00"]}, "MAC"),
            ({"macs": []}, "MAC"),
            ({"boot_mode": "efi"}, "boot mode"),
            ({"ip": "10.0.0.300/24"}, "10.0.0.300"),
        ],
    )
    def test_what_cannot_be_right_is_refused_at_once(
        self, site: Site, change: dict[str, Any], word: str
    ) -> None:
        body = {"name": "odd", "bmc": "ipmi://admin@127.0.0.1:9", "bmc_password": "x", "macs": [MAC]}
        answer = site.service.post("/v1/servers", body | change, 422)
        assert answer["code"] == "BM505"
        assert word.lower() in answer["message"].lower()
        assert site.service.get("/v1/servers")["servers"] == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("hostname", "no spaces"),
            ("kernel_args", "quiet; rm -rf /"),
            ("disk", "size>=lots"),
            ("timezone", "Mars/Olympus\nclearpart --all"),
            ("ntp", "${IFS}"),
        ],
    )
    def test_hostile_variables_are_refused_by_name(self, site: Site, name: str, value: str) -> None:
        body = {"name": "odd", "bmc": "ipmi://admin@127.0.0.1:9", "bmc_password": "x", "macs": [MAC]}
        answer = site.service.post("/v1/servers", body | {"vars": {name: value}}, 422)
        assert (answer["code"], answer["variable"]) == ("BM505", name)


class TestCallBacks:
    """P11: only the legal prefix has an effect."""

    def begin(self, service: Service, name: str = "r1", mac: str = MAC) -> str:
        """Deploy until the window is open; returns the call-back URL."""
        service.enrol(name, mac)
        service.deploy_until_window(name)
        return service.tokens(service.script(mac))[1]

    def decisions(self, service: Service, words: str, name: str = "r1") -> int:
        events = service.get(f"/v1/servers/{name}/events")["events"]
        return sum(event["outcome"] == "changed" and words in event["note"] for event in events)

    def say(self, service: Service, callback: str, signal: str, **fields: Any) -> int:
        body = {"boot_id": "b1", **fields}
        return service.machine.post(f"{callback}/{signal}", json=body).status_code

    def test_everything_twice_and_at_once_is_done_once(self, service: Service) -> None:
        callback = self.begin(service)
        with ThreadPoolExecutor(8) as pool:
            for signal, fields in (
                ("install-started", {"disk": "vda"}),
                ("install-complete", {"ssh_host_keys": [KEY]}),
            ):
                said = [pool.submit(self.say, service, callback, signal, **fields) for _ in range(16)]
                assert {each.result() for each in said} == {200}
                if signal == "install-started":
                    assert self.decisions(service, "go: run") == 1
        service.wait("r1", lambda shown: shown["provision_state"] == "active")
        assert self.decisions(service, "reports that it is complete") == 1
        assert [what for what, _ in service.chassis["r1"].log] == ["on"]

    def test_of_two_boots_at_once_one_gets_go_and_the_run_ends(self, service: Service) -> None:
        """Two machines with one answer file, or one that rebooted: never two writers."""
        callback = self.begin(service)

        def ask(number: int) -> str:
            body = {"boot_id": f"b{number}", "disk": "vda"}
            return service.machine.post(f"{callback}/install-started", json=body).text

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        assert answers.count("go") == 1
        assert set(answers) <= {"go", "refused", "not found"}
        shown = service.get("/v1/servers/r1")
        assert shown["provision_state"] == "deploy failed"
        assert "BM405" in shown["last_error"]

    def test_out_of_order(self, service: Service) -> None:
        callback = self.begin(service)
        assert self.say(service, callback, "install-complete") == 409, "nobody asked for go"
        assert self.say(service, callback, "first-boot") == 409
        assert self.say(service, callback, "progress", stage="early") == 200
        assert self.say(service, callback, "install-started", disk="vda") == 200
        assert self.say(service, callback, "first-boot") == 200, "remembered"
        assert service.get("/v1/servers/r1")["run"]["step"] == "complete"
        assert self.say(service, callback, "install-complete", ssh_host_keys=[KEY]) == 200
        assert self.say(service, callback, "install-failed", stage="post") in (200, 404), "too late to fail"
        service.wait("r1", lambda shown: shown["provision_state"] == "active")

    def test_of_an_earlier_run_or_another_server(self, service: Service) -> None:
        old = self.begin(service)
        other = self.begin(service, "r2", "52:54:00:00:00:02")
        service.post("/v1/servers/r1/abort")
        service.wait("r1", lambda shown: shown["provision_state"] == "deploy failed")
        second = service.deploy_until_window("r1")
        for signal in ("install-started", "progress", "install-complete", "install-failed", "first-boot"):
            assert self.say(service, old, signal, disk="vda") == 404, signal
        assert service.machine.put(f"{old}/log/x.log", content=b"late").status_code == 404
        shown = service.get("/v1/servers/r1")
        assert (shown["run"]["number"], shown["run"]["step"], shown["run"]["go"]) == (second, "script", None)
        identity = shown["id"]
        # A token says which server is meant, whatever the fields say; who claims to be another is refused (I19, I22).
        assert self.say(service, other, "install-started", disk="vda", macs=[MAC]) == 409
        assert self.say(service, other, "install-started", disk="vda", macs=["52:54:00:00:00:02"]) == 200
        assert self.say(service, other, "install-complete", run=f"{identity}/{second}") == 409
        assert service.get("/v1/servers/r1")["run"]["go"] is None
        assert service.get("/v1/servers/r2")["run"]["step"] == "complete"

    def test_after_a_release_and_of_a_forgotten_server(self, service: Service) -> None:
        callback = self.begin(service)
        assert self.say(service, callback, "install-started", disk="vda") == 200
        assert self.say(service, callback, "install-failed", stage="storage", message="no space") == 200
        assert self.say(service, callback, "install-failed", stage="storage") == 200, "an accepted one, again"
        assert self.say(service, callback, "install-complete") == 404
        service.post("/v1/servers/r1/release")
        service.wait("r1", lambda shown: shown["provision_state"] == "available")
        assert self.say(service, callback, "install-started", disk="vda") == 404
        assert service.api.delete("/v1/servers/r1?force=true").status_code == 204
        for signal in ("install-started", "install-failed", "first-boot"):
            assert self.say(service, callback, signal) == 404, (
                "a forgotten server's tokens open nothing (I16)"
            )

    def test_before_we_know_that_the_power_is_on(self, service: Service) -> None:
        """Early news is remembered: the machine's word moves the run while the BMC still says off."""
        service.enrol()
        service.bmcs["r1"].knobs = Knobs(settle_s=4.0)
        service.post("/v1/servers/r1/deploy", {"profile": "test"})
        service.wait("r1", lambda shown: (shown["run"] or {}).get("step") == "on")
        until = time.monotonic() + 4
        while "inst.ks=" not in (script := service.script()):
            assert time.monotonic() < until, script
            time.sleep(0.02)
        callback = service.tokens(script)[1]
        assert self.say(service, callback, "install-started", disk="vda") == 200
        shown = service.get("/v1/servers/r1")
        assert (shown["run"]["step"], shown["run"]["go"]["disk"]) == ("complete", "vda")
        assert not service.chassis["r1"].is_on, "the BMC has not even switched it on"
        assert self.say(service, callback, "install-complete", ssh_host_keys=[KEY]) == 200
        service.bmcs["r1"].knobs = Knobs()
        service.wait("r1", lambda shown: shown["provision_state"] == "active", 30)
        assert [what for what, _ in service.chassis["r1"].log].count("off") == 0

    def test_an_answer_file_is_served_as_often_as_it_is_asked_for(self, service: Service) -> None:
        service.enrol()
        service.deploy_until_window()
        answer, callback = service.tokens(service.script())
        first = service.machine.get(answer)
        assert self.say(service, callback, "install-started", disk="vda") == 200
        assert [service.machine.get(answer).text for _ in range(5)] == [first.text] * 5
        assert self.say(service, callback, "install-complete") == 200
        assert service.machine.get(answer).status_code == 404

"""How many answer files are rendered in a second, each for another server, in one thread.

The bound is ten times what Cobbler does with a template of the same size: 77 in a second, on its own machine.
"""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import replace

from baremetal.config import load
from baremetal.netboot.context import Context, Urls, merge_variables
from baremetal.netboot.lint.samples import SAMPLE_SERVER, samples
from baremetal.netboot.profile import Family, Profile
from baremetal.netboot.render import render_answer
from baremetal.netboot.templates import Frozen, Templates, freeze
from bench.figure import ROOT, Figure

SIZE = 5_500
BOUND = 770.0
LASTS_S = 3.0
_LINES = """# {{ server.name | ks }} runs {{ profile.name | ks }}
network --device={{ server.boot_mac | ks }} --ip={{ ip | ks }} --netmask={{ prefix | netmask | ks }}
# by {{ gateway | ks }}
{% for address in dns %}
# asks {{ address | ks }} for names below {{ domain | ks }}
{% endfor %}
{% if console %}
bootloader --append="console={{ console | ks }} audit=0 nomodeset mitigations=auto"
{% endif %}
logging --host={{ ntp | first | ks }} --port=514 --level=info
repo --name=base --baseurl={{ mirror | ks }}/BaseOS --cost=100 --install --noverifyssl
"""
_SHIPPED = ("rocky9", "debian13", "ubuntu2404", "sles15", "fcos")


def run(_: Namespace) -> list[Figure]:
    text = (_LINES * (SIZE // len(_LINES) + 1))[:SIZE]
    text = text[: text.rindex("# {{ server.name")]
    text += "#" * (SIZE - len(text) - 1) + "\n"
    profile = Profile("bench", Family.KICKSTART, "vmlinuz", "initrd.img", "kickstart/bench.ks.j2")
    frozen = Frozen({"ks.cfg": profile.template}, {profile.template: text})
    figures = [
        _measure(profile, frozen, "ks.cfg", f"a kickstart template of {len(text):,} characters", BOUND)
    ]
    config = load(ROOT / "config.toml")
    for name in _SHIPPED:
        found = config.profile[name]
        profile = Profile(
            name,
            Family(found.family),
            found.kernel,
            found.initrd,
            found.template,
            found.kernel_args,
            dict(found.vars),
        )
        main = "target.ign" if profile.family is Family.IGNITION else profile.main_file
        what = f"{name}, {main}, as shipped"
        figures.append(_measure(profile, freeze(profile, Templates.with_own()), main, what, None))
    return figures


def _measure(profile: Profile, frozen: Frozen, file: str, what: str, bound: float | None) -> Figure:
    variables = merge_variables(profile.variables, samples(profile.family)[1])
    made, characters = 0, len(_render(profile, frozen, file, variables, 0))
    began, busy = time.monotonic(), time.process_time()
    while time.monotonic() - began < LASTS_S:
        _render(profile, frozen, file, variables, made)
        made += 1
    spent = time.process_time() - busy
    how = f"{made} renderings of {characters:,} characters in {spent:.1f} s of processor time, one thread"
    quoted = ("Cobbler: 77 per second for 5.5 kB (quoted)",) if bound is not None else ()
    return Figure(
        f"rendered per second: {what}", made / spent, "/s", bound, at_least=True, how=how, quoted=quoted
    )


def _render(profile: Profile, frozen: Frozen, file: str, variables: dict[str, object], number: int) -> str:
    """Render for a server of its own: nothing but the compiled template is kept from one to the next."""
    server = replace(SAMPLE_SERVER, name=f"node-{number}", id=f"{number:032x}")
    urls = Urls.of("http://192.0.2.1:8080", profile.name, f"fetch-{number}", f"callback-{number}")
    return render_answer(frozen, file, Context(server, 1, profile, variables, urls, "ssh-ed25519 AAAA bench"))

"""The checksums that media carry, in every form."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from baremetal.errors import Invalid
from baremetal.media.checksums import check, expected
from tests.unit.media import skeleton

DATA = b"data"
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.mark.parametrize(
    ("texts", "path", "kind"),
    [
        ({".treeinfo": f"[checksums]\nimages/Boot.iso = sha256:{SHA}\n"}, "images/Boot.iso", "sha256"),
        ({"md5sum.txt": f"{MD5}  ./install.amd/vmlinuz\n"}, "install.amd/vmlinuz", "md5"),
        ({"SHA256SUMS": f"{SHA} *casper/initrd\n"}, "casper/initrd", "sha256"),
        ({"CHECKSUMS": f"sha256 {SHA}  boot/x86_64/loader/linux\n"}, "boot/x86_64/loader/linux", "sha256"),
        ({"content": f"HASH SHA256 {SHA}  boot/x86_64/root\n"}, "boot/x86_64/root", "sha256"),
        ({"md5sum.txt": f"{MD5}  ./a\n", "SHA256SUMS": f"{SHA}  a\n"}, "a", "sha256"),
    ],
)
def test_every_form_is_read(texts: dict[str, str], path: str, kind: str) -> None:
    found = expected(texts)
    assert (found[path].kind, len(found)) == (kind, 1)
    assert found[path].hex == (MD5 if kind == "md5" else SHA)


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {".treeinfo": "[checksums\n"},
        {".treeinfo": "[checksums]\na = sha256:short\nb\nc = crc32:00000000\n"},
        {"md5sum.txt": "no checksum here\nzz  file\n" + "g" * 32 + "  file\n"},
    ],
)
def test_what_cannot_be_read_is_passed_over(texts: dict[str, str]) -> None:
    assert expected(texts) == {}


def test_a_file_is_what_it_should_be_or_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    digest = expected({"md5sum.txt": f"{MD5}  f"})["f"]
    assert check(tmp_path, "f", digest) == SHA
    assert check(tmp_path, "f", None) == SHA
    (tmp_path / "f").write_bytes(b"Data")
    with pytest.raises(Invalid, match=r"'f' is damaged: it is not what md5sum\.txt says") as caught:
        check(tmp_path, "f", digest)
    assert caught.value.code == "BM205"


def test_the_skeletons_carry_the_forms_that_are_tested() -> None:
    texts = {
        path: data.decode()
        for path, data in skeleton.red_hat("Rocky Linux", "9").items()
        if path == ".treeinfo"
    }
    assert expected(texts)["images/pxeboot/vmlinuz"].hex == skeleton.sha256(skeleton.KERNEL)

"""Every code that the program may say is explained, and every code that is explained can be said."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).parents[3]
CODE = re.compile(r"BM\d{3}")


def test_the_page_and_the_program_agree() -> None:
    page = (TOP / "docs" / "errors.md").read_text()
    explained = set(re.findall(r"^\| (BM\d{3}) \|", page, re.MULTILINE))
    said = {code for file in (TOP / "baremetal").rglob("*.py") for code in CODE.findall(file.read_text())}
    assert said - explained == set()
    assert explained - said == set()

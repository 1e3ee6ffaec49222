"""Names from data and models are shown as they are: no page, document or table runs or changes its meaning by them."""

import base64
import csv
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from test_export import RESULT

from robustdeq.reporting import export
from robustdeq.reporting.page import save_page
from robustdeq.reporting.runs import ReportedRun

HOSTILE = '<script>alert(1)</script>|\\input{/etc/passwd}`a`[x](javascript:y)"&amp;'


@pytest.fixture
def result():
    return replace(RESULT, columns=(HOSTILE, *RESULT.columns[1:]), settings={"data": HOSTILE})


def test_page_shows_names_and_runs_nothing_but_its_own_scripts(result, tmp_path: Path) -> None:
    save_page([ReportedRun(HOSTILE, result, None, None, ())], tmp_path / "page.html", HOSTILE)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = re.search("script-src ([^;]*);", policy[1])
    assert allowed is not None
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digests = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts}
    assert set(allowed[1].replace("&#39;", "'").split()) == digests and len(digests) == 1


def test_markdown_shows_names_as_they_are(result, tmp_path: Path) -> None:
    export(result, tmp_path / "t.md")
    shown = MarkdownIt("commonmark").enable("table").render((tmp_path / "t.md").read_text(encoding="utf-8"))
    assert "<script" not in shown and "<a " not in shown and "javascript:y" in shown


def test_latex_holds_no_command_of_a_name(result, tmp_path: Path) -> None:
    export(result, tmp_path / "t.tex")
    assert "\\input" not in (tmp_path / "t.tex").read_text(encoding="utf-8")


def test_csv_holds_no_formula(tmp_path: Path) -> None:
    export(replace(RESULT, defenses=("=1+1", "@x")), tmp_path / "t.csv")
    rows = list(csv.reader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"))))
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'@x"]

"""The documentation that a test reads."""

import re
import runpy
from pathlib import Path

import pytest

from peachctl.errors import Exit

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", TOP / "CHANGELOG.md", TOP / "SECURITY.md", *sorted((TOP / "docs").glob("*.md"))]
REFERENCE = runpy.run_path(str(TOP / "docs" / "reference.py"))
FAULTS = runpy.run_path(str(TOP / "docs" / "faults.py"))


def test_the_command_reference_is_what_the_program_says() -> None:
    stale = (TOP / "docs" / "cli.md").read_text(encoding="utf-8") != REFERENCE["reference"]()
    assert not stale, "docs/cli.md is stale: make docs"


def test_the_command_reference_has_every_exit_status() -> None:
    text = REFERENCE["reference"]()
    for status in Exit:
        assert f"| {int(status)} | {REFERENCE['STATUSES'][status]} |" in text


def test_every_fault_has_a_test_and_every_mark_a_fault() -> None:
    assert set(FAULTS["FAULTS"]) == set(FAULTS["marked"]())


def test_the_page_of_faults_is_what_the_tests_say() -> None:
    stale = (TOP / "docs" / "faults.md").read_text(encoding="utf-8") != FAULTS["page"]()
    assert not stale, "docs/faults.md is stale: make docs"


def test_what_meets_a_fault_is_where_the_page_says() -> None:
    for fault in FAULTS["FAULTS"].values():
        for module in fault.modules.split(", "):
            assert (TOP / "peachctl" / module).exists() or (TOP / module).exists(), module


def test_every_command_has_a_help_text() -> None:
    for block in REFERENCE["reference"]().split("\n### ")[1:]:
        name, _, rest = block.partition("\n")
        text = rest.split("```")[2].strip().split("\n")[0]
        assert len(text) > 10, f"{name} has no help"
        assert "| ` |" not in block
        for row in re.findall(r"^\| `.*$", block, re.MULTILINE):
            assert not re.search(r"\|\s*\|$", row), f"{name}: an option without help: {row}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        link = "".join(target)
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            known = {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}
            assert anchor in known, f"{page.name}: {link}"


def commands_of(page: Path) -> list[str]:
    """What a page tells people to type: `peachctl ...` in code blocks and code spans."""
    text = page.read_text(encoding="utf-8")
    spans = re.findall(r"`(peachctl [^`\n]+)`", text)
    blocks = [line.strip() for line in text.splitlines() if re.match(r"(    |\$ )\$?\s*peachctl ", line)]
    return [line.removeprefix("$ ") for line in (*spans, *blocks)]


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != "cli.md"], ids=lambda page: page.name)
def test_commands_that_pages_name_exist(page: Path) -> None:
    known = set(re.findall(r"^### (.+)$", REFERENCE["reference"](), re.MULTILINE))
    nouns = {one.split()[0] for one in known}
    for line in commands_of(page):
        words = [word for word in line.split()[1:] if not word.startswith("-")]
        if not words or words[0] in ("--config", "FILE"):
            continue
        assert words[0] in nouns, f"{page.name}: {line}"
        assert words[0] in known or " ".join(words[:2]) in known, f"{page.name}: {line}"


def test_the_first_screen_of_the_readme_has_the_two_commands_and_a_picture() -> None:
    first = "\n".join((TOP / "README.md").read_text(encoding="utf-8").splitlines()[:45])
    assert "make run" in first
    assert "make test" in first
    assert "docs/run.svg" in first
    assert (TOP / "docs" / "run.svg").is_file()

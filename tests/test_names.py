"""Names that come from messages never leave their folder, never collide, and never break a line."""

import os
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peachctl.names import file_name, parse_script_name, printable, script_name, user_part

MD5 = "0123456789abcdef0123456789abcdef"
HOSTILE = [
    "../../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a\0b",
    'it\'s "quoted"',
    "two\nlines",
    "x" * 400,
    "é" * 400,
    "\U0001f9e0" * 200 + ".nii.gz",
    "class",
    "<script>alert(1)</script>",
    "-rf",
    ".hidden",
    "\u202egnp.exe",
    "\ud800",
    "\\\\server\\share",
    " ",
    "...",
    "a/../b",
]


def test_the_user_keeps_what_the_contract_lets_stand():
    assert user_part("muessema@ad") == "muessema@ad"
    assert user_part("A.b_c-9@x") == "A.b_c-9@x"
    assert user_part("müssema") == "m_ssema"
    assert user_part("../../x") == ".._.._x"
    assert user_part("") == "_"
    assert user_part("x" * 400) == "x" * 64


def test_the_script_name_has_the_form_of_the_contract():
    assert script_name("muessema@ad", MD5, 1511525252.25) == f"muessema@ad_{MD5}_1511525252_250000.py"
    assert script_name("ada", MD5, 1511525252250001999) == f"ada_{MD5}_1511525252_250001.py"


def test_a_collision_takes_the_next_microsecond_also_across_a_second():
    assert script_name("ada", MD5, 1_999_999_000, later=1) == f"ada_{MD5}_2_000000.py"


def test_the_script_name_refuses_an_md5_that_is_none():
    with pytest.raises(ValueError, match="not an MD5"):
        script_name("ada", "../../x", 1.0)


def test_the_script_name_is_read_back():
    assert parse_script_name(script_name("a_b@ad", MD5, 1.5)) == ("a_b@ad", MD5)
    assert parse_script_name(f"ada_{MD5}_1511525252_25.py") == ("ada", MD5)
    assert parse_script_name("services.avro") is None


@pytest.mark.parametrize("user", HOSTILE)
def test_the_script_name_of_a_hostile_user_is_one_short_ascii_component(user):
    name = script_name(user, MD5, 1511525252.25)
    assert re.fullmatch(r"[A-Za-z0-9._@-]+", name)
    assert len(name) <= 64 + 1 + 32 + 1 + 20
    assert name not in {".", ".."}


@pytest.mark.parametrize("name", ["dose_out.???", "plan 2.nii.gz", "Größe", "脑.nii", "a", "a..b", "x" * 200, "a~b"])
def test_a_legitimate_name_stays_as_it_is(name):
    assert file_name(name) == name


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_becomes_one_component_that_can_be_made(text, tmp_path):
    name = file_name(text)
    path = tmp_path / name
    path.write_text("x")
    assert os.listdir(tmp_path) == [name]
    assert path.resolve().parent == tmp_path.resolve()
    assert not name.startswith((".", "-"))


def test_a_long_name_keeps_its_extension():
    assert file_name("x" * 400 + ".nii.gz").endswith(".nii.gz")
    assert len(file_name("é" * 400 + ".nii.gz").encode()) <= 200


def test_a_name_cannot_pretend_to_be_the_changed_form_of_another():
    changed = file_name("a/b")
    assert re.fullmatch(r"a_b~[0-9a-f]{16}", changed)
    assert file_name(changed) != changed


def test_a_limit_that_no_file_system_has_is_refused():
    with pytest.raises(ValueError, match="limit_bytes"):
        file_name("x", limit_bytes=256)


@given(st.text(alphabet=st.characters(codec=None), max_size=60), st.text(alphabet="ab./\\\0~-", max_size=6))
def test_every_text_becomes_a_safe_component(text, more):
    for value in (text, more, text + more, more + text):
        name = file_name(value)
        assert name
        assert len(name.encode()) <= 200
        assert "/" not in name
        assert name not in {".", ".."}
        assert not any(unicodedata.category(char) == "Cc" for char in name)


@given(st.lists(st.text(alphabet="ab./\\\0~-_", max_size=5), unique=True, max_size=40))
def test_different_texts_never_become_one_name(texts):
    assert len({file_name(text) for text in texts}) == len(texts)


def test_printable_shows_what_would_move_the_cursor_or_break_the_line():
    assert printable("a\nb\x1b[31mc\0\u202ed\u2028\r\t") == "a\\nb\\x1b[31mc\\x00\\u202ed\\u2028\\r\\t"
    assert printable("Größe 脑 🧠") == "Größe 脑 🧠"
    assert printable("\ud800") == "\\ud800"


def test_printable_cuts_with_an_ellipsis():
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 199 + "…"
    assert printable("abc\n", limit=4) == "abc…"


@given(st.text(alphabet=st.characters(codec=None), max_size=40), st.integers(1, 50))
def test_printable_is_one_short_printable_line(text, limit):
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()

"""Passwords never show, at any depth of quoting, and no text makes the search for them slow."""

import json
import time
import traceback

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peachctl.masking import MASK, mask, mask_value

URI = {"user": "ada", "password": "S3cr3t!", "server": "http://10.0.0.5:8080", "root": "/data/files/ct.nii"}
PASSWORDS = [
    "S3cr3t!",
    'with "quotes" in it',
    "with 'single' ones",
    "back\\slash",
    "ends in \\",
    "two lines\nof it",
    "a, b} c] d",
    "Größe 脑 🧠",
    "tab\there",
    "<b>&amp;",
]


def uri(password: str, ascii_only: bool = True) -> str:
    return json.dumps({**URI, "password": password}, ensure_ascii=ascii_only)


def deeper(text: str, depth: int) -> str:
    for _ in range(depth):
        text = json.dumps({"name": "w", "node_id": text, "n": 1})
    return text


def pieces(password: str) -> list[str]:
    """What must not be seen: each run of letters of the password that is long enough to mean something."""
    return [part for part in "".join(c if c.isalnum() else " " for c in password).split() if len(part) > 2]


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("password", PASSWORDS)
def test_the_password_of_a_2017_uri_is_hidden_at_any_depth_of_json(password, depth):
    shown = mask(deeper(uri(password, ascii_only=False), depth))
    assert MASK in shown
    assert not [part for part in pieces(password) if part in shown]
    assert "10.0.0.5:8080" in shown
    assert "ada" in shown


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("password", PASSWORDS)
def test_json_stays_json_and_keeps_all_the_rest(password, depth):
    assert mask(deeper(uri(password), depth)) == deeper(uri(MASK), depth)


@pytest.mark.parametrize("write", [repr, ascii, str, lambda text: repr(repr(text)), lambda text: repr({"x": text})])
@pytest.mark.parametrize("password", PASSWORDS)
def test_the_password_is_hidden_in_literals_of_a_script(password, write):
    shown = mask(f"graph['A'] = node('Load', 1, [literal({write(uri(password, ascii_only=False))})], ['-'])")
    assert not [part for part in pieces(password) if part in shown]
    assert "10.0.0.5:8080" in shown
    assert shown.endswith(", ['-'])")


def test_the_password_is_hidden_in_a_row_of_2017_that_lost_its_backslashes_or_was_cut():
    row = deeper(uri('S3cr"3t!'), 1).replace("\\", "")
    assert "3t" not in mask(row)
    cut = deeper(uri("S3cr3t!"), 1)
    cut = cut[: cut.index("S3cr3t!") + 3]
    assert mask(cut).endswith('password\\": \\"' + MASK)


def test_the_password_is_hidden_in_a_traceback():
    password = "S3cr3t!"
    try:
        raise ValueError(f"cannot fetch {uri(password)} from {URI!r}")
    except ValueError:
        shown = mask(traceback.format_exc())
    assert "S3cr3t" not in shown
    assert "cannot fetch" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://ada:geheim@db:3306/peach", f"mysql://ada:{MASK}@db:3306/peach"),
        ("sftp://ada:a:b@host", f"sftp://ada:{MASK}@host"),
        ("sftp://ada:p@ss:w@host/x", f"sftp://ada:{MASK}@host/x"),
        ("s3://:geheim@bucket/x", f"s3://:{MASK}@bucket/x"),
        ("mysql://ada:ge/heim#1@db/peach", f"mysql://ada:{MASK}@db/peach"),
        ("mysql://ada:it's@db", f"mysql://ada:{MASK}@db"),
        ("see (https://a:b@h), then 'http://h:80','x@y'", f"see (https://a:{MASK}@h), then 'http://h:80','x@y'"),
        ("http://host:8080/a@b/c", "http://host:8080/a@b/c"),
        ("http://host/a:b@c", "http://host/a:b@c"),
        ("https://h/f?token=abc&x=1", f"https://h/f?token={MASK}&x=1"),
        ("https://b.s3/f?X-Amz-Signature=0af&X-Amz-Date=2", f"https://b.s3/f?X-Amz-Signature={MASK}&X-Amz-Date=2"),
        ("https://b/f?sv=1&sig=ab%2Bc&sp=r", f"https://b/f?sv=1&sig={MASK}&sp=r"),
        ("AWS_SECRET_ACCESS_KEY=wJalr/K7 done", f"AWS_SECRET_ACCESS_KEY={MASK} done"),
        ("aws_secret_access_key = 'wJalr'", f"aws_secret_access_key = '{MASK}'"),
        ("connect(user='a', password=b'geheim')", f"connect(user='a', password=b'{MASK}')"),
        ("{'PASSWORD': 'geheim', 'n': 1}", f"{{'PASSWORD': '{MASK}', 'n': 1}}"),
        ('{"password": 12345, "n": 1}', f'{{"password": "{MASK}", "n": 1}}'),
        ('{"password": null, "token": true}', '{"password": null, "token": true}'),
        ("{'password': None}", "{'password': None}"),
        ("password: geheim", f"password: {MASK}"),
        ("&quot;password&quot;: &quot;geheim&quot;, x", f"&quot;password&quot;: &quot;{MASK}&quot;, x"),
        ("uri=%7B%22password%22%3A%22geheim%22%7D", f"uri=%7B%22password%22%3A%22{MASK}%22%7D"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {MASK}"),
        ('{"Authorization": "Basic YTpi"}', f'{{"Authorization": "Basic {MASK}"}}'),
        ("password_file = '/etc/peach/password'", "password_file = '/etc/peach/password'"),
        ("if password == other: pass", "if password == other: pass"),
        ("unexpected token: 'x' at 3", f"unexpected token: '{MASK}' at 3"),
        ("design=3&assignature", "design=3&assignature"),
        ("nothing to hide, 12:30 user@host", "nothing to hide, 12:30 user@host"),
    ],
)
def test_each_way_to_write_a_secret(text, shown):
    assert mask(text) == shown


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            ["password", "token", "://", "u:", "@", '"', "'", "\\", ": ", "=", ",", "}", "\n", "x", "1", " ", "&quot;"]
            + ["sig", "Authorization: ", "Basic ", "%22", "%3A", "null", MASK, "/", "?", "b'", "_", "*"]
        ),
        max_size=25,
    ).map("".join)
)
@example('password"=b\'password"1"')
@example("://u:://u:x@")
def test_a_masked_text_stays_as_it_is(text):
    once = mask(text)
    assert mask(once) == once


@given(st.text(alphabet=st.characters(codec=None), max_size=80))
def test_no_text_is_too_strange(text):
    assert mask(mask(text)) == mask(text)
    json.dumps(mask_value({text: [text, (text, 1)]}))


@pytest.mark.parametrize(
    "unit",
    [
        "password",
        'password"',
        'password": "',
        "password='",
        'password": "x\\\\"',
        'password": "\\',
        "password\\",
        '\\"password\\": \\"x\\\\\\"',
        "password=x ",
        "password=a,",
        "password: \n'",
        "://",
        "://a:",
        "a://a:b",
        "://a:'",
        "://@:",
        "\\",
        '"',
        '\\"',
        ": ",
        "token=  ",
        "Authorization: ",
        "a",
        "&quot;",
        "password&quot;:&quot;",
        "{" * 10,
        "}",
    ],
)
def test_a_megabyte_of_anything_is_masked_in_linear_time(unit):
    text = (unit * (1024 * 1024 // len(unit) + 1))[: 1024 * 1024]
    for hostile in (text, 'password": "' + text[: 1 << 17], "x://u:" + text[: 1 << 17]):
        started = time.process_time()
        mask(hostile)
        assert time.process_time() - started < 4


def test_values_are_masked_by_their_key_and_by_their_text():
    value = {
        "user": "ada",
        "password": "geheim",
        "sasl_password": 12345,
        "secret_key": ["a", {"b": 1}],
        "token": None,
        "password_file": "/etc/x",
        "nodes": [{"connections": [None, {"port_idx": -1, "node_id": uri("geheim")}]}],
        "url": "mysql://a:geheim@h/x",
        "n": 1.5,
    }
    shown = mask_value(value)
    assert "geheim" not in json.dumps(shown)
    assert shown["password"] == shown["sasl_password"] == shown["secret_key"] == MASK
    assert shown["token"] is None
    assert shown["password_file"] == "/etc/x"
    assert json.loads(shown["nodes"][0]["connections"][1]["node_id"]) == {**URI, "password": MASK}
    assert value["password"] == "geheim"
    assert mask_value(shown) == shown


def test_a_value_too_deep_to_follow_is_hidden_as_a_whole():
    value: list = []
    for _ in range(100_000):
        value = [value]
    assert mask_value(value) == MASK

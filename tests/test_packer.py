"""What of a folder is in its packed output: nothing from outside, nothing torn, and what is left out is said."""

import os
import socket
import tarfile
from pathlib import Path

import pytest

from peachctl import files, packer
from tests.test_files import unpacked


def test_packed_members_have_plain_modes_and_no_owner(temp: Path, downloads: Path) -> None:
    folder = temp / "workflow_1"
    (folder / "d").mkdir(parents=True)
    for name, bits in (("setuid", 0o6711), ("private", 0o600), ("open", 0o666)):
        (folder / name).write_text("")
        (folder / name).chmod(bits)
    (folder / "d").chmod(0o1777)
    with tarfile.open(downloads / files.pack(folder, downloads, 1)) as tar:
        members = {member.name: member for member in tar}
    assert {name: oct(member.mode) for name, member in members.items()} == {
        "workflow_1": "0o755",
        "workflow_1/d": "0o755",
        "workflow_1/open": "0o644",
        "workflow_1/private": "0o644",
        "workflow_1/setuid": "0o755",
    }
    assert {(one.uid, one.gid, one.uname, one.gname) for one in members.values()} == {(0, 0, "", "")}


def test_links_inside_become_files_and_all_else_is_left_out_and_said(
    temp: Path, downloads: Path, tmp_path: Path
) -> None:
    folder = temp / "workflow_1"
    (folder / "sub").mkdir(parents=True)
    (folder / "real").write_text("real")
    (temp / "workflow_10").mkdir()
    (temp / "workflow_10" / "other").write_text("of another")
    (tmp_path / "secret").write_text("secret")
    for name, target in {
        "inside": "real",
        "sub/up": "../real",
        "absolute": str(folder / "real"),
        "chain": "inside",
        "outside": str(tmp_path / "secret"),
        "relative": "../../secret",
        "neighbour": "../workflow_10/other",
        "dangling": "nowhere",
        "loop": "loop",
        "folder": "sub",
        "itself": ".",
        "device": "/dev/zero",
    }.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "sock"))
        packed = unpacked(downloads / files.pack(folder, downloads, 1))
    log = packed.pop("workflow_1/peachctl.log")
    assert packed == {
        "workflow_1": None,
        "workflow_1/sub": None,
        **dict.fromkeys(
            [f"workflow_1/{name}" for name in ("real", "inside", "absolute", "chain", "sub/up")],
            b"real",
        ),
    }
    assert log is not None
    assert sorted(line.split(":")[1].strip() for line in log.decode().splitlines()) == [
        *("dangling", "device", "fifo", "folder", "itself", "loop", "neighbour", "outside", "relative", "sock"),
    ]
    assert not (folder / "peachctl.log").exists()


def test_a_link_that_leads_through_a_link_is_packed_as_what_it_is(temp: Path, downloads: Path) -> None:
    folder = temp / "workflow_1"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "x").write_text("x")
    (folder / "l").symlink_to("d")
    (folder / "m").symlink_to("l/x")
    packed = unpacked(downloads / files.pack(folder, downloads, 1))
    assert packed["workflow_1/m"] == b"x"


def test_what_is_left_out_is_added_to_the_log_that_is_there(temp: Path, downloads: Path) -> None:
    folder = temp / "workflow_1"
    folder.mkdir()
    (folder / "peachctl.log").write_text("it failed\n")
    os.mkfifo(folder / "a fifo")
    packed = unpacked(downloads / files.pack(folder, downloads, 1))
    assert packed["workflow_1/peachctl.log"] == b"it failed\nnot packed: a fifo: neither a file nor a folder\n"


@pytest.mark.parametrize(
    "name",
    [
        b"\xff\xfe",
        b"new\nline",
        b"..",
        b"-rf",
        b"\x1b[31m",
        "\u202e".encode(),
        "💥".encode() * 63,
        b"a" * 255,
        b"x:y",
        b"~",
    ],
)
def test_hostile_names_stay_in_the_folder_and_survive(temp: Path, downloads: Path, name: bytes) -> None:
    folder = temp / "workflow_1"
    folder.mkdir()
    inside = name if name != b".." else b"..."
    with open(os.path.join(os.fsencode(folder), inside), "wb") as file:
        file.write(b"hostile")
    packed = unpacked(downloads / files.pack(folder, downloads, 1))
    assert {os.fsencode(one): body for one, body in packed.items()} == {
        b"workflow_1": None,
        b"workflow_1/" + inside: b"hostile",
    }


@pytest.mark.parametrize("change", [b"", b"short", b"x" * 200_000], ids=["emptied", "shrunk", "grown"])
def test_a_file_that_changes_while_it_is_packed_does_not_tear_the_output(
    temp: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    folder = temp / "workflow_1"
    folder.mkdir()
    (folder / "a").write_bytes(b"x" * 100_000)
    (folder / "b").write_text("after")
    plain = packer.Packer._add

    def late(self: packer.Packer, inside: str, *rest: object) -> None:
        if inside == "a":
            (folder / "a").write_bytes(change)
        plain(self, inside, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(packer.Packer, "_add", late)
    packed = unpacked(downloads / files.pack(folder, downloads, 1))
    assert packed["workflow_1/a"] == change[:100_000].ljust(100_000, b"\0")
    assert packed["workflow_1/b"] == b"after"
    assert ("workflow_1/peachctl.log" in packed) == (len(change) < 100_000)


def test_a_folder_that_becomes_a_link_while_it_is_packed_leads_nowhere(
    temp: Path, downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temp / "workflow_1"
    (folder / "d").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    plain = packer.Packer._add_folder

    def late(self: packer.Packer, inside: str, status: os.stat_result) -> None:
        plain(self, inside, status)
        if inside == "d":
            (folder / "d").rmdir()
            (folder / "d").symlink_to(tmp_path / "outside")

    monkeypatch.setattr(packer.Packer, "_add_folder", late)
    packed = unpacked(downloads / files.pack(folder, downloads, 1))
    assert sorted(packed) == ["workflow_1", "workflow_1/d", "workflow_1/peachctl.log"]
    assert b"secret" not in b"".join(body or b"" for body in packed.values())

"""`from_uri` fetches from where the configuration allows it, and from nowhere else."""

import base64
import contextlib
import http.server
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peachctl.runtime import web
from peachctl.runtime.fetch import FetchError, fetch
from peachctl.runtime.job import Reach


class Answers(http.server.BaseHTTPRequestHandler):
    asked: list[tuple[str, str | None]] = []
    elsewhere = ""

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.elsewhere or self.path[3:])
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        if "secret" in self.path and self.headers.get("Authorization") is None:
            self.send_response(401)
            self.end_headers()
            return
        if "drip" in self.path:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return
        if "silent" in self.path:
            time.sleep(2)
            return
        body = b"x" * 1000
        self.send_response(404 if "missing" in self.path else 200)
        if "nolength" not in self.path:
            self.send_header("Content-Length", str(len(body) + ("cut" in self.path)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Answers.asked, Answers.elsewhere = [], ""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def reach(tmp_path: Path, **changes: object) -> Reach:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "run").mkdir(exist_ok=True)
    settings: dict[str, object] = {"folders": (str(tmp_path / "data"),), "schemes": ("file", "http", "https")}
    return Reach(**{**settings, **changes})  # type: ignore[arg-type]


def refused(uri: str, allowed: Reach, tmp_path: Path) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(uri, allowed, tmp_path / "run")
    fetched = tmp_path / "run" / "fetched"
    assert not fetched.exists() or not list(fetched.iterdir())
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("spelling", ["{}", "file://{}", "file://localhost{}"])
def test_files_of_allowed_folders(tmp_path: Path, spelling: str) -> None:
    allowed = reach(tmp_path)
    (tmp_path / "data" / "a scan_1.nii").write_text("data")
    local, name = fetch(spelling.format(tmp_path / "data" / "a scan_1.nii"), allowed, tmp_path / "run")
    assert name == "a scan_1.nii" == Path(local).name.partition("_")[2]
    assert Path(local).read_text() == "data" and Path(local).parent == tmp_path / "run" / "fetched"


@pytest.mark.fault("E12")
def test_files_outside_links_out_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    allowed = reach(tmp_path)
    data = tmp_path / "data"
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "data-beside").write_text("secret")
    (data / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(data / "pipe")
    for path in (tmp_path / "secret", data / "link", data / ".." / "secret", tmp_path / "data-beside", "/etc/passwd"):
        assert "storage.folders" in refused(str(path), allowed, tmp_path)
    assert "storage.folders" in refused(f"file://{data}/%2e%2e/secret", allowed, tmp_path)
    assert "no regular file" in refused(str(data / "pipe"), allowed, tmp_path)
    (data / "folder").mkdir()
    assert "is a folder" in refused(str(data / "folder"), allowed, tmp_path)
    assert "No such file" in refused(str(data / "none"), allowed, tmp_path)
    assert "NUL" in refused(f"{data}/a\0b", allowed, tmp_path)
    assert "a file of this machine" in refused("file://other/x", allowed, tmp_path)


def test_schemes_that_are_not_allowed_name_the_key(tmp_path: Path) -> None:
    for uri in ("http://example.org/x", "s3://bucket/x", "ftp://u:pw@h/x", "memory://x"):
        said = refused(uri, reach(tmp_path, schemes=("file",)), tmp_path)
        assert "storage.schemes" in said and "pw" not in said
    assert "chained" in refused("simplecache::https://x/y", reach(tmp_path), tmp_path)
    assert "storage.schemes" in refused("/x", reach(tmp_path, schemes=("https",)), tmp_path)
    assert "neither a URL nor" in refused("relative/path", reach(tmp_path), tmp_path)


@pytest.mark.fault("E12")
def test_inner_addresses_are_refused_unless_the_host_is_named(tmp_path: Path, server: str) -> None:
    port = server.rpartition(":")[2]
    for host in (server, f"localhost:{port}", f"[::1]:{port}", f"2130706433:{port}", f"0.0.0.0:{port}"):
        assert "storage.hosts" in refused(f"http://{host}/x", reach(tmp_path), tmp_path)
    assert "storage.hosts" in refused("http://169.254.169.254/latest", reach(tmp_path), tmp_path)
    assert "storage.hosts" in refused(f"http://{server}/x", reach(tmp_path, hosts=("example.org",)), tmp_path)
    assert Answers.asked == []
    local, name = fetch(f"http://{server}/a/b.nii?x=1", reach(tmp_path, hosts=(server,)), tmp_path / "run")
    assert name == "b.nii" and Path(local).stat().st_size == 1000


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.1.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 :: fe80::1 "
    "fc00::1 ff02::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: fe80::1%eth0".split(),
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not web.is_public(address)
    assert web.is_public("93.184.216.34") and web.is_public("2606:2800:220:1::1") and web.is_public("64:ff9b::808:808")


def test_a_host_with_one_inner_address_among_public_ones_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert "10.0.0.1" in refused("http://rebind.example.org/x", reach(tmp_path), tmp_path)


@pytest.mark.fault("E12")
def test_redirects_are_followed_but_checked_and_the_login_stays_home(tmp_path: Path, server: str) -> None:
    named = reach(tmp_path, hosts=(server,))
    assert fetch(f"http://{server}/to/x.txt", named, tmp_path / "run")[1] == "x.txt"
    Answers.elsewhere = "http://169.254.169.254/latest"
    (tmp_path / "run" / "fetched").rename(tmp_path / "done")
    assert "storage.hosts" in refused(f"http://{server}/to/x", named, tmp_path)
    Answers.elsewhere = "file:///etc/passwd"
    assert "can't be fetched" in refused(f"http://{server}/to/x", named, tmp_path)
    assert "more than 5 redirects" in refused(f"http://{server}/loop", named, tmp_path)
    port = server.rpartition(":")[2]
    Answers.asked.clear()
    Answers.elsewhere = f"http://localhost:{port}/y"
    both = reach(tmp_path, hosts=(server, "localhost"))
    fetch(f"http://ada:pw@{server}/to/y", both, tmp_path / "run")
    assert Answers.asked == [("/to/y", "Basic " + base64.b64encode(b"ada:pw").decode()), ("/y", None)]


def test_size_and_time_have_limits(tmp_path: Path, server: str) -> None:
    small = reach(tmp_path, hosts=(server,), size=999)
    (tmp_path / "data" / "big").write_bytes(b"x" * 1000)
    for uri in (f"http://{server}/x", f"http://{server}/nolength", str(tmp_path / "data" / "big")):
        assert "storage.file_bytes" in refused(uri, small, tmp_path)
    for seconds, path in ((0.0, "x"), (0.2, "drip"), (0.2, "silent")):
        late = reach(tmp_path, hosts=(server,), seconds=seconds)
        assert "storage.file_time" in refused(f"http://{server}/{path}", late, tmp_path)


def test_a_download_that_is_cut_off_is_no_file(tmp_path: Path, server: str) -> None:
    assert "ended before the file did" in refused(f"http://{server}/cut", reach(tmp_path, hosts=(server,)), tmp_path)


def xnat(server: str, root: str, password: str = "s3cr3t") -> str:
    return json.dumps({"user": "ada", "password": password, "server": server, "root": root})


def test_xnat_of_2017_one_file_and_a_whole_resource(tmp_path: Path, server: str) -> None:
    allowed = reach(tmp_path, schemes=("file",), xnat_servers=(f"http://{server}/xnat",))
    root = "/projects/p 1/subjects/s/secret/resources/9"
    _, name = fetch(xnat(f"http://{server}/xnat/", f"{root}/files/a b.nii"), allowed, tmp_path / "run")
    assert name == "a b.nii"
    assert fetch(xnat(f"http://{server}/xnat", root), allowed, tmp_path / "run")[1] == "9.zip"
    login = "Basic " + base64.b64encode(b"ada:s3cr3t").decode()
    place = "/xnat/data/projects/p%201/subjects/s/secret/resources/9"
    assert Answers.asked == [(f"{place}/files/a%20b.nii", login), (f"{place}/files?format=zip", login)]


def test_xnat_servers_that_are_not_listed_and_bad_texts_never_show_the_password(tmp_path: Path, server: str) -> None:
    allowed = reach(tmp_path, xnat_servers=(f"http://{server}",))
    for other in (
        f"http://{server}.evil.org",
        f"https://{server}",
        f"http://x@{server}",
        "http://10.0.0.1",
        "file:///",
    ):
        said = refused(xnat(other, "/projects/p/files/f"), allowed, tmp_path)
        assert "storage.xnat_servers" in said and "s3cr3t" not in said
    for root in ("/projects/p", "/a/../files/x", "files"):
        assert "s3cr3t" not in refused(xnat(f"http://{server}", root), allowed, tmp_path)
    said = refused(xnat(f"http://{server}", "/missing/files/f"), allowed, tmp_path)
    assert "404" in said and "s3cr3t" not in said
    Answers.elsewhere = "http://127.0.0.1:1/"
    assert "s3cr3t" not in refused(xnat(f"http://{server}/to", "/p/files/f"), allowed, tmp_path)
    for text in ('{"user": 1}', "{broken", '{"user":"a","password":"s3cr3t"}'):
        assert "s3cr3t" not in refused(text, allowed, tmp_path)


def test_schemes_of_extras_that_are_missing_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("s3fs", "paramiko"):
        monkeypatch.setitem(sys.modules, module, None)
    allowed = reach(tmp_path, schemes=("s3", "sftp"), hosts=("example.org",))
    assert "pip install peachctl[s3]" in refused("s3://bucket/key", allowed, tmp_path)
    assert "pip install peachctl[sftp]" in refused("sftp://u:pw@example.org/x", allowed, tmp_path)


def test_other_schemes_of_fsspec_work_when_they_are_allowed(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/folder/scan.nii", b"data")
    allowed = reach(tmp_path, schemes=("memory",))
    local, name = fetch("memory://folder/scan.nii", allowed, tmp_path / "run")
    assert name == "scan.nii" and Path(local).read_bytes() == b"data"
    assert "FileNotFoundError" in refused("memory://folder/none", reach(tmp_path, schemes=("memory",)), tmp_path / "b")

"""HTTP for `from_uri`: the address that was checked is the one that is connected to, and each redirect is checked anew.

Libraries resolve a name by themselves, after whatever a caller has checked, and follow redirects to places nobody
checked (DNS rebinding, `http://169.254.169.254/`); so the connection is made here, on the standard library's client.
"""

import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from peachctl.names import printable

if TYPE_CHECKING:
    from peachctl.runtime.fetch import Budget

_REDIRECTS = 5
_SILENCE = 60.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}


class HostRule:
    """Which hosts may be asked (`storage.hosts`): none named: those with public addresses; else those that are named
    (`host`, `host:port`, `*.domain`; `public` stands for public addresses), whatever their addresses are."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._named = [host.lower().rstrip(".") for host in hosts if host != "public"]
        self._public = not hosts or "public" in hosts

    def addresses(self, host: str, port: int, budget: "Budget") -> list[str]:
        """The numeric addresses of a host that may be asked. Raises FetchError for one that may not."""
        from peachctl.runtime.fetch import FetchError

        key = "storage.hosts names the hosts that may be asked"
        shown = printable(host, 100)
        named = self._is_named(host.lower().rstrip("."), port)
        if not named and not self._public:
            raise FetchError(f"{budget.shown} can't be fetched: the host {shown!r} is not one of those allowed", key)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise FetchError(f"{budget.shown} can't be fetched: no address for the host {shown!r}") from error
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        if not named:
            for address in addresses:
                if not is_public(address):
                    raise FetchError(
                        f"{budget.shown} can't be fetched: the host {shown!r} has the address {address}, "
                        "which is not public",
                        key,
                    )
        return addresses

    def _is_named(self, host: str, port: int) -> bool:
        for name in self._named:
            if name in (host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"):
                return True
            if name.startswith("*.") and host.endswith(name[1:]):
                return True
        return False


def is_public(text: str) -> bool:
    """Whether the numeric address is one of the public internet. Addresses inside others (mapped, 6to4, Teredo, NAT64)
    count as what they lead to."""
    address = ipaddress.ip_address(text.partition("%")[0])
    inner: list[ipaddress.IPv4Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        inner += [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64 or int(address) < 2**32:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    embedded = [one for one in inner if one is not None]
    if embedded:
        return all(is_public(str(one)) for one in embedded)
    return address.is_global and not address.is_multicast


class Body:
    """The body of an answer. What the server sends a byte at a time can't outlive the budget, and what it does not
    send to the end is no file."""

    def __init__(self, answer: http.client.HTTPResponse, budget: "Budget") -> None:
        self._answer = answer
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b'' at the end. Raises FetchError where the connection ended before it, OSError."""
        from peachctl.runtime.fetch import FetchError

        try:
            chunk = self._answer.read1(size)
        except http.client.HTTPException:
            chunk = b""
            ended = False
        except OSError:
            self._budget.left()
            raise
        else:
            ended = not self._answer.length
        if not chunk:
            self._budget.left()
            if not ended:
                raise FetchError(f"{self._budget.shown} can't be fetched: the connection ended before the file did")
        return chunk


@contextmanager
def get(
    url: str, rule: HostRule, schemes: tuple[str, ...], budget: "Budget", login: tuple[str, str] | None = None
) -> Iterator[Body]:
    """The answer to a GET, ready to be read. login: user and password for basic authentication, for the first server
    only. Redirects are followed to allowed schemes and hosts. Raises FetchError, OSError."""
    from peachctl.runtime.fetch import FetchError

    origin: tuple[str, str | None, int] | None = None
    for _ in range(_REDIRECTS + 1):
        parts = _parts(url, budget)
        if parts.scheme not in schemes:
            raise FetchError(
                f"{budget.shown} can't be fetched: it leads to the scheme {parts.scheme!r}, which is not allowed",
                "storage.schemes names the schemes that may be used",
            )
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        here = (parts.scheme, host, port)
        origin = origin or here
        if here == origin and parts.username is not None and login is None:
            login = (unquote(parts.username), unquote(parts.password or ""))
        connection = _connect(parts.scheme, host, port, rule, budget)
        alarm = threading.Timer(budget.left(), _hang_up, (connection.sock,))
        alarm.daemon = True
        alarm.start()
        try:
            answer = _ask(connection, parts, login if here == origin else None, budget)
            target = answer.getheader("Location")
            if answer.status not in (301, 302, 303, 307, 308) or target is None:
                if answer.status != 200:
                    raise FetchError(f"{budget.shown} can't be fetched: the server says {_status(answer)}")
                if answer.length is not None:
                    budget.check_size(answer.length)
                yield Body(answer, budget)
                return
        finally:
            alarm.cancel()
            connection.close()
        url = urljoin(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), target)
    raise FetchError(f"{budget.shown} can't be fetched: more than {_REDIRECTS} redirects")


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # whoever reads from it wakes up


def _status(answer: http.client.HTTPResponse) -> str:
    hint = {401: " (user or password are wrong)", 403: " (not allowed for this user)"}.get(answer.status, "")
    return f"{answer.status} {printable(answer.reason, 80)}{hint}"


def _parts(url: str, budget: "Budget") -> SplitResult:
    from peachctl.runtime.fetch import FetchError

    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise FetchError(f"{budget.shown} can't be fetched: it is no URL") from error
    if not parts.hostname or any(char <= " " or char == "\x7f" for char in url):
        raise FetchError(f"{budget.shown} can't be fetched: it is no URL")
    return parts._replace(scheme=parts.scheme.lower())


def _connect(scheme: str, host: str, port: int, rule: HostRule, budget: "Budget") -> http.client.HTTPConnection:
    """A connection to the first address of the host that answers, of those that were checked."""
    problem: OSError | None = None
    for address in rule.addresses(host, port, budget):
        try:
            plain = socket.create_connection((address, port), timeout=min(_SILENCE, budget.left()))
        except OSError as error:
            problem = error
            continue
        connection = http.client.HTTPConnection(host, port)
        if scheme == "https":
            try:
                connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
        else:
            connection.sock = plain
        return connection
    raise problem or OSError("no address")


def _ask(
    connection: http.client.HTTPConnection, parts: SplitResult, login: tuple[str, str] | None, budget: "Budget"
) -> http.client.HTTPResponse:
    from peachctl.runtime.fetch import FetchError

    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    # `identity`: what is counted is what is written
    headers = {"User-Agent": "peachctl", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
    default = (parts.port or _PORTS[parts.scheme]) == _PORTS[parts.scheme]
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
    headers["Host"] = name if default else f"{name}:{parts.port}"
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    try:
        connection.request("GET", _encoded(path), headers=headers)
        return connection.getresponse()
    except (http.client.HTTPException, OSError) as error:
        budget.left()
        raise FetchError(f"{budget.shown} can't be fetched: {type(error).__name__} from the server") from error


def _encoded(path: str) -> str:
    return "".join(char if char < "\x7f" else "".join(f"%{byte:02X}" for byte in char.encode()) for char in path)

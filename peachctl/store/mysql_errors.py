"""What fails on a MySQL or MariaDB server: which failures pass by themselves, and the sentences for all others."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import mysql.connector  # noqa: TID253 - this module is imported where a mysql:// URL is opened, and nowhere else

from peachctl.config_values import Mysql
from peachctl.errors import ConfigError, PeachError, RefusedError, UnreachableError
from peachctl.masking import mask

# After these the connection is good. What the transaction did so far is to be rolled back: 1205 does not by itself.
ROLLED_BACK = {1020, 1205, 1213}
# -1: the handshake broke off. 1927, 1317: killed by an operator. 1040, 1203: too many connections. 1047: a cluster's
# node that is not ready. 3024: no reply in time.
OF_THE_MOMENT = ROLLED_BACK | {
    -1, 1040, 1047, 1053, 1152, 1158, 1159, 1160, 1161, 1203, 1317, 1927, 2002, 2003, 2006, 2013, 2055, 3024, 4031,
}  # fmt: skip


class Again(Exception):
    """Inside of a transaction: somebody else was faster, all of it is to be done anew."""


class DuplicateKey(Again):
    """A row with this unique key is there."""


class RowTooLarge(Exception):
    """A row is larger than a statement may be. index: of the row. size, most: bytes."""

    def __init__(self, index: int, size: int, most: int) -> None:
        super().__init__(f"row {index} has {size} bytes, a statement may have {most}")
        self.index, self.size, self.most = index, size, most


def number_of(error: Exception) -> int | None:
    """The number of a driver's error, None for any other exception."""
    if isinstance(error, mysql.connector.Error):
        cause = error.__cause__ or error.__context__
        # The driver calls it a lost connection, which would be tried again.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return 2026
        # A plugin that would show the password to whoever listens refuses to go on.
        return 2059 if "requires SSL" in str(error.msg) else int(error.errno)
    # The extension's own, which is no child of that; we never ask for it.
    if type(error).__module__ == "_mysql_connector":
        return int(getattr(error, "errno", -1))
    return 2013 if isinstance(error, OSError) else None


@contextmanager
def duplicates() -> Iterator[None]:
    """Raises DuplicateKey for what the driver has no class for."""
    try:
        yield
    except mysql.connector.Error as error:
        if error.errno == 1062:
            raise DuplicateKey(said(error)) from error
        raise


def said(error: Exception, reply: int | None = None) -> str:
    """What the driver or the server says, in one line, without what may be a password. reply: seconds for which a reply
    was waited for."""
    number = getattr(error, "errno", -1)
    if number == 3024:  # the driver gives advice to programmers, on five lines
        return "no answer in time" if reply is None else f"no answer within {reply} s"
    if number in (2006, 2013, 2055) and number_of(error) != 2026:  # what TLS has against it is told
        return "the connection was lost"
    words = " ".join(str(getattr(error, "msg", None) or error).split())
    return mask(f"{number}: {words}" if number not in (-1, None) else words)


def translated(error: Exception, number: int, url: Mysql) -> PeachError:
    """A driver's error as a sentence. number: its own (`number_of`). url: of the server."""
    what = said(error)
    if number in (1045, 1698, 1251, 2049, 2059, 2061):
        return RefusedError(
            f"{url}: the server refuses the user {url.user!r} or its password ({what})",
            "see database.url and database.password_file",
        )
    if number == 1130:
        return RefusedError(f"{url}: the server lets nobody in from this host ({what})")
    if number == 1049:
        return RefusedError(f"{url}: there is no database {url.name!r}", "create it, or see database.url")
    if number == 1044:
        return RefusedError(
            f"{url}: the user {url.user!r} may not use a database {url.name!r}, or there is none ({what})",
            "see the name in database.url; grant the user SELECT, INSERT, UPDATE and DELETE on it",
        )
    if number in (1142, 1143, 1227, 1370):
        return RefusedError(
            f"{url}: the user {url.user!r} may not do what is needed ({what})",
            "grant it SELECT, INSERT, UPDATE and DELETE on this database",
        )
    if number == 2026:
        return RefusedError(
            f"{url}: no trusted encrypted connection ({what})", "see database.tls_ca and the server's TLS"
        )
    if number == 2005:
        return UnreachableError(f"{url}: there is no host {url.host!r}", "see database.url")
    if number in (1146, 1054):
        return ConfigError(f"{url}: {what}", "peachctl init-db")
    if number in (1021, 1114, 1041):
        return UnreachableError(f"{url}: the server has no room left ({what})", "free some space there")
    if number in (1290, 1792, 1836):
        return UnreachableError(f"{url}: the server takes no changes now ({what})")
    if number in (1264, 1292, 1366, 1406):
        return PeachError(f"{url}: a value does not fit its column ({what})")
    if number in (1153, 2020):
        return PeachError(f"{url}: {what}", "raise the server's max_allowed_packet")
    return UnreachableError(f"{url}: {what}")

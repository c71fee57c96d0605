"""Redis addresses, taken apart.

Addresses (``valkey`` may stand for ``redis``)::

    redis://[user[:password]@]host[:6379][/db]                       TCP
    rediss://...                                                     TLS
    unix://[user[:password]@]/path/to/socket[?db=0]                  unix socket
    redis+sentinel://[user[:password]@]host[:26379],.../master[/db]  Sentinel; rediss+sentinel:// with TLS
    redis+cluster://[user[:password]@]host[:6379],...                Cluster; rediss+cluster:// with TLS

Options after ``?``: ``db``, ``ssl_cert_reqs`` (required, optional, none), ``ssl_check_hostname`` (true, false),
``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``, ``sentinel_username``, ``sentinel_password``.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, quote, unquote

from corral.errors import ConfigurationError

_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_HIGHEST_PORT = 65_535
_FORMS = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
_CERTIFICATE_CHECKS = ("required", "optional", "none")
_TLS_OPTIONS = frozenset({"ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_HARMLESS_OPTIONS = _TLS_OPTIONS | {"db", "sentinel_username"}
_OPTION = re.compile(r"([?&]([^=&#]*)=)[^&#]*")


class StoreMode(StrEnum):
    """How many servers there are behind an address."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostPort:
    """One host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreAddress:
    """A Redis address, taken apart. Neither ``repr`` nor ``str`` shows a password."""

    mode: StoreMode = StoreMode.STANDALONE
    #: The server, the sentinels, or some of the cluster's nodes; empty for a unix socket.
    endpoints: tuple[HostPort, ...] = ()
    socket_path: str | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    #: Sentinel's name of the primary.
    master_name: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    #: ``ssl_...`` options, as given.
    tls_options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The address for people: complete, but for the password."""
        who = ""
        if self.username or self.password:
            who = quote(self.username or "", safe="") + (":***" if self.password else "") + "@"
        if self.socket_path is not None:
            return f"unix://{who}{quote(self.socket_path)}" + (f"?db={self.database}" if self.database else "")
        scheme = "rediss" if self.tls else "redis"
        if self.mode is not StoreMode.STANDALONE:
            scheme += f"+{self.mode.value}"
        tail = f"/{self.master_name}" if self.master_name else ""
        tail += f"/{self.database}" if self.database else ""
        return f"{scheme}://{who}{','.join(map(str, self.endpoints))}{tail}"

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS needs, for a connection of one's own; None without TLS.

        Raises:
            ConfigurationError: A certificate file is missing or unreadable.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context()
        checks = self.tls_options.get("ssl_cert_reqs", "required")
        # The order matters: Python refuses CERT_NONE while names are still checked.
        context.check_hostname = checks != "none" and is_true(self.tls_options.get("ssl_check_hostname", "true"))
        context.verify_mode = {
            "required": ssl.CERT_REQUIRED,
            "optional": ssl.CERT_OPTIONAL,
            "none": ssl.CERT_NONE,
        }[checks]
        try:
            if authorities := self.tls_options.get("ssl_ca_certs"):
                context.load_verify_locations(cafile=authorities)
            if certificate := self.tls_options.get("ssl_certfile"):
                context.load_cert_chain(certificate, self.tls_options.get("ssl_keyfile"))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"a TLS file of {self} can't be used: {error}") from error
        return context


def parse_redis_url(url: str) -> StoreAddress:
    """Take a Redis address apart.

    Args:
        url: One of the forms at the top of this module. User, password and path are percent-decoded.

    Raises:
        ConfigurationError: It isn't such an address; says which part is wrong. Never shows the password.
    """
    text = url.strip()
    scheme, found, rest = text.partition("://")
    scheme = scheme.lower()
    if not text:
        raise ConfigurationError("REDIS_URL is set and empty: give it an address, or remove it for the embedded server")
    if not found:
        raise ConfigurationError(f"a Redis address begins with {_FORMS}; got {mask_url(text)!r}")
    if scheme in {"http", "https"}:
        raise ConfigurationError(
            f"{mask_url(text)!r} is a REST address; take the one that begins with rediss:// from the provider's console"
        )
    family, _, kind = scheme.partition("+")
    if scheme == "unix":
        return _parse_unix(text, rest)
    if family not in {"redis", "rediss", "valkey", "valkeys"} or kind not in {"", "sentinel", "cluster"}:
        raise ConfigurationError(f"expected {_FORMS}; got the scheme {scheme!r} in {mask_url(text)!r}")
    return _parse_network(
        text, rest, StoreMode(kind) if kind else StoreMode.STANDALONE, tls=family in {"rediss", "valkeys"}
    )


def _parse_network(text: str, rest: str, mode: StoreMode, *, tls: bool) -> StoreAddress:
    rest, options = _take_options(text, rest, _TLS_OPTIONS if tls else frozenset(), mode)
    authority, _, path = rest.partition("/")
    if "@" in path:
        raise ConfigurationError(f"{mask_url(text)!r}: a '/' in the user or password must be written %2F")
    username, password, hosts = _take_credentials(authority)
    default_port = _SENTINEL_PORT if mode is StoreMode.SENTINEL else _REDIS_PORT
    endpoints = tuple(_parse_host_port(text, part, default_port) for part in hosts.split(","))
    if len(endpoints) > 1 and mode is StoreMode.STANDALONE:
        raise ConfigurationError(
            f"{mask_url(text)!r} names {len(endpoints)} servers: use redis+sentinel:// or redis+cluster://"
        )
    parts = [unquote(part) for part in path.split("/") if part]
    master_name = None
    if mode is StoreMode.SENTINEL:
        if not parts:
            raise ConfigurationError(f"{mask_url(text)!r} lacks the primary's name: …/NAME[/DATABASE]")
        master_name = parts.pop(0)
    if len(parts) > 1:
        raise ConfigurationError(f"{mask_url(text)!r}: expected at most a database number after the host")
    database = _parse_database(text, parts[0] if parts else options.get("db", "0"))
    if mode is StoreMode.CLUSTER and database:
        raise ConfigurationError(f"{mask_url(text)!r}: a Cluster has only database 0, got {database}")
    return StoreAddress(
        mode=mode,
        endpoints=endpoints,
        tls=tls,
        username=username,
        password=password,
        database=database,
        master_name=master_name,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls_options={name: value for name, value in options.items() if name in _TLS_OPTIONS},
    )


def _parse_unix(text: str, rest: str) -> StoreAddress:
    rest, options = _take_options(text, rest, frozenset(), StoreMode.STANDALONE)
    authority, slash, path = rest.partition("/")
    username, password, host = _take_credentials(authority)
    if host or not slash or not path:
        raise ConfigurationError(
            f"{mask_url(text)!r}: expected unix:///absolute/path/of/the/socket (three slashes, or credentials between "
            "the second and the third)"
        )
    return StoreAddress(
        socket_path=unquote(slash + path, errors="surrogateescape"),
        username=username,
        password=password,
        database=_parse_database(text, options.get("db", "0")),
    )


def _take_options(text: str, rest: str, tls_options: frozenset[str], mode: StoreMode) -> tuple[str, dict[str, str]]:
    if "#" in rest:
        raise ConfigurationError(f"{mask_url(text)!r}: a '#' in the user or password must be written %23")
    rest, _, query = rest.partition("?")
    if "@" in query:
        raise ConfigurationError(f"{mask_url(text)!r}: a '?' or '@' in the user or password must be written %3F or %40")
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = {"db"} | tls_options | (_SENTINEL_OPTIONS if mode is StoreMode.SENTINEL else frozenset())
    for name, value in options.items():
        if name in _TLS_OPTIONS and not tls_options:
            raise ConfigurationError(f"{mask_url(text)!r}: the option {name!r} needs TLS, that is rediss://")
        if name not in known:
            raise ConfigurationError(
                f"{mask_url(text)!r}: unknown option {name!r}; known are {', '.join(sorted(known))}"
            )
        if name == "ssl_cert_reqs" and value not in _CERTIFICATE_CHECKS:
            raise ConfigurationError(
                f"{mask_url(text)!r}: ssl_cert_reqs is one of {', '.join(_CERTIFICATE_CHECKS)}; got {value!r}"
            )
        if name == "ssl_check_hostname" and value.lower() not in {"true", "false", "yes", "no", "1", "0"}:
            raise ConfigurationError(f"{mask_url(text)!r}: ssl_check_hostname is true or false; got {value!r}")
    return rest, options


def _take_credentials(authority: str) -> tuple[str | None, str | None, str]:
    # The last '@' parts them: an '@' in a password is customary, in a host impossible.
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    return unquote(username) or None, unquote(password) or None, hosts


def _parse_host_port(text: str, part: str, default_port: int) -> HostPort:
    match = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:]*))(?::(?P<port>.*))?", part)
    if match is None:
        raise ConfigurationError(f"{mask_url(text)!r}: expected host:port, got {part!r} (write IPv6 as [::1]:6379)")
    host = match["v6"] or unquote(match["host"] or "")
    if not host or re.search(r"\s", host):
        raise ConfigurationError(f"{mask_url(text)!r} has no host" if not host else f"{host!r} is not a host's name")
    port = match["port"]
    if port is None:
        return HostPort(host=host, port=default_port)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _HIGHEST_PORT):
        raise ConfigurationError(f"{mask_url(text)!r}: expected a port from 1 to {_HIGHEST_PORT}, got {port!r}")
    return HostPort(host=host, port=int(port))


def _parse_database(text: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigurationError(f"{mask_url(text)!r}: expected a database number such as 0, got {value!r}")
    return int(value)


def is_true(value: str) -> bool:
    """Whether an option of an address is on."""
    return value.lower() in {"true", "yes", "1"}


def mask_url(text: str) -> str:
    """The address without its secrets, even when it is malformed.

    All between ``:`` and the last ``@`` goes, and the value of every option that is not known to be harmless: other
    clients take ``?password=``.
    """
    text = _OPTION.sub(lambda found: found[0] if found[2] in _HARMLESS_OPTIONS else f"{found[1]}***", text)
    scheme, found, rest = text.partition("://")
    credentials, at, tail = (rest if found else text).rpartition("@")
    if not at:
        return text
    username = credentials.partition(":")[0]
    return f"{scheme}{found}{username}:***@{tail}" if found else f"{username}:***@{tail}"

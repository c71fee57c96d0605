"""What a Redis address may look like, and what is said about one that doesn't."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import ConfigurationError
from corral.wire.address import HostPort, StoreAddress, StoreMode, parse_redis_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", StoreAddress(endpoints=(HostPort(host="localhost", port=6379),))),
        ("  valkey://h:1/2 ", StoreAddress(endpoints=(HostPort(host="h", port=1),), database=2)),
        ("redis://h?db=3", StoreAddress(endpoints=(HostPort(host="h", port=6379),), database=3)),
        ("redis://[::1]:7000", StoreAddress(endpoints=(HostPort(host="::1", port=7000),))),
        (
            "rediss://default:p%40ss@h.upstash.io:6380?ssl_cert_reqs=none",
            StoreAddress(
                endpoints=(HostPort(host="h.upstash.io", port=6380),),
                tls=True,
                username="default",
                password="p@ss",
                tls_options={"ssl_cert_reqs": "none"},
            ),
        ),
        ("redis://:se@cret@h", StoreAddress(endpoints=(HostPort(host="h", port=6379),), password="se@cret")),
        (
            "unix://u:p@/run/a%20b/valkey.sock?db=1",
            StoreAddress(socket_path="/run/a b/valkey.sock", username="u", password="p", database=1),
        ),
        (
            "redis+sentinel://:pw@a:1,b/main/4?sentinel_password=other",
            StoreAddress(
                mode=StoreMode.SENTINEL,
                endpoints=(HostPort(host="a", port=1), HostPort(host="b", port=26379)),
                password="pw",
                master_name="main",
                database=4,
                sentinel_password="other",
            ),
        ),
        (
            "rediss+cluster://a,b:2",
            StoreAddress(
                mode=StoreMode.CLUSTER,
                tls=True,
                endpoints=(HostPort(host="a", port=6379), HostPort(host="b", port=2)),
            ),
        ),
    ],
)
def test_every_form_is_understood(url: str, expected: StoreAddress) -> None:
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:6379", "begins with redis://"),
        ("redis-cli -u redis://:secret@h", "redis-cli"),
        ("https://u:secret@eu1.upstash.io", "REST address"),
        ("amqp://u:secret@h", "'amqp'"),
        ("redis+ring://h", "'redis+ring'"),
        ("redis://", "no host"),
        ("redis://:secret@", "no host"),
        ("redis://h:0", "port from 1 to 65535, got '0'"),
        ("redis://h:65536", "got '65536'"),
        ("redis://h:6379x", "got '6379x'"),
        ("redis://h:\N{ARABIC-INDIC DIGIT ONE}", "port"),
        ("redis://h:1:2", "port"),
        ("redis://[::1", "write IPv6 as"),
        ("redis://h/one", "database number"),
        ("redis://h/-1", "database number"),
        ("redis://h/1/2", "at most a database number"),
        ("redis://a,b", "redis+sentinel"),
        ("redis://:sec/ret@h", "%2F"),
        ("redis://:sec#ret@h", "%23"),
        ("redis://:sec?ret@h", "%3F"),
        ("redis://h?ssl_cert_reqs=none", "needs TLS"),
        ("redis://h?socket_timeout=3", "unknown option 'socket_timeout'"),
        ("redis://h?password=secret", "unknown option 'password'"),
        ("redis://h?db=1&passwd=secret", "unknown option 'passwd'"),
        ("rediss://h?ssl_ca_certs=/ca.pem&auth=secret", "ssl_ca_certs=/ca.pem&auth=***"),
        ("redis+sentinel://h/m?sentinel_password=secret&nope=1", "unknown option 'nope'"),
        ("rediss://h?ssl_cert_reqs=maybe", "required, optional, none"),
        ("rediss://h?ssl_check_hostname=2", "true or false"),
        ("redis+sentinel://h", "primary's name"),
        ("redis+cluster://h/1", "only database 0"),
        ("unix://relative.sock", "three slashes"),
        ("unix://", "three slashes"),
    ],
)
def test_a_wrong_address_is_told_by_part_and_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_redis_url(url)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "ret@" not in str(caught.value)
    assert "\n" not in str(caught.value)


SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=8)


@given(password=SECRET)
def test_any_password_survives_and_is_never_shown(password: str) -> None:
    password = "\N{SNOWMAN}" + password  # so that no other part of what is shown holds it
    address = parse_redis_url(f"redis://user:{quote(password, safe='')}@h:1234/5")
    assert address.password == password
    for shown in (str(address), repr(address), f"{address}"):
        assert password not in shown
        assert quote(password, safe="") not in shown
    assert str(address) == "redis://user:***@h:1234/5"


@given(text=st.text(max_size=60), scheme=st.sampled_from(["", "redis://", "unix://", "rediss+sentinel://"]))
def test_any_text_is_an_address_or_one_clear_error(text: str, scheme: str) -> None:
    address = None
    with suppress(ConfigurationError):
        address = parse_redis_url(scheme + text)
    assert address is None or address.socket_path or address.endpoints


def test_addresses_for_people_can_be_read_back() -> None:
    for url in (
        "redis://h:1",
        "redis://[::1]:1/2",
        "rediss+sentinel://a:1,b:2/main/3",
        "redis+cluster://a:1",
        "unix:///x/y%20z?db=2",
    ):
        assert str(parse_redis_url(url)) == url


def test_tls_files_are_checked_when_they_are_needed() -> None:
    address = parse_redis_url("rediss://h?ssl_ca_certs=/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="TLS file"):
        address.tls_context()
    assert parse_redis_url("redis://h").tls_context() is None

from __future__ import annotations

import pytest

from corral.adapters.sandbox.proxy import AllowList
from corral.errors import ConfigurationError


def test_only_listed_hosts_on_their_ports() -> None:
    allowed = AllowList(["registry.example.org", "*.files.example.org", "own.example.org:8443"])
    assert allowed.covers("registry.example.org", 443)
    assert allowed.covers("REGISTRY.example.org.", 80)
    assert not allowed.covers("registry.example.org", 22)
    assert allowed.covers("a.b.files.example.org", 443)
    assert not allowed.covers("files.example.org", 443)
    assert not allowed.covers("evilfiles.example.org", 443)
    assert allowed.covers("own.example.org", 8443)
    assert not allowed.covers("own.example.org", 443)
    assert not allowed.covers("registry.example.org.evil.example", 443)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.169.254", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "fe80::1",  # noqa: S104 - refused
     "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "224.0.0.1", "fe80::1%eth0"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not AllowList(["x.example.org"]).covers_address(address)


def test_a_listed_network_is_reached() -> None:
    allowed = AllowList(["x.example.org"], networks=["10.1.0.0/16"])
    assert allowed.covers_address("10.1.2.3")
    assert not allowed.covers_address("10.2.2.3")
    assert allowed.covers_address("8.8.8.8")


@pytest.mark.parametrize("entry", ["https://x.example.org", "*", "x.example.org:https", "", "a.*.org", "*.", ":443"])
def test_other_entries_are_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a host"):
        AllowList([entry])


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="networks"):
        AllowList(["x.example.org"], networks=["10.1.2.3/16"])

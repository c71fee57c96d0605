"""Addresses lose their users and passwords before they are shown."""

from __future__ import annotations

import pytest

from corral.masking import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:secret@host/x", "https://***@host/x"),
        ("https://secret@host", "https://***@host"),
        ("https://ada@corp.example:secret@host/x", "https://***@host/x"),
        ("['git+ssh://a:b@h/x', 'https://c:d@h']", "['git+ssh://***@h/x', 'https://***@h']"),
        ("https://host/@scope/name ada@host", "https://host/@scope/name ada@host"),
    ],
)
def test_users_and_passwords_go(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["a", "://", "://a", "@", "a@", "://@"])
def test_megabytes_are_gone_through_once(piece: str) -> None:
    text = piece * (8_000_000 // len(piece))
    assert len(without_credentials(text, instead="")) <= len(text)

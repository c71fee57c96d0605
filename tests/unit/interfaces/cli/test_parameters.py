"""How arguments are read."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from corral.interfaces.cli.parameters import parse_duration, parse_instant, parse_priority, read_payload


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("3s", timedelta(seconds=3)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1.5h", timedelta(minutes=90)),
        ("90", timedelta(seconds=90)),
        (" 5m ", timedelta(minutes=5)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-3s", "3 weeks", "1e9", "4000d", "h", "5m3"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected"):
        parse_duration(text)


def test_instants_are_aware_and_utc() -> None:
    assert parse_instant("2030-01-31T09:00:00+01:00") == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert parse_instant("2030-01-31T09:00:00").tzinfo is UTC
    with pytest.raises(typer.BadParameter, match="expected an instant"):
        parse_instant("tomorrow")


@pytest.mark.parametrize(("text", "expected"), [("critical", 0), ("HIGH", 1), ("medium", 5), ("low", 10), ("42", 42)])
def test_priorities(text: str, expected: int) -> None:
    assert parse_priority(text) == expected


@pytest.mark.parametrize("text", ["urgent", "-1", "1.5"])
def test_what_is_no_priority_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="critical, high, medium, low"):
        parse_priority(text)


def test_payloads_come_as_text_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "payload.json").write_text('{"from": "file"}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"from": "stdin"}'))
    assert read_payload('{"from": "text"}') == {"from": "text"}
    assert read_payload(f"@{tmp_path / 'payload.json'}") == {"from": "file"}
    assert read_payload("-") == {"from": "stdin"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{prompt: x}", "expected JSON in --data"), ("@/no/such/file", "can't read '/no/such/file': No such file")],
)
def test_a_payload_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        read_payload(text)

"""How the log, the metrics and the traces of a worker are set up."""

from __future__ import annotations

import io
import json
import logging
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import Counter

from corral.client import Corral
from corral.errors import ConfigurationError, ExtraMissing
from corral.interfaces.cli.observing import metrics_served, observe, start_logging
from corral.interfaces.observability.telemetry import Telemetry
from corral.testing.server import free_port


def some_corral(observer: object = None) -> Corral:
    return cast("Corral", SimpleNamespace(observer=observer))


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger as a new process has it; pytest's own handlers come after the fixtures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_log_has_the_form_of_the_settings(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("CORRAL_LOG_FORMAT", form)

    with bare_root() as root:
        start_logging()
        root.warning("with password=hunter22")

    (line,) = stderr.getvalue().splitlines()
    said = json.loads(line)["message"] if form == "json" else line
    assert "with password=***" in said


def test_a_wrong_setting_doesn_t_keep_the_log_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_LOG_FORMAT", "poetry")

    with bare_root() as root:
        start_logging()
        assert len(root.handlers) == 1


def test_a_log_that_is_set_up_stays() -> None:
    own = logging.NullHandler()
    with bare_root() as root:
        root.addHandler(own)
        start_logging()
        assert root.handlers == [own]


def test_telemetry_looks_on_unless_the_app_does() -> None:
    fresh, own = some_corral(), some_corral("the app's")

    assert observe(fresh) is None
    assert observe(own) is None

    assert isinstance(fresh.observer, Telemetry)
    assert cast("Any", own.observer) == "the app's"


@pytest.mark.parametrize("library", ["opentelemetry", "prometheus_client"])
def test_a_worker_needs_no_telemetry(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.delitem(sys.modules, "corral.interfaces.observability.telemetry")
    monkeypatch.setitem(sys.modules, library, None)
    corral = some_corral()

    with metrics_served(corral, None):
        assert corral.observer is None
    with pytest.raises(ExtraMissing, match=f"needs {library}: pip install"), metrics_served(corral, free_port()):
        pass


def test_metrics_are_served_on_loopback_until_the_end() -> None:
    telemetry = Telemetry()
    Counter("sheep", "Counted.", registry=telemetry.registry).inc(3)
    port = free_port()

    with metrics_served(some_corral(telemetry), port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"sheep_total 3.0" in answer.read()
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
    with socket.socket() as after, pytest.raises(ConnectionRefusedError):
        after.connect(("127.0.0.1", port))


def test_what_can_t_be_served_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ConfigurationError, match="choose another with --metrics-port"),
            metrics_served(some_corral(), taken.getsockname()[1]),
        ):
            pass
    with pytest.raises(ConfigurationError, match="got 'str'"), metrics_served(some_corral("mine"), free_port()):
        pass

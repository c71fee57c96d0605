"""How the log, the metrics and the traces of a worker are set up."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

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
async def test_a_worker_needs_no_telemetry(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.delitem(sys.modules, "corral.interfaces.observability.telemetry")
    monkeypatch.setitem(sys.modules, library, None)
    corral = some_corral()

    async with metrics_served(corral, None):
        assert corral.observer is None
    with pytest.raises(ExtraMissing, match=f"needs {library}: pip install"):
        async with metrics_served(corral, free_port()):
            pass


async def test_an_observer_without_metrics_is_told() -> None:
    observed = cast("Corral", SimpleNamespace(observer="mine", settings=SimpleNamespace(metrics_host="127.0.0.1")))
    with pytest.raises(ConfigurationError, match="got 'str'"):
        async with metrics_served(observed, free_port()):
            pass

"""A pytest plugin, loaded by ``PYTEST_ADDOPTS=-p corral_pytest``: reports cases, and limits the run to a selection."""

from __future__ import annotations

import os
from typing import Any, Dict, Generator, List

import corral_reporting as reporting
import pytest

_selection = reporting.Selection()
_parts: Dict[str, List[Any]] = {}  # node id → reports of its phases so far
_state: Dict[str, Any] = {"silent": False, "root": os.getcwd()}
_NEW_PATHS = int(pytest.__version__.split(".")[0]) >= 7

reporting.write({"event": "start", "runner": "pytest"})


@pytest.hookimpl(hookwrapper=True)
def pytest_load_initial_conftests() -> Generator[None, Any, None]:
    """Report a ``conftest.py`` that can't be imported: pytest ends before any case."""
    outcome = yield
    if outcome.excinfo is not None:
        error = outcome.excinfo[1]
        path = reporting.relative(str(getattr(error, "path", "") or "conftest.py")) or "conftest.py"
        cause = getattr(error, "cause", None) or (error.excinfo[1] if hasattr(error, "excinfo") else error)
        text = "{}: {}".format(type(cause).__name__, cause)
        if type(error).__name__ == "ConftestImportFailure":
            reporting.case(
                identity=path, file=path, name="import", outcome="error", seconds=0.0, message=text, trace=text
            )


def pytest_configure(config: Any) -> None:
    """Be silent in a worker of pytest-xdist: its controller sees every report."""
    _state["silent"] = hasattr(config, "workerinput")
    _state["root"] = str(getattr(config, "rootpath", None) or config.rootdir)


def _is_excluded(path: str) -> Any:
    if not _selection.files or os.path.isdir(path) or os.path.basename(path) == "conftest.py":
        return None
    return True if not _selection.has_file(reporting.relative(path)) else None


if _NEW_PATHS:

    def pytest_ignore_collect(collection_path: Any) -> Any:
        """Leave out the files that are not selected, before they are imported."""
        return _is_excluded(str(collection_path))

else:

    def pytest_ignore_collect(path: Any) -> Any:  # type: ignore[misc]  # the same hook as older versions call it
        """Leave out the files that are not selected, before they are imported."""
        return _is_excluded(str(path))


def pytest_collection_modifyitems(config: Any, items: List[Any]) -> None:
    """Leave out the cases that are not selected."""
    if not _selection.cases:
        return
    chosen = [item for item in items if _selection.has_case(item.nodeid)]
    left_out = [item for item in items if not _selection.has_case(item.nodeid)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen


def pytest_collection_finish(session: Any) -> None:
    """Say how many cases there are."""
    if not _state["silent"]:
        reporting.write({"event": "total", "count": len(session.items)})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: List[str]) -> None:
    """Say how many cases there are, with pytest-xdist."""
    reporting.write({"event": "total", "count": len(ids)})


def _place(nodeid: str) -> Any:
    file, _, name = nodeid.partition("::")
    path = reporting.relative(os.path.join(_state["root"], file))
    return path, name or os.path.basename(file)


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[-1])
    return str(report.longrepr or "").strip().rpartition("\n")[2]


def pytest_collectreport(report: Any) -> None:
    """Report a file that can't be imported."""
    if report.failed and not _state["silent"]:
        path, name = _place(report.nodeid)
        reporting.case(
            identity=report.nodeid,
            file=path,
            name=name,
            outcome="error",
            seconds=0.0,
            message=_message(report),
            trace=str(report.longrepr),
        )


def pytest_runtest_logreport(report: Any) -> None:
    """Report a case when its last phase has ended."""
    if _state["silent"] or report.outcome == "rerun":
        return
    parts = _parts.setdefault(report.nodeid, [])
    parts.append(report)
    if report.when != "teardown":
        return
    del _parts[report.nodeid]
    outcome, decisive = "passed", report
    for part in parts:
        if part.failed:
            outcome, decisive = ("failed" if part.when == "call" else "error"), part
            break
        if part.skipped:
            outcome, decisive = "skipped", part
    path, name = _place(report.nodeid)
    shown = outcome != "passed"
    reporting.case(
        identity=report.nodeid,
        file=path,
        name=name,
        outcome=outcome,
        seconds=sum(part.duration for part in parts),
        message=_message(decisive) if shown else "",
        trace=str(decisive.longrepr) if outcome in ("failed", "error") else "",
        output="\n".join(
            "{}:\n{}".format(title, text) for title, text in report.sections if outcome in ("failed", "error")
        ),
    )

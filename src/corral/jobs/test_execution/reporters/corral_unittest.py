"""Stands in for ``python -m unittest``: the same command line and output, and each case is reported."""

from __future__ import annotations

import os
import sys
import time
import unittest
from typing import Any, Iterator, List, Optional

import corral_reporting as reporting

_selection = reporting.Selection()


def _file(test: Any) -> Optional[str]:
    module = sys.modules.get(type(test).__module__)
    path: Optional[str] = reporting.relative(getattr(module, "__file__", None))
    return path


def _failed_import(test: Any) -> Optional[str]:
    """Return the module that could not be imported, when this is what the loader put in its place."""
    if type(test).__module__ == "unittest.loader" and type(test).__name__ == "_FailedTest":
        return str(getattr(test, "_testMethodName", ""))
    return None


def _cases(suite: Any) -> Iterator[Any]:
    for member in suite:
        if isinstance(member, unittest.TestSuite):
            yield from _cases(member)
        else:
            yield member


def _is_selected(test: Any) -> bool:
    module = _failed_import(test)
    if module is not None:
        tail = module.replace(".", "/") + ".py"
        return not _selection.files or any(path == tail or path.endswith("/" + tail) for path in _selection.files)
    return bool(_selection.has_file(_file(test)) and _selection.has_case(test.id()))


class ReportingResult(unittest.TextTestResult):
    """Prints as usual and reports each case when it ends."""

    def startTest(self, test: Any) -> None:
        """Note the time."""
        self._began = time.monotonic()
        self._verdict = "passed"
        self._message = ""
        self._traces: List[str] = []
        super().startTest(test)

    def _fault(self, verdict: str, test: Any, err: Any) -> None:
        if self._verdict != "error":
            self._verdict = verdict
        self._message = self._message or "{}: {}".format(err[0].__name__, err[1])
        self._traces.append(self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    def addError(self, test: Any, err: Any) -> None:
        """An exception that is no failed assertion; outside of a case when a class or module could not be set up."""
        super().addError(test, err)
        if isinstance(test, unittest.TestCase):
            self._fault("error", test, err)
        else:
            text = "{}: {}".format(err[0].__name__, err[1])
            trace = self.errors[-1][1]
            reporting.case(
                identity=str(test), file=None, name=str(test), outcome="error", seconds=0.0, message=text, trace=trace
            )

    def addFailure(self, test: Any, err: Any) -> None:
        """A failed assertion."""
        super().addFailure(test, err)
        self._fault("failed", test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        """One of the parts of a case."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._fault("failed" if issubclass(err[0], test.failureException) else "error", test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        """Skipped; a whole class is skipped without being started."""
        super().addSkip(test, reason)
        if isinstance(test, unittest.TestCase):
            self._verdict, self._message = "skipped", reason

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        """Failed, as its author said it would."""
        super().addExpectedFailure(test, err)
        self._verdict, self._message = "skipped", "expected failure"

    def addUnexpectedSuccess(self, test: Any) -> None:
        """Passed, though its author said it would not."""
        super().addUnexpectedSuccess(test)
        self._verdict, self._message = "failed", "unexpected success"

    def stopTest(self, test: Any) -> None:
        """Report."""
        super().stopTest(test)
        module = _failed_import(test)
        name = "import " + module if module else "{}.{}".format(type(test).__name__, test.id().rpartition(".")[2])
        if type(test).__module__ == "unittest.loader":
            self._verdict = "error"
        reporting.case(
            identity=test.id(),
            file=None if module else _file(test),
            name=name,
            outcome=self._verdict,
            seconds=time.monotonic() - self._began,
            message=self._message,
            trace="\n".join(self._traces),
        )


class ReportingRunner(unittest.TextTestRunner):
    """Runs what is selected."""

    resultclass = ReportingResult  # type: ignore[assignment]  # typeshed wants a factory of the base class

    def run(self, test: Any) -> Any:
        """Limit, count, run."""
        if _selection.files or _selection.cases:
            test = unittest.TestSuite([case for case in _cases(test) if _is_selected(case)])
        reporting.write({"event": "total", "count": test.countTestCases()})
        return super().run(test)


if __name__ == "__main__":
    reporting.write({"event": "start", "runner": "unittest"})
    sys.argv[0] = os.path.basename(sys.executable) + " -m unittest"
    unittest.main(module=None, testRunner=ReportingRunner)

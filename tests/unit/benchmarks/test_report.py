"""The benchmark's tables say what was measured, and nothing else."""

from __future__ import annotations

from typing import Any

from benchmarks.queue.measure import Figures, percentile
from benchmarks.queue.registry import PEERS
from benchmarks.queue.report import render

ABOUT: dict[str, Any] = {
    "server": "Redis 7.0.15, append-only file off",
    "python": "3.11.7",
    "node": None,
    "cores": 2,
    "load at start": 0.1,
    "plan": {"jobs": 30_000, "warm_up": 3_000},
}


def _row(report: str, table: str, name: str) -> list[str]:
    lines = report.partition(table)[2].splitlines()
    row = next(line for line in lines if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def _round(corral: float, peer: float) -> dict[str, Figures]:
    return {"corral": Figures({"drain 5": corral}), "arq": Figures({"drain 5": peer})}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A round on a busy machine is slow for both, so ratios are taken within rounds."""
    rounds = [_round(100, 50), _round(1_000, 400), _round(30, 10)]
    report = render(ABOUT, rounds)
    assert _row(report, "### Drain", "corral") == ["corral", "100"]
    assert _row(report, "### Drain", "arq") == ["arq", "50 (2.50×)"]


def test_what_failed_what_is_not_there_and_what_was_stopped_are_told_apart() -> None:
    figures = {
        "corral": Figures({"drain 1": 10, "drain 5": 10, "drain 50": 10}),
        "rq": Figures(
            {"drain 1": 5},
            notes={"drain 1": "stopped after 900 jobs", "drain 5": "1 at a time by design", "drain 50": "failed: gone"},
        ),
    }
    report = render(ABOUT, [figures])
    assert _row(report, "### Drain", "rq") == ["rq", "5* (2.00×)", "–", "failed"]
    assert "rq, drain 5: 1 at a time by design" in report


def test_lateness_is_over_the_samples_of_all_rounds() -> None:
    early = {"corral": Figures(samples={"pickup": [0.001] * 99})}
    late = {"corral": Figures(samples={"pickup": [0.5]})}
    assert _row(render(ABOUT, [early, late]), "### Lateness", "corral") == ["corral", "1.00", "500.00", "–", "–"]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0


def test_every_peer_pins_its_packages_and_only_one_stores_no_results() -> None:
    assert [name for name, peer in PEERS.items() if peer.lock is None] == ["corral"]
    assert [name for name, peer in PEERS.items() if not peer.stores_results] == ["bee-queue"]

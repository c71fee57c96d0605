"""How edits land: real hunks, spoiled as models spoil them. ``python -m benchmarks.edits --archives FOLDER``.

Ends with 1 when any edit landed in the wrong place, or when too few landed of those whose place can be told.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.edits.corpus import SAMPLES, download, hunks
from benchmarks.edits.spoilings import SPOILINGS, Case
from corral.jobs.code_generation.edit_formats import FormatError, parse_edits
from corral.jobs.code_generation.edits import EditsMissedError, SearchReplace, plan_edits
from corral.jobs.code_generation.payload import EditFormat

LEAST_RIGHT = 0.97


def outcome(case: Case) -> tuple[str, str]:
    """What came of it (``right``, ``refused`` or ``wrong``), and by which rung or why not."""
    try:
        if case.diff:
            edits = parse_edits(case.search, EditFormat.UNIFIED_DIFF)
        else:
            edits = [SearchReplace(path="file", search=case.search, replace=case.replace)]
        plan = plan_edits(edits, lambda path: case.file if path == "file" else None)
    except (EditsMissedError, FormatError) as error:
        return "refused", str(error)
    how = plan.applied[0].how
    return ("right", how) if plan.files["file"] in {case.expected, case.lucky} else ("wrong", how)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--archives", type=Path, help="folder of the packages' archives; missing ones are downloaded")
    options.add_argument("--hunks", type=int, default=300)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--sample", choices=SAMPLES, default="known")
    options.add_argument("--show", default="", help="print cases of this spoiling that were refused or wrong")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.archives or Path(scratch)
        sample = SAMPLES[given.sample]
        download(folder, sample)
        chosen = hunks(folder, sample, count=given.hunks, seed=given.seed)
    print(f"{len(chosen)} hunks\n")
    print(f"{'spoiling':30}{'cases':>7}{'can be told':>13}{'right':>8}{'refused':>9}{'wrong':>7}{'ms':>8}")
    totals: Counter[str] = Counter()
    rungs: Counter[str] = Counter()
    for name, spoil in SPOILINGS.items():
        chance = random.Random(given.seed)
        counted: Counter[str] = Counter()
        spent_s = 0.0
        for hunk in chosen:
            case = spoil(hunk, chance)
            if case is None:
                continue
            began = time.perf_counter()
            verdict, how = outcome(case)
            spent_s += time.perf_counter() - began
            told = case.expected is not None
            counted["cases"] += 1
            counted["told"] += told
            counted[verdict] += 1
            counted["right of told"] += told and verdict == "right"
            if verdict != "refused":
                rungs[how] += 1
            if given.show == name and (verdict == "wrong" or (told and verdict != "right")):
                print(f"--- {verdict} {hunk.path}:{hunk.start + 1} {how}\n{case.search}\n=====\n{case.replace}")
        totals += counted
        each_ms = 1000 * spent_s / max(counted["cases"], 1)
        print(
            f"{name:30}{counted['cases']:>7}{counted['told']:>13}{counted['right of told']:>8}"
            f"{counted['refused']:>9}{counted['wrong']:>7}{each_ms:>8.2f}"
        )
    share = totals["right of told"] / max(totals["told"], 1)
    print(f"\nin all: {totals['cases']} edits, {totals['told']} whose place can be told, {share:.2%} of them right,")
    print(f"{totals['refused']} refused, {totals['wrong']} applied wrong; by rung: {dict(rungs.most_common())}")
    return 0 if not totals["wrong"] and share >= LEAST_RIGHT else 1


if __name__ == "__main__":
    sys.exit(main())

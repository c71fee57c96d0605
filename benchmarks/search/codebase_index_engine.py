"""Runs codebase-index in an environment of its own, as ``semble_engine.py`` runs semble.

Its index lies outside the repository, and its memory of what an agent was shown, which holds answers back, is off.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

request = json.load(sys.stdin)
os.environ["HOME"] = request["cache"]
os.environ["CBX_MEMORY"] = "0"

from codebase_index.config import load  # noqa: E402 - the environment comes first
from codebase_index.indexer.pipeline import build_index  # noqa: E402
from codebase_index.service import search_backend, search_payload  # noqa: E402
from codebase_index.storage.db import Database  # noqa: E402


def cpu_s() -> float:
    """Of this process and of its children that have ended: it parses in a pool of them."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


root, place = Path(request["root"]), Path(request["cache"]) / "index.sqlite"
config = load(root)
began, cpu = time.perf_counter(), cpu_s()
with Database(place) as database:
    build_index(config, database, root=root)
built, built_cpu = time.perf_counter() - began, cpu_s() - cpu
backend = search_backend(config, warn=lambda _: None)
answers, times, cpu_times = [], [], []
for query in request["queries"]:
    began, cpu = time.perf_counter(), time.thread_time()
    found = search_payload(place, config, query, limit=30, token_budget=100_000, backend=backend)
    times.append(time.perf_counter() - began)
    cpu_times.append(time.thread_time() - cpu)
    answers.append(list(dict.fromkeys(hit["path"] for hit in found["results"]))[:10])
print(
    json.dumps(
        {
            "answers": answers,
            # It takes so long that each question is asked only once.
            "times": {request["turns"][0]: times},
            "cpu_times": {request["turns"][0]: cpu_times},
            "build_s": built,
            "build_cpu_s": built_cpu,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)

"""Runs semble in an environment of its own: builds its index, answers queries, prints one JSON line."""

import json
import os
import resource
import sys
import time
from pathlib import Path

request = json.load(sys.stdin)
os.environ["XDG_CACHE_HOME"] = request["cache"]
os.environ["HOME"] = request["cache"]
os.environ["HF_HUB_OFFLINE"] = "1"

from semble import SembleIndex  # noqa: E402 - the environment comes first

began, cpu = time.perf_counter(), time.process_time()
index = SembleIndex.from_path(Path(request["root"]), model_path=request["model"])
built, built_cpu = time.perf_counter() - began, time.process_time() - cpu
for query in request["queries"][:20]:
    index.search(query[::-1], top_k=10)  # warm, with nothing that is asked later
times, cpu_times = {}, {}
for turn in request["turns"]:
    times[turn], cpu_times[turn] = [], []
    for query in request["queries"]:
        began, cpu = time.perf_counter(), time.thread_time()
        index.search(query, top_k=10)
        times[turn].append(time.perf_counter() - began)
        cpu_times[turn].append(time.thread_time() - cpu)
answers = []
for query in request["queries"]:
    found = index.search(query, top_k=30)
    answers.append(list(dict.fromkeys(hit.chunk.file_path for hit in found))[:10])
print(
    json.dumps(
        {
            "answers": answers,
            "times": times,
            "cpu_times": cpu_times,
            "build_s": built,
            "build_cpu_s": built_cpu,
            "chunks": len(index.chunks),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)

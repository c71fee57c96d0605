"""Files that are put into the sandbox: they report cases as they end, to the file that ``CORRAL_REPORT`` names.

They run in the project's own Python (3.8 and newer) or Node, import nothing of Corral, and write one JSON object a
line: ``{"event": "start", "runner"}``, ``{"event": "total", "count": n}``, and for each case ``{"event": "case", "id",
"file", "name", "outcome", "seconds", "message", "trace", "output"}``.
"""

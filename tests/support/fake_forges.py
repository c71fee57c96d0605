"""Small GitLab and Gitea servers that remember, written from their documentation, over one bare repository.

They answer what Corral asks and check what it sends: unknown fields and missing ones are refused, as the real ones'
docs list them. They are no proof that the real ones agree.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from tests.support.repositories import Repository
from tests.support.web_server import GitOverHttp, Reply, Request, WebServer

OWNER, NAME = "acme", "shop"


class FakeForge:
    """What both have in common."""

    token = "secret-token-of-a-test"

    def __init__(self, folder: Path) -> None:
        root = folder / "forge"
        self.repository = Repository(root / OWNER)
        bare = root / OWNER / f"{NAME}.git"
        self.repository.bare.rename(bare)
        self.repository.bare = bare
        subprocess.run(["git", "-C", str(self.repository.clone), "remote", "set-url", "origin", str(bare)], check=True)
        self.pulls: dict[int, dict[str, Any]] = {}
        self.people = {"grace": 11, "linus": 12}
        self.archived = False
        self.answer_next: list[Reply] = []
        self.server = WebServer()
        self.server.route(f"/{OWNER}/", GitOverHttp(root, allows=lambda _user, secret: secret == self.token))
        self.server.route("/api/", self._rest)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)

    @property
    def address(self) -> str:
        return f"{self.server.url}/{OWNER}/{NAME}.git"

    def _rest(self, request: Request) -> Reply:
        if self.answer_next:
            return self.answer_next.pop(0)
        if request.headers.get("authorization", "").split(" ")[-1] != self.token:
            return self._reply(401, {"message": "401 Unauthorized"})
        body = json.loads(request.body) if request.body else {}
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        return self._reply(*self.answer(request.method, request.path, query, body))

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        raise NotImplementedError

    @staticmethod
    def _reply(status: int, body: Any) -> Reply:
        return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def tip(self, branch: str) -> str:
        return self.repository.tip(branch)


class FakeGitLab(FakeForge):
    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/api/v4/users":
            name = query["username"]
            return 200, [{"id": self.people[name], "username": name}] if name in self.people else []
        project = f"/api/v4/projects/{OWNER}%2F{NAME}"
        if not path.startswith(project):
            return 404, {"message": "404 Project Not Found"}
        tail = path.removeprefix(project)
        if tail == "":
            access = {"project_access": {"access_level": 40}, "group_access": None}
            return 200, {"default_branch": "main", "archived": self.archived, "permissions": access}
        if tail == "/merge_requests":
            return (200, self._list(query)) if method == "GET" else self._open(body)
        found = re.fullmatch(r"/merge_requests/(\d+)(/merge)?", tail)
        if found is None or int(found[1]) not in self.pulls:
            return 404, {"message": "404 Not found"}
        pull = self.pulls[int(found[1])]
        if found[2]:
            assert method == "PUT"
            assert body["auto_merge"] is True
            pull["merge_when_pipeline_succeeds"] = True
        elif method == "PUT":
            self._change(pull, body)
        return 200, self._shown(pull)

    def _change(self, pull: dict[str, Any], body: dict[str, Any]) -> None:
        known = {"title", "description", "add_labels", "reviewer_ids", "assignee_ids"}
        assert set(body) <= known, body
        names = {number: name for name, number in self.people.items()}
        pull.update({name: body[name] for name in ("title", "description") if name in body})
        pull["labels"] = sorted({*pull["labels"], *filter(None, body.get("add_labels", "").split(","))})
        for field, ids in (("reviewers", "reviewer_ids"), ("assignees", "assignee_ids")):
            if ids in body:
                pull[field] = [{"id": number, "username": names[number]} for number in body[ids]]

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert set(body) == {"source_branch", "target_branch", "title", "description", "remove_source_branch"}
        for pull in self.pulls.values():
            if pull["state"] == "opened" and pull["source_branch"] == body["source_branch"]:
                return 409, {
                    "message": [f"Another open merge request already exists for this source branch: !{pull['iid']}"]
                }
        number = len(self.pulls) + 1
        self.pulls[number] = {
            "iid": number,
            "web_url": f"{self.server.url}/{OWNER}/{NAME}/-/merge_requests/{number}",
            "state": "opened",
            "labels": [],
            "reviewers": [],
            "assignees": [],
            "merge_when_pipeline_succeeds": False,
            **body,
        }
        return 201, self._shown(self.pulls[number])

    def _shown(self, pull: dict[str, Any]) -> dict[str, Any]:
        return {**pull, "draft": pull["title"].startswith("Draft: "), "sha": self.tip(pull["source_branch"])}

    def _list(self, query: dict[str, str]) -> list[Any]:
        assert query["state"] == "all"
        return [
            self._shown(pull)
            for pull in reversed(self.pulls.values())
            if all(pull[name] == query[name] for name in ("source_branch", "target_branch"))
        ]

    def end(self, number: int, *, merged: bool) -> None:
        self.pulls[number]["state"] = "merged" if merged else "closed"


class FakeGitea(FakeForge):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.labels = {"bot": 1, "small": 2}

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        here = f"/api/v1/repos/{OWNER}/{NAME}"
        if not path.startswith(here):
            return 404, {"message": "The target couldn't be found."}
        tail = unquote(path.removeprefix(here))
        if tail == "":
            facts = {"default_branch": "main", "archived": self.archived, "has_pull_requests": True}
            return 200, {**facts, "permissions": {"admin": False, "push": True, "pull": True}}
        if tail == "/labels":
            return 200, [{"id": number, "name": name} for name, number in self.labels.items()]
        if tail == "/pulls":
            shown = [self._shown(pull) for pull in reversed(self.pulls.values())]
            start = (int(query.get("page", "1")) - 1) * int(query.get("limit", "50"))
            return (200, shown[start : start + 50]) if method == "GET" else self._open(body)
        found = re.fullmatch(r"/(?:pulls|issues)/(\d+)(/\w+)?", tail)
        if found is None or int(found[1]) not in self.pulls:
            return 404, {"message": "pull request does not exist"}
        pull = self.pulls[int(found[1])]
        return self._one(pull, found[2] or "", body)

    def _one(self, pull: dict[str, Any], part: str, body: dict[str, Any]) -> tuple[int, Any]:
        unknown = [name for name in (*body.get("reviewers", ()), *body.get("assignees", ())) if name not in self.people]
        if unknown:
            return 404 if part else 422, {"message": f"user does not exist [name: {unknown[0]}]"}
        if part == "/labels":
            names = {number: name for name, number in self.labels.items()}
            pull["labels"] += [{"id": number, "name": names[number]} for number in body["labels"]]
            return 200, pull["labels"]
        if part == "/requested_reviewers":
            pull["requested_reviewers"] += [{"login": name} for name in body["reviewers"]]
            return 201, []
        if part == "/merge":
            assert body == {"Do": "merge", "merge_when_checks_succeed": True}
            pull["auto"] = True
            return 201, None
        pull.update({name: body[name] for name in ("title", "body") if name in body})
        if "assignees" in body:
            pull["assignees"] = [{"login": name} for name in body["assignees"]]
        return 200 if not body else 201, self._shown(pull)

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert set(body) == {"title", "body", "head", "base"}
        if body["base"] not in self.repository.branches():
            return 404, {"message": "branch does not exist"}
        for pull in self.pulls.values():
            if pull["state"] == "open" and (pull["source"], pull["target"]) == (body["head"], body["base"]):
                return 409, {"message": "pull request already exists for these targets"}
        number = len(self.pulls) + 1
        self.pulls[number] = {
            "number": number,
            "html_url": f"{self.server.url}/{OWNER}/{NAME}/pulls/{number}",
            "title": body["title"],
            "body": body["body"],
            "state": "open",
            "merged": False,
            "source": body["head"],
            "target": body["base"],
            "labels": [],
            "requested_reviewers": [],
            "assignees": None,
        }
        return 201, self._shown(self.pulls[number])

    def _shown(self, pull: dict[str, Any]) -> dict[str, Any]:
        return {
            **pull,
            "draft": pull["title"].startswith("WIP: "),
            "head": {"ref": pull["source"], "sha": self.tip(pull["source"])},
            "base": {"ref": pull["target"], "sha": self.tip(pull["target"])},
        }

    def end(self, number: int, *, merged: bool) -> None:
        self.pulls[number].update(state="closed", merged=merged)

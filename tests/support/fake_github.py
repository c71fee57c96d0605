"""A small GitHub that remembers: REST over one bare repository, and git over smart HTTP, on one loopback server.

Every request is validated with GitHub's own OpenAPI description, and so is every answer, which is one of GitHub's own
examples with the state written over it. An answer that is not described can't be given.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from openapi_core.testing import MockRequest, MockResponse
from tests.support import github_description
from tests.support.repositories import Repository
from tests.support.web_server import GitOverHttp, Reply, Request, WebServer

TOKEN = "ghp_" + "7fQ2mZ9kL1xV4bN8cR3tY6wP0sD5gH2jK7aE"
OWNER, NAME = "acme", "shop"
_API = "/api/v3"


class FakeGitHub:
    """Use as a context manager; ``url`` is the web address and ``api_url`` the API's, as on an Enterprise."""

    def __init__(self, folder: Path) -> None:
        self.api = github_description.api()
        root = folder / "github"
        self.repository = Repository(root / OWNER)
        bare = root / OWNER / f"{NAME}.git"
        self.repository.bare.rename(bare)
        self.repository.bare = bare
        subprocess.run(["git", "-C", str(self.repository.clone), "remote", "set-url", "origin", str(bare)], check=True)
        self.tokens: dict[str, datetime] = {TOKEN: datetime.max.replace(tzinfo=UTC)}
        self.pulls: dict[int, dict[str, Any]] = {}
        self.collaborators = {"grace", "linus"}
        self.archived = False
        self.can_push = True
        self.drafts = True
        self.invalid: list[str] = []
        """What did not fit the description, of requests and of answers. Checked at the end of the block."""
        self.answer_next: list[tuple[str, Callable[[Request], Reply | None]]] = []
        """``(method and path pattern, what to answer)``, each used once; None lets the request through."""
        self.after_next: list[tuple[str, Callable[[Request], Reply | None]]] = []
        """Likewise, but the request has taken effect: its answer is replaced."""
        self.app_requests: list[dict[str, Any]] = []
        self.token_life = timedelta(hours=1)
        self._lock = threading.RLock()
        self.server = WebServer()
        self.git = GitOverHttp(root, allows=lambda user, secret: user == "x-access-token" and self._valid(secret))
        self.server.route(f"/{OWNER}/", self.git)
        self.server.route(_API, self._rest)
        self.server.route("/api/graphql", self._graphql)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)
        assert not self.invalid, "\n".join(self.invalid)

    @property
    def api_url(self) -> str:
        return self.server.url + _API

    @property
    def address(self) -> str:
        return f"{self.server.url}/{OWNER}/{NAME}.git"

    def sent(self, method: str, pattern: str) -> list[Request]:
        return [one for one in self.server.requests if one.method == method and re.search(pattern, one.path)]

    def _valid(self, token: str) -> bool:
        return self.tokens.get(token, datetime.min.replace(tzinfo=UTC)) > datetime.now(UTC)

    # --- REST

    def _rest(self, request: Request) -> Reply:
        with self._lock:
            replaced = _taken(self.answer_next, request)
            if replaced is not None:
                return replaced
            path = unquote(request.path.removeprefix(_API))
            described = self._described(request, path)
            status, body = self._answer(request, path)
            if described is not None and status != 401:  # any call may get it, so GitHub describes it for none
                self._check_answer(described, status, body)
            return _taken(self.after_next, request) or _json(status, body)

    def _described(self, request: Request, path: str) -> MockRequest | None:
        mock = MockRequest(
            "http://localhost",
            request.method.lower(),
            path,
            args={name: values[0] for name, values in parse_qs(request.query).items()},
            headers=dict(request.headers),
            data=request.body or None,
            content_type=request.headers.get("content-type", "application/json").split(";")[0],
        )
        try:
            self.api.validate_request(mock)
        except Exception as error:  # noqa: BLE001  whatever doesn't fit is collected and shown
            self.invalid.append(f"request {request.method} {path}: {_misfits(error)}")
            return None
        return mock

    def _check_answer(self, described: MockRequest, status: int, body: Any) -> None:
        mock = MockResponse(json.dumps(body).encode(), status_code=status, content_type="application/json")
        try:
            self.api.validate_response(described, mock)
        except Exception as error:  # noqa: BLE001  likewise
            self.invalid.append(f"answer {status} {described.path}: {_misfits(error)}")

    def _answer(self, request: Request, path: str) -> tuple[int, Any]:  # noqa: PLR0911  one for each path
        body = json.loads(request.body) if request.body else {}
        if (found := re.fullmatch(r"/app/installations/(\d+)/access_tokens", path)) is not None:
            return self._installation_token(request, body)
        if not self._valid(request.headers.get("authorization", "").removeprefix("Bearer ")):
            return 401, {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest"}
        if not path.startswith(f"/repos/{OWNER}/{NAME}"):
            return 404, _message("Not Found")
        tail = path.removeprefix(f"/repos/{OWNER}/{NAME}")
        if request.method != "GET" and self.archived:
            return 403, _message("Repository was archived so is read-only.")
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        if tail == "":
            return 200, self._repository()
        if tail == "/pulls":
            return (200, self._list(query)) if request.method == "GET" else self._open(body)
        if (found := re.fullmatch(r"/(?:pulls|issues)/(\d+)(/\w+)?", tail)) is None or int(found[1]) not in self.pulls:
            return 404, _message("Not Found")
        pull = self.pulls[int(found[1])]
        return self._one(request.method, pull, found[2] or "", body)

    def _one(self, method: str, pull: dict[str, Any], part: str, body: dict[str, Any]) -> tuple[int, Any]:
        if part == "/labels":
            have = {label["name"] for label in pull["labels"]}
            pull["labels"] += [_label(name) for name in body["labels"] if name not in have]
            return 200, pull["labels"]
        if part == "/requested_reviewers":
            unknown = [name for name in body.get("reviewers", []) if name not in self.collaborators]
            if unknown:
                message = "Reviews may only be requested from collaborators. One or more of the users or teams you "
                return 422, _message(message + "specified is not a collaborator of the acme/shop repository.")
            pull["requested_reviewers"] += [_user(name) for name in body.get("reviewers", [])]
            simple = github_description.example("pull-request-review-request")
            changed = ("number", "title", "requested_reviewers", "requested_teams")
            return 201, {**simple, **{name: pull[name] for name in changed}}
        if part == "/assignees":
            pull["assignees"] += [_user(name) for name in body["assignees"] if name in self.collaborators]
            issue = github_description.example("issue")
            return 201, {**issue, "number": pull["number"], "assignees": pull["assignees"]}
        if method == "PATCH":
            pull.update({name: body[name] for name in ("title", "body") if name in body})
        return 200, self._current(pull)

    def _repository(self) -> dict[str, Any]:
        shown: dict[str, Any] = github_description.example("full-repository-default-response")
        shown.update(name=NAME, full_name=f"{OWNER}/{NAME}", default_branch="main", archived=self.archived)
        for repository in (shown, shown["source"], shown["parent"]):
            repository.setdefault("language", None)  # required by the schema, forgotten in the example
        shown["permissions"] = {"admin": False, "push": self.can_push, "pull": True}
        return shown

    def _list(self, query: Mapping[str, str]) -> list[Any]:
        found = []
        for pull in sorted(self.pulls.values(), key=lambda one: -one["number"]):
            shown = self._current(pull)
            if query.get("head") not in (None, f"{OWNER}:{shown['head']['ref']}"):
                continue
            if query.get("base") not in (None, shown["base"]["ref"]):
                continue
            if query.get("state", "open") in (shown["state"], "all"):
                found.append({name: shown[name] for name in _SIMPLE if name in shown})
        return found

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        head, base = body["head"].split(":")[-1], body["base"]
        for field, branch in (("head", head), ("base", base)):
            if branch not in self.repository.branches():
                return 422, _invalid({"resource": "PullRequest", "field": field, "code": "invalid"})
        if len(body["title"]) > 256:
            text = "title is too long (maximum is 256 characters)"
            return 422, _invalid({"resource": "PullRequest", "code": "custom", "field": "title", "message": text})
        for pull in self.pulls.values():
            if (pull["state"], pull["head"]["ref"], pull["base"]["ref"]) == ("open", head, base):
                return 422, _custom(f"A pull request already exists for {OWNER}:{head}.")
        if body.get("draft") and not self.drafts:
            return 422, _message("Draft pull requests are not supported in this repository.")
        ahead = self._git("rev-list", "--count", f"{base}..{head}")
        if ahead == "0":
            return 422, _custom(f"No commits between {base} and {head}")
        number = len(self.pulls) + 1
        fresh: dict[str, Any] = github_description.example("pull-request")
        fresh.update(
            number=number,
            html_url=f"{self.server.url}/{OWNER}/{NAME}/pull/{number}",
            node_id=f"PR_{number}",
            state="open",
            title=body["title"],
            body=body.get("body"),
            draft=bool(body.get("draft")),
            labels=[],
            assignees=[],
            requested_reviewers=[],
            requested_teams=[],
            merged=False,
            merged_at=None,
            closed_at=None,
            auto_merge=None,
        )
        fresh["head"].update(ref=head, label=f"{OWNER}:{head}")
        fresh["base"].update(ref=base, label=f"{OWNER}:{base}", sha=self._git("rev-parse", base))
        self.pulls[number] = fresh
        return 201, self._current(fresh)

    def _current(self, pull: dict[str, Any]) -> dict[str, Any]:
        if pull["state"] == "open":
            pull["head"]["sha"] = self._git("rev-parse", pull["head"]["ref"])
        copied: dict[str, Any] = json.loads(json.dumps(pull))
        return copied

    def close(self, number: int, *, merged: bool) -> None:
        """As a person would in the browser."""
        pull = self.pulls[number]
        pull.update(state="closed", closed_at="2026-01-01T00:00:00Z", merged=merged)
        pull["merged_at"] = "2026-01-01T00:00:00Z" if merged else None

    def _installation_token(self, request: Request, body: dict[str, Any]) -> tuple[int, Any]:
        signed = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.app_requests.append({**body, "jwt": signed})
        if body.get("repositories") != [NAME]:
            return 422, _message("There is at least one repository that does not exist or is not accessible")
        token = f"ghs_{len(self.app_requests):036d}"
        ends = datetime.now(UTC) + self.token_life
        self.tokens[token] = ends
        return 201, {
            "token": token,
            "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "permissions": body.get("permissions", {}),
            "repository_selection": "selected",
        }

    def _graphql(self, request: Request) -> Reply:
        asked = json.loads(request.body)
        number = int(asked["variables"]["id"].removeprefix("PR_"))
        assert "enablePullRequestAutoMerge" in asked["query"]
        with self._lock:
            replaced = _taken(self.answer_next, request)
            if replaced is not None:
                return replaced
            self.pulls[number]["auto_merge"] = github_description.example("pull-request").get("auto_merge") or {
                "enabled_by": _user("grace"),
                "merge_method": "merge",
                "commit_title": "",
                "commit_message": "",
            }
        return _json(200, {"data": {"enablePullRequestAutoMerge": {"clientMutationId": None}}})

    def _git(self, *args: str) -> str:
        command = ["git", f"--git-dir={self.repository.bare}", *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def rate_limited(*, primary: bool, seconds: int) -> Reply:
    """GitHub's two kinds of rate-limit answer."""
    if primary:
        headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + seconds)}
        return _json(403, _message("API rate limit exceeded for user ID 1."), headers)
    return _json(403, _message("You have exceeded a secondary rate limit. Please wait."), {"retry-after": str(seconds)})


def _taken(rules: list[tuple[str, Callable[[Request], Reply | None]]], request: Request) -> Reply | None:
    for rule in rules:
        pattern, answer = rule
        if re.search(pattern, f"{request.method} {request.path}"):
            rules.remove(rule)
            return answer(request)
    return None


def _misfits(error: Exception) -> str:
    """What does not fit, without the whole document."""
    found = getattr(error.__cause__, "schema_errors", None)
    if found is None:
        return f"{error!r} {error.__cause__!r}"
    return "; ".join(f"{'.'.join(map(str, one.path))}: {one.message[:200]}" for one in found)


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})


def _message(text: str) -> dict[str, Any]:
    return {"message": text, "documentation_url": "https://docs.github.com/rest"}


def _invalid(*errors: dict[str, Any]) -> dict[str, Any]:
    return {**_message("Validation Failed"), "errors": list(errors)}


def _custom(text: str) -> dict[str, Any]:
    return _invalid({"resource": "PullRequest", "code": "custom", "message": text})


def _user(login: str) -> dict[str, Any]:
    user: dict[str, Any] = github_description.example("pull-request")["user"]
    return {**user, "login": login}


def _label(name: str) -> dict[str, Any]:
    return {
        "id": 1,
        "node_id": "x",
        "url": "https://localhost/label",
        "name": name,
        "color": "ededed",
        "default": False,
        "description": "",
    }


#: Fields of GitHub's shorter pull request, as lists hold it.
_SIMPLE = (
    "url", "id", "node_id", "html_url", "diff_url", "patch_url", "issue_url", "commits_url", "review_comments_url",
    "review_comment_url", "comments_url", "statuses_url", "number", "state", "locked", "title", "user", "body",
    "labels",
    "milestone", "active_lock_reason", "created_at", "updated_at", "closed_at", "merged_at", "merge_commit_sha",
    "assignee", "assignees", "requested_reviewers", "requested_teams", "head", "base", "_links", "author_association",
    "auto_merge", "draft",
)  # fmt: skip

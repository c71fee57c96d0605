from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.support.memory_redis import MemoryRedis

from corral.errors import ConfigurationError, UnknownProject
from corral.projects import ForgeKind, Project, ProjectStore


@pytest.mark.parametrize(
    ("repository", "forge"),
    [
        ("/srv/git/shop.git", ForgeKind.LOCAL),
        ("file:///srv/git/shop.git", ForgeKind.LOCAL),
        ("https://github.com/acme/shop", ForgeKind.GITHUB),
        ("https://gitlab.com/acme/group/shop.git", ForgeKind.GITLAB),
        ("https://codeberg.org/acme/shop", ForgeKind.GITEA),
    ],
)
def test_the_forge_is_guessed(repository: str, forge: ForgeKind) -> None:
    assert Project(id="shop", repository=repository).forge is forge


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"repository": "https://user:secret@github.com/a/b"}, "holds a user name or a token"),
        ({"repository": "https://git.example.org/a/b"}, "can't tell which forge"),
        ({"repository": "git@github.com:a/b.git"}, "expected https"),
        ({"repository": "ext::sh -c id"}, "expected https"),
        ({"repository": "ssh://git@github.com/a/b"}, "holds a user name or a token"),
        ({"repository": "relative/path"}, "absolute path"),
        ({"repository": "/srv/x", "forge": "github"}, "needs an https address"),
        ({"repository": "https://github.com/a/b", "forge": "local"}, "needs a path"),
        ({"repository": "/srv/x", "protected_paths": ("/abs",)}, "inside the repository"),
        ({"repository": "/srv/x", "id": "../x"}, "pattern"),
        ({"repository": "/srv/x", "unknown": 1}, "Extra inputs"),
        ({"repository": "/srv/x", "submodules": ("lib", "shop")}, "submodule of itself"),
    ],
)
def test_what_does_not_fit_is_told(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told) as raised:
        Project.model_validate({"id": "shop", **fields})
    assert told in str(raised.value)


async def test_projects_are_added_once_listed_replaced_and_removed() -> None:
    store = ProjectStore(MemoryRedis(), prefix="corral:bull")
    shop = Project(id="shop", repository="/srv/shop.git")
    blog = Project(id="blog", repository="/srv/blog.git", test_command="pytest")
    await store.add(shop)
    await store.add(blog)
    with pytest.raises(ConfigurationError, match="registered already"):
        await store.add(shop)
    assert [project.id for project in await store.list()] == ["blog", "shop"]
    assert await store.get("blog") == blog
    changed = shop.model_copy(update={"default_branch": "trunk"})
    await store.add(changed, replace=True)
    assert await store.get("shop") == changed
    await store.remove("shop")
    with pytest.raises(UnknownProject, match="corral project add"):
        await store.get("shop")
    with pytest.raises(UnknownProject):
        await store.remove("shop")


def test_a_change_keeps_all_that_it_does_not_name() -> None:
    full = Project(
        id="shop",
        repository="https://git.example.com/acme/shop",
        default_branch="trunk",
        forge=ForgeKind.GITEA,
        forge_url="https://git.example.com/api",
        test_command="make test",
        setup_command="make setup",
        allow_workflow_changes=True,
        protected_paths=("secrets/**",),
        allowed_secrets=("a" * 64,),
        submodules=("lib",),
        max_changed_files=1,
        max_changed_lines=2,
        max_file_bytes=3,
    )
    assert full.model_fields_set >= Project.model_fields.keys() - {"created_at"}, "a new field belongs here too"
    moved = {"repository": "https://git.example.com/acme/store"}
    assert full.changed({}) == full
    assert full.changed(moved) == full.model_copy(update=moved)
    assert full.changed({"test_command": "true"}) == full.model_copy(update={"test_command": "true"})
    bare = full.changed({"test_command": "", "setup_command": "", "submodules": (), "forge_url": ""})
    taken = {"test_command": None, "setup_command": None, "submodules": (), "forge_url": None}
    assert bare == full.model_copy(update=taken)


def test_a_repository_on_another_host_has_another_forge() -> None:
    project = Project(
        id="shop", repository="https://git.example.com/a/b", forge=ForgeKind.GITEA, forge_url="https://x/y"
    )
    moved = project.changed({"repository": "https://github.com/a/b"})
    assert (moved.forge, moved.forge_url) == (ForgeKind.GITHUB, None)
    assert project.changed({"repository": "/srv/b.git"}).forge is ForgeKind.LOCAL
    named = project.changed({"repository": "https://other.example/a/b", "forge": ForgeKind.GITLAB})
    assert named.forge is ForgeKind.GITLAB
    with pytest.raises(ValidationError, match="can't tell which forge"):
        project.changed({"repository": "https://other.example/a/b"})


async def test_submodules_are_projects_that_are_registered() -> None:
    store = ProjectStore(MemoryRedis(), prefix="corral:bull")
    shop = Project(id="shop", repository="/srv/shop.git", submodules=("lib",))
    with pytest.raises(UnknownProject, match="'lib'"):
        await store.add(shop)
    assert await store.list() == []
    await store.add(Project(id="lib", repository="/srv/lib.git"))
    await store.add(shop)
    assert (await store.get("shop")).submodules == ("lib",)

"""Flows whose parents and children are worked in different languages."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from tests.interop.conftest import QUEUE, corral_worker
from tests.interop.driver import NodeDriver, NodeQueue
from tests.interop.handlers import declare

from corral import Corral
from corral.errors import JobFailed
from corral.queue.flow import Flow
from corral.queue.job import JobState
from corral.queue.options import ChildFailure

PARENT = "album"
PATIENCE = timedelta(seconds=20)


@pytest.fixture
def album(node: NodeDriver, corral: Corral, theirs: NodeQueue) -> NodeQueue:
    """The parents' queue, known to both."""
    declare(corral, PARENT)
    return NodeQueue(node, theirs.prefix, PARENT)


def _node_flow(children: list[dict[str, Any]], **opts: Any) -> dict[str, Any]:
    return {
        "name": PARENT,
        "queueName": PARENT,
        "data": {"act": "children"},
        "opts": opts,
        "children": [{"name": QUEUE, "queueName": QUEUE, **child} for child in children],
    }


class TestNodeAdds:
    async def test_children_in_corral_and_parent_in_node(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        added = await theirs("addFlow", flow=_node_flow([{"data": {"n": n}} for n in range(3)]))
        assert (await corral.get_job_status(PARENT, added["id"])).state is JobState.WAITING_CHILDREN
        await album.worker()
        async with corral_worker(corral):
            outcome = await album.result(added["id"])
        values = outcome["value"]["children"].values()
        assert sorted(value["n"] for value in values) == [0, 1, 2]
        assert {value["by"] for value in values} == {"corral"}
        assert outcome["value"]["by"] == "node"

    async def test_children_in_node_and_parent_in_corral(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        added = await theirs("addFlow", flow=_node_flow([{"data": {"n": n}} for n in range(3)]))
        await theirs.worker()
        async with corral_worker(corral, PARENT):
            outcome = await album.result(added["id"])
        assert outcome["value"]["by"] == "corral"
        keys = {f"{theirs.prefix}:{QUEUE}:{child['id']}" for child in added["children"]}
        assert set(outcome["value"]["children"]) == keys
        assert {value["by"] for value in outcome["value"]["children"].values()} == {"node"}

    async def test_a_child_that_fails_in_corral_fails_its_parent(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        child = {"data": {"act": "fail"}, "opts": {"failParentOnFailure": True}}
        added = await theirs("addFlow", flow=_node_flow([child, {"data": {}}]))
        await album.worker()
        async with corral_worker(corral):
            outcome = await album.result(added["id"])
        assert "failed" in outcome["error"]
        assert (await corral.get_job_status(PARENT, added["id"])).state is JobState.FAILED

    async def test_a_failed_child_that_is_ignored_is_told_to_its_parent(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        child = {"data": {"act": "fail", "message": "bad"}, "opts": {"ignoreDependencyOnFailure": True}}
        added = await theirs("addFlow", flow=_node_flow([child, {"data": {"n": 1}}]))
        await album.worker()
        async with corral_worker(corral):
            outcome = await album.result(added["id"])
        assert list(outcome["value"]["ignored"].values()) == ["RuntimeError: bad"]
        assert [value["n"] for value in outcome["value"]["children"].values()] == [1]


class TestCorralAdds:
    def _flow(self, *children: Flow) -> Flow:
        return Flow(job_type=PARENT, data={"act": "children"}, children=children, options={"attempts": 1})

    def _child(self, data: dict[str, Any], **options: Any) -> Flow:
        return Flow(job_type=QUEUE, data=data, options={"attempts": 1, **options})

    async def test_children_in_node_and_parent_in_corral(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        added = await corral.add_flow(self._flow(*(self._child({"n": n}) for n in range(3))))
        assert (await album.job(added.job.id))["state"] == "waiting-children"
        assert (await album("dependencies", job=added.job.id))["unprocessed"] == 3
        await theirs.worker()
        async with corral_worker(corral, PARENT):
            result = await corral.wait_for_result(added.job, timeout=PATIENCE)
        assert result["by"] == "corral"
        assert sorted(value["n"] for value in result["children"].values()) == [0, 1, 2]
        assert {value["by"] for value in result["children"].values()} == {"node"}

    async def test_children_in_corral_and_parent_in_node(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        added = await corral.add_flow(self._flow(*(self._child({"n": n}) for n in range(3))))
        child = await theirs.job(added.children[0].job.id)
        assert child["parentKey"] == f"{theirs.prefix}:{PARENT}:{added.job.id}"
        await album.worker()
        async with corral_worker(corral):
            result = await corral.wait_for_result(added.job, timeout=PATIENCE)
        assert result["by"] == "node"
        assert {value["by"] for value in result["children"].values()} == {"corral"}

    async def test_a_child_that_fails_in_node_fails_its_parent(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        child = self._child({"act": "fail"}, on_failure=ChildFailure.FAIL_PARENT)
        added = await corral.add_flow(self._flow(child, self._child({})))
        await theirs.worker()
        async with corral_worker(corral, PARENT):
            with pytest.raises(JobFailed, match="failed"):
                await corral.wait_for_result(added.job, timeout=PATIENCE)
        assert (await album.job(added.job.id))["state"] == "failed"

    async def test_a_failed_child_that_is_ignored_is_told_to_its_parent(
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue
    ) -> None:
        child = self._child({"act": "fail", "message": "bad"}, on_failure=ChildFailure.IGNORE)
        added = await corral.add_flow(self._flow(child, self._child({"n": 1})))
        await theirs.worker()
        async with corral_worker(corral, PARENT):
            result = await corral.wait_for_result(added.job, timeout=PATIENCE)
        assert list(result["ignored"].values()) == ["bad"]
        assert [value["n"] for value in result["children"].values()] == [1]

    async def test_grandchildren(self, corral: Corral, theirs: NodeQueue, album: NodeQueue) -> None:
        inner = Flow(job_type=PARENT, data={"act": "children"}, children=(self._child({"n": 7}),))
        added = await corral.add_flow(self._flow(inner))
        await theirs.worker()
        async with corral_worker(corral, PARENT):
            result = await corral.wait_for_result(added.job, timeout=PATIENCE)
        (middle,) = result["children"].values()
        (leaf,) = middle["children"].values()
        assert (middle["by"], leaf) == ("corral", {"by": "node", "n": 7})


#: What Node calls each policy.
POLICIES = {
    ChildFailure.WAIT: {},
    ChildFailure.FAIL_PARENT: {"failParentOnFailure": True},
    ChildFailure.CONTINUE_PARENT: {"continueParentOnFailure": True},
    ChildFailure.IGNORE: {"ignoreDependencyOnFailure": True},
    ChildFailure.REMOVE: {"removeDependencyOnFailure": True},
}


class TestFailurePolicies:
    """Of two children one fails; the other waits until it is seen what that did to the parent."""

    @pytest.fixture(params=["corral", "node"])
    def producer(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    async def _add(self, corral: Corral, theirs: NodeQueue, policy: ChildFailure, producer: str) -> list[str]:
        """The parent's id, the failing child's, and the late one's."""
        failing, late = {"act": "fail", "message": "bad"}, {"n": 1}
        if producer == "node":
            tree: list[dict[str, Any]] = [
                {"data": failing, "opts": POLICIES[policy]},
                {"data": late, "opts": {"delay": 60_000}},
            ]
            added = await theirs("addFlow", flow=_node_flow(tree))
            return [added["id"], *(child["id"] for child in added["children"])]
        first = Flow(job_type=QUEUE, data=failing, options={"attempts": 1, "on_failure": policy})
        second = Flow(job_type=QUEUE, data=late, options={"delay": timedelta(minutes=1)})
        options = {"attempts": 1}
        flow = await corral.add_flow(
            Flow(job_type=PARENT, data={"act": "children"}, children=(first, second), options=options)
        )
        return [flow.job.id, *(child.job.id for child in flow.children)]

    @pytest.mark.parametrize("worker", ["corral", "node"])
    @pytest.mark.parametrize("policy", list(ChildFailure))
    async def test_what_a_failed_child_does_to_its_parent(  # noqa: PLR0917 - fixtures, all named
        self, corral: Corral, theirs: NodeQueue, album: NodeQueue, policy: ChildFailure, worker: str, producer: str
    ) -> None:
        parent, *children = await self._add(corral, theirs, policy, producer)
        async with AsyncExitStack() as stack:
            if worker == "corral":
                await stack.enter_async_context(corral_worker(corral, QUEUE, PARENT))
            else:
                await theirs.worker()
                await album.worker()
            assert "bad" in (await theirs.result(children[0]))["error"]
            if policy is ChildFailure.FAIL_PARENT:
                assert "failed" in (await album.result(parent))["error"]
                return
            if policy is ChildFailure.CONTINUE_PARENT:
                # It started, with the other child still to come: so it can't be completed, in either language.
                error = (await album.result(parent))["error"]
                assert "pending dependencies" in error or "children that have not ended" in error
                return
            assert (await album.job(parent))["state"] == "waiting-children"
            await corral.promote_job(QUEUE, children[1])
            assert (await theirs.result(children[1]))["value"]["n"] == 1
            if policy is ChildFailure.WAIT:
                assert (await album.job(parent))["state"] == "waiting-children"
                await corral.remove_job(QUEUE, children[0])
            value = (await album.result(parent))["value"]
            assert [child["n"] for child in value["children"].values()] == [1]
            assert len(value["ignored"]) == (1 if policy is ChildFailure.IGNORE else 0)

"""A step is polled until it ends, and again afterwards."""

import pytest
from conftest import ADDRESSES, RESULTS, SDKS, AsyncOpenAI, OpenAI, Portkey, step


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
def test_a_live_step_is_fetched_each_time_and_a_final_one_once(sdk, upstream, ids, status):
    upstream.script(ids.path, step("in_progress"), step("in_progress"), step(status))
    assert [sdk.retrieve(ids).status for _ in range(3)] == ["in_progress", "in_progress", status]
    fetched = sdk.retrieve(ids)
    for _ in range(3):
        assert sdk.retrieve(ids).model_dump() == fetched.model_dump()
    assert fetched.id == ids.step
    assert upstream.count(ids.path) == 3


def test_what_a_step_includes_is_another_answer(sdk, upstream, ids):
    def results(answer):
        [call] = answer.step_details.tool_calls
        [found] = call.file_search.results
        return found.content

    upstream.script(ids.path, step("completed"))
    for _ in range(2):
        assert results(sdk.retrieve(ids)) is None
        [text] = results(sdk.retrieve(ids, include=[RESULTS]))
        assert text.text == "Grüße, 世界 \u2028 ↯"
    first, second = upstream.requests(ids.path)
    assert "include" not in first["target"]
    assert "include" in second["target"]


def test_a_list_is_fetched_each_time_with_its_query(sdk, upstream, ids):
    def page(*statuses):
        data = [{"id": f"step_{s}", "object": "thread.run.step", "status": s} for s in statuses]
        return {"json": {"object": "list", "data": data, "first_id": None, "last_id": None, "has_more": False}}

    upstream.script(ids.list, page("completed", "in_progress"), page("completed", "completed"))
    for expected in (["completed", "in_progress"], ["completed", "completed"]):
        found = sdk.list(ids, limit=2, order="asc", include=[RESULTS])
        assert [one.status for one in found] == expected
    for asked in upstream.requests(ids.list):
        assert "limit=2" in asked["target"]
        assert "order=asc" in asked["target"]
        assert "include" in asked["target"]


def test_the_pages_of_a_list_are_followed(raw_sdk, upstream, ids):
    def page(name, more):
        data = [{"id": name, "object": "thread.run.step", "status": "completed"}]
        return {"json": {"object": "list", "data": data, "first_id": name, "last_id": name, "has_more": more}}

    upstream.script(ids.list, page("step_1", True), page("step_2", False))
    assert [one.id for one in raw_sdk.list(ids, limit=1)] == ["step_1", "step_2"]
    assert ["after=step_1" in asked["target"] for asked in upstream.requests(ids.list)] == [False, True]


def test_the_headers_tell_a_fetch_from_memory(raw_sdk, upstream, ids):
    upstream.script(ids.path, step("in_progress"), step("completed"))
    live, fetched, stored = (raw_sdk.raw(ids) for _ in range(3))

    assert live.headers["cache-status"] == "stepgate; fwd=uri-miss; fwd-status=200; detail=not_final"
    assert live.headers["cache-control"] == "no-store"
    assert live.headers["x-request-id"] == "req_1"

    assert fetched.headers["cache-status"] == "stepgate; fwd=uri-miss; fwd-status=200; stored"
    assert fetched.headers["x-request-id"] == "req_2"
    assert "age" not in fetched.headers

    assert stored.headers["cache-status"].startswith("stepgate; hit; ttl=")
    assert int(stored.headers["age"]) >= 0
    assert "x-request-id" not in stored.headers
    assert stored.headers["etag"] == fetched.headers["etag"] != live.headers["etag"]
    assert stored.content == fetched.content != live.content
    for answer in (live, fetched, stored):
        assert answer.headers["content-type"] == "application/json"
        assert "set-cookie" not in answer.headers


def test_a_caller_may_ask_past_memory(raw_sdk, upstream, ids):
    upstream.script(ids.path, step("completed"))
    raw_sdk.retrieve(ids)
    again = raw_sdk.raw(ids, extra_headers={"Cache-Control": "no-cache"})
    assert again.headers["cache-status"].startswith("stepgate; fwd=request; fwd-status=200")
    assert upstream.count(ids.path) == 2


def test_a_caller_may_wait_for_the_end(raw_sdk, upstream, ids):
    pace = {"openai-poll-after-ms": "1"}
    upstream.script(ids.path, step("in_progress", headers=pace), step("in_progress", headers=pace), step("failed"))
    answer = raw_sdk.raw(ids, extra_headers={"Prefer": "wait=30"})
    assert answer.parse().status == "failed"
    assert answer.headers["preference-applied"] == "wait=30"
    assert upstream.count(ids.path) == 3


def test_many_pollers_share_fetches(listener, build, upstream, ids):
    sdk = build(AsyncOpenAI, listener)
    upstream.script(ids.path, step("in_progress"))
    found = sdk.retrieve_at_once(ids, 50)
    assert [one.status for one in found] == ["in_progress"] * 50
    # One at once, then ten a second for as long as the SDK takes to ask; one more for a late start.
    first, *more = (asked["at"] for asked in upstream.requests(ids.path))
    assert len(more) <= 10 * (more[-1] - first) + 1


def test_what_ends_for_one_sdk_is_in_memory_for_all(build, listener, upstream, ids):
    upstream.script(ids.path, step("completed"))
    for kind in SDKS:
        assert build(kind, listener).retrieve(ids).status == "completed"
    assert upstream.count(ids.path) == 1


@pytest.mark.parametrize(
    ("kind", "base_url", "key"),
    [(OpenAI, "OPENAI_BASE_URL", "OPENAI_API_KEY"), (Portkey, "PORTKEY_PROXY", "PORTKEY_API_KEY")],
)
def test_the_environment_is_enough(kind, base_url, key, monkeypatch, upstream, ids):
    monkeypatch.setenv(base_url, ADDRESSES["open"]["url"])
    monkeypatch.setenv(key, "unused")
    upstream.script(ids.path, step("completed"))
    steps = kind.client_class().beta.threads.runs.steps
    assert steps.retrieve(thread_id=ids.thread, run_id=ids.run, step_id=ids.step).status == "completed"

"""A real Portkey gateway as the upstream: SDK, stepgate, Portkey, provider."""

import pytest
from conftest import RESULTS, AsyncOpenAI, AsyncPortkey, OpenAI, Portkey, failure, step


@pytest.fixture
def sdk(kind, build):
    return build(kind, "portkey")


@pytest.fixture(params=[OpenAI, AsyncOpenAI], ids=lambda kind: kind.__name__)
def raw_sdk(request, build):
    return build(request.param, "portkey")


def test_a_live_step_is_fetched_each_time_and_a_final_one_once(sdk, upstream, ids):
    upstream.script(ids.path, step("in_progress"), step("completed"))
    statuses = [sdk.retrieve(ids, include=[RESULTS]).status for _ in range(4)]
    assert statuses == ["in_progress", "completed", "completed", "completed"]
    assert ["include" in asked["target"] for asked in upstream.requests(ids.path)] == [True, True]


def test_a_list_is_fetched_each_time(sdk, upstream, ids):
    page = {"object": "list", "data": [{"id": "step_1"}], "first_id": None, "last_id": None, "has_more": False}
    upstream.script(ids.list, {"json": page})
    for _ in range(2):
        assert [one.id for one in sdk.list(ids, limit=7)] == ["step_1"]
    assert ["limit=7" in asked["target"] for asked in upstream.requests(ids.list)] == [True, True]


def test_the_provider_gets_the_injected_key_and_no_other(kind, build, upstream, ids):
    upstream.script(ids.path, step("completed"))
    build(kind, "portkey", key="unused-but-recognisable").retrieve(ids)
    [asked] = upstream.requests(ids.path)
    keys = [value for name, value in asked["headers"] if name == "authorization"]
    assert keys == ["Bearer canary-provider-key"]
    assert dict(asked["headers"])["openai-beta"] == "assistants=v2"
    assert "unused" not in str(asked["headers"])


@pytest.mark.parametrize("kind", [Portkey, AsyncPortkey])
def test_a_caller_does_not_choose_the_provider(kind, build, upstream, ids):
    # Where Portkey would find nobody.
    sdk = build(kind, "portkey", custom_host="http://127.0.0.1:9/v1", provider="anthropic")
    upstream.script(ids.path, step("completed"))
    assert sdk.retrieve(ids).status == "completed"
    assert upstream.count(ids.path) == 1


def test_portkeys_headers_reach_the_caller_of_a_fetch_alone(raw_sdk, upstream, ids):
    upstream.script(ids.path, step("completed"))
    fetched, stored = raw_sdk.raw(ids), raw_sdk.raw(ids)
    assert fetched.headers["x-portkey-provider"] == "openai"
    assert fetched.headers["x-portkey-cache-status"] == "DISABLED"
    assert fetched.headers["x-portkey-retry-attempt-count"] == "0"
    assert fetched.headers["cache-status"] == "stepgate; fwd=uri-miss; fwd-status=200; stored"
    assert not [name for name in stored.headers if name.startswith("x-portkey-")]
    assert stored.content == fetched.content


@pytest.mark.parametrize("kind", [Portkey, AsyncPortkey])
def test_portkeys_sdk_finds_portkeys_headers(kind, build, upstream, ids):
    upstream.script(ids.path, step("in_progress"))
    headers = build(kind, "portkey").retrieve(ids).get_headers()
    assert headers["provider"] == "openai"
    assert headers["cache-status"] == "DISABLED"


@pytest.mark.parametrize(
    ("status", "name"),
    [(401, "AuthenticationError"), (404, "NotFoundError"), (429, "RateLimitError"), (500, "InternalServerError")],
)
def test_an_error_of_the_provider_is_the_sdks_own(sdk, upstream, ids, status, name):
    upstream.script(ids.path, failure(status, retry_after_ms=1))
    with pytest.raises(getattr(sdk.errors, name)) as caught:
        sdk.retrieve(ids)
    assert caught.value.code == "of_the_upstream"
    assert upstream.count(ids.path) == 1 + sdk.retries * (status in sdk.retried)
    upstream.script(ids.path, step("completed"))
    assert sdk.retrieve(ids).status == "completed"


def test_an_answer_that_breaks_off_is_an_error_and_not_stored(sdk, upstream, ids):
    upstream.script(ids.path, step("completed", cut=True))
    with pytest.raises(sdk.errors.InternalServerError) as caught:
        sdk.retrieve(ids)
    assert caught.value.status_code == 502
    assert caught.value.code == "upstream_invalid"
    assert upstream.count(ids.path) == 1 + sdk.retries
    upstream.script(ids.path, step("completed"))
    assert sdk.retrieve(ids).id == ids.step

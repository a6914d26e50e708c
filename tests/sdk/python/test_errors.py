"""What goes wrong reaches the caller as the SDK's own exception, after the SDK's own retries."""

from dataclasses import replace

import pytest
from conftest import AsyncOpenAI, Ids, OpenAI, failure, step

CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
}


def error_class(sdk, name):
    return getattr(sdk.errors, name)


@pytest.mark.parametrize("status", CLASSES)
def test_an_upstream_error_is_the_sdks_own(sdk, upstream, ids, status):
    upstream.script(ids.path, failure(status), step("completed"))
    with pytest.raises(error_class(sdk, CLASSES[status])) as caught:
        sdk.retrieve(ids)
    assert caught.value.status_code == status
    assert caught.value.code == "of_the_upstream"
    assert f"upstream says {status}" in caught.value.message
    assert caught.value.request_id == "req_1"
    assert upstream.count(ids.path) == 1
    # An error is not stored.
    assert sdk.retrieve(ids).status == "completed"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_tried_again(sdk, upstream, ids, status):
    upstream.script(ids.path, failure(status, retry_after_ms=1), step("completed"))
    if status in sdk.retried:
        assert sdk.retrieve(ids).status == "completed"
        assert upstream.count(ids.path) == 2
    else:
        with pytest.raises(error_class(sdk, "APIStatusError")):
            sdk.retrieve(ids)
        assert upstream.count(ids.path) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_does_not_pass_ends_as_an_exception(sdk, upstream, ids, status):
    upstream.script(ids.path, failure(status, retry_after_ms=1))
    name = "RateLimitError" if status == 429 else "InternalServerError"
    with pytest.raises(error_class(sdk, name)) as caught:
        sdk.retrieve(ids)
    assert caught.value.code == "of_the_upstream"
    assert upstream.count(ids.path) == 1 + sdk.retries * (status in sdk.retried)


def test_a_rate_limit_is_waited_for_as_upstream_said(raw_sdk, upstream, ids):
    upstream.script(ids.path, failure(429, retry_after_ms=1200), step("completed"))
    assert raw_sdk.retrieve(ids).status == "completed"
    # Without being told, an SDK would be back after half a second.
    first, second = upstream.requests(ids.path)
    assert second["at"] - first["at"] >= 1.2


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI])
def test_a_rate_limit_of_one_step_spares_upstream_the_others(kind, build, upstream, counter):
    # An account of its own: the others' tests are not to be held.
    key = "canary-search-token"
    limited, other = Ids.fresh(), Ids.fresh()
    upstream.script(limited.path, failure(429, retry_after_ms=2000))
    upstream.script(other.path, step("completed"))
    held = counter("clients", "rate_limited")
    with pytest.raises(kind.errors.RateLimitError):
        build(kind, "clients", key, max_retries=0).retrieve(limited)
    # It is told to wait, does, and asks again: only then is there a fetch.
    assert build(kind, "clients", key).retrieve(other).status == "completed"
    assert held.more() == 1
    [first], [second] = upstream.requests(limited.path), upstream.requests(other.path)
    assert second["at"] - first["at"] >= 2


def test_upstream_says_whether_to_try_again(raw_sdk, upstream, ids):
    upstream.script(ids.path, failure(500, x_should_retry="false"))
    with pytest.raises(error_class(raw_sdk, "InternalServerError")):
        raw_sdk.retrieve(ids)
    assert upstream.count(ids.path) == 1

    upstream.script(ids.path, failure(400, x_should_retry="true", retry_after_ms=1), step("completed"))
    assert raw_sdk.retrieve(ids).status == "completed"
    assert upstream.count(ids.path) == 3


def test_an_error_in_portkeys_words_is_parsed(sdk, upstream, ids):
    upstream.script(ids.path, {"status": 401, "json": {"status": "failure", "message": "expired key"}})
    with pytest.raises(error_class(sdk, "AuthenticationError")) as caught:
        sdk.retrieve(ids)
    assert "expired key" in caught.value.message


def test_another_path_says_that_no_rule_is_for_it(sdk, upstream):
    with pytest.raises(error_class(sdk, "NotFoundError")) as caught:
        sdk.models()
    assert caught.value.code == "route_not_found"
    assert "forward" in caught.value.message
    assert upstream.count("/v1/models") == 0


def test_an_id_that_is_none_is_refused(sdk, ids):
    for wrong in ("step.1", "step 1", "s" * 129, "schritt_ü"):
        with pytest.raises(error_class(sdk, "BadRequestError")) as caught:
            sdk.retrieve(replace(ids, step=wrong))
        assert caught.value.code == "invalid_path"
        assert caught.value.message


def test_an_unknown_token_is_refused_once(kind, build, upstream, ids, counter):
    sdk = build(kind, "clients", key="nobodys-token")
    refused = counter("clients", "rejected")
    with pytest.raises(error_class(sdk, "AuthenticationError")) as caught:
        sdk.retrieve(ids)
    assert caught.value.code == "unauthorized"
    assert "nobodys-token" not in caught.value.message
    assert refused.more() == 1
    assert upstream.count(ids.path) == 0


def test_an_upstream_that_is_down_is_a_server_error(kind, build, ids, counter):
    sdk = build(kind, "alone")
    failed = counter("alone", "error")
    with pytest.raises(error_class(sdk, "InternalServerError")) as caught:
        sdk.retrieve(ids)
    assert caught.value.status_code == 502
    assert caught.value.code == "upstream_unreachable"
    assert caught.value.message
    assert failed.more() == 1 + sdk.retries


def test_an_upstream_that_says_nothing_is_a_timeout(kind, build, upstream, ids):
    sdk = build(kind, "impatient")
    upstream.script(ids.path, {"stall": True})
    with pytest.raises(error_class(sdk, "InternalServerError")) as caught:
        sdk.retrieve(ids)
    assert caught.value.status_code == 504
    assert caught.value.code == "upstream_timeout"
    assert upstream.count(ids.path) == 1 + sdk.retries


def test_an_answer_that_breaks_off_is_tried_again(sdk, upstream, ids):
    upstream.script(ids.path, step("completed", cut=True), step("completed"))
    assert sdk.retrieve(ids).status == "completed"
    assert upstream.count(ids.path) == 2


def test_only_from_memory_means_never_a_fetch(raw_sdk, listener, upstream, ids, counter):
    upstream.script(ids.path, step("completed"))
    refused = counter(listener, "rejected")
    with pytest.raises(error_class(raw_sdk, "InternalServerError")) as caught:
        raw_sdk.raw(ids, extra_headers={"Cache-Control": "only-if-cached"})
    assert caught.value.status_code == 504
    assert caught.value.code == "not_cached"
    # Told not to, it does not try again.
    assert refused.more() == 1
    assert upstream.count(ids.path) == 0

    raw_sdk.retrieve(ids)
    assert raw_sdk.raw(ids, extra_headers={"Cache-Control": "only-if-cached"}).parse().id == ids.step

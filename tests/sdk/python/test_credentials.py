"""Credentials stay on their side: an SDK's go no further than stepgate, and what is injected is there once."""

import pytest
from conftest import SDKS, AsyncPortkey, Portkey, step

INJECTED = {
    "openai-beta": "assistants=v2",
    "x-portkey-api-key": "canary-portkey-key",
    "x-portkey-cache-force-refresh": "true",
    "x-portkey-virtual-key": "canary-virtual-key",
}

# What goes up besides: the rest of a caller's headers stays behind.
PASSING = {"accept", "accept-encoding", "host", "user-agent"}


def headers(upstream, ids):
    """Of the one request for that step."""
    [asked] = upstream.requests(ids.path)
    return asked["headers"]


def test_each_injected_header_goes_up_once_and_nothing_of_the_callers(kind, listener, build, upstream, ids):
    # A key that would be told from all else.
    key = "unused-but-recognisable" if listener == "open" else None
    upstream.script(ids.path, step("completed"))
    build(kind, listener, key).retrieve(ids)
    sent = headers(upstream, ids)
    assert sorted(name for name, _ in sent) == sorted([*INJECTED, *PASSING])
    assert {name: value for name, value in sent if name in INJECTED} == INJECTED
    for _, value in sent:
        assert "unused" not in value
        assert "token" not in value


@pytest.mark.parametrize("kind", [Portkey, AsyncPortkey])
def test_what_a_portkey_client_chooses_chooses_nothing(kind, listener, build, upstream, ids):
    sdk = build(
        kind,
        listener,
        virtual_key="callers-virtual-key",
        provider="@callers-provider",
        config="pc-callers-config",
        custom_host="http://127.0.0.1:9/v1",
        Authorization="Bearer canary-billing-token",
    )
    upstream.script(ids.path, step("completed"))
    assert sdk.retrieve(ids).status == "completed"
    sent = headers(upstream, ids)
    assert {name: value for name, value in sent if name.startswith("x-portkey-")} == {
        name: value for name, value in INJECTED.items() if name.startswith("x-portkey-")
    }
    assert "authorization" not in dict(sent)


@pytest.mark.parametrize("kind", SDKS, ids=lambda kind: kind.__name__)
def test_a_client_with_an_account_of_its_own_has_a_cache_of_its_own(kind, build, upstream, ids):
    upstream.script(ids.path, step("completed"))
    for key in ("canary-billing-token", "canary-search-token"):
        for _ in range(2):
            assert build(kind, "clients", key).retrieve(ids).status == "completed"
    keys = [dict(asked["headers"])["x-portkey-virtual-key"] for asked in upstream.requests(ids.path)]
    assert keys == ["canary-virtual-key", "canary-search-virtual-key"]

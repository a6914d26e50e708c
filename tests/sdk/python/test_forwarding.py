"""With `forward = "all"` a whole SDK goes through: runs, streams, uploads, what deletes.

To the scripted upstream, and to it through a real Portkey gateway.
"""

import hashlib
import json

import pytest
from conftest import AsyncOpenAI, OpenAI, failure, step

from upstream import blob


@pytest.fixture(params=["whole", "through"])
def gateway(request):
    return request.param


@pytest.fixture
def sdk(kind, gateway, build):
    return build(kind, gateway, key="unused-but-recognisable")


def run(ids, status):
    return {
        "id": ids.run,
        "object": "thread.run",
        "thread_id": ids.thread,
        "assistant_id": "asst_1",
        "created_at": 1763882400,
        "status": status,
        "instructions": "",
        "model": "gpt-4o",
        "parallel_tool_calls": True,
        "tools": [],
    }


def events_of_a_run(ids):
    events = [(f"thread.run.{status}", run(ids, status)) for status in ("queued", "in_progress", "completed")]
    texts = [f"event: {name}\ndata: {json.dumps(value)}\n\n" for name, value in events]
    return [*texts, "event: done\ndata: [DONE]\n\n"]


def stream_a_run(sdk, upstream, ids):
    """The statuses of the run, each seen before upstream may send the next."""
    runs = f"/v1/threads/{ids.thread}/runs"
    seen = []

    def each(event):
        # Portkey's SDK hands out the lines: the event's name, then its data.
        if isinstance(event, str):
            if not event.startswith("{"):
                return
            seen.append(json.loads(event)["status"])
        else:
            seen.append(event.data.status)
        upstream.release(runs)

    sdk.stream("beta.threads.runs.create", each, thread_id=ids.thread, assistant_id="asst_1")
    return seen


def test_a_run_is_created_and_polled(sdk, upstream, ids):
    runs = f"/v1/threads/{ids.thread}/runs"
    one = f"{runs}/{ids.run}"
    upstream.script(runs, {"json": run(ids, "queued")})
    upstream.script(one, *({"json": run(ids, status)} for status in ("queued", "in_progress", "completed")))
    done = sdk.call(
        "beta.threads.runs.create_and_poll", thread_id=ids.thread, assistant_id="asst_1", poll_interval_ms=1
    )
    assert done.status == "completed"
    assert upstream.count(one) == 3
    [created] = upstream.requests(runs)
    assert created["method"] == "POST"
    assert json.loads(created["body"])["assistant_id"] == "asst_1"
    for asked in [created, *upstream.requests(one)]:
        assert "unused" not in str(asked["headers"])


def test_a_run_is_streamed_event_by_event(sdk, upstream, ids):
    upstream.script(f"/v1/threads/{ids.thread}/runs", {"events": events_of_a_run(ids)})
    assert stream_a_run(sdk, upstream, ids) == ["queued", "in_progress", "completed"]


def test_a_stream_that_breaks_off_does_not_end_as_if_it_were_whole(kind, build, upstream, ids):
    # Not through Portkey, which itself ends such a stream like a whole one.
    sdk = build(kind, "whole")
    events = events_of_a_run(ids)[:2]
    upstream.script(f"/v1/threads/{ids.thread}/runs", {"events": events, "cut": True})
    # Each SDK has another exception for it.
    with pytest.raises(Exception, match="Connection error|peer closed connection"):
        stream_a_run(sdk, upstream, ids)


def test_a_chat_is_streamed_piece_by_piece(sdk, upstream):
    chat = "/v1/chat/completions"

    def piece(text):
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        value = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return f"data: {json.dumps(value)}\n\n"

    seen = []

    def each(event):
        seen.append(event.choices[0].delta.content)
        upstream.release(chat)

    upstream.script(chat, {"events": [piece("How"), piece(" are"), piece(" you?"), "data: [DONE]\n\n"]})
    sdk.stream("chat.completions.create", each, model="m", messages=[{"role": "user", "content": "Hello"}])
    assert seen == ["How", " are", " you?"]


def test_a_file_arrives_as_it_was(sdk, upstream):
    content = blob(4_000_000)
    stored = {"id": "file_1", "object": "file", "bytes": len(content), "created_at": 1, "filename": "any.bin"}
    upstream.script("/v1/files", {"json": stored | {"purpose": "assistants", "status": "processed"}})
    answer = sdk.call("files.create", file=("any.bin", content), purpose="assistants")
    assert answer.id == "file_1"
    parts = upstream.requests("/v1/files")[-1]["parts"]
    assert parts["file"] == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert parts["purpose"]["size"] == len("assistants")


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI])
def test_a_file_comes_back_as_it_was(sdk, upstream, ids):
    name = f"file-{ids.step}"
    upstream.script(f"/v1/files/{name}/content", {"blob": 4_000_000})
    assert sdk.call("files.content", file_id=name).content == blob(4_000_000)


def test_what_a_thread_had_is_forgotten_with_it(sdk, upstream, ids):
    thread = f"/v1/threads/{ids.thread}"
    upstream.script(thread, {"json": {"id": ids.thread, "object": "thread.deleted", "deleted": True}})
    upstream.script(ids.path, step("completed"), failure(404))
    for _ in range(2):
        assert sdk.retrieve(ids).status == "completed"
    assert sdk.call("beta.threads.delete", thread_id=ids.thread).deleted
    with pytest.raises(sdk.errors.NotFoundError):
        sdk.retrieve(ids)
    assert upstream.count(ids.path) == 2


def test_a_thread_that_is_not_deleted_keeps_what_it_had(sdk, upstream, ids):
    upstream.script(f"/v1/threads/{ids.thread}", failure(403))
    upstream.script(ids.path, step("completed"))
    sdk.retrieve(ids)
    with pytest.raises(sdk.errors.PermissionDeniedError) as caught:
        sdk.call("beta.threads.delete", thread_id=ids.thread)
    assert caught.value.code == "of_the_upstream"
    assert sdk.retrieve(ids).status == "completed"
    assert upstream.count(ids.path) == 1

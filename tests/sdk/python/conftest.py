"""The fixtures that `world.py` started, and each SDK behind the same few calls."""

import asyncio
import inspect
import json
import os
import re
import urllib.request
import uuid
from dataclasses import dataclass
from urllib.parse import quote

import openai
import portkey_ai
import pytest

RESULTS = "step_details.tool_calls[*].file_search.results[*].content"

ADDRESSES = json.loads(os.environ["SDK_WORLD"])


def fetch(url, value=None):
    data = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        return answer.read()


class Upstream:
    """Controls the scripted upstream; `upstream.py` documents the requests."""

    def __init__(self):
        self._control = ADDRESSES["upstream"]

    def script(self, path, *answers):
        fetch(f"{self._control}/script", {"path": path, "answers": answers})

    def requests(self, path):
        return json.loads(fetch(f"{self._control}/requests?path={quote(path)}"))

    def count(self, path):
        return len(self.requests(path))

    def release(self, path):
        fetch(f"{self._control}/release?path={quote(path)}", {})


def step(status, **more):
    return {"step": status, **more}


def failure(status, code="of_the_upstream", **headers):
    """Returns an OpenAI error. `retry_after_ms` becomes the header `retry-after-ms`."""
    error = {"message": f"upstream says {status}", "type": "a_type", "param": None, "code": code}
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return {"status": status, "headers": named, "json": {"error": error}}


@dataclass(frozen=True)
class Ids:
    """The ids of a step that no other test requests."""

    thread: str
    run: str
    step: str

    @staticmethod
    def fresh():
        word = uuid.uuid4().hex
        return Ids(f"thread_{word}", f"run_{word}", f"step_{word}")

    @property
    def list(self):
        return f"/v1/threads/{self.thread}/runs/{self.run}/steps"

    @property
    def path(self):
        return f"{self.list}/{self.step}"


class Sdk:
    """One SDK, sync or async, behind the same few calls.

    `errors` has its exceptions, `retried` the statuses that it retries by itself, and `retries` how often.
    """

    errors = openai
    retried = {408, 409, 429, 500, 502, 503, 504}
    retries = 2
    client_class: type

    def __init__(self, base_url, key, **options):
        self._runner = asyncio.Runner()
        self.client = self.client_class(base_url=base_url, api_key=key, **options)

    def _done(self, answer):
        """Returns the result of a call, async or not."""
        if not inspect.iscoroutine(answer):
            return answer
        return self._runner.run(answer)

    def retrieve(self, ids, **options):
        steps = self.client.beta.threads.runs.steps
        return self._done(steps.retrieve(thread_id=ids.thread, run_id=ids.run, step_id=ids.step, **options))

    def list(self, ids, **options):
        """Returns all steps, over all pages."""
        answer = self.client.beta.threads.runs.steps.list(ids.run, thread_id=ids.thread, **options)
        if not hasattr(answer, "__aiter__"):
            return list(answer)

        async def all_pages():
            return [found async for found in answer]

        return self._runner.run(all_pages())

    def call(self, method, **options):
        """Makes any other call, by its dotted name."""
        found = self.client
        for name in method.split("."):
            found = getattr(found, name)
        return self._done(found(**options))

    def stream(self, method, each, **options):
        """Makes a call that streams, and calls `each` with every event as it comes."""
        events = self.call(method, stream=True, **options)
        if not hasattr(events, "__aiter__"):
            for event in events:
                each(event)
            return

        async def all_events():
            async for event in events:
                each(event)

        self._runner.run(all_events())

    def close(self):
        self._done(self.client.close())
        self._runner.close()


class OpenAI(Sdk):
    client_class = openai.OpenAI

    def raw(self, ids, **options):
        steps = self.client.beta.threads.runs.steps.with_raw_response
        return self._done(steps.retrieve(ids.step, thread_id=ids.thread, run_id=ids.run, **options))

    def models(self):
        return self._done(self.client.get("/models", cast_to=object))


class AsyncOpenAI(OpenAI):
    client_class = openai.AsyncOpenAI

    def retrieve_at_once(self, ids, times):
        steps = self.client.beta.threads.runs.steps

        async def all_of_them():
            calls = (steps.retrieve(ids.step, thread_id=ids.thread, run_id=ids.run) for _ in range(times))
            return await asyncio.gather(*calls)

        return self._runner.run(all_of_them())


class Portkey(Sdk):
    """Portkey's SDK retries after a 5xx only, whatever `x-should-retry` says."""

    errors = portkey_ai.openai
    retried = {500, 502, 503, 504}
    retries = 1
    client_class = portkey_ai.Portkey

    def list(self, ids, **options):
        """Returns the steps of the only page."""
        page = self._done(self.client.beta.threads.runs.steps.list(ids.run, thread_id=ids.thread, **options))
        return page.data

    def models(self):
        return self._done(self.client.models.list())

    def close(self):
        self._done(self.client.openai_client.close())
        self._runner.close()


class AsyncPortkey(Portkey):
    client_class = portkey_ai.AsyncPortkey


SDKS = [OpenAI, AsyncOpenAI, Portkey, AsyncPortkey]

# The key of an SDK at each listener: any word, or a configured client's token.
KEYS = {"open": "unused", "clients": "canary-billing-token"}


@pytest.fixture
def upstream():
    return Upstream()


@pytest.fixture
def ids():
    return Ids.fresh()


@pytest.fixture(scope="session")
def build():
    """Builds SDK clients, one for each set of arguments, and closes them at the end."""
    built = {}

    def make(kind, gateway, key=None, **options):
        given = (kind, gateway, key, *options.items())
        if given not in built:
            built[given] = kind(ADDRESSES[gateway]["url"], key or KEYS.get(gateway, "unused"), **options)
        return built[given]

    yield make
    for made in built.values():
        made.close()


@pytest.fixture(params=SDKS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture(params=KEYS)
def listener(request):
    return request.param


@pytest.fixture
def sdk(kind, listener, build):
    """Returns each SDK, at an open listener and at one with configured clients."""
    return build(kind, listener)


@pytest.fixture(params=[OpenAI, AsyncOpenAI], ids=lambda kind: kind.__name__)
def raw_sdk(request, listener, build):
    """Returns the SDKs that give access to the raw response, and heed its retry headers."""
    return build(request.param, listener)


class Counter:
    """Counts the requests of a gateway with this outcome, from now on."""

    def __init__(self, gateway, outcome):
        self._url = f"{ADDRESSES[gateway]['admin']}/metrics"
        self._line = re.compile(rf'^stepgate_requests_total\{{.*outcome="{outcome}".*\}} (\d+)$', re.M)
        self._before = self._now()

    def _now(self):
        return sum(map(int, self._line.findall(fetch(self._url).decode())))

    def more(self):
        return self._now() - self._before


@pytest.fixture
def counter():
    return Counter

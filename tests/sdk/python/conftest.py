"""The world that `world.py` started, and the SDKs that ask in it."""

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
    """The scripted upstream; `upstream.py` says what it understands."""

    def __init__(self):
        self._orders = ADDRESSES["upstream"]

    def script(self, path, *answers):
        fetch(f"{self._orders}/script", {"path": path, "answers": answers})

    def asked(self, path):
        return json.loads(fetch(f"{self._orders}/asked?path={quote(path)}"))

    def count(self, path):
        return len(self.asked(path))

    def go(self, path):
        fetch(f"{self._orders}/go?path={quote(path)}", {})


def step(status, **more):
    return {"step": status, **more}


def failure(status, code="of_the_upstream", **headers):
    """An OpenAI error; `retry_after_ms` becomes `retry-after-ms`."""
    error = {"message": f"upstream says {status}", "type": "a_type", "param": None, "code": code}
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return {"status": status, "headers": named, "json": {"error": error}}


@dataclass(frozen=True)
class Ids:
    """A step that nobody else asks for."""

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

    `errors` is where its exceptions are, `retried` after which statuses it asks again by itself, `retries`
    how often.
    """

    errors = openai
    retried = {408, 409, 429, 500, 502, 503, 504}
    retries = 2
    client_class: type

    def __init__(self, base_url, key, **options):
        self._runner = asyncio.Runner()
        self.client = self.client_class(base_url=base_url, api_key=key, **options)

    def _done(self, answer):
        """What a call gives, be it async or not."""
        if not inspect.iscoroutine(answer):
            return answer
        return self._runner.run(answer)

    def retrieve(self, ids, **options):
        steps = self.client.beta.threads.runs.steps
        return self._done(steps.retrieve(thread_id=ids.thread, run_id=ids.run, step_id=ids.step, **options))

    def list(self, ids, **options):
        """All steps, over all pages."""
        answer = self.client.beta.threads.runs.steps.list(ids.run, thread_id=ids.thread, **options)
        if not hasattr(answer, "__aiter__"):
            return list(answer)

        async def all_pages():
            return [found async for found in answer]

        return self._runner.run(all_pages())

    def call(self, method, **options):
        """Any other call, by its dotted name."""
        found = self.client
        for name in method.split("."):
            found = getattr(found, name)
        return self._done(found(**options))

    def stream(self, method, each, **options):
        """A call that streams; `each` is called with every event as it comes."""
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
    """Its retries are its own: after a 5xx only, whatever `x-should-retry` says."""

    errors = portkey_ai.openai
    retried = {500, 502, 503, 504}
    retries = 1
    client_class = portkey_ai.Portkey

    def list(self, ids, **options):
        """Its list is one page."""
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

# What an SDK is given as its key: a word, or a client's token.
KEYS = {"open": "unused", "clients": "canary-billing-token"}


@pytest.fixture
def upstream():
    return Upstream()


@pytest.fixture
def ids():
    return Ids.fresh()


@pytest.fixture(scope="session")
def build():
    """Makes SDK clients, one for each set of arguments, and closes them in the end."""
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
    """Each SDK, at an open listener and at one that knows its clients."""
    return build(kind, listener)


@pytest.fixture(params=[OpenAI, AsyncOpenAI], ids=lambda kind: kind.__name__)
def raw_sdk(request, listener, build):
    """Those that show an answer as it came, and heed what it says about retries."""
    return build(request.param, listener)


class Counter:
    """How many requests a gateway has answered since, or with this outcome."""

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

// The fixtures that `world.py` started, and each SDK behind the same few calls.
import { randomUUID } from "node:crypto";

import OpenAI from "openai";
import { Portkey } from "portkey-ai";

export const RESULTS = "step_details.tool_calls[*].file_search.results[*].content";

export const addresses = JSON.parse(process.env.SDK_WORLD);

// Controls the scripted upstream; `upstream.py` documents the requests.
const control = async (target, value) => {
  const options = value && { method: "POST", body: JSON.stringify(value) };
  const answer = await fetch(addresses.upstream + target, options);
  return answer.status === 200 ? answer.json() : undefined;
};

export const script = (path, ...answers) => control("/script", { path, answers });
export const requests = (path) => control(`/requests?path=${encodeURIComponent(path)}`);
export const count = async (path) => (await requests(path)).length;
export const release = (path) => control(`/release?path=${encodeURIComponent(path)}`, {});

export const step = (status, more) => ({ step: status, ...more });

// Returns an OpenAI error.
export const failure = (status, headers = {}) => ({
  status,
  headers,
  json: {
    error: { message: `upstream says ${status}`, type: "a_type", param: null, code: "of_the_upstream" },
  },
});

// Returns the number of requests that a gateway answers with this outcome during a call.
export async function counted(gateway, outcome, during) {
  const now = async () => {
    const text = await (await fetch(`${addresses[gateway].admin}/metrics`)).text();
    const lines = text.matchAll(/^stepgate_requests_total\{.*outcome="(\w+)".*\} (\d+)$/gm);
    return [...lines].filter(([, found]) => found === outcome).reduce((sum, [, , n]) => sum + +n, 0);
  };
  const before = await now();
  await during();
  return (await now()) - before;
}

// Returns the ids of a step that no other test requests.
export function fresh(id) {
  const word = randomUUID();
  const ids = { thread: `thread_${word}`, run: `run_${word}`, step: id ?? `step_${word}` };
  ids.list = `/v1/threads/${ids.thread}/runs/${ids.run}/steps`;
  ids.path = `${ids.list}/${ids.step}`;
  return ids;
}

// Each SDK behind the same few calls. `retried` has the statuses that it retries by itself, and `retries`
// how often.
const openai = {
  name: "openai",
  retried: [408, 409, 429, 500, 502, 503, 504],
  retries: 2,
  build: (options) => new OpenAI(options),
  retrieve: (client, ids, include, options) =>
    client.beta.threads.runs.steps.retrieve(
      ids.step,
      { thread_id: ids.thread, run_id: ids.run, ...(include && { include }) },
      options,
    ),
  list: async (client, ids, query) => {
    const found = [];
    const pages = client.beta.threads.runs.steps.list(ids.run, { thread_id: ids.thread, ...query });
    for await (const one of pages) found.push(one);
    return found;
  },
};

// Portkey's SDK retries after a 5xx only, whatever `x-should-retry` says. It has no parameter for `include`,
// but options that it passes on. Its list is one page.
const portkey = {
  name: "portkey-ai",
  retried: [500, 502, 503, 504],
  retries: 1,
  build: (options) => new Portkey(options),
  retrieve: (client, ids, include, options) =>
    client.beta.threads.runs.steps.retrieve(
      ids.step,
      { thread_id: ids.thread, run_id: ids.run },
      undefined,
      { ...options, ...(include && { query: { include } }) },
    ),
  list: async (client, ids, query) =>
    (await client.beta.threads.runs.steps.list(ids.run, { thread_id: ids.thread, ...query })).data,
};

export const kinds = { openai, portkey };

// The key of an SDK at each listener: any word, or a configured client's token.
const keys = { open: "unused", clients: "canary-billing-token" };

// Returns an SDK's client of a gateway, with the calls bound to it.
export function sdk(kind, gateway, options = {}) {
  const given = { baseURL: addresses[gateway].url, apiKey: keys[gateway] ?? "unused", ...options };
  const client = kind.build(given);
  return {
    ...kind,
    client,
    name: `${kind.name} (${gateway})`,
    retrieve: (...rest) => kind.retrieve(client, ...rest),
    list: (...rest) => kind.list(client, ...rest),
    // Returns the raw response.
    raw: async (ids, options) => {
      const response = await kind.retrieve(client, ids, undefined, options).asResponse();
      return { headers: response.headers, text: await response.text() };
    },
  };
}

// Returns each SDK, at an open listener and at one with configured clients.
export const everywhere = (which = Object.values(kinds)) =>
  Object.keys(keys).flatMap((gateway) => which.map((kind) => sdk(kind, gateway)));

// Returns the error that a call throws.
export async function thrown(call) {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

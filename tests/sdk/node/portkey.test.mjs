// A real Portkey gateway as the upstream: SDK, stepgate, Portkey, provider.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RESULTS, count, failure, fresh, kinds, requests, script, sdk, step, thrown } from "./world.mjs";

for (const kind of Object.values(kinds)) {
  const { name, retrieve, retried, retries } = sdk(kind, "portkey");

  test(`${name}: a live step is fetched each time, a final one once`, async () => {
    const ids = fresh();
    await script(ids.path, step("in_progress"), step("completed"));
    for (const status of ["in_progress", "completed", "completed", "completed"]) {
      assert.equal((await retrieve(ids, [RESULTS])).status, status);
    }
    const targets = (await requests(ids.path)).map(({ target }) => target.includes("include"));
    assert.deepEqual(targets, [true, true]);
  });

  test(`${name}: the provider gets the injected key and no other`, async () => {
    const ids = fresh();
    await script(ids.path, step("completed"));
    await sdk(kind, "portkey", { apiKey: "unused-but-recognisable" }).retrieve(ids);
    const [{ headers }] = await requests(ids.path);
    const keys = headers.filter(([name]) => name === "authorization").map(([, value]) => value);
    assert.deepEqual(keys, ["Bearer canary-provider-key"]);
    assert.doesNotMatch(JSON.stringify(headers), /unused/);
  });

  for (const [status, error] of [
    [401, "AuthenticationError"],
    [404, "NotFoundError"],
    [429, "RateLimitError"],
    [500, "InternalServerError"],
  ]) {
    test(`${name}: the provider's ${status} is the SDK's own error`, async () => {
      const ids = fresh();
      await script(ids.path, failure(status, { "retry-after-ms": "1" }));
      const told = await thrown(retrieve(ids));
      assert.equal(told.constructor.name, error);
      assert.equal(told.code, "of_the_upstream");
      assert.equal(await count(ids.path), 1 + (retried.includes(status) ? retries : 0));
    });
  }

  test(`${name}: an answer that breaks off is an error, and not stored`, async () => {
    const ids = fresh();
    await script(ids.path, step("completed", { cut: true }));
    const told = await thrown(retrieve(ids));
    assert.equal(told.status, 502);
    assert.equal(told.code, "upstream_invalid");
    assert.equal(await count(ids.path), 1 + retries);
    await script(ids.path, step("completed"));
    assert.equal((await retrieve(ids)).id, ids.step);
  });
}

test("a caller does not choose the provider", async () => {
  const ids = fresh();
  await script(ids.path, step("completed"));
  // Where Portkey would find nobody.
  const choices = { customHost: "http://127.0.0.1:9/v1", provider: "anthropic" };
  assert.equal((await sdk(kinds.portkey, "portkey", choices).retrieve(ids)).status, "completed");
  assert.equal(await count(ids.path), 1);
});

test("Portkey's headers reach the caller of a fetch alone", async () => {
  const ids = fresh();
  const { raw } = sdk(kinds.openai, "portkey");
  await script(ids.path, step("completed"));
  const [fetched, stored] = [await raw(ids), await raw(ids)];
  assert.equal(fetched.headers.get("x-portkey-provider"), "openai");
  assert.equal(fetched.headers.get("x-portkey-cache-status"), "DISABLED");
  assert.equal(fetched.headers.get("cache-status"), "stepgate; fwd=uri-miss; fwd-status=200; stored");
  assert.deepEqual([...stored.headers.keys()].filter((name) => name.startsWith("x-portkey-")), []);
  assert.equal(stored.text, fetched.text);
});

test("Portkey's SDK finds Portkey's headers", async () => {
  const ids = fresh();
  await script(ids.path, step("in_progress"));
  const headers = (await sdk(kinds.portkey, "portkey").retrieve(ids)).getHeaders();
  assert.equal(headers.provider, "openai");
  assert.equal(headers["cache-status"], "DISABLED");
});

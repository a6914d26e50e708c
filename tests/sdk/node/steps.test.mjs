// A step is polled until it ends, and again afterwards.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RESULTS, addresses, count, everywhere, fresh, kinds, requests, script, step } from "./world.mjs";

for (const sdk of everywhere()) {
  for (const status of ["completed", "failed", "cancelled", "expired"]) {
    test(`${sdk.name}: a live step is fetched each time, one that is ${status} once`, async () => {
      const ids = fresh();
      await script(ids.path, step("in_progress"), step("in_progress"), step(status));
      for (const expected of ["in_progress", "in_progress", status]) {
        assert.equal((await sdk.retrieve(ids)).status, expected);
      }
      for (let again = 0; again < 3; again += 1) {
        const stored = await sdk.retrieve(ids);
        assert.equal(stored.status, status);
        assert.equal(stored.id, ids.step);
      }
      assert.equal(await count(ids.path), 3);
    });
  }

  test(`${sdk.name}: what a step includes is another answer`, async () => {
    const ids = fresh();
    const content = async (include) =>
      (await sdk.retrieve(ids, include)).step_details.tool_calls[0].file_search.results[0].content;
    await script(ids.path, step("completed"));
    for (let again = 0; again < 2; again += 1) {
      assert.equal(await content(), undefined);
      assert.equal((await content([RESULTS]))[0].text, "Grüße, 世界 \u2028 ↯");
    }
    const targets = (await requests(ids.path)).map(({ target }) => target.includes("include"));
    assert.deepEqual(targets, [false, true]);
  });

  test(`${sdk.name}: a list is fetched each time, with its query`, async () => {
    const ids = fresh();
    const page = (...statuses) => ({
      json: {
        object: "list",
        data: statuses.map((status) => ({ id: `step_${status}`, object: "thread.run.step", status })),
        has_more: false,
      },
    });
    await script(ids.list, page("completed", "in_progress"), page("completed", "completed"));
    for (const second of ["in_progress", "completed"]) {
      const found = await sdk.list(ids, { limit: 2, order: "asc", include: [RESULTS] });
      assert.deepEqual(found.map(({ status }) => status), ["completed", second]);
    }
    const listed = await requests(ids.list);
    assert.equal(listed.length, 2);
    for (const { target } of listed) assert.match(target, /limit=2.*order=asc.*include/);
  });
}

for (const sdk of everywhere([kinds.openai])) {
  test(`${sdk.name}: the pages of a list are followed`, async () => {
    const ids = fresh();
    const page = (id, has_more) => ({
      json: { object: "list", data: [{ id, object: "thread.run.step" }], last_id: id, has_more },
    });
    await script(ids.list, page("step_1", true), page("step_2", false));
    assert.deepEqual((await sdk.list(ids, { limit: 1 })).map(({ id }) => id), ["step_1", "step_2"]);
    const after = (await requests(ids.list)).map(({ target }) => target.includes("after=step_1"));
    assert.deepEqual(after, [false, true]);
  });

  test(`${sdk.name}: many pollers share fetches`, async () => {
    const ids = fresh();
    await script(ids.path, step("in_progress"));
    const found = await Promise.all(Array.from({ length: 50 }, () => sdk.retrieve(ids)));
    assert.ok(found.every(({ status }) => status === "in_progress"));
    // One at once, then ten a second for as long as the SDK takes to ask; one more for a late start.
    const [first, ...more] = (await requests(ids.path)).map(({ at }) => at);
    assert.ok(more.length <= 10 * (more.at(-1) - first) + 1, `${more.length} more`);
  });

  test(`${sdk.name}: the headers tell a fetch from memory`, async () => {
    const ids = fresh();
    await script(ids.path, step("in_progress"), step("completed"));
    const [live, fetched, stored] = [await sdk.raw(ids), await sdk.raw(ids), await sdk.raw(ids)];
    const header = (answer, name) => answer.headers.get(name);

    assert.equal(header(live, "cache-status"), "stepgate; fwd=uri-miss; fwd-status=200; detail=not_final");
    assert.equal(header(live, "x-request-id"), "req_1");
    assert.equal(header(fetched, "cache-status"), "stepgate; fwd=uri-miss; fwd-status=200; stored");
    assert.equal(header(fetched, "x-request-id"), "req_2");
    assert.equal(header(fetched, "age"), null);
    assert.match(header(stored, "cache-status"), /^stepgate; hit; ttl=\d+$/);
    assert.match(header(stored, "age"), /^\d+$/);
    assert.equal(header(stored, "x-request-id"), null);
    assert.equal(header(stored, "etag"), header(fetched, "etag"));
    assert.equal(stored.text, fetched.text);
    assert.notEqual(fetched.text, live.text);
  });

  test(`${sdk.name}: a caller may ask past memory, or wait for the end`, async () => {
    const ids = fresh();
    const soon = { headers: { "openai-poll-after-ms": "1" } };
    await script(ids.path, step("in_progress", soon), step("in_progress", soon), step("failed"));
    const waited = await sdk.raw(ids, { headers: { prefer: "wait=30" } });
    assert.equal(JSON.parse(waited.text).status, "failed");
    assert.equal(waited.headers.get("preference-applied"), "wait=30");
    assert.equal(await count(ids.path), 3);

    const again = await sdk.raw(ids, { headers: { "cache-control": "no-cache" } });
    assert.match(again.headers.get("cache-status"), /^stepgate; fwd=request; fwd-status=200/);
    assert.equal(await count(ids.path), 4);
  });
}

for (const [kind, baseURL, key] of [
  [kinds.openai, "OPENAI_BASE_URL", "OPENAI_API_KEY"],
  [kinds.portkey, "PORTKEY_BASE_URL", "PORTKEY_API_KEY"],
]) {
  test(`${kind.name}: the environment is enough`, async () => {
    const ids = fresh();
    await script(ids.path, step("completed"));
    process.env[baseURL] = addresses.open.url;
    process.env[key] = "unused";
    assert.equal((await kind.retrieve(kind.build({}), ids)).status, "completed");
  });
}

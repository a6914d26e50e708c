// What goes wrong reaches the caller as the SDK's own exception, after the SDK's own retries.
import assert from "node:assert/strict";
import { test } from "node:test";

import { count, counted, everywhere, failure, fresh, kinds, requests, script, sdk, step, thrown } from "./world.mjs";

const SOON = { "retry-after-ms": "1" };

const names = {
  400: "BadRequestError",
  401: "AuthenticationError",
  403: "PermissionDeniedError",
  404: "NotFoundError",
  422: "UnprocessableEntityError",
};

// `error` is the SDK's class of that name, with this status and code, and tells something.
function assertError(error, name, status, code) {
  assert.equal(error.constructor.name, name);
  assert.equal(error.status, status);
  assert.equal(error.code, code);
  assert.ok(error.error.message);
}

for (const sdk of everywhere()) {
  for (const [status, name] of Object.entries(names)) {
    test(`${sdk.name}: an upstream ${status} is the SDK's own error`, async () => {
      const ids = fresh();
      await script(ids.path, failure(+status), step("completed"));
      const error = await thrown(sdk.retrieve(ids));
      assertError(error, name, +status, "of_the_upstream");
      assert.match(error.message, new RegExp(`upstream says ${status}`));
      assert.equal(error.requestID, "req_1");
      assert.equal(await count(ids.path), 1);
      // An error is not stored.
      assert.equal((await sdk.retrieve(ids)).status, "completed");
    });
  }

  for (const status of [408, 409, 429, 500, 503]) {
    test(`${sdk.name}: after a ${status} it is as the SDK has it`, async () => {
      const ids = fresh();
      await script(ids.path, failure(status, SOON), step("completed"));
      if (sdk.retried.includes(status)) {
        assert.equal((await sdk.retrieve(ids)).status, "completed");
        assert.equal(await count(ids.path), 2);
      } else {
        assert.equal((await thrown(sdk.retrieve(ids))).status, status);
        assert.equal(await count(ids.path), 1);
      }
    });
  }

  for (const [status, name] of [[429, "RateLimitError"], [500, "InternalServerError"]]) {
    test(`${sdk.name}: a ${status} that stays ends as an exception`, async () => {
      const ids = fresh();
      await script(ids.path, failure(status, SOON));
      assertError(await thrown(sdk.retrieve(ids)), name, status, "of_the_upstream");
      assert.equal(await count(ids.path), 1 + (sdk.retried.includes(status) ? sdk.retries : 0));
    });
  }

  test(`${sdk.name}: another path says that no rule is for it`, async () => {
    const error = await thrown(sdk.client.models.list());
    assertError(error, "NotFoundError", 404, "route_not_found");
    assert.match(error.message, /forward/);
    assert.equal(await count("/v1/models"), 0);
  });

  test(`${sdk.name}: an id that is none is refused`, async () => {
    for (const wrong of ["step.1", "step 1", "s".repeat(129), "schritt_ü"]) {
      assertError(await thrown(sdk.retrieve(fresh(wrong))), "BadRequestError", 400, "invalid_path");
    }
  });

  test(`${sdk.name}: an answer that breaks off is tried again`, async () => {
    const ids = fresh();
    await script(ids.path, step("completed", { cut: true }), step("completed"));
    assert.equal((await sdk.retrieve(ids)).status, "completed");
    assert.equal(await count(ids.path), 2);
  });
}

for (const sdk of everywhere([kinds.openai])) {
  test(`${sdk.name}: a rate limit is waited for as upstream said`, async () => {
    const ids = fresh();
    await script(ids.path, failure(429, { "retry-after-ms": "1200" }), step("completed"));
    assert.equal((await sdk.retrieve(ids)).status, "completed");
    const [first, second] = await requests(ids.path);
    // Without being told, the SDK would be back after half a second. Its timer may be a little early.
    assert.ok(second.at - first.at >= 1.19, `${second.at - first.at} s`);
  });

  test(`${sdk.name}: upstream says whether to try again`, async () => {
    const ids = fresh();
    await script(ids.path, failure(500, { "x-should-retry": "false" }));
    assert.equal((await thrown(sdk.retrieve(ids))).status, 500);
    assert.equal(await count(ids.path), 1);
    await script(ids.path, failure(400, { "x-should-retry": "true", ...SOON }), step("completed"));
    assert.equal((await sdk.retrieve(ids)).status, "completed");
    assert.equal(await count(ids.path), 3);
  });
}

test("openai: a rate limit of one step spares upstream the others", async () => {
  // An account of its own: the others' tests are not to be held.
  const apiKey = "canary-search-token";
  const [limited, other] = [fresh(), fresh()];
  await script(limited.path, failure(429, { "retry-after-ms": "2000" }));
  await script(other.path, step("completed"));
  const held = await counted("clients", "rate_limited", async () => {
    const { retrieve } = sdk(kinds.openai, "clients", { apiKey, maxRetries: 0 });
    assert.equal((await thrown(retrieve(limited))).constructor.name, "RateLimitError");
    // It is told to wait, does, and asks again: only then is there a fetch.
    assert.equal((await sdk(kinds.openai, "clients", { apiKey }).retrieve(other)).status, "completed");
  });
  assert.equal(held, 1);
  const [[first], [second]] = [await requests(limited.path), await requests(other.path)];
  assert.ok(second.at - first.at >= 2);
});

test("openai: only from memory means never a fetch", async () => {
  const ids = fresh();
  const { raw, retrieve } = sdk(kinds.openai, "open");
  const options = { headers: { "cache-control": "only-if-cached" } };
  await script(ids.path, step("completed"));
  const refused = await counted("open", "rejected", async () => {
    assertError(await thrown(raw(ids, options)), "InternalServerError", 504, "not_cached");
  });
  // Told not to, it does not try again.
  assert.equal(refused, 1);
  assert.equal(await count(ids.path), 0);

  await retrieve(ids);
  assert.equal(JSON.parse((await raw(ids, options)).text).id, ids.step);
});

for (const kind of Object.values(kinds)) {
  test(`${kind.name}: an unknown token is refused once`, async () => {
    const ids = fresh();
    const { retrieve } = sdk(kind, "clients", { apiKey: "nobodys-token" });
    const refused = await counted("clients", "rejected", async () => {
      const error = await thrown(retrieve(ids));
      assertError(error, "AuthenticationError", 401, "unauthorized");
      assert.doesNotMatch(error.message, /nobodys-token/);
    });
    assert.equal(refused, 1);
    assert.equal(await count(ids.path), 0);
  });

  test(`${kind.name}: an upstream that is down is a server error`, async () => {
    const { retrieve, retries } = sdk(kind, "alone");
    const failed = await counted("alone", "error", async () => {
      assertError(await thrown(retrieve(fresh())), "InternalServerError", 502, "upstream_unreachable");
    });
    assert.equal(failed, 1 + retries);
  });

  test(`${kind.name}: an upstream that says nothing is a timeout`, async () => {
    const ids = fresh();
    const { retrieve, retries } = sdk(kind, "impatient");
    await script(ids.path, { stall: true });
    assertError(await thrown(retrieve(ids)), "InternalServerError", 504, "upstream_timeout");
    assert.equal(await count(ids.path), 1 + retries);
  });
}

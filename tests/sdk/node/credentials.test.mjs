// Credentials stay on their side: an SDK's go no further than stepgate, and what is injected is there once.
import assert from "node:assert/strict";
import { test } from "node:test";

import { fresh, kinds, requests, script, sdk, step } from "./world.mjs";

const INJECTED = {
  "openai-beta": "assistants=v2",
  "x-portkey-api-key": "canary-portkey-key",
  "x-portkey-cache-force-refresh": "true",
  "x-portkey-virtual-key": "canary-virtual-key",
};

// What goes up besides: the rest of a caller's headers stays behind.
const PASSING = ["accept", "accept-encoding", "host", "user-agent"];

// How the SDK of a caller who chooses all that can be chosen is built.
const CHOICES = {
  virtualKey: "callers-virtual-key",
  provider: "@callers-provider",
  config: "pc-callers-config",
  customHost: "http://127.0.0.1:9/v1",
  Authorization: "Bearer canary-billing-token",
};

for (const [gateway, apiKey] of [["open", "unused-but-recognisable"], ["clients", "canary-billing-token"]]) {
  for (const [kind, choices] of [[kinds.openai, {}], [kinds.portkey, {}], [kinds.portkey, CHOICES]]) {
    const chosen = choices === CHOICES ? ", choosing" : "";
    test(`${kind.name} (${gateway}${chosen}): nothing of the caller's goes up`, async () => {
      const ids = fresh();
      await script(ids.path, step("completed"));
      await sdk(kind, gateway, { apiKey, ...choices }).retrieve(ids);
      const [{ headers }] = await requests(ids.path);
      assert.deepEqual(headers.map(([name]) => name).sort(), [...Object.keys(INJECTED), ...PASSING].sort());
      for (const [name, value] of headers) {
        if (name in INJECTED) assert.equal(value, INJECTED[name]);
        assert.doesNotMatch(value, /unused|token|callers/);
      }
    });
  }
}

for (const kind of Object.values(kinds)) {
  test(`${kind.name}: a client with an account of its own has a cache of its own`, async () => {
    const ids = fresh();
    await script(ids.path, step("completed"));
    for (const apiKey of ["canary-billing-token", "canary-search-token"]) {
      const { retrieve } = sdk(kind, "clients", { apiKey });
      assert.equal((await retrieve(ids)).status, "completed");
      assert.equal((await retrieve(ids)).status, "completed");
    }
    const keys = (await requests(ids.path)).map(({ headers }) => new Map(headers).get("x-portkey-virtual-key"));
    assert.deepEqual(keys, ["canary-virtual-key", "canary-search-virtual-key"]);
  });
}

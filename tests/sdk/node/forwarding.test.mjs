// With `forward = "all"` a whole SDK goes through: runs, streams, uploads, what deletes. To the scripted
// upstream, and to it through a real Portkey gateway.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";

import { toFile } from "openai";

import { count, failure, fresh, kinds, release, requests, script, sdk, step, thrown } from "./world.mjs";

const run = (ids, status) => ({
  id: ids.run,
  object: "thread.run",
  thread_id: ids.thread,
  assistant_id: "asst_1",
  created_at: 1763882400,
  status,
});

const eventsOfARun = (ids) => [
  ...["queued", "in_progress", "completed"].map(
    (status) => `event: thread.run.${status}\ndata: ${JSON.stringify(run(ids, status))}\n\n`,
  ),
  "event: done\ndata: [DONE]\n\n",
];

const CHAT = "/v1/chat/completions";

const piece = (content) => {
  const choices = [{ index: 0, delta: { content }, finish_reason: null }];
  return `data: ${JSON.stringify({ id: "c_1", object: "chat.completion.chunk", choices })}\n\n`;
};

// Notes each piece of a chat in `seen`, before upstream may send the next.
async function chat(client, seen) {
  const messages = [{ role: "user", content: "Hello" }];
  for await (const { choices } of await client.chat.completions.create({ model: "m", messages, stream: true })) {
    seen.push(choices[0].delta.content);
    await release(CHAT);
  }
}

for (const kind of Object.values(kinds)) {
  for (const gateway of ["whole", "through"]) {
    const { client, name, retrieve } = sdk(kind, gateway, { apiKey: "unused-but-recognisable" });

    test(`${name}: a run is created and polled`, async () => {
      const ids = fresh();
      const runs = `/v1/threads/${ids.thread}/runs`;
      const one = `${runs}/${ids.run}`;
      await script(runs, { json: run(ids, "queued") });
      await script(one, ...["queued", "in_progress", "completed"].map((status) => ({ json: run(ids, status) })));
      // Portkey's SDK takes options behind its own parameters.
      const options = [{ pollIntervalMs: 1 }];
      if (kind === kinds.portkey) options.unshift(undefined);
      const done = await client.beta.threads.runs.createAndPoll(ids.thread, { assistant_id: "asst_1" }, ...options);
      assert.equal(done.status, "completed");
      const [created, ...rest] = await requests(runs);
      assert.equal(created.method, "POST");
      assert.equal(JSON.parse(created.body).assistant_id, "asst_1");
      assert.deepEqual(rest, []);
      const polls = await requests(one);
      assert.equal(polls.length, 3);
      for (const { headers } of [created, ...polls]) assert.doesNotMatch(JSON.stringify(headers), /unused/);
    });

    test(`${name}: a run is streamed event by event`, async () => {
      const ids = fresh();
      const runs = `/v1/threads/${ids.thread}/runs`;
      await script(runs, { events: eventsOfARun(ids) });
      const seen = [];
      for await (const { data } of await client.beta.threads.runs.stream(ids.thread, { assistant_id: "asst_1" })) {
        seen.push(data.status);
        // Upstream sends the next only now.
        await release(runs);
      }
      assert.deepEqual(seen, ["queued", "in_progress", "completed"]);
    });

    test(`${name}: a chat is streamed piece by piece`, async () => {
      const seen = [];
      await script(CHAT, { events: [piece("How"), piece(" are"), piece(" you?"), "data: [DONE]\n\n"] });
      await chat(client, seen);
      assert.deepEqual(seen, ["How", " are", " you?"]);
    });

    test(`${name}: a file arrives as it was`, async () => {
      const content = randomBytes(4_000_000);
      await script("/v1/files", { json: { id: "file_1", object: "file", bytes: content.length } });
      const file = await toFile(content, "any.bin");
      assert.equal((await client.files.create({ file, purpose: "assistants" })).id, "file_1");
      const { parts } = (await requests("/v1/files")).at(-1);
      const sha256 = createHash("sha256").update(content).digest("hex");
      assert.deepEqual(parts.file, { size: content.length, sha256 });
    });

    test(`${name}: a file comes back as it was`, { skip: kind === kinds.portkey && "its SDK makes text of it" }, async () => {
      const id = `file-${fresh().step}`;
      await script(`/v1/files/${id}/content`, { blob: 4_000_000 });
      const content = Buffer.from(await (await client.files.content(id)).arrayBuffer());
      assert.deepEqual(content, createHash("shake256", { outputLength: 4_000_000 }).update("stepgate").digest());
    });

    test(`${name}: what a thread had is forgotten with it`, async () => {
      const ids = fresh();
      const deleted = { json: { id: ids.thread, object: "thread.deleted", deleted: true } };
      await script(`/v1/threads/${ids.thread}`, failure(403), deleted);
      await script(ids.path, step("completed"), failure(404));
      assert.equal((await retrieve(ids)).status, "completed");

      assert.equal((await thrown(client.beta.threads.delete(ids.thread))).status, 403);
      assert.equal((await retrieve(ids)).status, "completed");
      assert.equal(await count(ids.path), 1);

      assert.equal((await client.beta.threads.delete(ids.thread)).deleted, true);
      assert.equal((await thrown(retrieve(ids))).constructor.name, "NotFoundError");
      assert.equal(await count(ids.path), 2);
    });
  }

  test(`${kind.name}: a stream that breaks off does not end as if it were whole`, async () => {
    // Not through Portkey, which itself ends such a stream like a whole one.
    const { client } = sdk(kind, "whole");
    const seen = [];
    await script(CHAT, { events: [piece("How"), piece(" are")], cut: true });
    const error = await thrown(chat(client, seen));
    assert.deepEqual(seen, ["How", " are"]);
    assert.match(String(error), /terminated|aborted|Connection error/);
  });
}

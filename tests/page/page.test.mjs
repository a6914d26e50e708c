// The status page as people meet it: in a browser, with a gateway that lives, dies and comes back.

import assert from "node:assert/strict";
import { after, afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { close, open, violations } from "./browser.mjs";
import { Gateway, SECRET } from "./gateway.mjs";

const TOKEN = '[admin]\ntoken = { env = "ADMIN_TOKEN" }\n';

/** What a browser says of an answer that is no success, whatever a page does with it. */
const UNAUTHORIZED = /the server responded with a status of 401/;
const REFUSED = /ERR_CONNECTION_REFUSED/;

let gateway;
let opened = [];
let expected = [];

/** A page of the gateway, which must have nothing to complain about in the end, but for `expected`. */
async function visit(options) {
  const visited = await open(gateway.page, options);
  opened.push(visited);
  return visited.page;
}

const text = (page, selector) => page.locator(selector).innerText();

/** Waits until an element is to be seen and says that. */
async function says(page, selector, expected) {
  for (const end = Date.now() + 15_000; ; await sleep(50)) {
    const said = (await page.locator(selector).isVisible()) ? await text(page, selector) : "";
    if (expected.test(said)) return;
    if (Date.now() > end) assert.match(said, expected);
  }
}

async function start(toml, listen) {
  gateway = await Gateway.start(toml, listen);
}

beforeEach(() => {
  [opened, expected] = [[], []];
});

afterEach(async () => {
  const complaints = opened.flatMap(({ complaints }) => complaints);
  await Promise.all(opened.map((visited) => visited.close()));
  await gateway.end();
  assert.deepEqual(complaints.filter((text) => !expected.some((known) => known.test(text))), []);
});

after(close);

test("it shows what happened, with the numbers of /status", async () => {
  await start();
  await gateway.poll("live_1", 3);
  await gateway.poll("step_1", 7);
  await fetch(`${gateway.data}/v1/nowhere`);
  const page = await visit();
  await says(page, "#headline", /^10 polls, 4 fetches:\s+60\.0 % cut$/);

  const status = await gateway.status();
  assert.deepEqual([status.polls, status.fetches], [10, 4]);
  const shown = await page.locator("[data-outcome]:visible").evaluateAll((rows) =>
    rows.map((row) => [row.dataset.outcome, Number(row.cells[1].textContent)]));
  const counted = {};
  for (const { requests } of status.rules) {
    for (const [outcome, n] of Object.entries(requests)) counted[outcome] = (counted[outcome] ?? 0) + n;
  }
  delete counted.forwarded; // there is none, and so no row
  assert.deepEqual(Object.fromEntries(shown), counted);
  assert.equal(counted.hit, 6);
  assert.equal(counted.refused, 1);

  assert.equal(await text(page, "#entries"), "1");
  assert.equal(await text(page, "#bytes"), `${status.cache.bytes} B`);
  assert.equal(await text(page, "#max-bytes"), "256 MiB");
  assert.equal(await text(page, "#version"), status.version);
  assert.equal(await text(page, "#shared"), "off");
  assert.equal(await text(page, "#phase"), "serving");
  assert.equal(await text(page, "#reload"), "As it was at the start.");
  for (const id of ["hit-p50", "hit-p99", "fetch-p50", "fetch-p99"]) {
    assert.match(await text(page, `#${id}`), /^\d+(\.\d)? (µs|ms)$/);
  }
  assert.match(await text(page, "#rules"), /^run-step\s+10\s+4\s+0\s+no rule\s+1\s+0\s+0$/);
});

test("what is forwarded is told, and is neither a poll nor a fetch", async () => {
  await start('[server]\nforward = "all"\n');
  const forward = async () => (await fetch(`${gateway.data}/v1/models`)).arrayBuffer();
  await forward();
  const page = await visit();
  await says(page, "#headline", /^0 polls, 0 fetches:\s+no poll answered yet$/);
  await gateway.poll("step_1", 2);
  await forward();
  await says(page, "#headline", /^2 polls, 1 fetch:\s+50\.0 % cut$/);
  assert.match(await text(page, "[data-outcome=bypass]"), /^forwarded streamed through\s+2\s+50\.0 %\s*$/);
  assert.match(await text(page, "#rules"), /^run-step\s+2\s+1\s+0\s+no rule\s+2\s+2\s+0$/);
});

for (const [listen, said] of [
  [["127.0.0.1:0", "unix:FOLDER/data.sock"], "none: anyone on this machine"],
  [["127.0.0.1:0", "0.0.0.0:0"], "none: anyone who reaches it"],
]) {
  test(`without clients, who may ask depends on the listeners: ${listen.join(", ")}`, async () => {
    await start("[server]\nallow_unauthenticated = true\n", listen);
    await gateway.poll("step_1");
    await says(await visit(), "#clients", new RegExp(`^${said}$`));
  });
}

test("one purge on the way is one, two are two", async () => {
  // A tier that nobody answers for, so they stay on the way.
  await start('[cache.redis]\nurl = "redis://127.0.0.1:9"\nprefix = "page"\n');
  await gateway.poll("step_1");
  const page = await visit();
  for (const [thread, said] of [["thread_1", /; 1 purge on the way$/], ["thread_2", /; 2 purges on the way$/]]) {
    await fetch(`${gateway.page}cache/run-step/${thread}`, { method: "DELETE" });
    await says(page, "#shared-why", said);
  }
});

test("it goes on without a reload, and draws what comes", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit();
  await page.evaluate(() => (window.sameDocument = true));
  await says(page, "#headline", /^1 poll, 1 fetch:\s+0\.0 % cut$/);
  await gateway.poll("step_1", 99);
  await says(page, "#headline", /^100 polls, 1 fetch:\s+99\.0 % cut$/);
  await page.locator("#picture .polls-line").waitFor({ state: "attached" });
  await page.locator("summary").click();
  await says(page, "#minutes", /^0 to 1\s+100\s+1\s+99\.0 %$/);
  assert.match(await page.locator("#picture").getAttribute("aria-labelledby"), /picture-said/);
  assert.match(await page.locator("#picture-said").textContent(), /^In the last minute: \d/);
  assert.equal(await page.evaluate(() => window.sameDocument), true);
});

test("the picture tells of the moment under the pointer", async () => {
  await start();
  await gateway.poll("step_1", 50);
  const page = await visit();
  await page.locator("#picture .polls-line").waitFor({ state: "attached" });
  const { x, y, width, height } = await page.locator("#picture").boundingBox();
  await page.mouse.move(x + 0.93 * width, y + height / 2);
  await says(page, "#pointed", /^5 s ago: [\d.]+ polls?, 0(\.2)? fetches per second$/);
  await page.mouse.move(0, 0);
  await says(page, "#pointed", /^per second$/);
});

/** So many times the page's two seconds, however long the gateway takes to answer. */
async function turns(page, times) {
  for (let i = 0; i < times; i++) {
    const answered = page.waitForResponse("**/status").then((response) => response.finished());
    await page.clock.runFor(2_000);
    await answered;
  }
}

test("no label of the picture lies on a line of it, nor close by", async () => {
  await start();
  await gateway.poll("step_1");
  const interval = 5;
  let polls = [];
  const page = await visit({ width: 320, before: async (page) => {
    await page.clock.install();
    await page.route("**/status", async (route) => {
      const response = await route.fetch();
      const history = { interval_seconds: interval, polls, fetches: polls };
      await route.fulfill({ response, json: { ...(await response.json()), history } });
    });
  } });
  const struck = () => page.locator("#picture").evaluate((picture) => {
    const [texts, lines] = ["text", "line, path"].map((name) => [...picture.querySelectorAll(name)]);
    const near = 3; // pixels, above and below
    const meet = (text, line) => {
      const [a, b] = [text, line].map((shape) => shape.getBoundingClientRect());
      return a.left < b.right && b.left < a.right && a.top - near < b.bottom && b.top - near < a.bottom;
    };
    return texts.filter((text) => lines.some((line) => meet(text, line))).map((text) => text.textContent);
  });
  await says(page, "#picture-said", /^There is nothing to draw yet\.$/);
  assert.match(await page.locator("#picture").textContent(), /The first point comes after 5 s\./);
  assert.deepEqual(await struck(), [], "before the first point");
  for (const rate of [0, 0.2, 1.1, 1.5, 3, 5, 600, 1_001, 987_654_321]) {
    polls = [rate * interval];
    await turns(page, 1);
    const spelled = rate.toLocaleString("en");
    await says(page, "#picture-said", new RegExp(`: ${spelled} to ${spelled} polls and `));
    assert.deepEqual(await struck(), [], `${rate} a second`);
  }
});

test("a screen reader hears the headline, and not every two seconds", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit({ before: (page) => page.clock.install() });
  const spoken = page.locator("#spoken");
  await says(page, "#headline", /^1 poll,/);
  assert.equal(await spoken.getAttribute("aria-live"), "polite");
  assert.match(await spoken.textContent(), /^1 poll, 1 fetch: 0\.0 % cut$/);
  await gateway.poll("step_1");
  await turns(page, 5);
  await says(page, "#headline", /^2 polls,/);
  assert.match(await spoken.textContent(), /^1 poll,/);
  await turns(page, 12);
  assert.match(await spoken.textContent(), /^2 polls,/);
});

test("a page that nobody sees asks nothing, and asks at once when it is seen", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit({ before: (page) => page.clock.install() });
  await says(page, "#headline", /^1 poll,/);
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await turns(page, 1); // the one that was due
  let asked = 0;
  page.on("request", () => (asked += 1));
  await page.clock.runFor(60_000);
  assert.equal(asked, 0);
  await gateway.poll("step_1");
  await hide(false);
  await says(page, "#headline", /^2 polls,/);
  assert.equal(asked, 1);
  await turns(page, 1);
});

test("where nothing was asked it says how to ask", async () => {
  await start();
  const page = await visit();
  await says(page, "#empty", /Nothing has been polled yet/);
  assert.equal(await text(page, "#environment"), `OPENAI_BASE_URL=${gateway.data}/v1\nOPENAI_API_KEY=unused`);
  const [url] = (await text(page, "#command")).match(/http\S+/);
  await fetch(url);
  await says(page, "#headline", /^1 poll, 1 fetch/);
  assert.equal(await page.locator("#empty").isVisible(), false);
});

test("on a socket alone it says how to ask there", async () => {
  await start("", ["unix:FOLDER/data.sock"]);
  const page = await visit();
  await says(page, "#environment", /^socket: \/.*\/data\.sock\nOPENAI_BASE_URL=http:\/\/localhost\/v1\nOPENAI_API_KEY=unused$/);
  const socket = (await text(page, "#environment")).match(/ (\S+)/)[1];
  assert.match(await text(page, "#command"), new RegExp(`^curl -i --unix-socket ${socket} http://localhost/v1/threads/`));
});

test("with clients it says that a token is the key", async () => {
  await start('[[client]]\nname = "billing"\ntoken = { env = "ADMIN_TOKEN" }\n');
  const page = await visit();
  await says(page, "#empty", /the key is a client's token/);
  assert.match(await text(page, "#command"), /^curl -i -H 'Authorization: Bearer TOKEN-OF-A-CLIENT' http/);
  await gateway.poll("step_1");
  await says(page, "#clients", /^1$/);
});

test("until the first answer it says that it loads", async () => {
  await start();
  let answer;
  const asked = new Promise((resolve) => (answer = resolve));
  const page = await visit({ before: (page) => page.route("**/status", (route) => answer(route)) });
  const route = await asked;
  assert.equal(await text(page, "#phase"), "loading");
  assert.deepEqual(await page.locator("main > :visible").all(), [], "and nothing else");
  await route.continue();
  await page.unroute("**/status");
  await says(page, "#phase", /^serving$/);
});

test("a gateway that is gone is said to be, and one that comes back is shown again", async () => {
  await start();
  expected.push(REFUSED);
  await gateway.poll("step_1", 5);
  const page = await visit({ before: (page) => page.clock.install() });
  await says(page, "#headline", /^5 polls/);
  const isGrey = () =>
    page.locator("#figures").evaluate((figures) => getComputedStyle(figures).filter === "grayscale(1)");
  assert.equal(await isGrey(), false);

  await gateway.kill();
  await says(page, "#news", /has not answered since \d\d:\d\d:\d\d\. These are its last figures/);
  assert.equal(await text(page, "#phase"), "gone");
  assert.match(await text(page, "#headline"), /^5 polls/);
  assert.equal(await isGrey(), true);
  assert.deepEqual(await violations(page), []);

  await gateway.run();
  await gateway.poll("step_1", 2);
  await says(page, "#news", /answers again, since/);
  await says(page, "#headline", /^2 polls/);
  assert.equal(await text(page, "#phase"), "serving");
  assert.equal(await isGrey(), false);
  await page.clock.fastForward(10_000);
  await page.locator("#news").waitFor({ state: "hidden" });
});

test("a gateway that was never there is said not to answer", async () => {
  await start();
  expected.push(/ERR_FAILED/);
  const page = await visit({ before: (page) => page.route("**/status", (route) => route.abort()) });
  await says(page, "#news", /^The gateway does not answer; it is asked again every 2 s\.$/);
  await page.unroute("**/status");
  await says(page, "#empty", /Nothing has been polled yet/);
});

test("where a token is wanted it is asked for, and kept nowhere", async () => {
  await start(TOKEN);
  expected.push(UNAUTHORIZED);
  await gateway.poll("step_1", 4);
  const page = await visit();
  await says(page, "#locked", /These figures need the admin token/);
  assert.equal(await page.locator("#figures").isVisible(), false);
  assert.deepEqual(await violations(page), []);

  await page.keyboard.type("wröng ☂"); // it has the focus; no header could hold this as it is
  await page.keyboard.press("Enter");
  await says(page, "#news", /does not know this token/);

  await page.getByLabel("Admin token").fill(SECRET);
  await page.getByRole("button", { name: "Show" }).click();
  await says(page, "#headline", /^4 polls/);
  assert.equal(await page.locator("#news").isVisible(), false);
  assert.equal(await page.locator("#token").inputValue(), "");
  const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href]);
  assert.deepEqual(kept, [0, 0, "", gateway.page]);
  await page.reload();
  await says(page, "#locked", /These figures need the admin token/);
});

test("a reload that failed is told above all, politely and as text, until one succeeds", async () => {
  await start();
  const page = await visit();
  await page.locator("#empty").waitFor();
  assert.equal(await page.locator("#failure").isVisible(), false);
  assert.equal(await page.locator("#failure").getAttribute("role"), "status");
  await gateway.configure('"<img src=x onerror=alert(1)>" = 1\n[cache]\nmax_byte = 1\n');
  gateway.reload();
  const failure = /^Reloading failed on .*, \d\d:\d\d:\d\d\. The old configuration stays in force:\n/;
  await says(page, "#failure", failure);
  assert.match(await text(page, "#failure"), /<img src=x onerror=alert\(1\)>.*\n.*max_byte/);
  await says(page, "#phase", /^serving, reload failed$/);
  assert.deepEqual(await violations(page), []);
  await gateway.poll("step_1");
  await says(page, "#headline", /^1 poll,/);
  await says(page, "#failure", failure);
  await says(page, "#reload", /^Not reloaded on .*: see above\.$/);

  expected.push(UNAUTHORIZED);
  await page.route("**/status", (route) => route.fulfill({ status: 401 }));
  await page.locator("#locked").waitFor();
  assert.equal(await page.locator("#failure").isVisible(), false, "a figure, too");
  await page.unroute("**/status");
  await page.reload();
  await says(page, "#failure", failure);

  await gateway.configure('[cache]\nmax_bytes = "1MiB"\n[server]\nmax_long_polls = 5\n');
  gateway.reload();
  await says(page, "#reload",
    /^Reloaded on .*\nserver\.max_long_polls waits for a restart\.\ncache\.max_bytes waits for a restart\.$/);
  assert.equal(await page.locator("#failure").isVisible(), false);
  assert.equal(await text(page, "#phase"), "serving");
});

test("the policy is in force: what is not the page's own does not run", async () => {
  await start();
  const page = await visit();
  await says(page, "#phase", /^serving$/);
  expected.push(/^policy: script-src/, /Content Security Policy/);
  const [refused, ran] = await page.evaluate(async () => {
    const violation = new Promise((resolve) => addEventListener("securitypolicyviolation", resolve));
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
    return [(await violation).effectiveDirective, window.ran];
  });
  assert.deepEqual([refused, ran], ["script-src-elem", undefined]);
});

test("light and dark are two", async () => {
  await start();
  await gateway.poll("step_1", 3);
  const colours = async (colorScheme) => {
    const page = await visit({ colorScheme });
    await says(page, "#headline", /^3 polls/);
    return page.evaluate(() => {
      const { color, backgroundColor } = getComputedStyle(document.body);
      return [color, backgroundColor];
    });
  };
  const [light, dark] = [await colours("light"), await colours("dark")];
  assert.notEqual(light[0], dark[0]);
  assert.notEqual(light[1], dark[1]);
});

test("axe finds nothing to mend, in both schemes and however narrow", async () => {
  await start();
  for (const shown of ["#empty", "#figures"]) {
    if (shown === "#figures") await gateway.poll("step_1", 3);
    for (const [colorScheme, width] of [["light", 1040], ["dark", 320]]) {
      const page = await visit({ colorScheme, width });
      await page.locator(shown).waitFor();
      if (shown === "#figures") await page.locator("summary").click();
      assert.deepEqual(await violations(page), [], `${shown}, ${colorScheme}, ${width} px`);
    }
  }
});

test("a window of 320 px is wide enough, for large numbers too", async () => {
  await start(TOKEN);
  expected.push(UNAUTHORIZED);
  const page = await visit({ width: 320 });
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await page.locator("#locked").waitFor();
  assert.equal(await overflow(), 0);

  await page.keyboard.type(SECRET);
  await page.keyboard.press("Enter");
  await page.locator("#empty").waitFor();
  assert.equal(await overflow(), 0);

  await page.route("**/status", async (route) => {
    const response = await route.fetch();
    const large = (key, value) => (typeof value === "number" && key !== "timestamp_seconds" ? 987_654_321 : value);
    const status = JSON.parse(JSON.stringify(await response.json(), large));
    status.history = { interval_seconds: 5, polls: [9_876_543_210, 2], fetches: [123_456_789, 1] };
    status.rules[0].rule = "a-rule-with-a-name-that-does-not-end-before-the-window-does";
    status.last_reload = { result: "failure", timestamp_seconds: 0, problems: ["x".repeat(200)], needs_restart: [] };
    status.shared = { state: "resting", reason: "connection refused ".repeat(9), pending_purges: 3 };
    await route.fulfill({ response, json: status });
  });
  await page.locator("#figures").waitFor();
  await page.locator("summary").click();
  assert.equal(await overflow(), 0);
  assert.deepEqual(await violations(page), []);
});

test("the keyboard reaches every control, and shows where it is", async () => {
  await start(TOKEN);
  expected.push(UNAUTHORIZED);
  await gateway.poll("step_1");
  const page = await visit();
  await page.locator("#locked").waitFor();
  const walk = async () => {
    const reached = [];
    await page.mouse.click(1, 1); // from the top
    for (let i = 0; i < 12; i++) {
      await page.keyboard.press("Tab");
      const on = await page.evaluate(() => {
        const { activeElement: on } = document;
        if (on === document.body) return null;
        return [on.id || on.textContent.trim(), getComputedStyle(on).outlineStyle];
      });
      if (on === null) break;
      assert.equal(on[1], "solid", on[0]);
      reached.push(on[0]);
    }
    return reached;
  };
  assert.deepEqual(await walk(), ["token", "Show", "metrics", "status", "ready"]);
  await page.keyboard.press("Tab");
  await page.keyboard.type(SECRET);
  await page.keyboard.press("Enter");
  await page.locator("#figures").waitFor();
  assert.deepEqual(await walk(), ["The same as a table", "metrics", "status", "ready"]);
});

test("who wants less motion gets none", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit();
  await page.locator("#figures").waitFor();
  const moves = () => page.evaluate(() =>
    [...document.querySelectorAll("*")].filter((element) => getComputedStyle(element).transitionDuration !== "0s").length);
  assert.ok((await moves()) > 0);
  await page.emulateMedia({ reducedMotion: "reduce" });
  assert.equal(await moves(), 0);
});

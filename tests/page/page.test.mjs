// The status page in a browser, with a gateway that runs, stops and comes back.

import assert from "node:assert/strict";
import { after, afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { close, open, violations } from "./browser.mjs";
import { Gateway, SECRET } from "./gateway.mjs";

const TOKEN = '[admin]\ntoken = { env = "ADMIN_TOKEN" }\n';

// Console messages that a browser writes for a failed request, whatever the page does with it.
const UNAUTHORIZED = /the server responded with a status of 401/;
const CONNECTION_REFUSED = /ERR_CONNECTION_REFUSED/;

let gateway;
let opened = [];
let expectedComplaints = [];

/** Opens the page of the gateway. At the end of the test, the browser must have reported only `expectedComplaints`. */
async function visit(options) {
  const tab = await open(gateway.page, options);
  opened.push(tab);
  return tab.page;
}

const text = (page, selector) => page.locator(selector).innerText();

/** Waits until an element is visible and its text matches. */
async function expectText(page, selector, expected) {
  for (const end = Date.now() + 15_000; ; await sleep(50)) {
    const found = (await page.locator(selector).isVisible()) ? await text(page, selector) : "";
    if (expected.test(found)) return;
    if (Date.now() > end) assert.match(found, expected);
  }
}

async function start(toml, listen) {
  gateway = await Gateway.start(toml, listen);
}

beforeEach(() => {
  [opened, expectedComplaints] = [[], []];
});

afterEach(async () => {
  const complaints = opened.flatMap(({ complaints }) => complaints);
  await Promise.all(opened.map((tab) => tab.close()));
  await gateway.end();
  assert.deepEqual(complaints.filter((text) => !expectedComplaints.some((pattern) => pattern.test(text))), []);
});

after(close);

test("the page shows the figures of /status", async () => {
  await start();
  await gateway.poll("live_1", 3);
  await gateway.poll("step_1", 7);
  await fetch(`${gateway.data}/v1/nowhere`);
  const page = await visit();
  await expectText(page, "#headline", /^10 polls, 4 fetches:\s+60\.0 % saved$/);

  const status = await gateway.status();
  assert.deepEqual([status.polls, status.fetches], [10, 4]);
  const shown = await page.locator("[data-outcome]:visible").evaluateAll((rows) =>
    rows.map((row) => [row.dataset.outcome, Number(row.cells[1].textContent)]));
  const counted = {};
  for (const { requests } of status.rules) {
    for (const [outcome, n] of Object.entries(requests)) counted[outcome] = (counted[outcome] ?? 0) + n;
  }
  delete counted.bypass; // zero, so the page shows no row
  assert.deepEqual(Object.fromEntries(shown), counted);
  assert.equal(counted.hit, 6);
  assert.equal(counted.rejected, 1);

  assert.equal(await text(page, "#entries"), "1");
  assert.equal(await text(page, "#bytes"), `${status.cache.bytes} B`);
  assert.equal(await text(page, "#max-bytes"), "256 MiB");
  assert.equal(await text(page, "#version"), status.version);
  assert.equal(await text(page, "#shared"), "off");
  assert.equal(await text(page, "#phase"), "serving");
  assert.equal(await text(page, "#reload"), "Not reloaded since the start.");
  for (const id of ["hit-p50", "hit-p99", "fetch-p50", "fetch-p99"]) {
    assert.match(await text(page, `#${id}`), /^\d+(\.\d)? (µs|ms)$/);
  }
  assert.match(await text(page, "#rules"), /^run-step\s+10\s+4\s+0\s+no rule\s+1\s+0\s+0$/);
});

test("a bypass is shown, and is neither a poll nor a fetch", async () => {
  await start('[server]\nforward = "all"\n');
  const forward = async () => (await fetch(`${gateway.data}/v1/models`)).arrayBuffer();
  await forward();
  const page = await visit();
  await expectText(page, "#headline", /^0 polls, 0 fetches:\s+no poll answered yet$/);
  await gateway.poll("step_1", 2);
  await forward();
  await expectText(page, "#headline", /^2 polls, 1 fetch:\s+50\.0 % saved$/);
  assert.match(await text(page, "[data-outcome=bypass]"), /^bypass streamed, never stored\s+2\s+50\.0 %\s*$/);
  assert.match(await text(page, "#rules"), /^run-step\s+2\s+1\s+0\s+no rule\s+2\s+2\s+0$/);
});

for (const [listen, clients] of [
  [["127.0.0.1:0", "unix:FOLDER/data.sock"], "none: anyone on this machine"],
  [["127.0.0.1:0", "0.0.0.0:0"], "none: anyone who can connect"],
]) {
  test(`without configured clients the page says who can connect to ${listen.join(", ")}`, async () => {
    await start("[server]\nallow_unauthenticated = true\n", listen);
    await gateway.poll("step_1");
    await expectText(await visit(), "#clients", new RegExp(`^${clients}$`));
  });
}

test("pending purges are counted", async () => {
  // No Redis listens there, so purges stay pending.
  await start('[cache.redis]\nurl = "redis://127.0.0.1:9"\nprefix = "page"\n');
  await gateway.poll("step_1");
  const page = await visit();
  for (const [thread, pending] of [["thread_1", /; 1 purge pending$/], ["thread_2", /; 2 purges pending$/]]) {
    await fetch(`${gateway.page}cache/run-step/${thread}`, { method: "DELETE" });
    await expectText(page, "#shared-reason", pending);
  }
});

test("figures and chart are updated without a page load", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit();
  await page.evaluate(() => (window.sameDocument = true));
  await expectText(page, "#headline", /^1 poll, 1 fetch:\s+0\.0 % saved$/);
  await gateway.poll("step_1", 99);
  await expectText(page, "#headline", /^100 polls, 1 fetch:\s+99\.0 % saved$/);
  await page.locator("#chart .polls-line").waitFor({ state: "attached" });
  await page.locator("summary").click();
  await expectText(page, "#minutes", /^0 to 1\s+100\s+1\s+99\.0 %$/);
  assert.match(await page.locator("#chart").getAttribute("aria-labelledby"), /chart-summary/);
  assert.match(await page.locator("#chart-summary").textContent(), /^In the last minute: \d/);
  assert.equal(await page.evaluate(() => window.sameDocument), true);
});

test("the chart shows the sample under the pointer", async () => {
  await start();
  await gateway.poll("step_1", 50);
  const page = await visit();
  await page.locator("#chart .polls-line").waitFor({ state: "attached" });
  const { x, y, width, height } = await page.locator("#chart").boundingBox();
  await page.mouse.move(x + 0.93 * width, y + height / 2);
  await expectText(page, "#sample", /^5 s ago: [\d.]+ polls?, 0(\.2)? fetches per second$/);
  await page.mouse.move(0, 0);
  await expectText(page, "#sample", /^per second$/);
});

/** Runs the refresh timer of the page `times` times, and waits for each response. */
async function refresh(page, times) {
  for (let i = 0; i < times; i++) {
    const response = page.waitForResponse("**/status").then((response) => response.finished());
    await page.clock.runFor(2_000);
    await response;
  }
}

test("no label of the chart overlaps a line", async () => {
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
  const overlapping = () => page.locator("#chart").evaluate((chart) => {
    const [texts, lines] = ["text", "line, path"].map((name) => [...chart.querySelectorAll(name)]);
    const margin = 3; // pixels, above and below
    const overlap = (text, line) => {
      const [a, b] = [text, line].map((shape) => shape.getBoundingClientRect());
      return a.left < b.right && b.left < a.right && a.top - margin < b.bottom && b.top - margin < a.bottom;
    };
    return texts.filter((text) => lines.some((line) => overlap(text, line))).map((text) => text.textContent);
  });
  await expectText(page, "#chart-summary", /^There is no sample yet\.$/);
  assert.match(await page.locator("#chart").textContent(), /The first sample comes after 5 s\./);
  assert.deepEqual(await overlapping(), [], "before the first sample");
  for (const rate of [0, 0.2, 1.1, 1.5, 3, 5, 600, 1_001, 987_654_321]) {
    polls = [rate * interval];
    await refresh(page, 1);
    const shown = rate.toLocaleString("en");
    await expectText(page, "#chart-summary", new RegExp(`: ${shown} to ${shown} polls and `));
    assert.deepEqual(await overlapping(), [], `${rate} per second`);
  }
});

test("a screen reader announces the headline at most every 30 seconds", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit({ before: (page) => page.clock.install() });
  const spoken = page.locator("#spoken");
  await expectText(page, "#headline", /^1 poll,/);
  assert.equal(await spoken.getAttribute("aria-live"), "polite");
  assert.match(await spoken.textContent(), /^1 poll, 1 fetch: 0\.0 % saved$/);
  await gateway.poll("step_1");
  await refresh(page, 5);
  await expectText(page, "#headline", /^2 polls,/);
  assert.match(await spoken.textContent(), /^1 poll,/);
  await refresh(page, 12);
  assert.match(await spoken.textContent(), /^2 polls,/);
});

test("a hidden page sends no request, and refreshes at once when it is shown", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit({ before: (page) => page.clock.install() });
  await expectText(page, "#headline", /^1 poll,/);
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await refresh(page, 1); // the refresh that was already scheduled
  let requests = 0;
  page.on("request", () => (requests += 1));
  await page.clock.runFor(60_000);
  assert.equal(requests, 0);
  await gateway.poll("step_1");
  await hide(false);
  await expectText(page, "#headline", /^2 polls,/);
  assert.equal(requests, 1);
  await refresh(page, 1);
});

test("without requests the page shows how to send one", async () => {
  await start();
  const page = await visit();
  await expectText(page, "#empty", /No request yet/);
  assert.equal(await text(page, "#environment"), `OPENAI_BASE_URL=${gateway.data}/v1\nOPENAI_API_KEY=unused`);
  const [url] = (await text(page, "#command")).match(/http\S+/);
  await fetch(url);
  await expectText(page, "#headline", /^1 poll, 1 fetch/);
  assert.equal(await page.locator("#empty").isVisible(), false);
});

test("with a unix socket alone the example uses the socket", async () => {
  await start("", ["unix:FOLDER/data.sock"]);
  const page = await visit();
  await expectText(page, "#environment", /^socket: \/.*\/data\.sock\nOPENAI_BASE_URL=http:\/\/localhost\/v1\nOPENAI_API_KEY=unused$/);
  const socket = (await text(page, "#environment")).match(/ (\S+)/)[1];
  assert.match(await text(page, "#command"), new RegExp(`^curl -i --unix-socket ${socket} http://localhost/v1/threads/`));
});

test("with configured clients the example uses a token", async () => {
  await start('[[client]]\nname = "billing"\ntoken = { env = "ADMIN_TOKEN" }\n');
  const page = await visit();
  await expectText(page, "#empty", /the key is a client's token/);
  assert.match(await text(page, "#command"), /^curl -i -H 'Authorization: Bearer TOKEN-OF-A-CLIENT' http/);
  await gateway.poll("step_1");
  await expectText(page, "#clients", /^1$/);
});

test("until the first response the page is loading", async () => {
  await start();
  let intercept;
  const intercepted = new Promise((resolve) => (intercept = resolve));
  const page = await visit({ before: (page) => page.route("**/status", (route) => intercept(route)) });
  const route = await intercepted;
  assert.equal(await text(page, "#phase"), "loading");
  assert.deepEqual(await page.locator("main > :visible").all(), [], "nothing else is visible");
  await route.continue();
  await page.unroute("**/status");
  await expectText(page, "#phase", /^serving$/);
});

test("an unreachable gateway is reported, and a restarted one is shown again", async () => {
  await start();
  expectedComplaints.push(CONNECTION_REFUSED);
  await gateway.poll("step_1", 5);
  const page = await visit({ before: (page) => page.clock.install() });
  await expectText(page, "#headline", /^5 polls/);
  const isGrey = () =>
    page.locator("#figures").evaluate((figures) => getComputedStyle(figures).filter === "grayscale(1)");
  assert.equal(await isGrey(), false);

  await gateway.kill();
  await expectText(page, "#notice", /has not answered since \d\d:\d\d:\d\d\. These are its last figures/);
  assert.equal(await text(page, "#phase"), "unreachable");
  assert.match(await text(page, "#headline"), /^5 polls/);
  assert.equal(await isGrey(), true);
  assert.deepEqual(await violations(page), []);

  await gateway.run();
  await gateway.poll("step_1", 2);
  await expectText(page, "#notice", /answers again since/);
  await expectText(page, "#headline", /^2 polls/);
  assert.equal(await text(page, "#phase"), "serving");
  assert.equal(await isGrey(), false);
  await page.clock.fastForward(10_000);
  await page.locator("#notice").waitFor({ state: "hidden" });
});

test("a gateway that never answered is reported", async () => {
  await start();
  expectedComplaints.push(/ERR_FAILED/);
  const page = await visit({ before: (page) => page.route("**/status", (route) => route.abort()) });
  await expectText(page, "#notice", /^The gateway does not answer\. The page tries again every 2 s\.$/);
  await page.unroute("**/status");
  await expectText(page, "#empty", /No request yet/);
});

test("the admin token is requested and not stored", async () => {
  await start(TOKEN);
  expectedComplaints.push(UNAUTHORIZED);
  await gateway.poll("step_1", 4);
  const page = await visit();
  await expectText(page, "#token-form", /The figures need the admin token/);
  assert.equal(await page.locator("#figures").isVisible(), false);
  assert.deepEqual(await violations(page), []);

  await page.keyboard.type("wröng ☂"); // the input has the focus; a header cannot contain these characters unencoded
  await page.keyboard.press("Enter");
  await expectText(page, "#notice", /rejected this token/);

  await page.getByLabel("Admin token").fill(SECRET);
  await page.getByRole("button", { name: "Show" }).click();
  await expectText(page, "#headline", /^4 polls/);
  assert.equal(await page.locator("#notice").isVisible(), false);
  assert.equal(await page.locator("#token").inputValue(), "");
  const stored = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href]);
  assert.deepEqual(stored, [0, 0, "", gateway.page]);
  await page.reload();
  await expectText(page, "#token-form", /The figures need the admin token/);
});

test("a failed reload is shown above the figures, as text, until one succeeds", async () => {
  await start();
  const page = await visit();
  await page.locator("#empty").waitFor();
  assert.equal(await page.locator("#reload-failure").isVisible(), false);
  assert.equal(await page.locator("#reload-failure").getAttribute("role"), "status");
  await gateway.configure('"<img src=x onerror=alert(1)>" = 1\n[cache]\nmax_byte = 1\n');
  gateway.reload();
  const failure = /^The reload on .*, \d\d:\d\d:\d\d failed\. The old configuration is still in use:\n/;
  await expectText(page, "#reload-failure", failure);
  assert.match(await text(page, "#reload-failure"), /<img src=x onerror=alert\(1\)>.*\n.*max_byte/);
  await expectText(page, "#phase", /^serving, reload failed$/);
  assert.deepEqual(await violations(page), []);
  await gateway.poll("step_1");
  await expectText(page, "#headline", /^1 poll,/);
  await expectText(page, "#reload-failure", failure);
  await expectText(page, "#reload", /^The reload on .* failed: see above\.$/);

  expectedComplaints.push(UNAUTHORIZED);
  await page.route("**/status", (route) => route.fulfill({ status: 401 }));
  await page.locator("#token-form").waitFor();
  assert.equal(await page.locator("#reload-failure").isVisible(), false, "the failure needs the token too");
  await page.unroute("**/status");
  await page.reload();
  await expectText(page, "#reload-failure", failure);

  await gateway.configure('[cache]\nmax_bytes = "1MiB"\n[server]\nmax_long_polls = 5\n');
  gateway.reload();
  await expectText(page, "#reload",
    /^Reloaded on .*\nserver\.max_long_polls needs a restart\.\ncache\.max_bytes needs a restart\.$/);
  assert.equal(await page.locator("#reload-failure").isVisible(), false);
  assert.equal(await text(page, "#phase"), "serving");
});

test("the content security policy blocks an inline script", async () => {
  await start();
  const page = await visit();
  await expectText(page, "#phase", /^serving$/);
  expectedComplaints.push(/^policy: script-src/, /Content Security Policy/);
  const [blocked, ran] = await page.evaluate(async () => {
    const violation = new Promise((resolve) => addEventListener("securitypolicyviolation", resolve));
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
    return [(await violation).effectiveDirective, window.ran];
  });
  assert.deepEqual([blocked, ran], ["script-src-elem", undefined]);
});

test("the light and the dark scheme differ", async () => {
  await start();
  await gateway.poll("step_1", 3);
  const colours = async (colorScheme) => {
    const page = await visit({ colorScheme });
    await expectText(page, "#headline", /^3 polls/);
    return page.evaluate(() => {
      const { color, backgroundColor } = getComputedStyle(document.body);
      return [color, backgroundColor];
    });
  };
  const [light, dark] = [await colours("light"), await colours("dark")];
  assert.notEqual(light[0], dark[0]);
  assert.notEqual(light[1], dark[1]);
});

test("axe finds no violation in either scheme and width", async () => {
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

test("nothing overflows a window of 320 px, even with large numbers", async () => {
  await start(TOKEN);
  expectedComplaints.push(UNAUTHORIZED);
  const page = await visit({ width: 320 });
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await page.locator("#token-form").waitFor();
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
    status.shared = { state: "circuit_open", reason: "connection refused ".repeat(9), pending_purges: 3 };
    await route.fulfill({ response, json: status });
  });
  await page.locator("#figures").waitFor();
  await page.locator("summary").click();
  assert.equal(await overflow(), 0);
  assert.deepEqual(await violations(page), []);
});

test("the keyboard reaches every control, and the focus is visible", async () => {
  await start(TOKEN);
  expectedComplaints.push(UNAUTHORIZED);
  await gateway.poll("step_1");
  const page = await visit();
  await page.locator("#token-form").waitFor();
  const tabThrough = async () => {
    const reached = [];
    await page.mouse.click(1, 1); // so that Tab begins at the top
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
  assert.deepEqual(await tabThrough(), ["token", "Show", "metrics", "status", "ready"]);
  await page.keyboard.press("Tab");
  await page.keyboard.type(SECRET);
  await page.keyboard.press("Enter");
  await page.locator("#figures").waitFor();
  assert.deepEqual(await tabThrough(), ["Show as a table", "metrics", "status", "ready"]);
});

test("reduced motion disables transitions", async () => {
  await start();
  await gateway.poll("step_1");
  const page = await visit();
  await page.locator("#figures").waitFor();
  const transitions = () => page.evaluate(() =>
    [...document.querySelectorAll("*")].filter((element) => getComputedStyle(element).transitionDuration !== "0s").length);
  assert.ok((await transitions()) > 0);
  await page.emulateMedia({ reducedMotion: "reduce" });
  assert.equal(await transitions(), 0);
});

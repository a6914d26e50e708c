// Requests /status every two seconds and shows the figures, which are inserted as text only.

import { Chart, minutes } from "./chart.js";
import { bytes, count, duration, latency, percent, plural, rate, saving, time } from "./format.js";

const INTERVAL = 2_000;
const TIMEOUT = 5_000;
const SPEAK_INTERVAL = 30_000; // for screen readers
const NOTICE_TIME = 10_000;

// A listener that only this machine can reach.
const LOOPBACK = /^(unix:|https?:\/\/(127\.|\[::(1\]|ffff:127\.)))/;

const STEP = "/v1/threads/thread_abc123/runs/run_abc123/steps/step_abc123";

const byId = (id) => document.getElementById(id);

/** Sets a text only if it differs, so that a selection stays and no text is announced twice. */
function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

const total = (figures) => figures.reduce((sum, n) => sum + n, 0);

function row(head, ...cells) {
  const element = document.createElement("tr");
  const th = document.createElement("th");
  th.scope = "row";
  th.textContent = head;
  element.append(th);
  for (const text of cells) element.insertCell().textContent = text;
  return element;
}

const chart = new Chart(byId("chart"), (sample) => setText("sample", sample ?? "per second"));
let spokenAt = -Infinity;

function show(status) {
  const outcomes = {};
  for (const rule of status.rules) {
    for (const [outcome, n] of Object.entries(rule.requests)) {
      outcomes[outcome] = (outcomes[outcome] ?? 0) + n;
    }
  }
  const requests = total(Object.values(outcomes));

  setText("version", status.version);
  setText("uptime", `up ${duration(status.uptime_seconds)}`);
  const failed = showReload(status.last_reload);
  showPhase(status.phase.replace("_", " ") + (failed ? ", reload failed" : ""),
    status.phase === "serving" && !failed ? "good" : "bad");
  showView(requests ? "figures" : "empty");
  if (!requests) return showExample(status);
  showHeadline(status);
  showHistory(status.history);
  showOutcomes(outcomes, requests);
  showLatency("hit", status.latency.hit);
  showLatency("fetch", status.latency.fetch);
  showCache(status);
  showNow(status);
  showRules(status.rules);
}

function showHeadline({ polls, fetches }) {
  const saved = polls > 0 && polls >= fetches;
  const text = polls === 0 ? "no poll answered yet"
    : saved ? `${saving(polls, fetches)} saved`
    : "nothing saved";
  setText("traffic", `${plural(polls, "poll")}, ${plural(fetches, "fetch", "fetches")}:`);
  setText("saving", text);
  byId("saving").classList.toggle("none", !saved);
  if (performance.now() - spokenAt >= SPEAK_INTERVAL) {
    spokenAt = performance.now();
    setText("spoken", byId("headline").textContent);
  }
  document.title = saved ? `${text} · stepgate` : "stepgate";
}

function showHistory(history) {
  const { interval_seconds: interval, polls, fetches } = history;
  chart.show(history);
  const window = minutes(history) === 1 ? "minute" : `${minutes(history)} minutes`;
  setText("window", window);
  const perSecond = (samples) =>
    [Math.min, Math.max].map((end) => count(rate(end(...samples) / interval))).join(" to ");
  setText("chart-summary", polls.length === 0 ? "There is no sample yet."
    : `In the last ${window}: ${perSecond(polls)} polls and ${perSecond(fetches)} fetches per second.`);

  const perMinute = Math.round(60 / interval);
  const sum = (samples, end) => total(samples.slice(Math.max(0, end - perMinute), end));
  const rows = [];
  for (let end = polls.length; end > 0; end -= perMinute) {
    const [p, f] = [sum(polls, end), sum(fetches, end)];
    const minute = `${rows.length} to ${rows.length + 1}`;
    rows.push(row(minute, count(p), count(f), saving(p, f)));
  }
  byId("minutes").replaceChildren(...rows);
}

const outcomeRows = document.querySelectorAll("[data-outcome]");
for (const element of outcomeRows) {
  for (const name of ["", "", "share"]) element.insertCell().className = name;
  element.lastChild.append(document.createElement("span"));
}

function showOutcomes(outcomes, requests) {
  for (const element of outcomeRows) {
    const n = outcomes[element.dataset.outcome];
    element.hidden = n === 0 && element.dataset.outcome === "bypass"; // off by default
    if (element.hidden) continue;
    const [number, share, bar] = element.querySelectorAll("td");
    element.classList.toggle("zero", n === 0);
    number.textContent = count(n);
    share.textContent = percent(n / requests);
    bar.firstChild.style.width = `${(100 * n) / requests}%`;
  }
}

function showLatency(of, { count: n, p50_seconds: p50, p99_seconds: p99 }) {
  const text = (seconds) => (n === 0 ? "–" : seconds === null ? "over 60 s" : latency(seconds));
  setText(`${of}-p50`, text(p50));
  setText(`${of}-p99`, text(p99));
}

function showCache({ cache, shared }) {
  setText("bytes", bytes(cache.bytes));
  setText("max-bytes", bytes(cache.max_bytes));
  byId("fill").style.width = `${(100 * cache.bytes) / cache.max_bytes}%`;
  setText("entries", count(cache.entries));
  setText("shared", shared.state.replace("_", " "));
  byId("shared").classList.toggle("bad", shared.state === "circuit_open");
  const purges = shared.pending_purges ? `${plural(shared.pending_purges, "purge")} pending` : "";
  setText("shared-reason", [shared.reason, purges].filter(Boolean).join("; "));
}

function showNow(status) {
  const scope = status.listen.every((address) => LOOPBACK.test(address)) ? "anyone on this machine"
    : "anyone who can connect";
  setText("clients", status.clients === 0 ? `none: ${scope}` : count(status.clients));
  for (const name of ["connections", "active_keys", "in_flight", "long_polls", "retry_after_blocks"]) {
    setText(name, count(status[name]));
  }
}

/** Shows the last reload, and returns whether it failed. */
function showReload(reload) {
  const failed = reload?.result === "failure";
  const date = reload && new Date(reload.timestamp_seconds * 1000).toLocaleString("en-GB");
  setText("reload-failure", !failed ? ""
    : [`The reload on ${date} failed. The old configuration is still in use:`, ...reload.problems].join("\n"));
  setText("reload", !reload ? "Not reloaded since the start."
    : failed ? `The reload on ${date} failed: see above.`
    : [`Reloaded on ${date}.`, ...reload.needs_restart.map((key) => `${key} needs a restart.`)].join("\n"));
  return failed;
}

function showRules(rules) {
  byId("rules").replaceChildren(...rules.flatMap(({ rule, requests, fetches, regressions }) => {
    const n = total(Object.values(requests));
    if (rule === "none" && n === 0) return [];
    return [row(rule === "none" ? "no rule" : rule,
      count(n), count(fetches), count(regressions))];
  }));
}

/** Shows how to send a first request. */
function showExample({ listen, clients }) {
  const url = listen.find((address) => address.startsWith("http"));
  const key = clients ? "TOKEN-OF-A-CLIENT" : "unused";
  const header = clients ? ` -H 'Authorization: Bearer ${key}'` : "";
  setText("key-hint", clients ? "the key is a client's token" : "any key will do, the upstream does not get it");
  const socket = url ? "" : listen[0].replace("unix:", "");
  const base = new URL(url ?? "http://localhost");
  // A client cannot connect to an unspecified address.
  if (["0.0.0.0", "[::]"].includes(base.hostname)) base.hostname = location.hostname;
  setText("environment",
    `${socket && `socket: ${socket}\n`}OPENAI_BASE_URL=${base.origin}/v1\nOPENAI_API_KEY=${key}`);
  setText("command", `curl -i${header}${socket && ` --unix-socket ${socket}`} ${base.origin}${STEP}`);
}

function showView(shown) {
  for (const id of ["figures", "empty", "token-form"]) byId(id).hidden = id !== shown;
}

function showPhase(text, className) {
  setText("phase", text);
  byId("phase").className = className;
}

function showNotice(text, className = "") {
  clearTimeout(noticeTimer);
  setText("notice", text);
  byId("notice").className = `notice ${className}`;
}

let token = "";
let answeredAt = null;
let isBusy = false;
let timer;
let noticeTimer;

/** Returns the figures, or null if they need a token. */
async function fetchStatus() {
  const response = await fetch("/status", {
    headers: token ? { authorization: `Bearer ${token}` } : {},
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(TIMEOUT),
  });
  if (response.status === 401) return null;
  if (!response.ok) throw new Error(`/status answers ${response.status}`);
  return response.json();
}

function showTokenForm() {
  setText("reload-failure", "");
  showPhase("token required", "");
  showNotice(token ? "The gateway rejected this token." : "", "bad");
  token = "";
  if (byId("token-form").hidden) {
    showView("token-form");
    byId("token").focus();
  }
}

function showUnreachable() {
  const since = answeredAt
    ? `has not answered since ${time(answeredAt)}. These are its last figures`
    : "does not answer";
  showPhase("unreachable", "bad");
  showNotice(`The gateway ${since}. The page tries again every ${INTERVAL / 1000} s.`, "bad");
  byId("figures").classList.add("stale");
}

function showReachable() {
  if (byId("phase").textContent === "unreachable") {
    showNotice(`The gateway answers again since ${time(new Date())}.`);
    noticeTimer = setTimeout(() => showNotice(""), NOTICE_TIME);
    spokenAt = -Infinity;
  } else if (byId("notice").className.includes("bad")) {
    showNotice("");
  }
  answeredAt = new Date();
  byId("figures").classList.remove("stale");
}

/** Refreshes the figures now and every INTERVAL, until a token is needed or the page is hidden. */
async function refresh() {
  if (isBusy) return;
  clearTimeout(timer);
  isBusy = true;
  const status = await fetchStatus().catch(() => undefined);
  isBusy = false;
  if (status === null) return showTokenForm();
  if (!document.hidden) timer = setTimeout(refresh, INTERVAL);
  if (!status) return showUnreachable();
  showReachable();
  show(status);
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // Encoded as bytes, because fetch() throws on a header with a character outside Latin-1.
  token = String.fromCharCode(...new TextEncoder().encode(byId("token").value));
  byId("token").value = "";
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && byId("token-form").hidden) refresh();
});
refresh();

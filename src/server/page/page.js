// Asks /status every two seconds and shows what it says. Whatever it says is put in as text.

import { Picture, minutes } from "./chart.js";
import * as words from "./format.js";

const EVERY = 2_000;
const PATIENCE = 5_000;
const SPEAK_EVERY = 30_000; // a screen reader is not to read a number a second
const GOOD_NEWS = 10_000;

/** A listener that only this machine reaches. */
const LOCAL = /^(unix:|https?:\/\/(127\.|\[::(1\]|ffff:127\.)))/;

const STEP = "/v1/threads/thread_abc123/runs/run_abc123/steps/step_abc123";

const at = (id) => document.getElementById(id);

/** Changes only what differs: a selection stays, and nothing is announced twice. */
function say(id, text) {
  const element = at(id);
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

// ---- What is shown of one answer.

const picture = new Picture(at("picture"), (pointed) => say("pointed", pointed ?? "per second"));
let spoken = -Infinity;

function show(status) {
  const outcomes = {};
  for (const rule of status.rules) {
    for (const [outcome, n] of Object.entries(rule.requests)) {
      outcomes[outcome] = (outcomes[outcome] ?? 0) + n;
    }
  }
  const requests = total(Object.values(outcomes));

  say("version", status.version);
  say("uptime", `up ${words.span(status.uptime_seconds)}`);
  const failed = showReload(status.last_reload);
  phase(status.phase.replace("_", " ") + (failed ? ", reload failed" : ""),
    status.phase === "serving" && !failed ? "good" : "bad");
  view(requests ? "figures" : "empty");
  if (!requests) return showHowTo(status);
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
  const said = polls === 0 ? "no poll answered yet" : saved ? `${words.cut(polls, fetches)} cut` : "nothing cut";
  say("traffic", `${words.some(polls, "poll")}, ${words.some(fetches, "fetch", "fetches")}:`);
  say("cut", said);
  at("cut").classList.toggle("none", !saved);
  if (performance.now() - spoken >= SPEAK_EVERY) {
    spoken = performance.now();
    say("spoken", at("headline").textContent);
  }
  document.title = saved ? `${said} · stepgate` : "stepgate";
}

function showHistory(history) {
  const { interval_seconds: interval, polls, fetches } = history;
  picture.show(history);
  const window = minutes(history) === 1 ? "minute" : `${minutes(history)} minutes`;
  say("window", window);
  const perSecond = (samples) =>
    [Math.min, Math.max].map((end) => words.count(words.rate(end(...samples) / interval))).join(" to ");
  say("picture-said", polls.length === 0 ? "There is nothing to draw yet."
    : `In the last ${window}: ${perSecond(polls)} polls and ${perSecond(fetches)} fetches per second.`);

  const perMinute = Math.round(60 / interval);
  const sum = (samples, end) => total(samples.slice(Math.max(0, end - perMinute), end));
  const rows = [];
  for (let end = polls.length; end > 0; end -= perMinute) {
    const [asked, fetched] = [sum(polls, end), sum(fetches, end)];
    const minute = `${rows.length} to ${rows.length + 1}`;
    rows.push(row(minute, words.count(asked), words.count(fetched), words.cut(asked, fetched)));
  }
  at("minutes").replaceChildren(...rows);
}

const lines = document.querySelectorAll("[data-outcome]");
for (const line of lines) {
  for (const name of ["", "", "share"]) line.insertCell().className = name;
  line.lastChild.append(document.createElement("span"));
}

function showOutcomes(outcomes, requests) {
  for (const line of lines) {
    const n = outcomes[line.dataset.outcome];
    line.hidden = n === 0 && line.dataset.outcome === "bypass"; // by default nothing is
    if (line.hidden) continue;
    const [number, share, bar] = line.querySelectorAll("td");
    line.classList.toggle("quiet", n === 0);
    number.textContent = words.count(n);
    share.textContent = words.percent(n / requests);
    bar.firstChild.style.width = `${(100 * n) / requests}%`;
  }
}

function showLatency(of, { count: n, p50_seconds: p50, p99_seconds: p99 }) {
  const spelled = (seconds) => (n === 0 ? "–" : seconds === null ? "over 60 s" : words.latency(seconds));
  say(`${of}-p50`, spelled(p50));
  say(`${of}-p99`, spelled(p99));
}

function showCache({ cache, shared }) {
  say("bytes", words.bytes(cache.bytes));
  say("max-bytes", words.bytes(cache.max_bytes));
  at("fill").style.width = `${(100 * cache.bytes) / cache.max_bytes}%`;
  say("entries", words.count(cache.entries));
  say("shared", shared.state === "up" ? "in use" : shared.state);
  at("shared").classList.toggle("bad", shared.state === "circuit_open");
  const purges = shared.pending_purges ? `${words.some(shared.pending_purges, "purge")} on the way` : "";
  say("shared-why", [shared.reason, purges].filter(Boolean).join("; "));
}

function showNow(status) {
  const reach = status.listen.every((address) => LOCAL.test(address)) ? "on this machine" : "who reaches it";
  say("clients", status.clients === 0 ? `none: anyone ${reach}` : words.count(status.clients));
  for (const name of ["connections", "active_keys", "in_flight", "long_polls", "retry_after_blocks"]) {
    say(name, words.count(status[name]));
  }
}

/** A failure is told above all else, whatever is shown below. Returns whether it was one. */
function showReload(reload) {
  const failed = reload?.result === "failure";
  const date = reload && new Date(reload.timestamp_seconds * 1000).toLocaleString("en-GB");
  say("failure", !failed ? ""
    : [`Reloading failed on ${date}. The old configuration stays in force:`, ...reload.problems].join("\n"));
  say("reload", !reload ? "As it was at the start."
    : failed ? `Not reloaded on ${date}: see above.`
    : [`Reloaded on ${date}.`, ...reload.needs_restart.map((key) => `${key} waits for a restart.`)].join("\n"));
  return failed;
}

function showRules(rules) {
  at("rules").replaceChildren(...rules.flatMap(({ rule, requests, fetches, regressions }) => {
    const asked = total(Object.values(requests));
    const none = rule === "none";
    if (none && asked === 0) return [];
    return [row(none ? "no rule" : rule, words.count(asked), words.count(fetches), words.count(regressions))];
  }));
}

/** Nobody has asked yet: how to. */
function showHowTo({ listen, clients }) {
  const url = listen.find((address) => address.startsWith("http"));
  const key = clients ? "TOKEN-OF-A-CLIENT" : "unused";
  const presented = clients ? ` -H 'Authorization: Bearer ${key}'` : "";
  say("key", clients ? "the key is a client's token" : "any key will do, it goes no further");
  const socket = url ? "" : listen[0].replace("unix:", "");
  const base = new URL(url ?? "http://localhost");
  // An address that stands for all of them is none to ask.
  if (["0.0.0.0", "[::]"].includes(base.hostname)) base.hostname = location.hostname;
  say("environment",
    `${socket && `socket: ${socket}\n`}OPENAI_BASE_URL=${base.origin}/v1\nOPENAI_API_KEY=${key}`);
  say("command", `curl -i${presented}${socket && ` --unix-socket ${socket}`} ${base.origin}${STEP}`);
}

// ---- In what state it is.

function view(shown) {
  for (const id of ["figures", "empty", "locked"]) at(id).hidden = id !== shown;
}

function phase(text, manner) {
  say("phase", text);
  at("phase").className = manner;
}

function tell(text, manner = "") {
  clearTimeout(goodNews);
  say("news", text);
  at("news").className = `notice ${manner}`;
}

let token = "";
let answered = null; // when it last was
let asking = false;
let next;
let goodNews;

/** The figures; null where they need a token. */
async function ask() {
  const answer = await fetch("/status", {
    headers: token ? { authorization: `Bearer ${token}` } : {},
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (answer.status === 401) return null;
  if (!answer.ok) throw new Error(`/status answers ${answer.status}`);
  return answer.json();
}

function wantToken() {
  say("failure", "");
  phase("locked", "");
  tell(token ? "The gateway does not know this token." : "", "bad");
  token = "";
  if (at("locked").hidden) {
    view("locked");
    at("token").focus();
  }
}

function gone() {
  const since = answered
    ? `has not answered since ${words.clock(answered)}. These are its last figures`
    : "does not answer";
  phase("gone", "bad");
  tell(`The gateway ${since}; it is asked again every ${EVERY / 1000} s.`, "bad");
  at("figures").classList.add("stale");
}

function here() {
  if (at("phase").textContent === "gone") {
    tell(`The gateway answers again, since ${words.clock(new Date())}.`);
    goodNews = setTimeout(() => tell(""), GOOD_NEWS);
    spoken = -Infinity;
  } else if (at("news").className.includes("bad")) {
    tell("");
  }
  answered = new Date();
  at("figures").classList.remove("stale");
}

/** One question, and then another after a while: unless a token is wanted first, or nobody looks. */
async function turn() {
  if (asking) return;
  clearTimeout(next);
  asking = true;
  const status = await ask().catch(() => undefined);
  asking = false;
  if (status === null) return wantToken();
  if (!document.hidden) next = setTimeout(turn, EVERY);
  if (!status) return gone();
  here();
  show(status);
}

at("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  // As bytes: a letter outside Latin-1 would make the question fail, not the token.
  token = String.fromCharCode(...new TextEncoder().encode(at("token").value));
  at("token").value = "";
  turn();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && at("locked").hidden) turn();
});
turn();

// Formats figures for people.

const decimal = new Intl.NumberFormat("en");

export const count = (n) => decimal.format(n);

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Rounds a rate per second. */
export const rate = (n) => (n < 10 ? Math.round(n * 10) / 10 : Math.round(n));

// Rounds down, so that 100 % means that no poll cost a fetch.
export const percent = (share) => `${(Math.floor(share * 1000 + 1e-9) / 10).toFixed(1)} %`;

/** Returns the share of polls that cost no fetch, "none" if there were more fetches, "–" without polls. */
export function saving(polls, fetches) {
  if (polls === 0) return "–";
  return fetches <= polls ? percent(1 - fetches / polls) : "none";
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), units.length - 1);
  const value = n / 1024 ** power;
  return `${value < 10 && power ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** Formats a latency with two digits, which is the precision of the gateway's histogram. */
export function latency(seconds) {
  const [value, unit] = seconds < 0.001 ? [seconds * 1e6, "µs"]
    : seconds < 1 ? [seconds * 1e3, "ms"]
    : [seconds, "s"];
  return `${Number(value.toPrecision(2))} ${unit}`;
}

/** Formats a duration in its two largest units. */
export function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  if (first < 0) return "0 s";
  return units.slice(first, first + 2)
    .map(([unit, length], i) => [Math.floor((i ? seconds % units[first][1] : seconds) / length), unit])
    .filter(([n], i) => n || !i)
    .map(([n, unit]) => `${n} ${unit}`)
    .join(" ");
}

export const time = (date) => date.toLocaleTimeString("en-GB");

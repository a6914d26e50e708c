// How figures are spelled.

const plain = new Intl.NumberFormat("en");

export const count = (n) => plain.format(n);

export const some = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** So many a second, rounded. */
export const rate = (n) => (n < 10 ? Math.round(n * 10) / 10 : Math.round(n));

// Rounded down, so that it says 100 % only where nothing was left to cut.
export const percent = (part) => `${(Math.floor(part * 1000 + 1e-9) / 10).toFixed(1)} %`;

/** What share of the polls cost no fetch, where there were any and it is not below nothing. */
export function cut(polls, fetches) {
  if (polls === 0) return "–";
  return fetches <= polls ? percent(1 - fetches / polls) : "none";
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), units.length - 1);
  const value = n / 1024 ** power;
  return `${value < 10 && power ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** A latency; the steps of the gateway's scale have two digits, so these have no more. */
export function latency(seconds) {
  const [value, unit] = seconds < 0.001 ? [seconds * 1e6, "µs"]
    : seconds < 1 ? [seconds * 1e3, "ms"]
    : [seconds, "s"];
  return `${Number(value.toPrecision(2))} ${unit}`;
}

/** A length of time, to its two largest units. */
export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  if (first < 0) return "0 s";
  return units.slice(first, first + 2)
    .map(([unit, length], i) => [Math.floor((i ? seconds % units[first][1] : seconds) / length), unit])
    .filter(([n], i) => n || !i)
    .map(([n, unit]) => `${n} ${unit}`)
    .join(" ");
}

export const clock = (date) => date.toLocaleTimeString("en-GB");

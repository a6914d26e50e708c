// Draws the last minutes: polls as a light area, and fetches as a solid area in front of it.

import { count, plural, rate } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 220;
const BOTTOM = 24; // for the labels of the time axis
const TOP = 8;
const DIGIT = 8; // the largest width of a digit, in pixels
const WINDOWS = [1, 2, 5, 10]; // minutes

function shape(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

const label = (x, y, anchor, text) => shape("text", { x, y, "text-anchor": anchor }, text);

/** Returns the next number that is round, and whose half is round too. */
function roundUp(n) {
  const unit = 10 ** Math.floor(Math.log10(n));
  return unit * ([1, 1.2, 1.6, 2, 3, 4, 5, 6, 8].find((step) => step * unit >= n) ?? 10);
}

const ago = (seconds) => (seconds < 60 ? `${seconds} s ago` : `${seconds / 60} min ago`);

/** Returns the smallest window that contains all samples, in minutes. */
export function minutes({ interval_seconds: interval, polls }) {
  return WINDOWS.find((window) => window * 60 >= polls.length * interval) ?? WINDOWS.at(-1);
}

export class Chart {
  #svg;
  #onPoint;
  #history;
  #pointer = null; // pixels from the left, or null

  /** Draws into `svg`. Calls `onPoint` with the text of the sample under the pointer, or null. */
  constructor(svg, onPoint) {
    this.#svg = svg;
    this.#onPoint = onPoint;
    new ResizeObserver(() => this.#draw()).observe(svg);
    const point = (x) => {
      this.#pointer = x;
      this.#draw();
    };
    svg.addEventListener("pointermove", (event) => point(event.clientX - svg.getBoundingClientRect().left));
    svg.addEventListener("pointerleave", () => point(null));
  }

  show(history) {
    this.#history = history;
    this.#draw();
  }

  #draw() {
    const width = this.#svg.clientWidth;
    if (!this.#history || !width) return;
    const { interval_seconds: interval, polls, fetches } = this.#history;
    const seconds = minutes(this.#history) * 60;
    const highest = roundUp(Math.max(1, ...[...polls, ...fetches].map((n) => n / interval)));
    const levels = [0, highest / 2, highest];
    const longest = Math.max(...levels.map((level) => count(level).length));
    const right = width - (longest + 1) * DIGIT;
    const base = HEIGHT - BOTTOM;
    const x = (secondsAgo) => (right * (1 - secondsAgo / seconds)).toFixed(1);
    const y = (perSecond) => (base - (perSecond / highest) * (base - TOP)).toFixed(1);

    // A sample covers its interval: the line passes through its middle, and is level at both ends.
    const line = (samples) => {
      const heights = samples.map((n) => y(n / interval));
      const points = heights.map((height, i) => `${x((samples.length - i - 0.5) * interval)} ${height}`);
      return `M${x(samples.length * interval)} ${heights[0]}L${points.join("L")}L${right} ${heights.at(-1)}`;
    };
    const area = (samples) => `${line(samples)}V${base}H${x(samples.length * interval)}Z`;

    const shapes = levels.flatMap((level) => [
      shape("line", { class: "grid", x1: 0, x2: right, y1: y(level), y2: y(level) }),
      label(width, Number(y(level)) + 4, "end", count(level)),
    ]);
    shapes.push(
      label(0, HEIGHT - 5, "start", ago(seconds)),
      label(right / 2, HEIGHT - 5, "middle", ago(seconds / 2)),
      label(right, HEIGHT - 5, "end", "now"),
    );
    if (polls.length) {
      shapes.push(
        shape("path", { class: "polls-area", d: area(polls) }),
        shape("path", { class: "fetches-area", d: area(fetches) }),
        shape("path", { class: "polls-line", d: line(polls) }),
      );
    } else {
      const text = `The first sample comes after ${interval} s.`;
      shapes.push(label(right / 2, y(0.7 * highest), "middle", text)); // between two grid lines
    }

    shapes.push(...this.#pointed(right, base));
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.replaceChildren(...shapes);
  }

  /** Reports the sample under the pointer, and returns its marker. */
  #pointed(right, base) {
    const { interval_seconds: interval, polls, fetches } = this.#history;
    const step = (right * interval) / (minutes(this.#history) * 60);
    const back = this.#pointer === null ? NaN : Math.floor((right - this.#pointer) / step);
    const i = polls.length - 1 - back;
    if (!(i in polls)) {
      this.#onPoint(null);
      return [];
    }
    const [pollRate, fetchRate] = [polls[i], fetches[i]].map((n) => rate(n / interval));
    this.#onPoint(`${(back + 1) * interval} s ago: ${plural(pollRate, "poll")}, ${plural(fetchRate, "fetch", "fetches")} per second`);
    const x = right - (back + 0.5) * step;
    return [shape("line", { class: "pointer", x1: x, x2: x, y1: 0, y2: base })];
  }
}

// The last minutes as a picture: polls answered as a light area, fetches made as a solid one before it.

import { count } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 220;
const FOOT = 24; // for the times below
const HEAD = 18; // for the highest label
const WINDOWS = [1, 2, 5, 10]; // minutes

function shape(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** The next number that is round, and whose half is. */
function roundUp(n) {
  const unit = 10 ** Math.floor(Math.log10(n));
  return unit * ([1, 1.2, 1.6, 2, 3, 4, 5, 6, 8].find((step) => step * unit >= n) ?? 10);
}

const rate = (n) => count(n < 10 ? Math.round(n * 10) / 10 : Math.round(n));

/** The smallest window that holds all samples, in minutes. */
export function minutes({ interval_seconds: interval, polls }) {
  return WINDOWS.find((window) => window * 60 >= polls.length * interval) ?? WINDOWS.at(-1);
}

export class Picture {
  #svg;
  #told;
  #history;
  #pointed = null; // seconds ago

  /** Draws into `svg`, and calls `told` with what is under the pointer, or null. */
  constructor(svg, told) {
    this.#svg = svg;
    this.#told = told;
    new ResizeObserver(() => this.#draw()).observe(svg);
    svg.addEventListener("pointermove", (event) => {
      const { left, width } = svg.getBoundingClientRect();
      this.#pointed = (1 - (event.clientX - left) / width) * minutes(this.#history) * 60;
      this.#draw();
    });
    svg.addEventListener("pointerleave", () => {
      this.#pointed = null;
      this.#draw();
    });
  }

  show(history) {
    this.#history = history;
    this.#draw();
  }

  #draw() {
    const width = this.#svg.clientWidth;
    if (!this.#history || !width) return;
    const { interval_seconds: interval, polls, fetches } = this.#history;
    const window = minutes(this.#history) * 60;
    const rates = (samples) => samples.map((n) => n / interval);
    const top = roundUp(Math.max(1, ...rates(polls), ...rates(fetches)));
    const ground = HEIGHT - FOOT;
    const x = (secondsAgo) => width * (1 - secondsAgo / window);
    const y = (rate) => ground - (rate / top) * (ground - HEAD);

    // A sample stands for its interval: the line goes through its middle, and level at both ends.
    const line = (samples) => {
      const middle = (i) => (samples.length - i - 0.5) * interval;
      const points = rates(samples).map((rate, i) => `${x(middle(i)).toFixed(1)} ${y(rate).toFixed(1)}`);
      const [first, last] = [samples.at(0), samples.at(-1)].map((n) => y(n / interval).toFixed(1));
      return `M${x(samples.length * interval).toFixed(1)} ${first}L${points.join("L")}L${width} ${last}`;
    };
    const area = (samples) => `${line(samples)}V${ground}H${x(samples.length * interval).toFixed(1)}Z`;

    const shapes = [0, top / 2, top].flatMap((rate) => [
      shape("line", { class: "grid", x1: 0, x2: width, y1: y(rate), y2: y(rate) }),
      ...(rate ? [shape("text", { x: 0, y: y(rate) - 5 }, count(rate))] : []),
    ]);
    const ago = (seconds) => (seconds < 60 ? `${seconds} s ago` : `${seconds / 60} min ago`);
    shapes.push(
      shape("text", { x: 0, y: HEIGHT - 5 }, ago(window)),
      shape("text", { x: width / 2, y: HEIGHT - 5, "text-anchor": "middle" }, ago(window / 2)),
      shape("text", { x: width, y: HEIGHT - 5, "text-anchor": "end" }, "now"),
    );
    if (polls.length) {
      shapes.push(
        shape("path", { class: "polls-area", d: area(polls) }),
        shape("path", { class: "fetches-area", d: area(fetches) }),
        shape("path", { class: "polls-line", d: line(polls) }),
      );
    } else {
      const wait = `The first point comes after ${interval} s.`;
      shapes.push(shape("text", { x: width / 2, y: ground / 2, "text-anchor": "middle" }, wait));
    }
    shapes.push(...this.#pointer(x, ground));
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.replaceChildren(...shapes);
  }

  #pointer(x, ground) {
    const { interval_seconds: interval, polls, fetches } = this.#history;
    const back = Math.floor(this.#pointed / interval);
    const i = polls.length - 1 - back;
    if (this.#pointed === null || !(i in polls)) {
      this.#told(null);
      return [];
    }
    const said = `${rate(polls[i] / interval)} polls, ${rate(fetches[i] / interval)} fetches`;
    this.#told(`${(back + 1) * interval} s ago: ${said} per second`);
    const at = x((back + 0.5) * interval);
    return [shape("line", { class: "pointer", x1: at, x2: at, y1: 0, y2: ground })];
  }
}

// Debian's Chromium, and a page in it that tells of everything that it complained about.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // Its own sandbox needs what a container's root has not. It only sees pages from loopback.
  args: ["--no-sandbox"],
});

export const close = () => browser.close();

/** Opens `url`; `complaints` grows by each error of the console, of a script, of the policy. */
export async function open(url, { colorScheme = "light", width = 1040, before = async () => {} } = {}) {
  const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 } });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.exposeFunction("complain", (text) => complaints.push(text));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) =>
      window.complain(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  await before(page);
  await page.goto(url);
  return { page, complaints, close: () => context.close() };
}

/** What axe finds, a line each. It is put in by the debugger, past the page's policy. */
export async function violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}

// Opens pages in Debian's Chromium, and collects their errors.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // The sandbox does not work for root in a container. The browser only opens pages from loopback.
  args: ["--no-sandbox"],
});

export const close = () => browser.close();

/** Opens `url`, and collects errors of the console, of scripts and of the content security policy in `complaints`. */
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

/** Returns the violations that axe finds, one per line. The debugger injects axe past the page's policy. */
export async function violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}

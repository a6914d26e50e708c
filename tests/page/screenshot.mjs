// Makes the screenshot in config/deploy/README.md: the page in both schemes, side by side, after two minutes of the demo.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { close, open } from "./browser.mjs";
import { program } from "./gateway.mjs";

// The part of each page with the headline and the chart.
const [WIDTH, HEIGHT] = [760, 610];
const SAMPLES = 24; // these fill the chart

const admin = "127.0.0.1:18181";
const file = new URL("page.png", import.meta.url);

const demo = spawn(program, ["demo", "--listen", "127.0.0.1:18180", "--admin", admin, "--duration", "3m"]);
const ended = once(demo, "exit");
demo.stdout.resume();
const sampleCount = async () => {
  const status = await fetch(`http://${admin}/status`);
  return (await status.json()).history.polls.length;
};

while ((await sampleCount().catch(() => -1)) < 0) await sleep(200);
const pages = await Promise.all(["light", "dark"].map((colorScheme) =>
  open(`http://${admin}/`, { colorScheme, width: WIDTH })));
while ((await sampleCount()) < SAMPLES) await sleep(200);
const images = await Promise.all(pages.map(async ({ page }) => {
  await page.waitForResponse("**/status");
  return page.screenshot({ clip: { x: 0, y: 0, width: WIDTH, height: HEIGHT } });
}));

const { page } = await open("about:blank", { width: 2 * WIDTH });
await page.setContent(images.map((image) =>
  `<img src="data:image/png;base64,${image.toString("base64")}" width="${WIDTH}">`).join(""));
await page.addStyleTag({ content: "body { display: flex; align-items: start; margin: 0 }" });
await writeFile(file, await page.screenshot({ clip: { x: 0, y: 0, width: 2 * WIDTH, height: HEIGHT } }));
await close();
demo.kill("SIGINT");
await ended;

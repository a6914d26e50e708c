// The picture of the README: the page in both schemes, side by side, after two minutes of the demo.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { close, open } from "./browser.mjs";
import { program } from "./gateway.mjs";

// Of each: the headline and the picture.
const [WIDTH, HEIGHT] = [760, 610];

const [admin, file] = ["127.0.0.1:18181", new URL("page.png", import.meta.url)];

const demo = spawn(program, ["demo", "--listen", "127.0.0.1:18180", "--admin", admin, "--duration", "3m"]);
const ended = once(demo, "exit");
demo.stdout.resume();
await Promise.race([sleep(122_000), ended.then(() => Promise.reject(new Error("the demo ended early")))]);

const pages = await Promise.all(["light", "dark"].map((colorScheme) =>
  open(`http://${admin}/`, { colorScheme, width: WIDTH })));
const shots = [];
for (const { page } of pages) {
  await page.locator("#picture .polls-line").waitFor({ state: "attached" });
  await page.waitForTimeout(500); // the bars grow
  shots.push(await page.screenshot({ clip: { x: 0, y: 0, width: WIDTH, height: HEIGHT } }));
}

const { page } = await open("about:blank", { width: 2 * WIDTH });
await page.setContent(shots.map((shot) =>
  `<img src="data:image/png;base64,${shot.toString("base64")}" width="${WIDTH}">`).join(""));
await page.addStyleTag({ content: "body { margin: 0; display: flex }" });
await writeFile(file, await page.screenshot({ clip: { x: 0, y: 0, width: 2 * WIDTH, height: HEIGHT } }));
await close();
demo.kill("SIGINT");
await ended;

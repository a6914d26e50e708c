// Starts a gateway of the test's own, in front of an upstream of its own, so that every request is known.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const root = new URL("../../", import.meta.url).pathname;
export const program = process.env.STEPGATE_BIN ?? join(root, "target/debug/stepgate");

/** The value of ADMIN_TOKEN. */
export const SECRET = "sesame";

const STEP = /^\/v1\/threads\/([^/]+)\/runs\/([^/]+)\/steps\/([^/]+)$/;

// No gateway outlives this process, whatever ends it.
const living = new Set();
process.once("exit", () => living.forEach((child) => child.kill("SIGKILL")));
process.once("SIGTERM", () => process.exit(1));

/**
 * Responds with a step: in progress if its id begins with `live`, else completed. The response to any other
 * path is an empty list.
 */
function respond(request, response) {
  const [, thread_id, run_id, id] = STEP.exec(request.url) ?? [];
  const status = id?.startsWith("live") ? "in_progress" : "completed";
  const body = id ? { id, object: "thread.run.step", thread_id, run_id, status } : { object: "list", data: [] };
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(body));
}

export class Gateway {
  #child;
  #folder;
  #upstream;
  #listen;
  #admin = "127.0.0.1:0";

  /** Starts a gateway with this configuration file. FOLDER in an address stands for the gateway's folder. */
  static async start(toml = "", listen = ["127.0.0.1:0"]) {
    const gateway = new Gateway();
    gateway.#folder = await mkdtemp(join(tmpdir(), "stepgate-page-"));
    gateway.#listen = listen.map((address) => address.replace("FOLDER", gateway.#folder));
    gateway.#upstream = createServer(respond).listen(0, "127.0.0.1");
    await once(gateway.#upstream, "listening");
    await gateway.configure(toml);
    try {
      await gateway.run();
    } catch (error) {
      await gateway.end();
      throw error;
    }
    return gateway;
  }

  /** Starts the process, on the ports of its last start if there was one. */
  async run() {
    const child = spawn(program, [
      "--config", join(this.#folder, "stepgate.toml"),
      ...this.#listen.flatMap((address) => ["--listen", address]),
      "--admin", this.#admin,
      "--upstream", `http://127.0.0.1:${this.#upstream.address().port}/v1`,
      "--log-format", "json",
    ], {
      env: { PORTKEY_API_KEY: "a", PORTKEY_PROVIDER_VIRTUAL_KEY: "b", ADMIN_TOKEN: SECRET },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#child = child;
    living.add(child);
    child.once("exit", () => living.delete(child));
    const log = [];
    const bound = [];
    await new Promise((resolve, reject) => {
      createInterface({ input: child.stderr }).on("line", (line) => {
        log.push(line);
        if (!line.startsWith("{")) return;
        const { on, address } = JSON.parse(line);
        if (on === "data") bound.push(address);
        if (on === "admin") {
          [this.#listen, this.#admin] = [bound, address];
          resolve();
        }
      });
      child.once("exit", () => reject(new Error(`the gateway did not start:\n${log.join("\n")}`)));
    });
  }

  configure(toml) {
    // A configuration file without a word is rejected as half written.
    return writeFile(join(this.#folder, "stepgate.toml"), `# the page's\n${toml}`);
  }

  /** Makes it reload its configuration. */
  reload() {
    this.#child.kill("SIGHUP");
  }

  async kill() {
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }

  /** Ends the process, its upstream and its folder. */
  async end() {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.kill();
    this.#upstream.closeAllConnections();
    this.#upstream.close();
    await rm(this.#folder, { recursive: true });
  }

  /** Polls a step so many times, one after the other. */
  async poll(step, times = 1) {
    for (let i = 0; i < times; i++) {
      const answer = await fetch(`${this.data}/v1/threads/thread_1/runs/run_1/steps/${step}`);
      await answer.arrayBuffer();
    }
  }

  async status() {
    return (await fetch(`${this.page}status`)).json();
  }

  get data() {
    return `http://${this.#listen[0]}`;
  }

  get page() {
    return `http://${this.#admin}/`;
  }
}

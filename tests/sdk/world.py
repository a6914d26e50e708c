"""Starts the fixtures of the SDK tests, and runs commands beside them:

    world.py COMMAND [ARGUMENT…] [and COMMAND …]

The commands find the fixtures in the variable SDK_WORLD, a JSON object. `upstream` is the control listener
of the scripted upstream. Each other member is a stepgate in front of it, with its `url` (for an SDK) and
`admin` (its admin listener):

    open        no configured client; the two variables of the README are its whole configuration
    clients     the configured clients `billing` and `search`, the latter with a virtual key of its own
    impatient   its upstream timeout is 0.3 s
    alone       its upstream is down
    portkey     a real Portkey gateway is between it and the scripted upstream
    whole       forwards requests that no rule matches
    through     the same, with the real Portkey gateway behind it

Everything listens on free loopback ports, and ends with the commands. The exit code is the first one that is
not 0. The gateways' logs stay in target/sdk/.
"""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from upstream import Upstream

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LOGS = ROOT / "target" / "sdk"

# Longer than anything takes on a busy machine, so it is reached only if something is broken. In seconds.
LIMIT = 30

SECRETS = {
    "PORTKEY_API_KEY": "canary-portkey-key",
    "PORTKEY_PROVIDER_VIRTUAL_KEY": "canary-virtual-key",
    "SEARCH_VIRTUAL_KEY": "canary-search-virtual-key",
    "PROVIDER_AUTHORIZATION": "Bearer canary-provider-key",
    "BILLING_TOKEN": "canary-billing-token",
    "SEARCH_TOKEN": "canary-search-token",
}

CLIENTS = """
[[client]]
name = "billing"
token = { env = "BILLING_TOKEN" }

[[client]]
name = "search"
token = { env = "SEARCH_TOKEN" }

[client.headers]
x-portkey-virtual-key = { env = "SEARCH_VIRTUAL_KEY" }
"""

IMPATIENT = """
[upstream]
timeout = "300ms"
"""

FORWARDING = """
[server]
forward = "all"
"""

PORTKEY = """
[upstream.headers]
authorization = {{ env = "PROVIDER_AUTHORIZATION" }}
x-portkey-provider = "openai"
x-portkey-custom-host = "{host}"
"""


class Process:
    """A program whose output says where it listens. It ends with `stack`."""

    def __init__(self, stack, name, command, environment, **options):
        self.name = name
        self._lines = queue.SimpleQueue()
        self._log = stack.enter_context(open(LOGS / f"{name}.log", "w"))
        self._child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        stack.callback(self._end)

    def _read(self):
        for line in self._child.stdout:
            self._log.write(line)
            self._log.flush()
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern):
        """Returns the first group of the next line of output that matches this pattern."""
        while (line := self._lines.get(timeout=LIMIT)) is not None:
            if found := re.search(pattern, line):
                return found[1]
        raise SystemExit(f"{self.name} ended at its start; see {self._log.name}")

    def _end(self):
        self._child.terminate()
        try:
            self._child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join()


def environment():
    """Returns the environment, without the variables that would send an SDK elsewhere."""
    foreign = re.compile("^(OPENAI|PORTKEY)_|_PROXY$", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not foreign.search(name)}


def gateway(stack, name, upstream, configuration=None):
    """Starts a stepgate in front of `upstream`, and returns its addresses."""
    program = os.environ.get("STEPGATE_BIN") or ROOT / "target" / "debug" / "stepgate"
    command = [program, "--log-format", "json", "--upstream", upstream]
    for listener in ("--listen", "--admin"):
        command += [listener, "127.0.0.1:0"]
    if configuration is not None:
        file = LOGS / f"{name}.toml"
        file.write_text(configuration)
        command += ["--config", file]
    process = Process(stack, name, command, SECRETS)
    address = r'"listening","on":"%s","address":"([^"]+)"'
    data, admin = (process.wait_for(address % listener) for listener in ("data", "admin"))
    return {"url": f"http://{data}/v1", "admin": f"http://{admin}"}


def portkey(stack):
    """A real Portkey gateway; its base URL."""
    server = "node_modules/@portkey-ai/gateway/build/start-server.js"
    command = ["node", "--import", "./loopback.mjs", server, "--headless"]
    process = Process(stack, "portkey-itself", command, environment(), cwd=HERE)
    port = process.wait_for(r"^listening on (\d+)$")
    # Before it is ready, an upstream that breaks off ends it. Afterwards it passes the error on.
    process.wait_for("(Ready for connections)")
    return f"http://127.0.0.1:{port}/v1"


def unreachable(stack):
    """Returns a base URL at which nothing listens. The port stays reserved."""
    reserved = stack.enter_context(socket.socket())
    reserved.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"


def start(stack):
    upstream = Upstream()
    provider = f"{upstream.url}/v1"
    through = portkey(stack)
    headers = PORTKEY.format(host=provider)
    return {
        "upstream": upstream.control,
        "open": gateway(stack, "open", provider),
        "clients": gateway(stack, "clients", provider, CLIENTS),
        "impatient": gateway(stack, "impatient", provider, IMPATIENT),
        "alone": gateway(stack, "alone", unreachable(stack)),
        "portkey": gateway(stack, "portkey", through, headers),
        "whole": gateway(stack, "whole", provider, FORWARDING),
        "through": gateway(stack, "through", through, FORWARDING + headers),
    }


def commands(words):
    command = []
    for word in [*words, "and"]:
        if word != "and":
            command.append(word)
        elif command:
            yield command
            command = []


def main():
    # SIGTERM ends the fixtures, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    LOGS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        variables = environment() | {"SDK_WORLD": json.dumps(start(stack))}
        codes = [subprocess.run(c, env=variables, cwd=HERE).returncode for c in commands(sys.argv[1:])]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main())

"""A scripted upstream, which records its requests.

It has two loopback listeners: the service, and a control listener for the tests of both languages:

    POST /script  {"path": …, "answers": […]}   sets the answers of a path; the last one repeats
    GET  /requests?path=…                       returns the requests for a path, as `Service` records them
    POST /release?path=…                        releases one event that waits at a path

An answer is an object with one of these members, and with `status` and `headers` if they are not 200 and
JSON:

    step     a run step of that status, for the ids in the path
    json     this value
    blob     so many bytes of `blob`
    events   server-sent events; each but the first waits for a `release`
    stall    nothing, so that the client waits

and `cut`, true, breaks the connection off in the middle of the body; after events it waits for one more
`release`, which says that the client has read the last of them. A path without a script is a 404.
"""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# Longer than any test waits, so it is reached only if something is broken. In seconds.
LIMIT = 10


class State:
    """The answers, the requests and the waiting events of each path."""

    def __init__(self):
        self._changed = threading.Lock()
        self._answers = {}
        self._requests = {}
        self._waiting = {}

    def script(self, path, answers):
        with self._changed:
            self._answers[path] = list(answers)
            self._waiting.pop(path, None)

    def record(self, path, request):
        """Records a request, and returns its answer."""
        with self._changed:
            self._requests.setdefault(path, []).append(request)
            answers = self._answers.get(path, [])
            if not answers:
                return {"status": 404, "json": {"error": error(f"no script for {path}", "not_scripted")}}
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def requests(self, path):
        with self._changed:
            return list(self._requests.get(path, []))

    def events(self, path):
        """Returns the semaphore that events of a path wait for."""
        with self._changed:
            return self._waiting.setdefault(path, threading.Semaphore(0))


def error(message, code):
    return {"message": message, "type": "invalid_request_error", "param": None, "code": code}


def run_step(path, status, with_results):
    """Returns a run step as it is on the wire, for the ids in `path`."""
    _, _, _, thread, _, run, _, step = path.split("/")
    found = {"file_id": "file_1", "file_name": "paper.pdf", "score": 0.87}
    if with_results:
        found["content"] = [{"type": "text", "text": "Grüße, 世界 \u2028 ↯"}]
    final = status != "in_progress"
    return {
        "id": step,
        "object": "thread.run.step",
        "created_at": 1763882400,
        "run_id": run,
        "assistant_id": "asst_1",
        "thread_id": thread,
        "type": "tool_calls",
        "status": status,
        "cancelled_at": 1763882410 if status == "cancelled" else None,
        "completed_at": 1763882410 if status == "completed" else None,
        "expires_at": 1763883000 if status == "in_progress" else None,
        "failed_at": 1763882410 if status == "failed" else None,
        "last_error": {"code": "server_error", "message": "It broke."} if status == "failed" else None,
        "step_details": {
            "type": "tool_calls",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "file_search",
                    "file_search": {"ranking_options": None, "results": [found]},
                }
            ],
        },
        "usage": {"prompt_tokens": 20, "completion_tokens": 22, "total_tokens": 42} if final else None,
    }


def blob(size):
    """Returns the same bytes each time. They are no text, and do not compress."""
    return hashlib.shake_256(b"stepgate").digest(size)


def parts(content_type, body):
    """Returns the size and the hash of each part of a multipart body, by its name."""
    if not content_type.startswith("multipart/form-data"):
        return {}
    boundary = content_type.split("boundary=")[1].strip('"').encode()
    found = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.split(b'name="')[1].split(b'"')[0].decode()
        found[name] = content.removesuffix(b"\r\n")
    return {name: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in found.items()}


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open, and writes no log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def path_in_query(self):
        return parse_qs(urlsplit(self.path).query)["path"][0]

    def body(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def respond(self, status, headers, body, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        self.close_connection = cut


class Service(Handler):
    """The provider, as stepgate and Portkey see it."""

    def answer(self):
        at = time.monotonic()
        body = self.body()
        path = urlsplit(self.path).path
        request = {
            "method": self.command,
            "target": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": body.decode("utf-8", "replace") if len(body) < 10_000 else None,
            "parts": parts(self.headers.get("content-type", ""), body),
            "at": at,
        }
        answer = self.server.state.record(path, request)
        number = len(self.server.state.requests(path))
        headers = {
            "content-type": "application/json",
            "x-request-id": f"req_{number}",
            "set-cookie": "of=the-upstream",
        } | answer.get("headers", {})
        if "events" in answer:
            self.stream(path, headers, answer)
            return
        if "stall" in answer:
            time.sleep(LIMIT)
            self.close_connection = True
            return
        if "blob" in answer:
            headers["content-type"] = "application/octet-stream"
            content = blob(answer["blob"])
        else:
            value = answer.get("json") or run_step(path, answer["step"], "include" in self.path)
            content = json.dumps(value, indent=2, ensure_ascii=False).encode()
        self.respond(answer.get("status", 200), headers, content, answer.get("cut", False))

    do_GET = do_POST = do_DELETE = answer

    def stream(self, path, headers, answer):
        self.send_response(200)
        for name, value in (headers | {"content-type": "text/event-stream"}).items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(answer["events"]):
            if number and not self.server.state.events(path).acquire(timeout=LIMIT):
                break
            text = event.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.flush()
        else:
            if not answer.get("cut"):
                self.wfile.write(b"0\r\n\r\n")
                return
            # A client may discard what it has not read when the connection breaks off.
            self.server.state.events(path).acquire(timeout=LIMIT)
        self.close_connection = True


class Control(Handler):
    """The control listener."""

    def do_POST(self):
        body = self.body()
        if self.path == "/script":
            script = json.loads(body)
            self.server.state.script(script["path"], script["answers"])
        else:
            self.server.state.events(self.path_in_query()).release()
        self.respond(204, {}, b"")

    def do_GET(self):
        requests = json.dumps(self.server.state.requests(self.path_in_query()))
        self.respond(200, {"content-type": "application/json"}, requests.encode())


class Upstream:
    """Runs both listeners. Each connection has a thread of its own."""

    def __init__(self):
        state = State()
        self._servers = []
        for handler in (Service, Control):
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.state = state
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self._servers.append(server)
        self.url, self.control = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

"""The part of the Hub's API that downloads use, over files in memory. Counts requests; can cut, refuse and wait."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """`hub.put("org/name", {"config.json": b"..."})` makes a commit and moves `main` to it."""

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repo -> commit -> files
        self.refs: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []
        self.token: str | None = None  # what every request must bring
        self.gated: set[str] = set()
        self.cut_after: int | None = None  # bytes of a file, after which the connection waits for `go_on`
        self.go_on, self.is_waiting = threading.Event(), threading.Event()

    def put(self, repo, files, branch="main"):
        text = repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()))
        commit = hashlib.sha1((repo + text).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = dict(files)
        self.refs.setdefault(repo, {})[branch] = commit
        return commit

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self, with_body=False)

            def do_GET(self):
                hub.answer(self, with_body=True)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.stop()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, with_body):
        path = unquote(urlsplit(request.path).path)
        self.requests.append(f"{request.command} {path}")
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.send(request, 401, {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/models/") and "/revision/" in path:
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self.find(request, repo, revision, lambda commit, files: self.describe(request, repo, commit, files))
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/tree/")
            return self.find(request, repo, revision, lambda commit, files: self.list(request, files))
        repo, _, rest = path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        return self.find(
            request, repo, revision, lambda commit, files: self.send_file(request, commit, files, name, with_body)
        )

    def find(self, request, repo, revision, then):
        if repo in self.gated:
            return self.send(request, 403, {"X-Error-Code": "GatedRepo"})
        if repo not in self.commits:
            return self.send(request, 404, {"X-Error-Code": "RepoNotFound"})
        commit = self.refs[repo].get(revision, revision)
        if commit not in self.commits[repo]:
            return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        return then(commit, self.commits[repo][commit])

    def list(self, request, files):
        entries = [
            {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files.items()
        ]
        self.send(request, 200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def describe(self, request, repo, commit, files):
        about = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        self.send(request, 200, {"Content-Type": "application/json"}, json.dumps(about).encode())

    def send_file(self, request, commit, files, name, with_body):
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            return self.send(request, 404, {**headers, "X-Error-Code": "EntryNotFound"})
        data = files[name]
        headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        headers["Accept-Ranges"] = "bytes"
        first, status = 0, 200
        asked = request.headers.get("Range", "")
        if asked.startswith("bytes=") and with_body:
            first, status = int(asked[6:].partition("-")[0]), 206
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self.send(request, status, headers, data[first:], with_body)

    def send(self, request, status, headers, body=b"", with_body=True):
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if not with_body or request.command == "HEAD":
            return
        if self.cut_after is not None and len(body) > self.cut_after:
            request.wfile.write(body[: self.cut_after])
            request.wfile.flush()
            self.is_waiting.set()
            self.go_on.wait(60)
            body = body[self.cut_after :]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            request.wfile.write(body)

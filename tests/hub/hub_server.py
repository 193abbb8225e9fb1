"""The part of the Hub's API that downloads use, over files in memory. Counts requests; can cut, refuse and wait."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


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

            def do_POST(self):
                hub.take(self)

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
        if path in ("/api/datasets", "/api/datasets/"):
            return self.search(request)
        if path.startswith("/api/datasets/") and "/revision/" in path:
            repo, _, revision = path.removeprefix("/api/datasets/").partition("/revision/")
            return self.find(request, repo, revision, lambda commit, files: self.describe(request, repo, commit, files))
        if path.startswith("/api/datasets/"):
            repo, _, revision = path.removeprefix("/api/datasets/").partition("/tree/")
            revision = revision.partition("/")[0] if not revision.startswith("refs/") else revision
            return self.find(request, repo, revision or "main", lambda commit, files: self.list(request, files))
        if path.startswith("/api/models/") and "/revision/" in path:
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self.find(request, repo, revision, lambda commit, files: self.describe(request, repo, commit, files))
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/tree/")
            return self.find(request, repo, revision, lambda commit, files: self.list(request, files))
        repo, _, rest = path[1:].removeprefix("datasets/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if revision == "refs":  # refs/convert/parquet
            more = rest.split("/", 3)
            revision, name = "/".join(more[:3]), more[3]
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

    def search(self, request):
        asked = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        found = [
            {"id": repo, "author": repo.partition("/")[0], "tags": [], "downloads": len(repo)}
            for repo in sorted(self.refs)
            if asked.get("author") in (None, repo.partition("/")[0]) and asked.get("search", "") in repo
        ]
        if asked.get("sort") == "downloads":
            found.sort(key=lambda each: -each["downloads"])
        body = json.dumps(found[: int(asked.get("limit", 100))]).encode()
        self.send(request, 200, {"Content-Type": "application/json"}, body)

    def take(self, request):
        """Repositories made, and commits whose files come with the request."""
        path = unquote(urlsplit(request.path).path)
        self.requests.append(f"POST {path}")
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.send(request, 401, {})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if repo not in self.refs:
                self.put(repo, {})
            return self.send_json(request, {"url": f"{self.url}/datasets/{repo}"})
        if path == "/api/validate-yaml":
            return self.send_json(request, {"errors": [], "warnings": []})
        repo, _, rest = path.removeprefix("/api/datasets/").partition("/preupload/")
        if rest:
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.send_json(request, {"files": modes})
        repo, _, branch = path.removeprefix("/api/datasets/").partition("/commit/")
        files = dict(self.commits[repo][self.refs[repo][branch]])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                files.pop(entry["value"]["path"])
        commit = self.put(repo, files, branch)
        return self.send_json(
            request, {"commitUrl": f"{self.url}/datasets/{repo}/commit/{commit}", "commitOid": commit}
        )

    def send_json(self, request, value):
        self.send(request, 200, {"Content-Type": "application/json"}, json.dumps(value).encode())

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

"""A server that hangs up in the middle of a file, or says that it is busy."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import martlet.datasets as ours
from martlet.datasets import load_dataset
from martlet.errors import ArgumentError, HubError

ROWS = [{"id": number, "text": "x" * 400} for number in range(400)]
BODY = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


class Unsteady(http.server.BaseHTTPRequestHandler):
    """Answers ranges; the next `failures` of them with nothing but what the status promises, or with a status."""

    failures: ClassVar[list[int]] = []
    asked: ClassVar[list[str]] = []

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        first, last = self.headers.get("Range", f"bytes=0-{len(BODY) - 1}").removeprefix("bytes=").split("-")
        part = BODY[int(first) : int(last) + 1]
        self.asked.append(first)
        status = self.failures.pop(0) if self.failures else 206
        self.send_response(status if status != 0 else 206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(BODY)}")
        self.end_headers()
        if status == 206:
            self.wfile.write(part)
        elif status == 0:
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        else:
            self.wfile.write(b"x" * len(part))


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    for name in ("READ_RETRY_INTERVAL", "READ_SERVER_UNAVAILABLE_RETRY_INTERVAL", "READ_RATE_LIMIT_RETRY_INTERVAL"):
        monkeypatch.setattr(ours.config, f"STREAMING_{name}", 0)
    Unsteady.failures, Unsteady.asked = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unsteady)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/rows.jsonl"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("failures", [[0], [0, 503, 429, 0]])
def test_reading_goes_on(url: str, failures: list[int], streaming: bool, caplog: pytest.LogCaptureFixture):
    Unsteady.failures = list(failures)
    assert list(load_dataset("json", data_files=url, split="train", streaming=streaming)) == ROWS
    assert Unsteady.failures == [] and caplog.text.count("once more in 0 s") == len(failures)


def test_what_never_comes_back(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ours.config, "STREAMING_READ_MAX_RETRIES", 3)
    Unsteady.failures = [0] * 20
    with pytest.raises(HubError, match=r"rows\.jsonl: the connection was lost at byte 0, 3 times.*MAX_RETRIES"):
        load_dataset("json", data_files=url, split="train")
    assert len(Unsteady.asked) == 3
    Unsteady.failures = [403]  # no reason to try again
    with pytest.raises(HubError, match="byte 0; found 403"):
        load_dataset("json", data_files=url, split="train")
    assert len(Unsteady.asked) == 4


def test_settings_are_numbers(monkeypatch: pytest.MonkeyPatch):
    assert ours.config.STREAMING_READ_MAX_RETRIES == 20
    monkeypatch.setattr(ours.config, "STREAMING_READ_MAX_RETRIES", "often")
    with pytest.raises(ArgumentError, match="STREAMING_READ_MAX_RETRIES: must be a number"):
        _ = ours.config.STREAMING_READ_MAX_RETRIES

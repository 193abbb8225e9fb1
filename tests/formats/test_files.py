"""Writing aside, under full disks, killed and competing processes; and strict JSON."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from martlet.errors import ArgumentError, HubError, JsonError, SaveError
from martlet.formats import files
from martlet.formats.files import read_json, write_aside, write_json


@pytest.fixture(params=["nameless", "named"])
def kind(request, monkeypatch):
    """Both ways of writing aside: Linux's file without a name, and the one of other systems."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_old_ones_place_at_the_end(tmp_path, kind):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o640)
    with write_aside(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["x"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_mode(tmp_path, kind):
    (tmp_path / "plain").write_text("")
    with write_aside(tmp_path / "x", "w") as file:
        file.write("é\n")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_inside_changes_nothing(tmp_path, kind):
    path = tmp_path / "x"
    path.write_text("old")
    for error in (KeyError("k"), HubError("hub"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, write_aside(path) as file:
            file.write(b"half")
            raise error
        assert caught.value is error
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


def test_a_link_is_replaced_and_what_it_pointed_to_kept(tmp_path, kind):
    (tmp_path / "blob").write_text("shared")
    (tmp_path / "x").symlink_to("blob")
    with write_aside(tmp_path / "x") as file:
        file.write(b"new")
    assert (tmp_path / "blob").read_text() == "shared"
    assert not (tmp_path / "x").is_symlink() and (tmp_path / "x").read_text() == "new"


def test_places_that_cannot_be_written(tmp_path, kind):
    with pytest.raises(SaveError, match=r"found ENOENT \(No such file or directory\)\. Does the folder exist\?"):
        write_json(tmp_path / "no" / "x", {})
    with pytest.raises(SaveError, match="EISDIR"):
        write_json(tmp_path, {})
    with pytest.raises(SaveError, match="ENOTDIR"):
        (tmp_path / "file").touch()
        write_json(tmp_path / "file" / "x", {})
    with pytest.raises(ArgumentError, match="mode: must be 'wb' or 'w'; found 'a'"), write_aside(tmp_path / "x", "a"):
        pass
    assert names(tmp_path) == ["file"]


SAVE = """
import os, resource, sys
if sys.argv[2] == "named" and hasattr(os, "O_TMPFILE"):
    del os.O_TMPFILE
from martlet.errors import SaveError
from martlet.formats.safetensors import save_safetensors
if sys.argv[3] == "limited":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    save_safetensors(sys.argv[1], {str(i): ("U8", (300_000,), lambda: bytes(300_000)) for i in range(20)})
except SaveError as error:
    print(error.errno, error)
"""


@pytest.mark.parametrize("how", ["nameless", "named"])
def test_a_file_that_may_not_grow(tmp_path, how):
    path = tmp_path / "x.safetensors"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SAVE, path, how, "limited"], capture_output=True, text=True, check=True
    )
    assert f"{path}: could not be written, and what was there before is intact; found EFBIG" in done.stdout
    assert done.stderr == "" and path.read_text() == "old" and names(tmp_path) == [path.name]


@pytest.mark.parametrize("how", ["nameless", "named"])
def test_a_full_disk(tmp_path, how):
    """A real file system of 2 MiB, in a mount namespace of its own."""
    script = 'mount -t tmpfs -o size=2m none "$1" && echo old > "$1/x" && "$2" -W error -c "$3" "$1/x" "$4" free'
    script += ' && cat "$1/x" && ls -A "$1"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, SAVE, how]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    assert done.stdout.splitlines()[1:] == ["old", "x"], done.stderr
    assert "found ENOSPC (No space left on device). Free some space." in done.stdout and done.stderr == ""


SLOW = """
import os, sys, time
if sys.argv[2] == "named":
    del os.O_TMPFILE
from martlet.formats.files import write_aside
with write_aside(sys.argv[1]) as file:
    file.write(b"half" * 100_000)
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_nothing(tmp_path):
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")
    path = tmp_path / "x"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", SLOW, path, "nameless"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


def test_a_killed_process_leaves_the_old_file_where_there_are_no_nameless_ones(tmp_path):
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("the same as elsewhere")
    path = tmp_path / "x"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", SLOW, path, "named"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    (left,) = set(names(tmp_path)) - {"x"}
    assert left.startswith(".x.") and left.endswith(".tmp")


RACE = """
import os, sys
if sys.argv[2] == "named" and hasattr(os, "O_TMPFILE"):
    del os.O_TMPFILE
from martlet.formats.files import write_aside
for _ in range(40):
    with write_aside(sys.argv[1]) as file:
        file.write(sys.argv[3].encode() * 50_000)
"""


@pytest.mark.parametrize("how", ["nameless", "named"])
def test_two_processes_at_once(tmp_path, how):
    path = tmp_path / "x"
    path.write_bytes(b"c" * 50_000)
    writers = [subprocess.Popen([sys.executable, "-c", RACE, path, how, letter]) for letter in "ab"]
    deadline = time.monotonic() + 30
    while any(writer.poll() is None for writer in writers) and time.monotonic() < deadline:
        found = path.read_bytes()
        assert len(found) == 50_000 and len(set(found)) == 1
    assert [writer.wait(5) for writer in writers] == [0, 0]
    assert names(tmp_path) == ["x"] and path.read_bytes()[:1] in (b"a", b"b")


def test_no_descriptor_is_left_open(tmp_path, kind):
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(5):
        write_json(tmp_path / "x", {})
        with pytest.raises(KeyError), write_aside(tmp_path / "x"):
            raise KeyError
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after == before


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True], "日": {"ü": "\n"}, "big": 10**30}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_text("utf-8").startswith('{\n  "a": [')


def test_what_json_cannot_hold_is_not_written(tmp_path):
    cycle: dict = {}
    cycle["me"] = cycle
    for value in ({"a": {1, 2}}, cycle, {"a": "\ud800"}):
        with pytest.raises(ArgumentError, match="needs values that JSON can hold"):
            write_json(tmp_path / "x", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"a": 1, "a": 2}', "a key may appear only once in an object; found 'a' twice."),
        (b'{"b": {"a": 1, "c": 3, "a": 2}}', "found 'a' twice"),
        (b'{"a": [1, 2', "must be whole JSON; found its end after 11 characters. Is it truncated?"),
        (b'{"a": "unfinished', "Is it truncated?"),
        (b'{"a": ', "Is it truncated?"),
        (b"", "must hold JSON; found nothing"),
        (b" \n", "must hold JSON; found nothing"),
        (b'{"a": tru}', "must be JSON; found Expecting value at line 1, column 7"),
        (b'{"a": 1} x', "must be JSON; found Extra data at line 1, column 10"),
        (b'{"a": "\xff"}', "must be UTF-8; found byte 0xff at 7"),
        (b"\xef\xbb\xbf{}", "must be JSON; found Unexpected UTF-8 BOM"),
        (b"[1]", "must be a JSON object; found a list"),
        (b'"a"', "must be a JSON object; found a str"),
        (b'{"a":' * 100_000, "must not nest deeper than 100"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "must not nest deeper than 100"),
        (b'{"a":[' + b"[],[" * 99 + b"]" * 100 + b"}", "must not nest deeper than 100"),
        (b'{"a":[' + b"[]," * 20_000_000, "must not hold more than 20000000 keys and lists; found 20000003"),
        (b"[" * 100_000, "must not nest deeper than 100"),
        (b'{"a": ' + b"1" * 5000 + b"}", "must be JSON; found Exceeds the limit (4300 digits)"),
    ],
)
def test_damaged_json(tmp_path, data, text):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(JsonError) as caught:
        read_json(path)
    assert text in str(caught.value) and str(caught.value).startswith(str(path))


def test_json_that_cannot_be_had_or_is_too_large(tmp_path, monkeypatch):
    with pytest.raises(JsonError, match="cannot be read; found No such file or directory"):
        read_json(tmp_path / "x")
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    (tmp_path / "x").write_text('{"a": "long"}')
    with pytest.raises(JsonError, match="must not be larger than 10 bytes"):
        read_json(tmp_path / "x")


def test_limits_were_set_only_in_other_processes():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(r'{"a": ["\ud83d\ude00"]}')
    assert read_json(path) == {"a": ["\U0001f600"]}
    for text in (r'{"a": ["x\uD83D"]}', r'{"\udc00": 1}'):
        path.write_text(text)
        with pytest.raises(JsonError, match="must hold Unicode text"):
            read_json(path)


def test_a_device_is_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(SaveError, match="not a file"), write_aside(path):
        pass
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]

"""Snapshots from a Hub: keywords and environment, one commit, no request for what is cached, errors in one line."""

import pytest

READ = 'answer(open(open_snapshot({name!r}, **{keywords!r}).require({file!r}), "rb").read().decode())'


def read(file="config.json", name="org/tiny", **keywords):
    return READ.format(name=name, file=file, keywords=keywords)


def test_what_is_cached_costs_no_request(hub, client):
    hub.put("org/tiny", {"config.json": b"{}"})
    code = """
s = open_snapshot("org/tiny")
answer([s.require("config.json").read_text(), s.file("generation_config.json"), s.revision])
"""
    first = client(code)
    assert first == ["{}", None, hub.refs["org/tiny"]["main"]]
    hub.requests.clear()
    assert client(code) == first
    assert hub.requests == []


def test_files_are_of_one_commit_though_the_branch_moves(hub, client):
    hub.put("org/tiny", {"config.json": b"old", "model.bin": b"old weights"})
    client(read())
    hub.put("org/tiny", {"config.json": b"new", "model.bin": b"new weights"})
    code = """
s = open_snapshot("org/tiny")
answer([s.require("config.json").read_text(), s.require("model.bin").read_text()])
"""
    assert client(code) == ["old", "old weights"]
    assert client(code.replace('"org/tiny"', '"org/tiny", force_download=True')) == ["new", "new weights"]
    assert client(code) == ["new", "new weights"]


def test_revisions_and_subfolders(hub, client):
    old = hub.put("org/tiny", {"config.json": b"old", "sub/config.json": b"inner"})
    hub.put("org/tiny", {"config.json": b"new"})
    hub.put("org/tiny", {"config.json": b"branch"}, branch="v2")
    assert client(read()) == "new"
    assert client(read(revision="v2")) == "branch"
    assert client(read(revision=old)) == "old"
    assert client(read(revision=old, subfolder="sub")) == "inner"
    assert client(f'answer(open_snapshot("org/tiny", revision="{old}", subfolder="sub").list())') == ["config.json"]


def test_cache_dir_and_home(hub, client, tmp_path):
    hub.put("org/tiny", {"config.json": b"{}"})
    assert client(read(cache_dir=str(tmp_path / "mine"))) == "{}"
    assert (tmp_path / "mine" / "models--org--tiny").is_dir() and not (tmp_path / "home" / "hub").exists()
    assert client(read(), HF_HOME=str(tmp_path / "other")) == "{}"
    assert (tmp_path / "other" / "hub" / "models--org--tiny").is_dir()


def test_tokens(hub, client):
    hub.put("org/tiny", {"config.json": b"{}"})
    hub.token = "hf_secret"
    refused = client(read())
    assert refused["error"] == "HubError" and "private" in refused["says"] and "HF_TOKEN" in refused["says"]
    assert client(read(token="hf_secret")) == "{}"
    assert client(read(force_download=True), HF_TOKEN="hf_secret") == "{}"


@pytest.mark.parametrize("how", ["keyword", "environment", "server"])
def test_offline(hub, client, how):
    hub.put("org/tiny", {"config.json": b"{}", "weights": b"w"})
    client('s = open_snapshot("org/tiny"); s.require("config.json"); answer(s.file("absent.json"))')
    hub.requests.clear()
    keywords = {"local_files_only": True} if how == "keyword" else {}
    environment = {"HF_HUB_OFFLINE": "1"} if how == "environment" else {}
    if how == "server":
        hub.stop()
    assert client(read(**keywords), **environment) == "{}"
    code = f'answer(open_snapshot("org/tiny", **{keywords!r}).file("absent.json"))'
    assert client(code, **environment) is None
    missing = client(read("weights", **keywords), **environment)
    assert missing["error"] in ("HubError", "OfflineError") and "config.json" in missing["says"]
    never = client(read(name="org/never", **keywords), **environment)
    assert never["error"] == "OfflineError" and "nothing of this model" in never["says"]
    assert hub.requests == []


def test_offline_after_the_whole_repository_was_downloaded(hub, client):
    """What huggingface_hub's own command fetched has no notes of files that do not exist."""
    hub.put("org/tiny", {"config.json": b"{}"})
    client('import huggingface_hub; huggingface_hub.snapshot_download("org/tiny"); answer(1)')
    code = 's = open_snapshot("org/tiny"); answer([s.require("config.json").read_text(), s.file("merges.txt")])'
    assert client(code, HF_HUB_OFFLINE="1") == ["{}", None]


def test_a_download_that_was_killed_goes_on(hub, client):
    data = bytes(range(256)) * 4096
    hub.put("org/tiny", {"weights": data})
    hub.cut_after = 300_000
    process = client.start('answer(open_snapshot("org/tiny").require("weights"))')
    assert hub.is_waiting.wait(60)
    process.kill()
    process.communicate()
    hub.go_on.set()
    hub.cut_after = None
    code = """
import hashlib
answer(hashlib.sha1(open_snapshot("org/tiny").require("weights").read_bytes()).hexdigest())
"""
    import hashlib

    assert client(code) == hashlib.sha1(data).hexdigest()


def test_two_processes_at_once(hub, client):
    data = b"weights" * 100_000
    hub.put("org/tiny", {"weights": data})
    code = 'answer(len(open_snapshot("org/tiny").require("weights").read_bytes()))'
    processes = [client.start(code) for _ in range(3)]
    outs = [process.communicate(timeout=300) for process in processes]
    assert [out.strip() for out, _ in outs] == [f"ANSWER{len(data)}"] * 3


def test_what_is_not_there(hub, client):
    hub.put("org/tiny", {"config.json": b"{}"})
    hub.put("org/gated", {"config.json": b"{}"})
    hub.gated.add("org/gated")
    cases = {
        read(name="org/nothing"): "org/nothing: is not on the Hub, or is private",
        read(name="org/gated"): f"is gated. Ask for access at {hub.url}/org/gated",
        read(revision="v9"): "has no revision 'v9'",
        read("confg.json"): "must hold confg.json; found config.json. Is config.json meant?",
    }
    for code, says in cases.items():
        found = client(code)
        assert found["error"] == "HubError" and says in found["says"] and "\n" not in found["says"]


@pytest.mark.parametrize(
    "name", ["./missing", "a/b/c", "", "..x/", "two words", "x.gguf", "/nowhere/at/all", "org/na me"]
)
def test_names_that_are_neither_a_folder_nor_an_id(name, client, hub):
    found = client(read(name=name))
    assert found["error"] == "HubError" and "\n" not in found["says"] and "not a Hub id" in found["says"]
    assert hub.requests == []


def test_a_file_name_cannot_leave_the_checkpoint(hub, client, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("org/tiny", str(tmp_path / "folder")):
        for file in ("../secret", "/etc/passwd", "a/../../secret", "..\\secret"):
            assert "must stay inside" in client(read(file, name=name))["says"]


def test_folders_and_single_files(client, tmp_path):
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "config.json").write_text("outer")
    (tmp_path / "folder" / "sub" / "config.json").write_text("inner")
    (tmp_path / "model.gguf").write_text("one file")
    folder = str(tmp_path / "folder")
    assert client(read(name=folder)) == "outer"
    assert client(read(name=folder, subfolder="sub")) == "inner"
    assert "has no subfolder 'no'" in client(read(name=folder, subfolder="no"))["says"]
    assert client(read("model.gguf", name=str(tmp_path / "model.gguf"))) == "one file"
    assert client(f"answer(open_snapshot({folder!r}).list())") == ["config.json", "sub/config.json"]

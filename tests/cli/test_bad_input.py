"""Bad input of any kind: one line on stderr, nothing on stdout, exit code 2."""

import json
import shutil

import pytest

from martlet.cli import COMMANDS


@pytest.fixture
def edited(tiny, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny, tmp_path / "edited")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["generat"], "martlet: has no command 'generat'. Is generate meant?"),
        (["xyzzy"], f"martlet: has no command 'xyzzy'. There are {', '.join(COMMANDS)}."),
        (["--verison"], "martlet: has no option --verison. Is --version meant?"),
        (["generate"], "martlet generate: the following arguments are required: MODEL. See martlet generate --help."),
        (
            ["generate", "m", "x", "--temprature", "1"],
            "martlet generate: has no option --temprature. Is --temperature meant?",
        ),
        (["generate", "m", "x", "--max-new=3"], "martlet generate: has no option --max-new. Is --max-time meant?"),
        (["inspect", "m", "--greedy"], "martlet inspect: has no option --greedy. See martlet inspect --help."),
        (["generate", "m", "two", "words"], "martlet generate: takes fewer arguments; found 'words'. "
         "Put a text in quotes."),
        (
            ["generate", "m", "x", "--top-p", "1.5"],
            "martlet generate: --top-p: must be a number from 0 to 1; found 1.5. See martlet generate --help.",
        ),
        (
            ["generate", "m", "x", "--max-new-tokens", "many"],
            "martlet generate: --max-new-tokens: must be an integer of at least 1; found 'many'. "
            "See martlet generate --help.",
        ),
        (
            ["generate", "m", "x", "--seed", "-1"],
            "martlet generate: --seed: must be an integer of at least 0; found -1. See martlet generate --help.",
        ),
        (
            ["generate", "m", "x", "--temperature", "nan"],
            "martlet generate: --temperature: must be a number of at least 0; found nan. See martlet generate --help.",
        ),
        (
            ["chat", "m", "--set", "eta_cutof=0.1"],
            "martlet chat: --set: there is no field 'eta_cutof'. Did you mean eta_cutoff? See martlet chat --help.",
        ),
        (
            ["generate", "m", "x", "--set", "num_return_sequences=2"],
            "martlet generate: --set: num_return_sequences has no meaning here: the command shows one text. "
            "See martlet generate --help.",
        ),
        (["generate", "m", ""], "martlet: PROMPT: must have at least one character. See martlet generate --help."),
        (
            ["generate", "m", "x", "--greedy", "--sample"],
            "martlet generate: --sample: not allowed with argument --greedy. See martlet generate --help.",
        ),
    ],
)  # fmt: skip
def test_words(refused, words, line):
    assert refused(*words) == line


def test_prompts(refused, tiny, plain):
    assert "PROMPT: must have at least one character" in refused("generate", tiny, stdin="")
    assert "PROMPT: must have at least one character" in refused("generate", tiny, "-", stdin="\n")
    assert "stdin: must be UTF-8 text; found damage at byte 2" in refused("generate", tiny, stdin=b"ab\xff")
    assert "PROMPT: must be UTF-8 text; found damage at character 1" in refused("generate", tiny, b"a\xff".decode(
        "utf-8", "surrogateescape"
    ))  # fmt: skip
    assert "--system: needs a chat template; found a model without" in refused("generate", plain, "x", "--system", "y")
    assert "chat template: this tokenizer has none" in refused("generate", plain, "x", "--chat")
    assert "has no chat template, which a chat needs" in refused("chat", plain)


def test_settings_that_exclude_each_other(refused, tiny):
    line = refused("generate", tiny, "x", "--greedy", "--top-p", "0.5")
    assert line == "martlet: --top-p: samples, and cannot go with greedy decoding. Leave one of them out."


def test_devices_and_dtypes_that_are_not_there(refused, tiny):
    assert "cuda" in refused("generate", tiny, "x", "--device", "cuda:7")
    assert "floot32" in refused("generate", tiny, "x", "--dtype", "floot32")


@pytest.mark.parametrize("command", [["inspect"], ["generate", "--max-new-tokens=1"], ["chat"]])
def test_a_model_that_is_not_there(refused, tmp_path, command):
    (tmp_path / "model.gguf").touch()
    line = refused(command[0], tmp_path / "modle.gguf", *command[1:], stdin="x")
    assert "no such folder or file" in line
    assert "model.gguf" in line
    assert "config.json is not cached and the Hub cannot be asked" in refused(command[0], "nobody/nothing", stdin="x")


def test_a_model_that_we_do_not_have(refused, edited):
    config = json.loads((edited / "config.json").read_text())
    (edited / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    for command in ("inspect", "generate"):
        line = refused(command, edited, stdin="x")
        assert "found 'lama'. Nearest: llama" in line
        assert "none of it was run" in line


@pytest.mark.parametrize("classes", [True, "LlamaForCausalLM", [["LlamaForCausalLM"]], 1])
def test_classes_that_are_no_list_of_names(refused, edited, classes):
    config = json.loads((edited / "config.json").read_text())
    (edited / "config.json").write_text(json.dumps({**config, "architectures": classes}))
    for command in ("inspect", "generate"):
        assert "architectures must be a list of class names" in refused(command, edited, stdin="x")


@pytest.mark.parametrize("auto_map", [["tokens.Tokens", None], "tokens.Tokens", 1])
def test_code_named_in_other_spellings(martlet, edited, auto_map):
    for name, kind in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        config = json.loads((edited / name).read_text())
        (edited / name).write_text(json.dumps({**config, "auto_map": auto_map}))
        done = martlet("inspect", edited, "--json")
        assert json.loads(done.stdout)["remote_code"]["named"][kind] == auto_map, done.stderr


def test_damaged_files(refused, edited):
    config = (edited / "config.json").read_text()
    (edited / "config.json").write_text(config[: len(config) // 2])
    assert "config.json" in refused("inspect", edited)
    (edited / "config.json").write_text(config)
    weights = (edited / "model.safetensors").read_bytes()
    (edited / "model.safetensors").write_bytes(weights[:-100])
    for command in ("inspect", "generate"):
        assert "model.safetensors" in refused(command, edited, stdin="x")
    (edited / "model.safetensors").write_bytes(b"")
    assert "model.safetensors" in refused("inspect", edited)


def test_a_damaged_tokenizer(refused, martlet, edited):
    (edited / "tokenizer.json").write_text('{"version": "1.0"')
    assert "tokenizer.json: is not a tokenizer the backend can load" in refused("generate", edited, "x")
    done = martlet("inspect", edited, "--json")  # the model can be told of without it
    assert "damaged JSON" in json.loads(done.stdout)["tokenizer"]["problem"]


def test_a_weight_that_is_missing(refused, edited):
    config = json.loads((edited / "config.json").read_text())
    (edited / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    for command in ("inspect", "generate"):
        assert "model.layers.2" in refused(command, edited, stdin="x")


@pytest.mark.parametrize("kept", [3, 100, 5000, 2_000_000, -1000])
@pytest.mark.slow
@pytest.mark.downloads
def test_a_truncated_gguf_file(refused, smollm2_gguf, tmp_path, kept):
    path = tmp_path / "cut.gguf"
    path.write_bytes(smollm2_gguf.read_bytes()[:kept])
    for command in ("inspect", "generate"):
        assert "cut.gguf" in refused(command, path, stdin="x")


def test_a_folder_of_several_gguf_files(refused, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert "holds several GGUF files; found a.gguf, b.gguf" in refused("inspect", tmp_path)
    assert "a.gguf" in refused("inspect", tmp_path, "--gguf-file", "a.gguf")


def test_developers_may_have_the_traceback(martlet, tmp_path):
    for words, environment in ((["--traceback"], {}), ([], {"MARTLET_TRACEBACK": "1"})):
        done = martlet("inspect", tmp_path, *words, **environment)
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback")
        assert "HubError" in done.stderr

"""`martlet bench`: what it prints, in words and as JSON, and what it refuses."""

import json
import sys
import venv

import pytest

from martlet import engine

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

SMALL = ("--prompt-tokens", 24, "--new-tokens", 4, "--repeats", 1)


def test_the_processor(martlet):
    found = json.loads(martlet("bench", "--cpu", "--json", MARTLET_ISA="", MARTLET_NUM_THREADS="").stdout)
    best = [each.name for each in engine.instruction_sets() if each.is_usable][-1]
    assert found["machine"]["isa"] == best
    assert "best" in found["machine"]["reason"]
    assert set(found["limits"]["peaks"]) == {"int8", "int4", "bf16", "fp32"}


def test_the_set_that_the_environment_names_is_used_and_said(martlet):
    done = martlet("bench", "--cpu", "--threads", 1, MARTLET_ISA="scalar")
    assert done.returncode == 0
    assert "scalar: MARTLET_ISA says so" in done.stdout
    assert "portable code" in done.stdout
    assert "1: as asked" in done.stdout


def test_a_model_measured(martlet, tiny):
    done = martlet("bench", tiny, *SMALL, "--batch", 3, "--json", "--threads", 1, "--kv-cache-dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["engines"].keys() == {"martlet"} and found["kv_cache_dtype"] == "bfloat16"
    ours = found["engines"]["martlet"]
    for name in ("prefill", "first_token_s", "total_s", "job"):
        assert ours[name]["median"] > 0
    # the first tokens are timed in a run of their own, which noise can make the longer one: no rate is claimed then
    [decode], [first_s], [total_s] = (ours[name]["runs"] for name in ("decode", "first_token_s", "total_s"))
    assert decode == (pytest.approx(3 * 3 / (total_s - first_s)) if total_s > first_s else 0)
    assert (found["share_of_read_bandwidth"] is not None) == (decode > 0)
    assert found["share_of_multiply_peak"] > 0
    # all matrices and the head, in float32, and three rows' keys and values
    assert found["bytes_per_step"] > 4 * 260 * 16
    assert found["bytes_per_token"] == found["bytes_per_step"] / 3


def test_the_table(martlet, tiny):
    done = martlet("bench", tiny, *SMALL, "--quantize", "int8")
    assert done.returncode == 0, done.stderr
    for words in ("prefill, tokens/s", "decode, tokens/s", "first token, ms", "of the read bandwidth", "bytes read"):
        assert words in done.stdout


def test_a_text_scored(martlet, tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 4)
    words = ("bench", tiny, "--text", text, "--window", 40, "--json")
    found = json.loads(martlet(*words).stdout)["engines"]
    ours, reference = found["martlet"], found["reference"]
    assert reference["mean_divergence"] == 0
    assert 0 < ours["mean_divergence"] < 1e-3  # keys and values in bfloat16
    assert ours["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-2)
    assert ours["tokens"] == 172 - 5  # a window's first token is not foretold
    alone = martlet(*words[:-1], "--reference", "none")
    assert f"{ours['perplexity']:.4f}" in alone.stdout


def test_one_new_token_has_no_decoding(martlet, tiny):
    found = json.loads(martlet("bench", tiny, "--prompt-tokens", 8, "--new-tokens", 1, "--repeats", 1, "--json").stdout)
    assert found["engines"]["martlet"]["decode"]["median"] == 0
    assert found["share_of_read_bandwidth"] is None


def test_who_is_absent_is_said_with_how_to_get_it(martlet, tiny, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    done = martlet("bench", tiny, *SMALL, "--compare", "transformers,llama.cpp", "--peer-python", python)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "left out" in line]
    assert len(lines) == 2
    assert "pip install torch transformers" in lines[0]
    assert "GGUF" in lines[1]


@pytest.mark.slow
def test_beside_transformers(martlet, tiny):
    done = martlet("bench", tiny, *SMALL, "--compare", "transformers", "--json")
    found = json.loads(done.stdout)
    assert found["left_out"] == []
    assert found["ratios"]["transformers, bf16"]["decode"] > 0


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "needs MODEL"),
        (("nowhere.gguf",), "nowhere.gguf"),
        (("TINY", "--cpu"), "takes no MODEL"),
        (("TINY", "--compare", "ollama"), "must name some of llama.cpp, transformers"),
        (("TINY", "--prompt-tokens", "5000"), "must fit the model's context of 4096 tokens"),
        (("TINY", "--prompt-tokens", "0"), "must be a whole number from 1"),
        (("TINY", "--threads", "2000"), "num_threads: must be 1 to "),
        (("TINY", "--plot", "out.bmp"), "must end in"),
        (("TINY", "--text", "nowhere.txt"), "cannot be read"),
        (("TINY", "--reference", "TINY"), "goes with --text"),
    ],
)
def test_bad_input(refused, tiny, words, said):
    assert said in refused("bench", *[tiny if word == "TINY" else word for word in words])


def test_an_instruction_set_that_is_not_there(refused):
    assert "must be one of" in refused("bench", "--cpu", MARTLET_ISA="mmx")


def test_a_picture_needs_matplotlib_or_is_made(martlet, refused, tiny, tmp_path):
    out = tmp_path / "out.png"
    if "matplotlib" not in sys.modules:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            assert "pip install 'martlet[plot]'" in refused("bench", tiny, *SMALL, "--plot", out)
            return
    done = martlet("bench", tiny, *SMALL, "--plot", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")

"""The examples reach their figures: hours of work, done where MARTLET_TEST_DATA names a folder with the data.

The folder holds tinyshakespeare.txt, sst2_train.tsv and sst2_dev.tsv (columns sentence and label).
"""

import os
import runpy
from pathlib import Path

import pytest

DATA = Path(os.environ.get("MARTLET_TEST_DATA", ""))
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.skipif(not os.environ.get("MARTLET_TEST_DATA"), reason="MARTLET_TEST_DATA names no folder of data"),
]


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_characters_from_scratch(tmp_path):
    found = main_of("tinyshakespeare")(str(DATA / "tinyshakespeare.txt"), str(tmp_path / "run"))
    assert found < 1.7  # nats a character on held-out text


def test_sentiment(tmp_path, minilm_folder):
    train, dev = DATA / "sst2_train.tsv", DATA / "sst2_dev.tsv"
    found = main_of("sst2")(str(minilm_folder), str(train), str(dev), str(tmp_path / "run"))
    assert found["eval_accuracy"] >= 0.9


def test_answers_in_json(tmp_path, smollm2_folder):
    found = main_of("json_answers")(str(smollm2_folder), str(tmp_path / "run"))
    assert found["parsed_before"] < 0.5
    assert found["parsed"] == 1.0
    assert found["right"] >= 0.9

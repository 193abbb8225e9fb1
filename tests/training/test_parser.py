"""`HfArgumentParser`: what transformers' reads out of the same words."""

import dataclasses
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Optional

import pytest
import transformers

from martlet import HfArgumentParser, TrainingArguments
from martlet.errors import ArgumentError, UnsupportedError


class Kind(Enum):
    A = "a"
    B = "b"


@dataclass
class Model:
    model_name_or_path: str
    num_layers: int | None = None
    rate: float = field(default=0.5, metadata={"help": "share of 100%"})
    use_fast: bool = True
    shuffle: bool = False
    checks: bool | None = None
    kind: Kind = Kind.A
    size: Literal["small", "large", 3] = "small"
    names: list[str] = field(default_factory=lambda: ["x"])
    numbers: Optional[list[int]] = None  # noqa: UP045  as older scripts write it
    options: dict | str | None = None
    file: str | None = field(default=None, metadata={"aliases": ["-f", "--the-file"]})

    def __post_init__(self):
        self.kind = Kind(self.kind)


@dataclass
class Data:
    path: str = "data"
    limit: int = field(default=10, init=True)


LINES = [
    "--model_name_or_path gpt2",
    "--model-name-or-path gpt2 --num-layers 3 --rate 1e-3 --path there",
    "--model_name_or_path m --shuffle --no_use_fast --checks false",
    "--model_name_or_path m --shuffle no --use_fast=False --checks yes",
    "--model_name_or_path m --kind b --size 3 --names a b c --numbers 1 2",
    '--model_name_or_path m --options {"a":1} -f x',
    "--model_name_or_path m --the-file y --limit 4 --no-use-fast",
]


@pytest.mark.parametrize("line", LINES)
def test_as_transformers(line):
    theirs, ours = (
        parser((Model, Data)).parse_args_into_dataclasses(line.split(), look_for_args_file=False)
        for parser in (transformers.HfArgumentParser, HfArgumentParser)
    )
    ours[0].options = json.loads(ours[0].options) if isinstance(ours[0].options, str) else ours[0].options
    theirs[0].options = json.loads(theirs[0].options) if isinstance(theirs[0].options, str) else theirs[0].options
    assert ours == theirs


def test_what_no_option_takes():
    parser = HfArgumentParser(Data)
    with pytest.raises(ArgumentError, match="found --other 5"):
        parser.parse_args_into_dataclasses(["--path", "a", "--other", "5"])
    data, rest = parser.parse_args_into_dataclasses(["--path", "a", "--other", "5"], return_remaining_strings=True)
    assert (data, rest) == (Data("a"), ["--other", "5"])
    parser.add_argument("--more", type=int, default=1)
    data, more = parser.parse_args_into_dataclasses(["--more", "2"])
    assert (data, more.more) == (Data(), 2)


@pytest.mark.parametrize("words", [["--limit", "many"], ["--limit"], []])
def test_wrong_words_end_the_program(words, capsys):
    with pytest.raises(SystemExit):
        HfArgumentParser((Model, Data)).parse_args_into_dataclasses(words)
    assert "error:" in capsys.readouterr().err


def test_files(tmp_path):
    (tmp_path / "a.json").write_text('{"path": "p", "limit": 3}')
    (tmp_path / "a.yaml").write_text("path: p\nlimit: 3\n")
    (tmp_path / "a.args").write_text("--path p --limit 2")
    parser = HfArgumentParser(Data)
    assert parser.parse_json_file(tmp_path / "a.json") == (Data("p", 3),)
    assert parser.parse_yaml_file(str(tmp_path / "a.yaml")) == (Data("p", 3),)
    name = str(tmp_path / "a.args")
    assert parser.parse_args_into_dataclasses(["--limit", "3"], args_filename=name) == (Data("p", 3),)
    assert parser.parse_args_into_dataclasses(["--at", name, "--limit", "3"], args_file_flag="--at") == (Data("p", 3),)
    assert parser.parse_dict({"path": "p", "more": 1}, allow_extra_keys=True) == (Data("p"),)
    with pytest.raises(ArgumentError, match="found more"):
        parser.parse_dict({"path": "p", "more": 1})
    (tmp_path / "b.yaml").write_text("- a: [")
    with pytest.raises(ArgumentError, match="must be YAML"):
        parser.parse_yaml_file(tmp_path / "b.yaml")


def test_training_arguments(tmp_path):
    words = f"--output_dir {tmp_path} --learning_rate 1e-4 --bf16 --eval_strategy steps --eval_steps 5 --report_to none"
    arguments, data = HfArgumentParser((TrainingArguments, Data)).parse_args_into_dataclasses(words.split())
    assert arguments == TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-4, bf16=True, eval_strategy="steps", eval_steps=5, report_to="none"
    )
    assert data == Data()


def test_what_cannot_be_options():
    with pytest.raises(ArgumentError, match="needs dataclasses"):
        HfArgumentParser(int)
    strange = dataclasses.make_dataclass("Strange", [("a", complex | bytes, None)])
    with pytest.raises(UnsupportedError, match="a: has a type that no word can be read as"):
        HfArgumentParser(strange)

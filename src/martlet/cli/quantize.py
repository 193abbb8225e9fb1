"""`martlet quantize MODEL --to int4 --out DIR`: a smaller model, its types chosen by measured divergence."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.cli import options
from martlet.cli.loading import load_tokenizer, open_files
from martlet.cli.tables import bytes_text, table
from martlet.errors import ArgumentError

if TYPE_CHECKING:
    from martlet.quantization.quantize import Report

EXAMPLES = """\
examples:
  martlet quantize ./folder --to int4 --out ./folder-int4
  martlet quantize ./folder --to bf16 --format gguf --out ./model.BF16.gguf
  martlet quantize ./model.F16.gguf --to int8 --out ./model.int8.gguf --text ./sample.txt
"""
BAR = 24
KINDS = ("int8", "int4", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16", "f32")


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet quantize MODEL --to int8|int4|TYPE --out DIR|FILE.gguf [options]"
    parser.epilog = EXAMPLES
    options.add_model_options(parser)
    group = parser.add_argument_group("quantizing")
    group.add_argument(
        "--to",
        choices=KINDS,
        required=True,
        metavar="TYPE",
        help=f"int8 or int4: bits of most weights, types chosen; or one type for all: {', '.join(KINDS[2:])}",
    )
    group.add_argument("--format", choices=("gguf", "folder"), help="default: what the name of --out says")
    group.add_argument("--out", metavar="PATH", required=True, help="a new folder, or a file that ends in .gguf")
    group.add_argument(
        "--bits", type=float, metavar="N", help="of a weight on average (default: 5 for int4, 9 for int8)"
    )
    group.add_argument("--text", metavar="FILE", help="measure divergence on this text (default: a small one of ours)")
    group.add_argument("--tokens", type=int, default=192, metavar="N", help="of the text (default: 192)")
    group.add_argument("--threads", type=int, metavar="N", help="default: the processors this process may use")
    parser.add_argument_group("output").add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Quantizes, prints what came of it, and returns 0."""
    from martlet.quantization.quantize import quantize

    if arguments.tokens < 2:
        raise ArgumentError("--tokens", "must be at least 2", found=arguments.tokens)
    text = _read_text(arguments.text) if arguments.text else None
    checkpoint = open_files(arguments)
    tokenizer = load_tokenizer(arguments)
    bar = _Bar()
    try:
        report = quantize(
            checkpoint,
            tokenizer,
            arguments.to,
            arguments.out,
            text=text,
            num_tokens=arguments.tokens,
            bits=arguments.bits,
            format=arguments.format,
            num_threads=arguments.threads,
            said=bar.show,
        )
    finally:
        bar.clear()
    if arguments.json:
        print(json.dumps(_facts(report), ensure_ascii=False, indent=2))
    else:
        print(_text(arguments, report))
    return 0


def _read_text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(path, "must be UTF-8 text", found=f"damage at byte {error.start}") from error
    except OSError as error:
        raise ArgumentError(path, "cannot be read", found=error.strerror) from error


def _facts(report: Report) -> dict[str, Any]:
    return {
        "out": str(report.out),
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "bits_per_weight": report.bits,
        "divergence_uniform": report.divergences.uniform,
        "divergence": report.divergences.chosen,
        "calibration_tokens": report.num_tokens,
        "kinds": report.kinds,
        "tensors": {
            unit.name: {"type": unit.kind, "weights": unit.num_weights, "divergence_alone": unit.divergence}
            for unit in report.units
        },
    }


def _text(arguments: argparse.Namespace, report: Report) -> str:
    weights = sum(unit.num_weights for unit in report.units)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kinds.items()))
    before = 8 * report.bytes_before / weights
    uniform, chosen = report.divergences.uniform, report.divergences.chosen
    rows = [
        ("", "before", "after"),
        ("matrices", bytes_text(report.bytes_before), bytes_text(report.bytes_after)),
        ("bits a weight", f"{before:.2f}", f"{report.bits:.2f}"),
        ("divergence, nats", "0", f"{chosen:.5f}"),
    ]
    return f"{report.out}: {kinds}\n{table(rows, right=(1, 2))}\n  divergence over {report.num_tokens} tokens" + (
        f"; {uniform:.5f} with the smallest type throughout" if arguments.to in ("int8", "int4") else ""
    )


class _Bar:
    """Progress on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.is_shown, self.began_s = sys.stderr.isatty(), time.monotonic()

    def show(self, done: int, total: int, name: str) -> None:
        if not self.is_shown:
            return
        filled = BAR * done // max(total, 1)
        left = ""
        if done:
            left_s = (time.monotonic() - self.began_s) / done * (total - done)
            left = f"  {left_s / 60:.0f} min left" if left_s >= 90 else f"  {left_s:.0f} s left"
        sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (BAR - filled)}] {done}/{total} {name[-40:]}{left}")
        sys.stderr.flush()

    def clear(self) -> None:
        if self.is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

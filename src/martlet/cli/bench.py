"""`martlet bench MODEL`: how fast a model runs here, beside what the machine gives, and beside other engines."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.cli import options
from martlet.cli.loading import load_tokenizer, open_files
from martlet.cli.tables import bytes_text, table
from martlet.errors import ArgumentError

if TYPE_CHECKING:
    from martlet.arch import Arch
    from martlet.bench.machine import Machine
    from martlet.bench.run import Engine, Load, Series

EXAMPLES = """\
examples:
  martlet bench ./model.gguf
  martlet bench ./model.gguf --prompt-tokens 2048 --new-tokens 32 --batch 16 --json
  martlet bench ./model.gguf --compare llama.cpp,transformers --peer-python ./peers/bin/python
  martlet bench ./model.gguf --text ./book.txt --compare llama.cpp
  martlet bench --cpu
"""
MEASURED = (("prefill", "prefill, tokens/s"), ("decode", "decode, tokens/s"), ("job", "whole job, new tokens/s"))


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet bench MODEL [options]\n       martlet bench --cpu [--json]"
    parser.epilog = f"Prompts are random ids; nothing ends a text early.\n\n{EXAMPLES}"
    options.add_model_options(parser, is_optional=True)
    group = parser.add_argument_group("load")
    group.add_argument("--prompt-tokens", type=_count, default=512, metavar="N", help="of each prompt (default: 512)")
    group.add_argument("--new-tokens", type=_count, default=128, metavar="N", help="after each prompt (default: 128)")
    group.add_argument("--batch", type=_count, default=1, metavar="N", help="prompts at once (default: 1)")
    group.add_argument("--threads", type=_count, metavar="N", help="default: the processors this process may use")
    group.add_argument(
        "--repeats", type=_count, default=3, metavar="N", help="runs, of which medians count (default: 3)"
    )
    group.add_argument("--quantize", choices=("int8", "int4"), help="pack float matrices so at load")
    options.add_cache_options(group)
    group = parser.add_argument_group("exactness")
    group.add_argument("--text", metavar="FILE", help="score a text in place of speed: perplexity, and divergence")
    group.add_argument("--text-tokens", type=_count, default=8000, metavar="N", help="of the text (default: 8000)")
    group.add_argument("--window", type=_count, default=1000, metavar="N", help="tokens read in one go (default: 1000)")
    group.add_argument(
        "--reference",
        metavar="MODEL",
        help="what divergence is from: torch in float32 on this model (default: MODEL; none: perplexity alone)",
    )
    group = parser.add_argument_group("beside others")
    group.add_argument(
        "--compare", metavar="NAMES", help="others in turn: llama.cpp, transformers, CTranslate2, OpenVINO"
    )
    group.add_argument("--peer-python", metavar="PATH", default=sys.executable, help="the interpreter that has them")
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object")
    group.add_argument("--plot", metavar="FILE", help="a picture: .png, .svg or .pdf")
    group.add_argument("--cpu", action="store_true", help="say what the processor has and what is used of it, and why")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints, and returns 0."""
    from martlet.bench.machine import find_machine
    from martlet.bench.report import check_plot

    if arguments.plot:
        check_plot(arguments.plot)
    machine = find_machine(arguments.threads)
    if arguments.cpu:
        if arguments.model:
            raise ArgumentError("--cpu", "is about the machine and takes no MODEL", found=arguments.model)
        return _show_machine(machine, arguments.json)
    if not arguments.model:
        raise ArgumentError("martlet bench", "needs MODEL", remedy="Or --cpu, for the machine alone.")
    peers = _read_peers(arguments)
    if arguments.text:
        return _score(arguments, machine, peers)
    if arguments.reference:
        raise ArgumentError("--reference", "goes with --text")
    result = _measure(arguments, machine, peers)
    if arguments.plot:
        from martlet.bench.report import plot

        plot(arguments.plot, Path(arguments.model).name, result["engines"])
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        print(_text(result, machine))
    return 0


def _show_machine(machine: Machine, as_json: bool) -> int:
    from martlet.bench.machine import measure_limits
    from martlet.bench.report import limit_rows, machine_rows, set_rows

    limits = measure_limits(machine, 0)
    if as_json:
        print(json.dumps({"machine": machine.as_json(), "limits": limits.as_json()}, ensure_ascii=False, indent=2))
        return 0
    print(f"Machine\n{table(machine_rows(machine))}\n")
    print(f"Instruction sets\n{table(set_rows(machine))}\n")
    print(f"Limits, measured\n{table(limit_rows(limits), right=(1,))}")
    return 0


def _read_peers(arguments: argparse.Namespace) -> list[str]:
    from martlet.bench.peers import PEERS

    names = [name.strip() for name in (arguments.compare or "").split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise ArgumentError("--compare", f"must name some of {', '.join(PEERS)}", found=repr(name))
    return list(dict.fromkeys(names))


def _measure(arguments: argparse.Namespace, machine: Machine, peers: list[str]) -> dict[str, Any]:
    from martlet.bench.limits import find_work
    from martlet.bench.machine import measure_limits
    from martlet.bench.run import Here, Load, run_in_turn

    checkpoint = open_files(arguments)
    load = Load((arguments.prompt_tokens,) * arguments.batch, arguments.new_tokens)
    arch = checkpoint.arch
    if load.longest > arch.max_position_embeddings:
        raise ArgumentError(
            "--prompt-tokens",
            f"and --new-tokens must fit the model's context of {arch.max_position_embeddings} tokens",
            found=load.longest,
        )
    model = str(_local_path(checkpoint))
    with _saying() as said:
        said(f"loading {arguments.model}")
        ours = Here()
        loaded = ours.ask(
            do="load",
            model=model,
            threads=machine.num_threads,
            context=load.longest,
            rows=arguments.batch,
            options=_own_options(arguments),
        )
        engines: dict[str, Engine] = {"martlet": ours}
        problems = _start_peers(arguments, machine, peers, model, load, engines, said)
        try:
            said("measuring the machine")
            limits = measure_limits(machine, loaded["loaded"]["packed_bytes"])
            series = run_in_turn(engines, load, arch.vocab_size, arguments.repeats, said=said)
            limits = limits.better(measure_limits(machine, loaded["loaded"]["packed_bytes"]))
        finally:
            for engine in engines.values():
                engine.close()
    facts = loaded["loaded"]
    work = find_work(arch, facts["kinds"], facts["packed_bytes"], load, limits, facts["kv_cache_dtype"])
    first, decode = series["martlet"].median("first_token_s"), series["martlet"].median("decode")
    return {
        "model": arguments.model,
        "kinds": _count_kinds(facts["kinds"], arch),
        "kv_cache_dtype": facts["kv_cache_dtype"],
        "prompt_tokens": arguments.prompt_tokens,
        "new_tokens": arguments.new_tokens,
        "batch": arguments.batch,
        "load_s": loaded["load_s"],
        "engines": {name: each.as_json() for name, each in series.items()},
        "bytes_per_step": work.step_bytes,
        "bytes_per_token": work.step_bytes / arguments.batch,
        "share_of_read_bandwidth": decode / work.decode_limit(limits) if decode else None,
        "share_of_multiply_peak": work.prefill_s(limits) / first,
        "ratios": _ratios(series),
        "left_out": problems,
        "machine": machine.as_json(),
        "limits": limits.as_json(),
    }


def _own_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"quantize": arguments.quantize, **options.cache_options(arguments)}


def _score(arguments: argparse.Namespace, machine: Machine, peers: list[str]) -> int:
    """Scores a text, and prints each engine's numbers."""
    from martlet.bench.run import Here, Load
    from martlet.bench.text import TorchReference, read_windows, score_text

    if arguments.plot:
        raise ArgumentError("--plot", "draws speed, and does not go with --text")
    checkpoint = open_files(arguments)
    window = min(arguments.window, checkpoint.arch.max_position_embeddings)
    windows = read_windows(load_tokenizer(arguments), arguments.text, arguments.text_tokens, window)
    model, load = str(_local_path(checkpoint)), Load((window,), 0)
    wants_reference = arguments.reference != "none"
    with _saying() as said:
        said(f"loading {arguments.model}")
        ours = Here()
        own = _own_options(arguments)
        loaded = ours.ask(do="load", model=model, threads=machine.num_threads, context=window, rows=1, options=own)
        engines: dict[str, Engine] = {"martlet": ours}
        problems = _start_peers(arguments, machine, peers, model, load, engines, said)
        try:
            reference = TorchReference(arguments.reference or model).logits if wants_reference else None
            scores = score_text(engines, windows, reference, said=said)
        finally:
            for engine in engines.values():
                engine.close()
    found = {name: score.as_json(has_reference=wants_reference) for name, score in scores.items()}
    result = {
        "model": arguments.model,
        "text": arguments.text,
        "window": window,
        "kv_cache_dtype": loaded["loaded"]["kv_cache_dtype"],
        "reference": (arguments.reference or arguments.model) if wants_reference else None,
        "engines": found,
        "left_out": problems,
    }
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
        return 0
    rows = [["", "perplexity", "mean divergence", "largest", "same likeliest"]]
    for name, each in found.items():
        apart = (
            [f"{each[key]:.3e}" for key in ("mean_divergence", "largest_divergence")] if wants_reference else ["-"] * 2
        )
        same = f"{each['same_likeliest']:.2%}" if wants_reference else "-"
        rows.append([name, f"{each['perplexity']:.4f}", *apart, same])
    tokens = found["martlet"]["tokens"]
    print(f"{arguments.model}\n  {tokens:,} tokens of {arguments.text} in windows of {window:,}; divergence in nats\n")
    print(table(rows, right=(1, 2, 3, 4)))
    if problems:
        print("\n" + "\n".join(problems))
    return 0


def _start_peers(
    arguments: argparse.Namespace,
    machine: Machine,
    peers: list[str],
    model: str,
    load: Load,
    engines: dict[str, Engine],
    said: Callable[[str], None],
) -> list[str]:
    """Puts the peers that can be had into `engines`; a line for each that cannot."""
    from martlet.bench.peers import PEERS, start_peer, why_absent, why_unfit

    problems: list[str] = []
    for name in peers:
        peer = PEERS[name]
        unfit = why_unfit(peer, model, wants_logits=bool(arguments.text))
        if unfit:
            problems.append(unfit)
            continue
        absent = why_absent(peer, arguments.peer_python)
        if absent:
            problems.append(absent + (" (--peer-python names another interpreter)" if not arguments.json else ""))
            continue
        said(f"{name}: loading")
        started, wrong = start_peer(
            peer,
            model,
            arguments.peer_python,
            threads=machine.num_threads,
            context=load.longest,
            rows=len(load.lengths),
        )
        engines.update(started)
        problems += wrong
    return problems


def _local_path(checkpoint: Any) -> Path:
    """The .gguf file or the folder, as other engines take it."""
    if checkpoint.gguf is not None:
        path: Path = checkpoint.gguf.paths[0]
        return path
    return Path(checkpoint.snapshot.require("config.json")).parent


def _count_kinds(kinds: dict[str, str], arch: Arch) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds.values():
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _ratios(series: dict[str, Series]) -> dict[str, dict[str, float]]:
    from martlet.bench.run import ratio

    ours = series["martlet"]
    return {
        name: {of: ratio(ours, theirs, of) for of, _ in MEASURED}
        for name, theirs in series.items()
        if name != "martlet"
    }


def _text(result: dict[str, Any], machine: Machine) -> str:
    names = list(result["engines"])
    rows = [["", *names]]
    for of, label in MEASURED:
        rows.append([label, *[f"{result['engines'][name][of]['median']:,.1f}" for name in names]])
    rows.append(
        ["first token, ms", *[f"{result['engines'][name]['first_token_s']['median'] * 1e3:,.1f}" for name in names]]
    )
    right = tuple(range(1, len(names) + 1))
    runs = len(result["engines"]["martlet"]["prefill"]["runs"])
    kinds = ", ".join(f"{count} {kind}" for kind, count in result["kinds"].items())
    title = (
        f"{result['model']}\n  {kinds}; loaded in {result['load_s']:.2f} s\n"
        f"  {result['batch']} x ({result['prompt_tokens']} prompt + {result['new_tokens']} new tokens), "
        f"{machine.num_threads} threads, {machine.isa}, medians of {runs}"
    )
    parts = [title, f"Speed\n{table(rows, right=right)}"]
    if result["ratios"]:
        shown = [["martlet is, times", *[label.split(",")[0] for _, label in MEASURED]]]
        for name, each in result["ratios"].items():
            shown.append([name, *[f"{each[of]:.2f}" if each[of] else "-" for of, _ in MEASURED]])
        parts.append(f"Ratios\n{table(shown, right=(1, 2, 3))}")
    parts.append(f"Share of the machine\n{table(_shares(result), right=(1,))}")
    if result["left_out"]:
        parts.append("\n".join(result["left_out"]))
    return "\n\n".join(parts)


def _shares(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    limits = result["limits"]
    read, close = limits["memory_read"]["best"], limits["model_read"]["best"]
    rows = [
        ("bytes read a token", bytes_text(result["bytes_per_token"]), "matrices, keys and values"),
        ("memory read", f"{read / 1e9:.1f} GB/s", f"{close / 1e9:.1f} GB/s for as many bytes as the model's"),
    ]
    for peak in limits["peaks"].values():
        rows.append((f"{peak['operand']} multiply", f"{peak['operations']['best'] / 1e9:.0f} Gop/s", peak["how"]))
    share = result["share_of_read_bandwidth"]
    if share is not None:
        rows.append(("decode reaches", f"{share:.0%}", "of the read bandwidth"))
    rows.append(("prefill reaches", f"{result['share_of_multiply_peak']:.0%}", "of the multiply peak"))
    return rows


@contextlib.contextmanager
def _saying() -> Any:
    """A function that shows what is being done on stderr, if that is a terminal."""
    is_shown = sys.stderr.isatty()

    def said(line: str) -> None:
        if is_shown:
            sys.stderr.write(f"\r\x1b[K{line} ...")
            sys.stderr.flush()

    try:
        yield said
    finally:
        if is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 1 << 24:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; found {text!r}")
    return int(text)

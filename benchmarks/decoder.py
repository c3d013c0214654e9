"""Programs per second: the decoder over HTTP beside plain `model.generate` and beside `transformers serve`.

    python benchmarks/decoder.py --model starter
    python benchmarks/decoder.py --model random --parameters 30 --rounds 5
    benchmarks/gpu.sh

All ways continue the same prompts greedily with the same stop tokens on the same number of threads, in
turns, in one run on one machine: read the ratios, not the rates. Every round has messages of its own, and no
cache is on. The clients live as long as the run, as a trainer's do. The ways, each answering --messages
messages a round:

    one client      all messages in one request to the decoder
    many clients    4 messages each from as many clients at once
    generate each   `model.generate` once per message, in this process, no HTTP
    generate whole  `model.generate` on all of them in one left-padded batch: the ideal
    serve           `transformers serve` behind the same client, through the decoder's engine `remote`
    generate_batch  transformers' own continuous batching, in this process, no HTTP (only with --also: on a
                    CPU it is many times slower than all others)

On the CPU in float32 all ways must say the same; how many programs are equal is printed (`serve` takes any
tokenizer beside a Qwen2 for Qwen2's own: there it continues other tokens, as many of them). On a GPU the rate
of decoding steps is set against the bandwidth of its memory, measured by a copy (--bandwidth): a step reads
every weight.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from decoder_ways import REPO, Clients, decoder, generated, generated_by_pages, serve

from decoder_service.engines.hf import HfEngine, load_engine
from decoder_service.settings import DecoderSettings
from shared.errors import RoomError

STARTER = REPO / "decoder-service" / "starter"
PER_CLIENT = 4
WORDS = (*"fxyns0123()+-*<>", "words", "sum", "min", "max", "len", "filter", "map", "sort", "even", "square")
Way = Callable[[list[str]], list[str]]


class Measured(NamedTuple):
    """One way: seconds of each round, and its programs of every round."""

    seconds: list[float]
    programs: list[list[str]]


def main() -> int:
    """Measure the ways in turns and print one table; 2 where a setting is wrong for this machine."""
    args = _arguments()
    try:
        _measure(args)
    except RoomError as error:
        print(f"benchmarks/decoder.py: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    with ExitStack() as stack:
        folder = _model(args, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        common = {
            "device": args.device, "dtype": args.dtype, "quantization": args.quantization,
            "threads": args.threads,
        }  # fmt: skip
        engine = load_engine(DecoderSettings(model=str(folder), **common))
        ours = Clients(stack.enter_context(decoder(args, model=folder, **common)), args.max_new_tokens)
        stack.callback(ours.close)
        ways: dict[str, Way] = {
            "one client": lambda messages: ours.ask([messages]),
            "many clients": lambda messages: ours.ask(_shares(messages)),
            "generate each": lambda messages: [generated(engine, [message], args)[0] for message in messages],
            "generate whole": lambda messages: generated(engine, messages, args),
        }
        if args.also:
            ways["generate_batch"] = lambda messages: generated_by_pages(engine, messages, args)
        if "serve" not in args.skip:
            there = stack.enter_context(serve(folder, args))
            # It answers one after the other: the last of them waits for all.
            remote = {"engine": "remote", "remote_url": there, "remote_api": "completions",
                      "remote_timeout_s": 3600}  # fmt: skip
            address = stack.enter_context(decoder(args, model=folder, remote_tokenizer=folder, **remote))
            front = Clients(address, args.max_new_tokens)
            stack.callback(front.close)
            ways["serve"] = lambda messages: front.ask([messages])
        ways = {name: way for name, way in ways.items() if name not in args.skip}
        found = _measured(ways, args)
        _print(found, engine, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="starter", help="starter, random, or a folder")
    parser.add_argument("--parameters", type=float, default=30, help="of the random Qwen2, millions")
    parser.add_argument("--messages", type=int, default=64, help="of a round")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the messages: runs with others have others")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--skip", default="", help="ways to leave out, by comma, e.g. serve,generate each")
    parser.add_argument("--also", choices=["generate_batch"], help="a way that is not taken by itself")
    parser.add_argument("--bandwidth", action="store_true", help="add the share of the memory's bandwidth")
    parser.add_argument("--json-file", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    args.skip = args.skip.split(",")
    return args


def _model(args: argparse.Namespace, scratch: Path) -> Path:
    """Return the model's folder, after making it where it is a random one with the starter's tokenizer."""
    if args.model != "random":
        return STARTER if args.model == "starter" else Path(args.model)
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = PreTrainedTokenizerFast.from_pretrained(STARTER)
    tokenizer.save_pretrained(scratch)
    shape = _shape(args.parameters * 1e6, len(tokenizer))
    config = Qwen2Config(
        vocab_size=len(tokenizer), **shape, max_position_embeddings=4096, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    print(f"random Qwen2 of {model.num_parameters() / 1e6:.1f} M parameters: {shape}", file=sys.stderr)
    dtype = torch.float32 if args.dtype == "auto" else getattr(torch, args.dtype)
    model.to(dtype).save_pretrained(scratch)
    return scratch


def _shape(parameters: float, vocabulary: int) -> dict[str, int]:
    """Return a Qwen2's sizes of about that many parameters: the width of Qwen2.5's, layers as needed."""
    width = 512 if parameters < 200e6 else 1536
    inner = int(width * 5.83) // 64 * 64 if parameters > 200e6 else 1408
    layer = 4 * width * width + 3 * width * inner
    layers = max(1, round((parameters - 2 * vocabulary * width) / layer))
    heads = width // 64
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads,
    }  # fmt: skip


def _messages(args: argparse.Namespace, number: int) -> list[str]:
    """Return a round's messages: shorthand of 3 to 24 words, none in two rounds."""
    chance = random.Random(args.seed + number)
    return [
        " ".join(["r", str(args.seed + number), str(each), *chance.choices(WORDS, k=chance.randint(3, 24))])
        for each in range(args.messages)
    ]


def _shares(messages: list[str]) -> list[list[str]]:
    return [messages[start : start + PER_CLIENT] for start in range(0, len(messages), PER_CLIENT)]


def _measured(ways: dict[str, Way], args: argparse.Namespace) -> dict[str, Measured]:
    """Warm every way up on a few messages, then run all in turns, the order turned round every other time."""
    found = {name: Measured([], []) for name in ways}
    for number in range(args.rounds + 1):
        names = list(ways) if number % 2 else list(ways)[::-1]
        for name in names:
            messages = _messages(args, number)[: None if number else PER_CLIENT]
            started = time.perf_counter()
            programs = ways[name](messages)
            seconds = time.perf_counter() - started
            print(f"round {number} {name}: {seconds:.2f} s", file=sys.stderr)
            if number:
                found[name].seconds.append(seconds)
                found[name].programs.append(programs)
    return found


def _print(found: dict[str, Measured], engine: HfEngine, args: argparse.Namespace) -> None:
    ideal = next((found[name] for name in ("generate whole", "one client") if name in found), None)
    assert ideal is not None, "nothing to compare with"
    each = found.get("generate each")
    rows = []
    for name, way in found.items():
        median = statistics.median(way.seconds)
        tokens = sum(sum(engine.count(programs)) for programs in way.programs) / len(way.programs)
        pairs = [(a, b) for ours, its in zip(way.programs, ideal.programs, strict=True)
                 for a, b in zip(ours, its, strict=True)]  # fmt: skip
        rows.append({
            "way": name,
            "messages_per_s": args.messages / median,
            "program_tokens_per_s": tokens / median,
            "times_generate_each": _times(each, way) if each else None,
            "of_generate_whole": _times(ideal, way),
            "equal": sum(a.strip() == b.strip() for a, b in pairs) / len(pairs),
        })  # fmt: skip
    if args.bandwidth:
        _add_bandwidth(rows, engine, args)
    if args.json_file:
        args.json_file.write_text(
            json.dumps({"card": engine.card().model_dump(), "ways": rows}, indent=1) + "\n"
        )
    print("| way | messages/s | tokens/s | x generate each | of generate whole | equal programs |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ratios = f"{_span(row['times_generate_each'])} | {_span(row['of_generate_whole'])}"
        print(
            f"| {row['way']} | {row['messages_per_s']:.1f} | {row['program_tokens_per_s']:.0f} "
            f"| {ratios} | {row['equal']:.1%} |"
        )
        if "bandwidth_share" in row:
            print(f"  {row['way']}: {row['bandwidth_share']:.0%} of {row['bandwidth_gb_s']:.0f} GB/s")


def _times(other: Measured, way: Measured) -> list[float]:
    """Return how many times faster a way was than another: lowest, median, highest of the rounds' ratios."""
    ratios = [theirs / own for theirs, own in zip(other.seconds, way.seconds, strict=True)]
    return [min(ratios), statistics.median(ratios), max(ratios)]


def _span(times: list[float] | None) -> str:
    return f"{times[1]:.2f} ({times[0]:.2f}..{times[2]:.2f})" if times else "-"


def _add_bandwidth(rows: list[dict[str, Any]], engine: HfEngine, args: argparse.Namespace) -> None:
    """Add what share of the memory's bandwidth reading the weights takes; for programs that never stop.

    Then every program has max_new_tokens, and a batch of all messages takes that many steps. Keys and values
    are read beside the weights and not counted.
    """
    on_gpu = args.device.startswith("cuda")
    source = torch.ones(1 << (30 if on_gpu else 26), dtype=torch.uint8, device=args.device)
    target = source.clone()
    rates = []
    for _ in range(20):
        started = time.perf_counter()
        target.copy_(source)
        if on_gpu:
            torch.cuda.synchronize()
        # A copy reads and writes; a step of the model only reads, at the same rate or more.
        rates.append(2 * source.numel() / (time.perf_counter() - started))
    bandwidth = max(rates)
    model = engine._model
    weights = sum(held.numel() * held.element_size() for held in model.parameters())
    table = model.get_input_embeddings().weight
    if table is not model.get_output_embeddings().weight:
        # A step looks a row up in it.
        weights -= table.numel() * table.element_size()
    for row in rows:
        together = 1 if row["way"] in ("generate each", "serve") else args.messages
        steps_per_s = row["messages_per_s"] / together * args.max_new_tokens
        row["bandwidth_gb_s"] = bandwidth / 1e9
        row["bandwidth_share"] = steps_per_s * weights / bandwidth


if __name__ == "__main__":
    raise SystemExit(main())

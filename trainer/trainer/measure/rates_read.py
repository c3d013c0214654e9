"""From a finished run's files to series of bits and verdicts, one reader a channel. Never writes, no torch.

text     evaluation.json: tokens x log2 of the student's vocabulary, and code words of a model fitted on the
         messages to the other tasks; gzip as a reference. controls.json: the messages' beginnings
program  evaluation.json: the prefix code's bits of each program; heldout.jsonl where it was not evaluated
latent   evaluation.json: K x D x bits a number, by the blind decoder
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from trainer.config import ConfigError
from trainer.config_text import STARTER, STARTER_STUDENT
from trainer.measure.evaluation_file import CONTROLS, weights_of
from trainer.measure.folder import RunFolder, checkpoint_folder, read_lines, read_object
from trainer.measure.message_code import cross_fitted_bits
from trainer.measure.rates import Kind, Series

# Beside the seed, what differs between runs without making them another experiment.
INCIDENTAL = {
    "seed", "name", "runs", "output_dir", "decoder_url", "sandbox_url", "decoder_token_file",
    "sandbox_token_file", "report_to", "clearml", "debug", "logging_steps", "save_steps", "save_total_limit",
    "example_steps", "examples", "device", "dtype", "threads", "deadline_s", "max_outages",
}  # fmt: skip
EVALUATE = "run `psuedoptimal evaluate {name}` first"


class Words:
    """A student's tokenizer: how it cuts a text, and what it writes for token ids.

    raises  ConfigError where its file is missing or damaged
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        if not file.is_file():
            raise ConfigError(f"{file}: no tokenizer, so no bits; take the run's folder with its checkpoints")
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # The library raises nothing narrower.
            raise ConfigError(
                f"{file}: no tokenizer that can be read ({error}); copy it again from where the folder came "
                "from, or from another checkpoint of the run"
            ) from error
        self.vocabulary = int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def ids(self, text: str) -> list[int]:
        """Return a text's token ids, special tokens left out."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, as a student's message is written."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def shown(self, token: int) -> str:
        """Return what one token looks like, blanks made visible."""
        text = str(self._tokenizer.decode([token], skip_special_tokens=False))
        return text.replace("\n", "↵").replace(" ", "·") or f"#{token}"


def words_of(run: RunFolder) -> Words:
    """Return the tokenizer of a run's student: its checkpoint's, else that of the model it started from."""
    try:
        own = checkpoint_folder(run.path) / "tokenizer.json"
    except FileNotFoundError:
        own = Path()
    model = run.setting("student_model", "")
    base = STARTER_STUDENT if model == STARTER else Path(str(model))
    return Words(own if own.is_file() else base / "tokenizer.json")


def channel_of(run: RunFolder) -> str:
    """Return text, program or latent. Raises ValueError for a folder that does not say."""
    found = run.summary.get("channel") or run.evaluation.get("channel")
    if not found and run.config:
        found = (
            "program"
            if "length_penalty" in run.config
            else "text"
            if "target_pass_rate" in run.config
            else None
        )
    if found not in ("text", "program", "latent"):
        raise ValueError(
            f"{run.path}: of no known channel (summary.json says {found!r}); is its run finished?"
        )
    return str(found)


def series_of(run: RunFolder) -> list[Series]:
    """Return everything a run can show. Raises ValueError naming what is missing."""
    channel = channel_of(run)
    read = {"text": text_series, "program": program_series}.get(channel, latent_series)
    try:
        return read(run)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        verb = "evaluate" if channel == "text" else f"evaluate {channel}"
        raise ValueError(
            f"{run.path}: its files are of another version ({type(error).__name__}: {error}); "
            f"run `psuedoptimal {verb} {run.path}`"
        ) from error


def settings_of(run: RunFolder) -> dict[str, Any]:
    """Return the settings that make a run the experiment it is: all but the seed and where things are."""
    return {key: value for key, value in run.config.items() if key not in INCIDENTAL}


# --- text --------------------------------------------------------------------------------------------


def text_series(run: RunFolder) -> list[Series]:
    """Return the senders of an evaluated text run, each in both codes, and what gzip would take."""
    found = run.evaluation
    if not found.get("records"):
        raise ValueError(f"{run.path}: not evaluated; {EVALUATE.format(name=run.path)}")
    kinds = {row["name"]: row["kind"] for row in found["rows"]}
    words, tasks = words_of(run), f"{found['tasks']['sha256'][:12]}/{found['tasks']['split']}"
    series = []
    for name, records in found["records"].items():
        series += _coded(name, kinds.get(name, "baseline"), records, words, tasks, run.name)
    for name in ("reference", "task text"):
        if name in found["records"]:
            series.append(_zipped(name, found["records"][name], tasks, run.name))
    return [*series, *_beginnings(run, words, tasks)]


def _coded(
    name: str, kind: Kind, records: Sequence[Mapping[str, Any]], words: Words, tasks: str, run: str
) -> list[Series]:
    passed = tuple(r["outcome"] == "passed" and not r["refused"] for r in records)
    tokens = tuple(int(r["tokens"]) for r in records)
    each = math.log2(words.vocabulary)
    coded = cross_fitted_bits([words.ids(r["message"]) for r in records], words.vocabulary)
    return [
        Series("text", name, code, kind, bits, passed, tasks, run, tokens=tokens)
        for code, bits in (
            ("tokens", tuple(each * n for n in tokens)),
            ("entropy", tuple(map(float, coded))),
        )
    ]


def _zipped(name: str, records: Sequence[Mapping[str, Any]], tasks: str, run: str) -> Series:
    """Return what gzip takes for a text whose receiver unzips it first: it decodes to the same program."""
    texts = [str(r["message"]).encode("utf-8", "surrogatepass") for r in records]
    bits = tuple(8.0 * len(gzip.compress(text, 9, mtime=0)) for text in texts)
    passed = tuple(r["outcome"] == "passed" for r in records)
    return Series("text", f"{name}, gzip", "gzip", "reference", bits, passed, tasks, run)


def _beginnings(run: RunFolder, words: Words, tasks: str) -> list[Series]:
    """Return the student's messages cut at a share of their tokens, where the controls have measured them.

    Controls of other tasks or weights than the evaluation's have no place beside it, and are left out.
    """
    stored = read_object(run.path / CONTROLS)
    about, weights = stored.get("tasks", {}), str(run.evaluation.get("checkpoint", ""))
    if f"{str(about.get('sha256'))[:12]}/{about.get('split')}" != tasks:
        return []
    if weights and weights_of(stored, run.evaluation, weights) != weights:
        return []
    return [
        one
        for step in stored.get("prefix", {}).get("steps", [])
        if 0 < step["share"] < 1
        for one in _coded(
            f"student, first {step['share']:.0%}", "baseline", step["records"], words, tasks, run.name
        )
    ]


# --- program -----------------------------------------------------------------------------------------


def program_series(run: RunFolder) -> list[Series]:
    """Return the coder's programs in bits of the prefix code, and what stands beside them.

    First of the set that is like the sequences it was trained and chosen on, if it was measured on that.
    """
    own = f"generated, up to {run.setting('max_length')}"
    rows = sorted(run.evaluation.get("rows", []), key=lambda row: row["set"] != own)
    series = []
    for row in rows:
        if not row.get("programs"):
            continue
        tasks = f"{row['set']}/{row['figures']['n']}"
        tried = f", best of {row['samples']}" if row["samples"] > 1 else ""
        kind: Kind = "student" if row["samples"] == 1 else "baseline"
        bits = tuple(float(b) for b, _ in row["programs"])
        passed = tuple(bool(solved) for _, solved in row["programs"])
        series.append(Series("program", f"coder{tried}", "prefix", kind, bits, passed, tasks, run.name))
        series += [
            Series(
                "program", b["name"], "prefix", "reference", (float(b["bits_per_sequence"]),), (True,), tasks
            )
            for b in row["baselines"]
            if b["name"] in ("literal program", "gzip, one by one", "ground truth, shortened")
            and row["samples"] == 1
        ]
    return series or _program_heldout(run)


def _program_heldout(run: RunFolder) -> list[Series]:
    """Return the last look at the held-out sequences while training, where nothing was evaluated after it."""
    last = max((line["step"] for line in run.heldout), default=None)
    lines = [line for line in run.heldout if line["step"] == last]
    if not lines:
        name = f"program {run.path}"
        raise ValueError(f"{run.path}: no held-out programs; {EVALUATE.format(name=name)}")
    split = lines[0]["split"]
    return [
        Series(
            "program", "coder", "prefix", "student", tuple(float(line["bits"]) for line in lines),
            tuple(line["outcome"] == "solved" for line in lines), f"{split}/{len(lines)}", run.name,
        )
    ]  # fmt: skip


# --- latent ------------------------------------------------------------------------------------------


def latent_series(run: RunFolder) -> list[Series]:
    """Return the blind decoder's tasks at the bits of a message: K x D x bits a number, scales included.

    evaluation.json  {"senders": {name: {"kind", "bits": [N] of each message, "passed": [N]}, ...}}: the
                     student in every precision and number of vectors, and its controls
    summary.json     heldout.blind and message.bits, where the run was not evaluated
    """
    senders, about = run.evaluation.get("senders", {}), run.evaluation.get("tasks", {})
    if senders:
        named = (
            f"{str(about['sha256'])[:12]}/{about.get('split', 'test')}" if about.get("sha256") else "blind"
        )
        return [
            _latent(name, found["kind"], found["bits"], found["passed"], named, run.name)
            for name, found in senders.items()
        ]
    held, bits = run.summary.get("heldout", {}), run.summary.get("message", {}).get("bits")
    n = int(held.get("n") or 0)
    if not held.get("blind") or not n or bits is None:
        name = f"latent {run.path}"
        raise ValueError(f"{run.path}: not measured in blind mode; {EVALUATE.format(name=name)}")
    return [
        _latent(
            name, "student" if name == "student" else "control", [0.0 if name == "none" else float(bits)] * n,
            [i < round(rate * n) for i in range(n)], "blind", run.name,
        )
        for name, rate in held["blind"].items()
    ]  # fmt: skip


def _latent(
    name: str, kind: Kind, bits: Sequence[float], passed: Sequence[bool], tasks: str, run: str
) -> Series:
    return Series(
        "latent", name, "vectors", kind, tuple(map(float, bits)), tuple(map(bool, passed)),
        f"{tasks}/{len(passed)}", run,
    )  # fmt: skip


def path_of(run: RunFolder) -> list[tuple[float, float]]:
    """Return the way a student took on the validation tasks: (bits per message, pass rate), by step.

    Text in tokens x log2 of the vocabulary, programs in bits of their code; empty where there is none, and
    for latents, whose bits do not change on the way.
    """
    if channel_of(run) == "program":
        steps: dict[int, list[Mapping[str, Any]]] = {}
        for line in run.heldout:
            if _has_figures(line, "step", "bits"):
                steps.setdefault(line["step"], []).append(line)
        return [
            (fmean(line["bits"] for line in some), fmean(line.get("outcome") == "solved" for line in some))
            for _, some in sorted(steps.items())
        ]
    looks = read_lines(run.path / "evaluations.jsonl")
    lines = [line for line in looks if _has_figures(line, "tokens", "pass_rate")]
    if channel_of(run) == "latent":
        return []
    each = math.log2(words_of(run).vocabulary)
    return [(each * line["tokens"], line["pass_rate"]) for line in lines]


def _has_figures(line: Mapping[str, Any], *names: str) -> bool:
    """Whether a line is of the validation tasks and says so much; one of another version may not."""
    return line.get("split") == "validation" and all(isinstance(line.get(n), int | float) for n in names)

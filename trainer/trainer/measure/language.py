"""Is there a language in the messages? A few statistics with their null, sound on hand-made languages.

Messages come as sequences of token ids. Nothing here claims meaning: topographic similarity is stated beside
what shuffling the messages among the tasks gives, and survival only says which words are still sent.
"""

from __future__ import annotations

import io
import keyword
import math
import random
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from trainer.measure.compositionality import (
    Slope,
    WithNull,
    abbreviation,
    bag_disentanglement,
    positional_disentanglement,
    zipf_slope,
)  # fmt: skip
from trainer.measure.statistics import edit_distance, entropy_bits, mean, pearson, ranks
from trainer.tasks.task import Task

Words = Sequence[Hashable]
# Of the disentanglements' null: they cost a pass over all symbols each.
SHUFFLES = 40


class TopographicSimilarity(NamedTuple):
    """Spearman correlation between distances of tasks and distances of their messages, with its null.

    rho        nan if all tasks or all messages are equally far apart
    null_mean  mean over messages shuffled among the tasks
    p          share of shuffles at least as similar, never 0: (1 + hits) / (1 + shuffles)
    """

    rho: float
    null_mean: float
    p: float
    n: int


@dataclass(frozen=True)
class Language:
    """What a set of messages is like.

    tokens, distinct_tokens, type_token  how many words are used, and how many different ones
    token_entropy_bits                   of one word, ignoring its place
    distinct_messages, message_entropy_bits  of whole messages; at most log2(n)
    by_family, by_reference              topographic similarity to the parts of the family's name, and to the
                                         reference code's tokens
    survival                             kind of the reference's token -> share of it found in the messages
    zipf                                 slope of log frequency over log rank of the words
    abbreviation                         rank correlation of a word's rarity and length; None without lengths
    posdis, bosdis                       disentanglement by place and by symbol, over the parts of a starter
                                         task and its function's name; None for other tasks
    """

    n: int
    tokens: int
    distinct_tokens: int
    type_token: float
    token_entropy_bits: float
    distinct_messages: int
    message_entropy_bits: float
    by_family: TopographicSimilarity | None
    by_reference: TopographicSimilarity | None
    survival: dict[str, float]
    zipf: Slope
    abbreviation: WithNull | None
    posdis: WithNull | None
    bosdis: WithNull | None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON; nan becomes None."""
        flat = asdict(self)
        for name in ("by_family", "by_reference", "zipf", "abbreviation", "posdis", "bosdis"):
            found = getattr(self, name)
            flat[name] = found and {k: None if math.isnan(v) else v for k, v in found._asdict().items()}
        return flat


def describe(
    tasks: Sequence[Task],
    texts: Sequence[str],
    words: Sequence[Words],
    *,
    length_of: Callable[[Hashable], int] | None = None,
    most: int = 120,
    seed: int = 0,
) -> Language:
    """Work out every statistic.

    texts, words  [n] each message as text and as token ids, in the order of the tasks
    length_of     how long a word is, in characters
    most          tasks drawn for topographic similarity, whose cost is their square
    """
    parts = [found for task in tasks if (found := parts_of(task))]
    composed = parts if len(parts) == len(tasks) > 1 else None
    used = Counter(word for message in words for word in message)
    whole = Counter(tuple(message) for message in words)
    total = sum(used.values())
    drawn = sorted(random.Random(seed).sample(range(len(tasks)), min(most, len(tasks))))
    messages = [words[i] for i in drawn]
    families = [re.split(r"[+/>, ]+", tasks[i].family) for i in drawn]
    codes = [[word for _, word in python_words(tasks[i])] for i in drawn]
    return Language(
        n=len(words),
        tokens=total,
        distinct_tokens=len(used),
        type_token=len(used) / total if total else math.nan,
        token_entropy_bits=entropy_bits(list(used.values())),
        distinct_messages=len(whole),
        message_entropy_bits=entropy_bits(list(whole.values())),
        by_family=topographic_similarity(families, messages, seed=seed)
        if any(t.family for t in tasks)
        else None,
        by_reference=topographic_similarity(codes, messages, seed=seed),
        survival=survival(tasks, texts),
        zipf=zipf_slope(words),
        abbreviation=abbreviation(words, length_of, seed=seed) if length_of and used else None,
        posdis=composed and positional_disentanglement(composed, words, shuffles=SHUFFLES, seed=seed),
        bosdis=composed and bag_disentanglement(composed, words, shuffles=SHUFFLES, seed=seed),
    )


def parts_of(task: Task) -> tuple[str, ...]:
    """Return what a starter task is made of: source, filter, map, reduction, the function's name.

    returns  nothing for a task of another data set, whose parts nobody wrote down
    """
    world, _, rest = task.task_id.partition("/")
    parts = tuple(rest.partition("/")[0].split("+"))
    return (*parts, task.entry_point) if world == "starter" and len(parts) == 4 else ()


def topographic_similarity(
    meanings: Sequence[Words],
    messages: Sequence[Words],
    *,
    distance: Callable[[Words, Words], float] | None = None,
    shuffles: int = 200,
    seed: int = 0,
) -> TopographicSimilarity:
    """Correlate the distances between meanings with the distances between their messages.

    meanings, messages  [n] sequences; distances are edit distances over the longer length, in [0, 1]
    distance            between two meanings, if not that
    source              Brighton & Kirby 2006; Spearman with shared ranks; Mantel's permutation null
    """
    n = len(messages)
    far = distance or normalised_distance
    pairs = [(i, j) for i in range(n) for j in range(i)]
    x = ranks([far(meanings[i], meanings[j]) for i, j in pairs])
    y = ranks([normalised_distance(messages[i], messages[j]) for i, j in pairs])
    rho = pearson(x, y) if pairs else math.nan
    if math.isnan(rho):
        return TopographicSimilarity(math.nan, math.nan, math.nan, n)
    # Shuffling moves ranks about but changes neither mean nor variance: only the cross product is new.
    middle, spread = mean(x), math.sqrt(math.fsum((a - mean(x)) ** 2 for a in x))
    scale = spread * math.sqrt(math.fsum((b - middle) ** 2 for b in y))
    centred, table = [a - middle for a in x], [[0.0] * n for _ in range(n)]
    for (i, j), rank in zip(pairs, y, strict=True):
        table[i][j] = table[j][i] = rank
    chance, order, null = random.Random(seed), list(range(n)), []
    for _ in range(shuffles):
        chance.shuffle(order)
        cross = sum(a * table[order[i]][order[j]] for a, (i, j) in zip(centred, pairs, strict=True))
        null.append(cross / scale)
    hits = sum(value >= rho - 1e-12 for value in null)
    return TopographicSimilarity(rho, mean(null), (1 + hits) / (1 + shuffles), n)


def normalised_distance(left: Words, right: Words) -> float:
    """Return the edit distance over the longer length: 0 the same, 1 nothing in common."""
    return edit_distance(left, right) / max(len(left), len(right), 1)


def python_words(task: Task) -> list[tuple[str, str]]:
    """Return the reference's tokens as (kind, word); layout and comments left out.

    kind    the word itself for keywords and operators; "function name", "name", "number", "text" for the rest
    returns what could be read, if the reference does not tokenize to its end
    """
    found: list[tuple[str, str]] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(task.reference).readline):
            kind = _kind(token, task.entry_point)
            if kind:
                found.append((kind, token.string))
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def _kind(token: tokenize.TokenInfo, entry_point: str) -> str:
    """Return the kind of one token; empty for layout, comments and the end."""
    match token.type:
        case tokenize.NAME if token.string == entry_point:
            return "function name"
        case tokenize.NAME:
            return token.string if keyword.iskeyword(token.string) else "name"
        case tokenize.OP:
            return token.string
        case tokenize.NUMBER:
            return "number"
        case tokenize.STRING:
            return "text"
    return ""


def survival(tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, float]:
    """Return, for each kind of word in the references, the share of its distinct words found in the messages.

    texts    [n] messages
    returns  kind -> mean over the tasks whose reference has it, the most frequent kinds first
    """
    shares: dict[str, list[float]] = defaultdict(list)
    for task, text in zip(tasks, texts, strict=True):
        words: dict[str, set[str]] = defaultdict(set)
        for kind, word in python_words(task):
            words[kind].add(word)
        for kind, needed in words.items():
            shares[kind].append(sum(contains(text, word) for word in needed) / len(needed))
    return {kind: mean(found) for kind, found in sorted(shares.items(), key=lambda item: -len(item[1]))}


def contains(text: str, word: str) -> bool:
    """Return whether a message holds a word: as a whole word if it is one, anywhere if it is a symbol.

    Blanks between its characters do not count: a tokenizer may write != as two tokens. Its own must be there.
    """
    if word[:1].isalnum() or word[:1] == "_":
        return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
    pieces = (" *".join(map(re.escape, piece)) for piece in re.split(" +", word))
    return re.search(" +".join(pieces), text) is not None

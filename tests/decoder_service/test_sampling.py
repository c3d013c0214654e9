"""Drawing a token, against the distribution worked out by hand."""

from __future__ import annotations

import math

import torch

from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.sampling import greedy, gumbel, row_keys, sampled

LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.0, 0.3, 0.1]]))
DRAWS = 40_000
KEYS = row_keys([Row(f"message {n}", (), 0) for n in range(DRAWS)])
# Four standard deviations of a share of 1/2.
NEAR = 4 * 0.5 / math.sqrt(DRAWS)


def shares(decoding: Decoding, step: int = 0) -> list[float]:
    tokens = sampled(LOGITS.expand(DRAWS, -1), KEYS, step, decoding)
    return [count / DRAWS for count in torch.bincount(tokens, minlength=5).tolist()]


def near(shares: list[float], expected: list[float]) -> bool:
    exact = all(share == 0 for share, want in zip(shares, expected, strict=True) if want == 0)
    return exact and all(abs(share - want) < NEAR for share, want in zip(shares, expected, strict=True))


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    for step in (0, 1, 500):
        assert near(shares(Decoding(1, 1.0), step), [0.1, 0.5, 0.0, 0.3, 0.1])


def test_temperature_sharpens_and_flattens() -> None:
    assert near(shares(Decoding(1, 0.5)), [p / 0.36 for p in (0.01, 0.25, 0.0, 0.09, 0.01)])
    roots = [math.sqrt(p) for p in (0.1, 0.5, 0.0, 0.3, 0.1)]
    assert near(shares(Decoding(1, 2.0)), [root / sum(roots) for root in roots])


def test_the_nucleus_is_the_smallest_set_that_holds_top_p() -> None:
    assert shares(Decoding(1, 1.0, 0.49)) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert shares(Decoding(1, 1.0, 1e-9)) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert near(shares(Decoding(1, 1.0, 0.51)), [0.0, 0.625, 0.0, 0.375, 0.0])
    assert near(shares(Decoding(1, 1.0, 0.79)), [0.0, 0.625, 0.0, 0.375, 0.0])
    assert near(shares(Decoding(1, 1.0, 0.99)), [0.1, 0.5, 0.0, 0.3, 0.1])


def test_the_noise_is_gumbel_and_its_steps_rows_and_tokens_are_unrelated() -> None:
    noise = gumbel(KEYS[:2000], 3, 300)
    assert noise.isfinite().all()
    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.std().item() - math.pi / math.sqrt(6)) < 0.01
    others = (gumbel(KEYS[:2000], 4, 300), gumbel(KEYS[2000:4000], 3, 300), noise.roll(1, dims=1))
    for other in others:
        assert abs(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].item()) < 0.01


def test_the_noise_of_a_token_does_not_depend_on_the_vocabulary_or_the_batch() -> None:
    whole = gumbel(KEYS[:8], 5, 1000)
    assert torch.equal(gumbel(KEYS[:8], 5, 10), whole[:, :10])
    assert torch.equal(gumbel(KEYS[3:4], 5, 1000), whole[3:4])


def test_the_hash_is_splitmix64() -> None:
    # The first outputs of splitmix64 seeded with 1234567, as published with its reference code.
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    noise = gumbel(torch.tensor([1234567]), 0, 4)[0, 1:]
    uniform = [((number >> 41) + 0.5) / 2**23 for number in first]
    expected = torch.tensor([-math.log(-math.log(u)) for u in uniform])
    assert torch.allclose(noise, expected, atol=1e-5)


def test_greedy_takes_the_likeliest() -> None:
    assert greedy(LOGITS).tolist() == [1]


def test_a_rows_key_depends_on_its_seed_and_message_only() -> None:
    keys = row_keys([Row("a", (1,), 1), Row("b", (1,), 1), Row("a", (1,), 2), Row("\ud800", (1,), 1)])
    assert len(set(keys.tolist())) == 4
    assert torch.equal(row_keys([Row("a", (9, 9), 1)]), keys[:1])

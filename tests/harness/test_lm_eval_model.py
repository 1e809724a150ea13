"""Results of the adapter against NumPy on the logits and against the harness's `hf` model."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import tiny
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from scipy.special import log_softmax

from jaxdistill.errors import UserError
from jaxdistill.harness import HarnessModel
from jaxdistill.harness.lm_eval_model import decode_until_stop, parse_generation_kwargs

PAIRS = [
    ("What is 3 and 3?", " It is 6."),
    ("The cat", " sat on the mat, and the dog saw the cat."),
    ("", "The capital"),
    ("What is the capital of France? ", "Paris"),  # the space moves to the continuation
    ("<|im_start|>user\nhello<|im_end|>\n", "there"),
    ("a " * 100, "long way"),  # more than the model's 64 positions
    ("Zürich", " 🙂"),
]


@pytest.fixture(scope="session")
def ours(workspace):
    return HarnessModel(path=str(workspace / "model"), batch_size=4)


@pytest.fixture(scope="session")
def hf(workspace):
    return get_model("hf")(
        pretrained=str(workspace / "model"), device="cpu", dtype="float32", batch_size=1
    )


def requests(kind: str, arguments: Sequence[tuple]) -> list[Instance]:
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def dense_logits(model: HarnessModel, tokens: list[int]) -> np.ndarray:
    padded = [*tokens, *[0] * (64 - len(tokens))]  # one shape; later positions have no effect
    return np.asarray(model._model.logits([padded]), np.float64)[0, : len(tokens)]


def dense_score(
    model: HarnessModel, context: list[int], continuation: list[int]
) -> tuple[float, bool]:
    """Log-likelihood and greediness of a continuation, by the whole array of `Model.logits`."""
    logits = dense_logits(model, (context + continuation)[-65:][:-1])
    log_probs = log_softmax(logits[-len(continuation) :], axis=-1)
    positions = np.arange(len(continuation))
    is_greedy = np.array_equal(log_probs.argmax(-1), continuation)
    return float(log_probs[positions, continuation].sum()), is_greedy


def test_log_likelihoods_follow_from_the_logits(ours):
    scores = ours.loglikelihood(requests("loglikelihood", PAIRS))
    assert len(scores) == len(PAIRS)
    for (context, continuation), (log_prob, is_greedy) in zip(PAIRS, scores, strict=True):
        if context:
            before, after = ours._encode_pair(context, continuation)
        else:
            before, after = [ours.prefix_token_id], ours.tok_encode(continuation)
        expected, greedy = dense_score(ours, before, after)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
        assert is_greedy == greedy


def test_the_argmax_continuation_is_greedy(ours):
    prompt = ours.tok_encode("The cat")
    completion = []
    for _ in range(3):
        completion.append(int(dense_logits(ours, prompt + completion)[-1].argmax()))
    other = [*completion[:-1], (completion[-1] + 1) % 300]
    scores = ours._loglikelihood_tokens([(None, prompt, completion), (None, prompt, other)])
    assert [is_greedy for _, is_greedy in scores] == [True, False]


def test_long_requests_lose_their_beginning_and_are_counted_once(ours, caplog):
    with caplog.at_level(logging.WARNING, "jaxdistill.harness.lm_eval_model"):
        ours.loglikelihood(requests("loglikelihood", PAIRS))
    assert [record.getMessage() for record in caplog.records] == [
        "1 requests exceed the model's 64 positions: their beginnings were cut off."
    ]
    with pytest.raises(UserError, match=r"a continuation of .* exceeds the model's 64 positions"):
        ours.loglikelihood(requests("loglikelihood", [("a", " b" * 200)]))


def test_few_programs_are_compiled(workspace, monkeypatch):
    model = HarnessModel(path=str(workspace / "model"), batch_size=4)
    shapes, jitted = set(), model._evaluation._jitted

    def record_shape(params, teacher_params, batch):
        shapes.add(batch.tokens.shape)
        return jitted(params, teacher_params, batch)

    monkeypatch.setattr(model._evaluation, "_jitted", record_shape)
    pairs = [(None, [5] * (1 + index % 61), [7, 8]) for index in range(90)]
    model._loglikelihood_tokens(pairs)
    assert shapes == {(4, 32), (4, 64)}


def test_a_rolling_log_likelihood_scores_every_token_once(ours):
    text = "What is the capital of France? " * 20
    tokens = ours.tok_encode(text)
    assert len(tokens) > 2 * 64
    expected = dense_score(ours, [ours.prefix_token_id], tokens[:64])[0]
    for start in range(64, len(tokens), 64):
        end = min(start + 64, len(tokens))
        context = tokens[end - 65 : start]
        expected += dense_score(ours, context, tokens[start:end])[0]
    (log_prob, empty_log_prob) = ours.loglikelihood_rolling(
        requests("loglikelihood_rolling", [(text,), ("",)])
    )
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    assert empty_log_prob == 0


@pytest.mark.filterwarnings("default")
def test_results_equal_those_of_the_harness_hf_model(ours, hf):
    pairs = requests("loglikelihood", PAIRS)
    for score, expected in zip(ours.loglikelihood(pairs), hf.loglikelihood(pairs), strict=True):
        assert score[0] == pytest.approx(expected[0], rel=1e-5)
        assert score[1] == expected[1]
    texts = requests("loglikelihood_rolling", [("What is the capital of France? " * 20,), ("a",)])
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(texts), hf.loglikelihood_rolling(texts), rtol=1e-5
    )
    options = {"until": ["at", "<|im_end|>"], "max_gen_toks": 12, "do_sample": False}
    prompts = requests("generate_until", [(context or "a", options) for context, _ in PAIRS])
    assert ours.generate_until(prompts) == hf.generate_until(prompts)
    chat = [{"role": "user", "content": "What is 3?"}, {"role": "assistant", "content": "It"}]
    for is_new in (True, False):
        messages = chat[: 1 if is_new else 2]
        assert ours.apply_chat_template(messages, is_new) == hf.apply_chat_template(
            messages, is_new
        )
    assert ours.prefix_token_id == hf.prefix_token_id
    assert ours.eot_token_id == hf.eot_token_id


def test_each_request_has_its_own_generation_settings(ours):
    def generate(*settings: dict) -> list[str]:
        pairs = [("The cat", options) for options in settings]
        return ours.generate_until(requests("generate_until", pairs))

    greedy = {"max_gen_toks": 12}
    sampled = {"max_gen_toks": 12, "do_sample": True, "temperature": 5.0}
    settings = greedy, sampled, greedy, greedy, sampled
    texts = generate(*settings)
    assert texts[0] == texts[2] == texts[3]
    assert len(set(texts)) == 3
    assert generate(*settings) == texts
    with pytest.raises(UserError, match="num_beams, no_repeat_ngram_size not supported"):
        generate({"num_beams": 4, "no_repeat_ngram_size": 2})
    with pytest.raises(UserError, match=r"64 new tokens of a model that has 64 positions\. Set"):
        generate({"max_gen_toks": 64})


def test_completions_end_at_the_first_stop_string():
    tokenizer = tiny.tokenizer()
    settings = parse_generation_kwargs({"until": [" sat", "", "<|im_start|>"], "max_new_tokens": 5})
    assert settings.stop_strings == (" sat", "<|im_start|>")
    assert settings.sampling.max_new_tokens == 5
    assert settings.sampling.temperature == 0
    for text, expected in [
        ("The cat sat on", "The cat"),
        ("The dog<|im_start|>user sat", "The dog"),
        ("The cat", "The cat"),
        (" sat", ""),
    ]:
        tokens = tokenizer.encode(text)
        assert decode_until_stop(tokens, settings.stop_strings, tokenizer) == expected


@pytest.mark.parametrize("option", [{"top_p": 5}, {"temperature": "hot"}, {"top_k": -1}])
def test_invalid_generation_settings_are_refused(option):
    options = {"until": ["."], "max_gen_toks": 4, "do_sample": True, **option}
    with pytest.raises(UserError, match=r"^generation_kwargs: .*Change it in the task\.$"):
        parse_generation_kwargs(options)


def test_bos_is_not_added_twice(workspace, tmp_path):
    tiny.model_folder(tmp_path / "model")
    tiny.tokenizer(bos=True).save_pretrained(tmp_path / "model")
    model = HarnessModel(path=str(tmp_path / "model"))
    bos_id = model.tokenizer.bos_token_id
    assert model.prefix_token_id == bos_id
    for text in ("The cat", "<s>The cat"):
        assert model.tok_encode(text).count(bos_id) == 1
    assert bos_id not in model.tok_encode("The cat", add_special_tokens=False)


def test_batch_size_must_be_a_number(workspace):
    with pytest.raises(UserError, match="batch_size: 'auto' is not a whole number above 0"):
        HarnessModel(path=str(workspace / "model"), batch_size="auto")

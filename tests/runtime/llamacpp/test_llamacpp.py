"""The llama.cpp wrappers and the sampler, on the built-in model."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import shapes
from fakes.gguf_writing import write_and_close
from galago.models.errors import EngineError, InvalidRequest, ModelError
from galago.models.registry.resolve import resolve
from galago.quantize.variants.schemes import SCHEMES, find
from galago.runtime.config import KVType
from galago.runtime.llamacpp import library
from galago.runtime.llamacpp.context import Context
from galago.runtime.llamacpp.library import llama
from galago.runtime.llamacpp.projector import Projector
from galago.runtime.llamacpp.quantizer import quantize
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.output.structured.grammar import GrammarCompiler
from galago.runtime.sampling.sampler import Sampler, candidates
from galago.runtime.types.prompt import BatchToken
from galago.runtime.types.request import Sampling

FILES = resolve("builtin")


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(FILES.weights)
    yield loaded
    loaded.close()


@pytest.fixture
def context(weights: Weights) -> Iterator[Context]:
    made = Context(weights, cells=256, slots=3, threads=1)
    yield made
    made.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40))
def test_token_pieces_join_to_the_text(weights: Weights, text: str) -> None:
    data = text.encode("utf-8", "replace")
    assert b"".join(map(weights.piece, weights.tokenize(text, parse_special=False))) == data


def test_control_tokens_are_not_shown_in_an_answer(weights: Weights) -> None:
    (token,) = weights.tokenize("<|im_end|>", parse_special=True)
    assert token in weights.end_tokens
    assert weights.piece(token) == b""
    assert weights.text_of(token) == "<|im_end|>"


def test_user_defined_tokens_are_shown(weights: Weights) -> None:
    (token,) = weights.tokenize("<think>", parse_special=True)
    assert weights.piece(token) == b"<think>"


def test_a_refused_file_is_a_model_error_with_llama_cpps_reason(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(FILES.weights.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="broken.gguf"):
        Weights(path)


def test_loading_reports_progress() -> None:
    seen: list[float] = []
    Weights(FILES.weights, progress=seen.append).close()
    assert seen[-1] == 1.0 and seen == sorted(seen)


def prefill(context: Context, tokens: list[int], sequence: int, begin: int = 0) -> np.ndarray:
    rows = [BatchToken(t, i, sequence, i == len(tokens) - 1) for i, t in enumerate(tokens)][begin:]
    context.decode(rows)
    return context.logits(len(rows) - 1).copy()


def test_sequences_in_one_step_are_independent(weights: Weights, context: Context) -> None:
    one, two = (weights.tokenize(t, parse_special=True) for t in ("red blue", "seven eight nine"))
    alone = prefill(context, one, 0)
    context.truncate(0, 0)
    rows = [BatchToken(t, i, 1, i == len(two) - 1) for i, t in enumerate(two)]
    rows += [BatchToken(t, i, 2, i == len(one) - 1) for i, t in enumerate(one)]
    context.decode(rows)
    together = context.logits(len(rows) - 1)
    assert np.allclose(alone, together, atol=0.05) and alone.argmax() == together.argmax()


def test_a_sequence_continues_from_where_it_was_truncated(weights: Weights, context: Context) -> None:
    tokens = weights.tokenize("red blue green yellow", parse_special=True)
    whole = prefill(context, tokens, 0)
    context.truncate(0, 2)
    np.testing.assert_allclose(prefill(context, tokens, 0, begin=2), whole, atol=0.05)


def test_draft_rows_give_the_same_logits_as_single_steps(weights: Weights) -> None:
    tokens = weights.tokenize("red blue green yellow " * 3, parse_special=True)[:10]
    made = Context(weights, cells=256, slots=1, threads=1, draft_rows=9)
    made.decode([BatchToken(token, i, 0, True) for i, token in enumerate(tokens)])
    together = [made.logits(i).copy() for i in range(10)]
    made.truncate(0, 0)
    for i, token in enumerate(tokens):
        made.decode([BatchToken(token, i, 0, True)])
        alone = made.logits(0)
        assert np.allclose(together[i], alone, atol=0.05) and together[i].argmax() == alone.argmax()
    made.close()


def test_a_copy_shares_a_prefix_and_diverges(weights: Weights, context: Context) -> None:
    shared, one, two = (weights.tokenize(f"red blue{w}", parse_special=True) for w in ("", " green", " star"))
    assert one[: len(shared)] == two[: len(shared)] == shared
    alone = prefill(context, two, 0)
    context.truncate(0, 0)
    prefill(context, one, 0)
    context.copy(0, 1, len(shared))
    np.testing.assert_allclose(prefill(context, two, 1, begin=len(shared)), alone, atol=0.05)


def test_a_saved_sequence_is_restored_in_another_slot(weights: Weights, context: Context) -> None:
    tokens = weights.tokenize("red blue green yellow", parse_special=True)
    whole = prefill(context, tokens, 0)
    data = context.save(0)
    context.truncate(0, 0)
    assert context.restore(1, data)
    context.truncate(1, len(tokens) - 1)
    np.testing.assert_allclose(prefill(context, tokens, 1, begin=len(tokens) - 1), whole, atol=0.05)


def test_damaged_states_are_refused(weights: Weights, context: Context) -> None:
    prefill(context, weights.tokenize("red blue green yellow", parse_special=True), 0)
    data = context.save(0)
    for damaged in (b"", data[: len(data) // 2], b"\0" * len(data)):
        assert not context.restore(1, damaged)


def test_a_truncated_sequence_starts_again(weights: Weights, context: Context) -> None:
    tokens = weights.tokenize("red blue", parse_special=True)
    first = prefill(context, tokens, 0)
    context.truncate(0, 0)
    assert np.array_equal(first, prefill(context, tokens, 0))


def test_a_full_cache_is_an_engine_error(weights: Weights, context: Context) -> None:
    context.decode([BatchToken(5, i, 0, False) for i in range(200)])
    with pytest.raises(EngineError, match="no room"):
        context.decode([BatchToken(5, i, 1, False) for i in range(100)])


def test_a_step_larger_than_the_batch_is_an_engine_error(context: Context) -> None:
    with pytest.raises(EngineError, match="larger than the batch"):
        context.decode([BatchToken(5, i, 0, False) for i in range(257)])


def test_logits_that_were_not_requested_are_an_engine_error(context: Context) -> None:
    context.decode([BatchToken(5, 0, 0, False), BatchToken(6, 1, 0, True)])
    with pytest.raises(EngineError, match="row 0"):
        context.logits(0)


def samples(sampling: Sampling, logits: list[float], n: int = 400, **options: object) -> Counter[int]:
    sampler = Sampler(sampling, **options)  # type: ignore[arg-type]
    found = Counter(sampler.sample(np.array(logits, np.float32)).token for _ in range(n))
    return found


LOGITS = [0.0, 3.0, 2.9, 1.0, -2.0]


def test_temperature_zero_takes_the_most_probable_token() -> None:
    assert set(samples(Sampling(temperature=0), LOGITS)) == {1}


def test_a_higher_temperature_flattens_the_distribution() -> None:
    assert len(samples(Sampling(temperature=5, seed=1), LOGITS)) == 5


def test_samples_follow_the_probabilities() -> None:
    found = samples(Sampling(temperature=1, seed=1), LOGITS, n=4000)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert all(abs(found[i] / 4000 - p) < 0.03 for i, p in enumerate(expected))


def test_top_k_top_p_and_min_p_cut_the_tail() -> None:
    assert set(samples(Sampling(temperature=5, top_k=2, seed=1), LOGITS)) == {1, 2}
    assert set(samples(Sampling(temperature=5, top_p=0.5, seed=1), LOGITS)) == {1, 2}
    assert set(samples(Sampling(temperature=5, min_p=0.5, seed=1), LOGITS)) == {1, 2}


def test_a_seed_repeats_the_samples() -> None:
    def series(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=5, seed=seed))
        return [sampler.sample(np.array(LOGITS, np.float32)).token for _ in range(60)]

    assert series(1) == series(1) != series(2)
    assert series(None) != series(None)


def test_banned_tokens_are_never_sampled() -> None:
    for temperature in (0, 5):
        found = samples(Sampling(temperature=temperature, seed=1), LOGITS, banned=frozenset({1, 4}))
        assert not set(found) & {1, 4}


def test_a_grammar_allows_only_its_language(weights: Weights) -> None:
    grammar = GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers).json({"enum": ["yes", "no"]})
    spelled = b""
    for _ in range(20):
        logits = np.zeros(weights.vocab_size, np.float32)
        grammar.mask(logits)
        token = int(logits.argmax())
        grammar.accept(token)
        if token in weights.end_tokens:
            break
        spelled += weights.piece(token)
    assert spelled in (b'"yes"', b'"no"')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "#/nowhere"},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(weights: Weights, schema: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be enforced"):
        GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers).json(schema)


def test_a_projector_with_another_embedding_width_is_refused(tmp_path: Path, weights: Weights) -> None:
    import gguf

    assert FILES.projector
    path = tmp_path / "mmproj.gguf"
    reader, writer = gguf.GGUFReader(FILES.projector), gguf.GGUFWriter(path, "clip")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = 128 if name.endswith("projection_dim") else field.contents()
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])
    for tensor in reader.tensors:
        data = tensor.data[:128] if tensor.name in ("mm.model.mlp.3.weight", "mm.a.mlp.2.weight") else tensor.data
        data = tensor.data[:128] if tensor.name == "mm.a.mlp.2.bias" else data
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    write_and_close(writer)
    with pytest.raises(ModelError, match=r"mmproj.gguf does not match text-Q8_0.gguf"):
        Projector(path, weights, threads=1, largest_image=512)


@pytest.mark.parametrize("name", [s.name for s in SCHEMES.values() if not s.needs_calibration])
def test_every_scheme_makes_a_model_that_still_answers(tmp_path: Path, name: str) -> None:
    target = tmp_path / "q.gguf"
    quantize(FILES.weights.with_name("text-F16.gguf"), target, find(name).ftype)
    loaded = Weights(target)
    context = Context(loaded, cells=64, slots=1, threads=1)
    tokens = loaded.tokenize(
        "<|im_start|>user\nOpposite of big?<|im_end|>\n<|im_start|>assistant\n", parse_special=True
    )
    first = loaded.piece(int(prefill(context, tokens, 0).argmax()))
    context.close()
    loaded.close()
    assert b"Small".startswith(first) and first


@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-38, 1e-40, 1e-45])
def test_a_very_low_temperature_is_greedy(temperature: float) -> None:
    assert set(samples(Sampling(temperature=temperature, seed=1), LOGITS, n=20)) == {1}


def test_if_no_token_is_allowed_sampling_fails() -> None:
    for temperature in (0, 1):
        sampler = Sampler(Sampling(temperature=temperature), banned=frozenset(range(5)))
        with pytest.raises(EngineError, match="no token is allowed to come next"):
            sampler.sample(np.array(LOGITS, np.float32))


def llama_candidates(values: list[float], sampling: Sampling) -> set[int]:
    """The tokens that llama.cpp's own samplers leave."""
    array = (llama.llama_token_data * len(values))(*((i, v, 0.0) for i, v in enumerate(values)))
    data = llama.llama_token_data_array(data=array, size=len(values), selected=-1, sorted=False)
    samplers = [
        llama.llama_sampler_init_top_k(sampling.top_k or 0),
        llama.llama_sampler_init_top_p(1.0 if sampling.top_p is None else sampling.top_p, 1),
        llama.llama_sampler_init_min_p(sampling.min_p or 0.0, 1),
    ]
    for sampler in samplers:
        llama.llama_sampler_apply(sampler, ctypes.byref(data))
        llama.llama_sampler_free(sampler)
    return {data.data[i].id for i in range(data.size)}


@settings(deadline=None)
@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=60, unique=True),
    st.none() | st.integers(0, 70),
    st.none() | st.sampled_from([0.05, 0.37, 0.5, 0.81, 0.93, 1.0]),
    st.none() | st.sampled_from([0.0, 0.011, 0.053, 0.47, 1.0]),
)
def test_candidates_are_those_of_llama_cpp(
    tenths: list[int], top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    values = [t / 10 for t in tenths]  # far enough apart that float32 rounding decides nothing
    sampling = Sampling(temperature=1, top_k=top_k, top_p=top_p, min_p=min_p)
    left = candidates(np.array(values, np.float32), sampling)
    assert set(range(len(values)) if left is None else left.tolist()) == llama_candidates(values, sampling)


def test_forbidden_tokens_are_never_candidates() -> None:
    logits = np.array([1, -np.inf, 0.5, -np.inf], np.float32)
    for sampling in (Sampling(top_k=4), Sampling(top_p=0.999), Sampling(min_p=1e-9)):
        left = candidates(logits, sampling)
        assert left is not None and set(left.tolist()) == {0, 2}
    assert set(samples(Sampling(temperature=3, seed=1), logits.tolist())) == {0, 2}


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats."""
    one, other = (x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64)) for x in (reference, logits))
    return float((np.exp(one) * (one - other)).sum())


@pytest.mark.parametrize(("kv_type", "per_value"), [("f16", 2.0), ("q8_0", 34 / 32), ("q4_0", 18 / 32)])
def test_a_quantized_kv_cache_gives_nearly_the_same_logits(
    weights: Weights,
    kv_type: KVType,
    per_value: float,
) -> None:
    question = "<|im_start|>user\nOpposite of big?<|im_end|>\n<|im_start|>assistant\n"
    tokens = weights.tokenize(question, parse_special=True)
    plain = Context(weights, cells=2048, slots=1, threads=1)
    reference = prefill(plain, tokens, 0)
    plain.close()
    log: list[str] = []
    library.listen(log.append)
    small = Context(weights, cells=2048, slots=1, threads=1, kv_type=kv_type)
    library.listen(None)
    match = re.search(r"size = +([\d.]+) MiB \( *2048 cells", "".join(log))
    logits = prefill(small, tokens, 0)
    small.close()
    values = 2048 * 6 * 2 * 128  # cells, layers, keys and values, width of two heads
    assert match and float(match[1]) == pytest.approx(values * per_value / (1 << 20), abs=0.01)
    assert divergence(reference, logits) <= {"f16": 0, "q8_0": 1e-5, "q4_0": 1e-3}[kv_type]


def test_flash_attention_changes_almost_nothing(weights: Weights) -> None:
    found = []
    for choice in ("auto", "on", "off"):
        made = Context(weights, cells=256, slots=1, threads=1, flash_attention=choice)
        found.append(prefill(made, weights.tokenize("red blue", parse_special=True), 0))
        made.close()
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[1], found[2])
    assert np.allclose(found[1], found[2], atol=0.2)


def test_a_kv_type_that_does_not_fit_the_heads_is_a_model_error(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "odd.gguf", shapes.Shape(80, 1, 2, 2, 160, 64, "F16", tied=True))
    odd = Weights(path)
    Context(odd, cells=256, slots=1, threads=1).close()
    with pytest.raises(ModelError, match="does not divide n_embd_head_k=40; try a smaller --context or --kv-type f16"):
        Context(odd, cells=256, slots=1, threads=1, kv_type="q8_0")
    odd.close()

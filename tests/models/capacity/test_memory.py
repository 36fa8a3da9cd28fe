"""The memory that a model takes: the arithmetic on made-up headers, and comparisons with llama.cpp."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import shapes
from galago.models.capacity import memory as footprint
from galago.models.capacity.memory import ContextPlan, MemoryFootprint, MemorySettings, plan_context
from galago.models.errors import ModelError
from galago.models.gguf.header import ArrayInfo, GGUFHeader, TensorInfo
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp import library
from galago.runtime.llamacpp.context import BATCH
from galago.runtime.llamacpp.library import features, llama
from galago.runtime.llamacpp.quantizer import quantize
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.speculative.drafting import MAX_DRAFT_TOKENS

AVX2, NOTHING = frozenset({"AVX2", "REPACK"}), frozenset[str]()
Q4_0, Q8_0, F32 = 2, 8, 0
MIB = 1 << 20


def header(
    width: int = 256, layers: int = 4, inner: int = 1024, kind: int = Q4_0, tied: bool = False, **keys: object
) -> GGUFHeader:
    """Returns a header of the llama architecture with consecutive tensors."""
    size = {Q4_0: 18, Q8_0: 34}[kind]
    wanted = [("token_embd.weight", (width, 512)), ("output_norm.weight", (width,))]
    wanted += [] if tied else [("output.weight", (width, 512))]
    for i in range(layers):
        wanted += [(f"blk.{i}.attn_norm.weight", (width,))]
        wanted += [(f"blk.{i}.{name}.weight", (width, width)) for name in ("attn_q", "attn_k", "attn_v", "attn_output")]
        wanted += [(f"blk.{i}.ffn_{name}.weight", (width, inner)) for name in ("gate", "up")]
        wanted += [(f"blk.{i}.ffn_down.weight", (inner, width))]
    tensors, offset = [], 0
    for name, shape in wanted:
        one = len(shape) == 1
        nbytes = 4 * shape[0] if one else shape[0] * shape[1] // 32 * size
        tensors.append(TensorInfo(name, shape, F32 if one else kind, offset, nbytes))
        offset += nbytes
    metadata = {"general.architecture": "llama", "llama.block_count": layers, "llama.embedding_length": width}
    metadata |= {"llama.feed_forward_length": inner, "llama.attention.head_count": 4, "llama.context_length": 32768}
    metadata |= {f"llama.{key.replace('__', '.')}": value for key, value in keys.items()}
    return GGUFHeader(Path("invented.gguf"), 3, metadata, tuple(tensors), 0, offset)  # type: ignore[arg-type]


def taken(
    file: GGUFHeader, cells: int = 1024, slots: int = 1, setting: MemorySettings | None = None
) -> MemoryFootprint:
    return footprint.estimate_footprint(file, None, (), cells, slots, setting or MemorySettings(NOTHING))


def matrices(file: GGUFHeader) -> int:
    return sum(t.nbytes or 0 for t in file.tensors if len(t.shape) > 1 and t.name != "token_embd.weight")


def test_without_repacking_all_weights_are_mapped() -> None:
    found = taken(header())
    assert (found.repacked, found.weights) == (0, header().file_size)


def test_repacked_weights_are_counted_once() -> None:
    plain, found = taken(header()), taken(header(), setting=MemorySettings(AVX2))
    assert found.repacked == matrices(header())
    assert found.weights == plain.weights - found.repacked


@pytest.mark.parametrize(
    ("built", "kind", "copied"),
    [({"AVX2", "REPACK"}, Q4_0, True), ({"AVX2", "REPACK"}, Q8_0, False), ({"DOTPROD", "REPACK"}, Q8_0, True),
     ({"AVX2"}, Q4_0, False), ({"AMX_INT8"}, Q8_0, True), ({"REPACK"}, Q4_0, False)],
)  # fmt: skip
def test_repacked_types_depend_on_the_features_of_the_build(built: set[str], kind: int, copied: bool) -> None:
    assert (taken(header(kind=kind), setting=MemorySettings(frozenset(built))).repacked > 0) == copied


def test_a_tied_output_is_copied_if_it_is_repacked() -> None:
    tied = header(tied=True)
    embedding = next(t.nbytes or 0 for t in tied.tensors if t.name == "token_embd.weight")
    assert taken(tied, setting=MemorySettings(AVX2)).repacked == matrices(tied) + embedding
    assert taken(header(tied=True, kind=Q8_0), setting=MemorySettings(AVX2)).repacked == 0


def test_layers_on_a_gpu_take_no_ram() -> None:
    found = [taken(header(), setting=MemorySettings(NOTHING, gpu_layers=layers)) for layers in range(6)]
    assert [f.context for f in found] == [f * found[0].context // 4 for f in (4, 4, 3, 2, 1, 0)]
    assert all(later.weights <= sooner.weights for sooner, later in zip(found, found[1:], strict=False))
    assert found[5].weights < 0.2 * found[0].weights


def test_a_smaller_kv_type_and_a_single_process_take_less() -> None:
    f16, q8, q4 = (
        taken(header(), setting=MemorySettings(NOTHING, kv_type=kv)).context for kv in ("f16", "q8_0", "q4_0")
    )
    assert f16 == 1024 * 4 * 256 * 2 * 2 and f16 > q8 > q4
    served, alone = taken(header()), taken(header(), setting=MemorySettings(NOTHING, server=False))
    assert served.processes - alone.processes == footprint.SERVER_BYTES


def test_each_slot_of_a_recurrent_model_has_its_own_state() -> None:
    recurrent = header(ssm__state_size=16, ssm__inner_size=64, ssm__conv_kernel=4)
    one, four = (taken(recurrent, slots=slots).context for slots in (1, 4))
    assert four - one == 3 * 4 * (3 * 64 + 64 * 16) * 4
    assert taken(header(), slots=4).context == taken(header(), slots=1).context


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 32768), st.integers(1, 32768), st.integers(1, 16), st.sampled_from([AVX2, NOTHING]))
def test_a_shorter_context_never_takes_more(one: int, other: int, slots: int, built: frozenset[str]) -> None:
    less, more = sorted((one, other))
    small, large = (taken(FILE, cells, slots, MemorySettings(built)) for cells in (less, more))
    assert all(value <= asdict(large)[name] for name, value in asdict(small).items())
    assert taken(FILE, less, slots + 1, MemorySettings(built)).needed >= small.needed


FILE = header(width=1024, layers=8)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 4000 * MIB),
    st.integers(0, 500 * MIB),
    st.integers(1, 40000),
    st.one_of(st.none(), st.integers(1, 8)),
)
def test_a_larger_budget_never_gives_less(budget: int, more: int, trained: int, slots: int | None) -> None:
    def at(memory: int) -> ContextPlan | None:
        return plan_context(lambda cells, count: taken(FILE, cells, count), memory, trained, None, slots)

    poor, rich = at(budget), at(budget + more)
    if poor is None:
        assert taken(FILE, min(footprint.MIN_CONTEXT_TOKENS, trained), slots or 1).needed > budget
        return
    assert rich is not None and rich.context >= poor.context and rich.slots >= poor.slots
    assert poor.footprint.needed <= budget and poor.context <= trained
    longer = poor.context + 256
    assert longer > trained or taken(FILE, longer, slots or poor.slots + 1).needed > budget


def test_given_context_and_slots_are_not_changed() -> None:
    free = taken(FILE, 4096, 3).needed
    assert plan_context(lambda c, s: taken(FILE, c, s), free, 32768, 4096, 3) == ContextPlan(
        4096, 3, taken(FILE, 4096, 3)
    )
    assert plan_context(lambda c, s: taken(FILE, c, s), free - 1, 32768, 4096, 3) is None
    chosen = plan_context(lambda c, s: taken(FILE, c, s), free, 32768, None, 3)
    assert chosen is not None and chosen.context >= 4096 and chosen.slots == 3


def test_an_incomplete_header_is_rejected_and_inexact_estimates_are_named() -> None:
    empty = replace(header(), metadata={"general.architecture": "odd"})
    with pytest.raises(ModelError, match=r"lacks odd\.block_count"):
        taken(empty)
    assert footprint.estimate_caveats(header(), None) == []
    window = header(attention__sliding_window=512)
    recurrent = header(ssm__state_size=16, ssm__inner_size=64)
    for file, word in ((window, "window"), (recurrent, "recurrent")):
        assert any(word in line for line in footprint.estimate_caveats(file, None))
    parts = replace(header(), metadata={**header().metadata, "split.count": 3})
    assert any("files is counted" in line for line in footprint.estimate_caveats(parts, None))


def test_a_large_vocabulary_is_counted() -> None:
    large = replace(header(), metadata={**header().metadata, "tokenizer.ggml.tokens": ArrayInfo(8, 128256)})
    assert taken(large).vocabulary == 128256 * footprint._TOKEN_BYTES > taken(header()).vocabulary == 0


def projector(**keys: object) -> GGUFHeader:
    metadata = {"general.architecture": "clip", **{f"clip.{key.replace('__', '.')}": v for key, v in keys.items()}}
    tensors = (TensorInfo("v.patch_embd.weight", (16, 16, 3, 768), 1, 0, 16 * 16 * 3 * 768 * 2),)
    return GGUFHeader(Path("eyes.gguf"), 3, metadata, tensors, 0, 0)  # type: ignore[arg-type]


def test_a_projector_takes_its_weights_and_working_memory() -> None:
    eyes = projector(vision__image_size=512, vision__patch_size=16, vision__feed_forward_length=3072,
                     projector_type="idefics3", has_vision_encoder=True)  # fmt: skip
    plain, found = taken(FILE), footprint.estimate_footprint(FILE, eyes, (), 1024, 1, MemorySettings(NOTHING))
    assert (plain.projector, plain.media) == (0, 0)
    assert found.projector == 16 * 16 * 3 * 768 * 2
    assert found.media == footprint.MEDIA_BYTES + 24 * MIB  # as llama.cpp says of this shape
    on_gpu = footprint.estimate_footprint(FILE, eyes, (), 1024, 1, MemorySettings(NOTHING, projector_on_gpu=True))
    assert (on_gpu.projector, on_gpu.media) == (0, footprint.MEDIA_BYTES)
    assert footprint.estimate_caveats(FILE, eyes) == []


def test_a_projector_without_a_fixed_size_is_estimated_for_a_megapixel() -> None:
    eyes = projector(vision__image_size=256, vision__patch_size=16, vision__feed_forward_length=3072,
                     projector_type="qwen2.5vl_merger", has_vision_encoder=True)  # fmt: skip
    assert footprint.encoding_bytes(eyes) == 4 * 2 * 3072 * 4096
    assert any("megapixel" in line for line in footprint.estimate_caveats(FILE, eyes))
    ears = projector(audio__feed_forward_length=5120, has_audio_encoder=True)
    assert footprint.encoding_bytes(ears) == 4 * 2 * 5120 * 1500 and footprint.estimate_caveats(FILE, ears) == []


@pytest.mark.parametrize("ftype", [2, 7, 15], ids=["Q4_0", "Q8_0", "Q4_K_M"])
def test_repacked_and_mapped_weights_match_llama_cpp(
    tmp_path: Path, ftype: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On this machine, with the built-in model in several types."""
    target = tmp_path / "model.gguf"
    quantize(resolve("builtin").weights, target, ftype)
    monkeypatch.setattr(library, "SHOW_LOG", True)
    capsys.readouterr()
    Weights(target, gpu_layers=0).close()
    said = capsys.readouterr().err
    sizes = {name: float(size) for name, size in re.findall(r"(CPU\w*) model buffer size = +([\d.]+) MiB", said)}
    found = taken(read_header(target), setting=MemorySettings(features()))
    assert found.repacked / MIB == pytest.approx(sizes.get("CPU_REPACK", 0) + sizes.get("AMX", 0), abs=0.02)
    originals = 0 if found.repacked == 0 else taken(read_header(target)).weights - found.weights
    # llama.cpp cuts off what lies before the first tensor it uses there and behind the last
    assert found.weights / MIB <= sizes["CPU_Mapped"] + 0.02 <= (found.weights + originals) / MIB + 0.04


@pytest.mark.parametrize("name", ["135M", "1B", "8B"])
def test_working_memory_matches_llama_cpp(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = read_header(shapes.write(tmp_path / "shape.gguf", shapes.SHAPES[name]))
    monkeypatch.setattr(library, "SHOW_LOG", True)
    for cells in (2048, 8192):
        params, context = llama.llama_model_default_params(), llama.llama_context_default_params()
        params.no_alloc, params.load_mode, params.n_gpu_layers = True, 0, 0
        context.n_ctx, context.n_batch, context.n_ubatch = cells, BATCH, BATCH
        context.n_seq_max, context.n_outputs_max, context.kv_unified, context.flash_attn_type = (
            4,
            4 + MAX_DRAFT_TOKENS,
            True,
            1,
        )
        capsys.readouterr()
        model = llama.llama_model_load_from_file(str(file.path).encode(), params)
        llama.llama_free(llama.llama_init_from_model(model, context))
        llama.llama_model_free(model)
        working = re.search(r"compute buffer size = +([\d.]+) MiB", capsys.readouterr().err)
        assert working
        found = taken(file, cells, 4).compute
        assert float(working[1]) <= found / MIB <= 1.25 * float(working[1]) + 20

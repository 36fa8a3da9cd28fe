"""GPU offload: plans for made-up devices, and comparisons with llama.cpp."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import shapes
from galago.models.capacity import gpu_offload
from galago.models.capacity.gpu_offload import GPU_RESERVE_BYTES, PROJECTOR_SCRATCH_BYTES, OffloadNeeds, OffloadPlan
from galago.models.gguf.header import GGUFHeader
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp import library
from galago.runtime.llamacpp.context import BATCH
from galago.runtime.llamacpp.library import llama
from galago.runtime.speculative.drafting import MAX_DRAFT_TOKENS

GIB = 1 << 30
FREE = [int(gib * GIB) for gib in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)]
FILES = resolve("builtin")


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GGUFHeader]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: read_header(shapes.write(folder / f"{name}.gguf", shape)) for name, shape in shapes.SHAPES.items()}


def used(needs: OffloadNeeds, plan: OffloadPlan) -> list[int]:
    """Counts the bytes that a plan takes on each device, independently of the planner."""
    parts = [*needs.layers, needs.output]
    at = len(parts) - plan.gpu_layers
    found = []
    for device, count in enumerate(plan.split):
        taken = sum(parts[at : at + count]) + (needs.projector if plan.projector and device == 0 else 0)
        if count:
            taken += needs.scratch + (needs.staging if plan.gpu_layers < len(parts) else 0)
        at += count
        found.append(taken)
    assert at == len(parts)
    return found


@pytest.mark.parametrize("name", shapes.SHAPES)
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_a_plan_never_exceeds_the_free_memory_and_grows_with_it(
    headers: dict[str, GGUFHeader], name: str, kv_type: str
) -> None:
    needs = gpu_offload.offload_needs(
        headers[name], 8192, 4, kv_type, kv_type != "f16", read_header(FILES.projector or Path())
    )
    before = 0
    for free in FREE:
        plan = gpu_offload.plan_offload(needs, [free])
        assert all(taken + GPU_RESERVE_BYTES <= free for taken in used(needs, plan) if taken)
        assert plan.gpu_layers >= before
        before = plan.gpu_layers
    assert gpu_offload.plan_offload(needs, FREE[:1]) == OffloadPlan(0, (0,), False)
    assert gpu_offload.plan_offload(needs, FREE[-1:]) == OffloadPlan(
        len(needs.layers) + 1, (len(needs.layers) + 1,), True
    )


def test_a_large_model_fits_partly(headers: dict[str, GGUFHeader]) -> None:
    needs = gpu_offload.offload_needs(headers["8B"], 8192, 4, "f16", True)
    assert [gpu_offload.plan_offload(needs, [gib * GIB]).gpu_layers for gib in (1, 2, 3, 4, 6, 8)] == [
        0,
        7,
        14,
        21,
        33,
        33,
    ]


def test_a_smaller_cache_leaves_room_for_more_layers(headers: dict[str, GGUFHeader]) -> None:
    f16, q8, q4 = (
        gpu_offload.plan_offload(gpu_offload.offload_needs(headers["7B"], 8192, 4, kv, True), [4 * GIB]).gpu_layers
        for kv in ("f16", "q8_0", "q4_0")
    )
    assert 0 < f16 < q8 < q4


SIZES = st.integers(0, 2 * GIB)
NEEDS = st.builds(OffloadNeeds, st.lists(SIZES, min_size=1, max_size=12).map(tuple), SIZES, SIZES, SIZES, SIZES)
DEVICES = st.lists(st.integers(0, 24 * GIB), max_size=3)


@settings(max_examples=300, deadline=None)
@given(NEEDS, DEVICES, st.lists(st.integers(0, 8 * GIB), min_size=3, max_size=3))
def test_more_memory_never_means_fewer_layers(needs: OffloadNeeds, free: list[int], more: list[int]) -> None:
    plan = gpu_offload.plan_offload(needs, free)
    assert sum(plan.split) == plan.gpu_layers and len(plan.split) == len(free)
    assert all(
        taken + GPU_RESERVE_BYTES <= memory for taken, memory in zip(used(needs, plan), free, strict=True) if taken
    )
    richer = gpu_offload.plan_offload(needs, [memory + extra for memory, extra in zip(free, more, strict=False)])
    assert richer.gpu_layers >= plan.gpu_layers


def test_layers_are_placed_before_the_projector() -> None:
    needs = OffloadNeeds(layers=(100, 100), output=100, scratch=10, staging=10, projector=50)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 359]) == OffloadPlan(3, (3,), False)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 360]) == OffloadPlan(3, (3,), True)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 220]) == OffloadPlan(2, (2,), False)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 49]) == OffloadPlan(0, (0,), False)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 50]) == OffloadPlan(0, (0,), True)


def test_several_devices_are_filled_in_order() -> None:
    needs = OffloadNeeds(layers=(100, 100, 100), output=100, scratch=10, staging=0, projector=50)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 210, GPU_RESERVE_BYTES + 260]) == OffloadPlan(
        4, (2, 2), False
    )
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 210, GPU_RESERVE_BYTES + 310]) == OffloadPlan(
        4, (1, 3), True
    )
    assert gpu_offload.plan_offload(needs, []) == OffloadPlan(0, (), False)


def test_a_fixed_number_of_layers_plans_the_projector_only() -> None:
    needs = OffloadNeeds(layers=(100, 100), output=100, scratch=10, staging=10, projector=50)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 400], layers=2) == OffloadPlan(2, (2,), True)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 230], layers=2) == OffloadPlan(2, (2,), False)
    assert gpu_offload.plan_offload(needs, [GPU_RESERVE_BYTES + 400], layers=99).gpu_layers == 3


def test_tensors_that_stay_on_the_cpu_are_not_counted(headers: dict[str, GGUFHeader]) -> None:
    tensors = {tensor.name: tensor.nbytes or 0 for tensor in headers["8B"].tensors}
    assert gpu_offload.offload_needs(headers["8B"], 256, 1, "f16", True).output == sum(
        tensors[name] for name in ("output.weight", "output_norm.weight")
    )
    tied = {tensor.name: tensor.nbytes or 0 for tensor in headers["1B"].tensors}
    assert gpu_offload.offload_needs(headers["1B"], 256, 1, "f16", True).output == sum(
        tied[name] for name in ("token_embd.weight", "output_norm.weight")
    )


def test_a_projector_needs_its_weights_and_working_memory() -> None:
    assert FILES.projector
    header = read_header(FILES.projector)
    needs = gpu_offload.offload_needs(FILES.header, 2048, 4, "f16", True, header)
    assert needs.projector == sum(tensor.nbytes or 0 for tensor in header.tensors) + PROJECTOR_SCRATCH_BYTES


def simulated(path: Path, cells: int, kv_type: int, log: pytest.CaptureFixture[str]) -> tuple[int, float, float]:
    """Returns weights, KV cache and working memory as llama.cpp reports them, without allocating them."""
    model_params, params = llama.llama_model_default_params(), llama.llama_context_default_params()
    model_params.no_alloc, model_params.load_mode, model_params.n_gpu_layers = True, 0, 0
    params.n_ctx, params.n_batch, params.n_ubatch = cells, BATCH, BATCH
    params.n_seq_max, params.n_outputs_max, params.kv_unified = 4, 4, True
    params.type_k = params.type_v = kv_type
    params.flash_attn_type = 0 if kv_type == llama.GGML_TYPE_F16 else 1
    log.readouterr()
    model = llama.llama_model_load_from_file(str(path).encode(), model_params)
    context = llama.llama_init_from_model(model, params)
    size = int(llama.llama_model_size(model))
    llama.llama_free(context)
    llama.llama_model_free(model)
    said = log.readouterr().err
    cache = re.findall(r"size = +([\d.]+) MiB \( *\d+ cells", said)
    working = re.findall(r"compute buffer size = +([\d.]+) MiB", said)
    return size, sum(map(float, cache)), sum(map(float, working))


@pytest.mark.parametrize(("kv_type", "number"), [("f16", 1), ("q8_0", 8), ("q4_0", 2)])
def test_the_estimates_match_llama_cpp(
    headers: dict[str, GGUFHeader],
    kv_type: str,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (gpu_offload.BATCH_ROWS, gpu_offload.DRAFT_ROWS) == (BATCH, MAX_DRAFT_TOKENS)
    monkeypatch.setattr(library, "SHOW_LOG", True)
    for header in [FILES.header, *headers.values()]:
        for cells in (1000, 2048):
            size, cache, working = simulated(header.path, cells, number, capsys)
            needs = gpu_offload.offload_needs(header, cells, 4, kv_type, kv_type != "f16")
            a_cell = sum(gpu_offload.kv_bytes_per_token(header, layer, kv_type) for layer in range(len(needs.layers)))
            ours = a_cell * -(-cells // 256) * 256
            assert sum(tensor.nbytes or 0 for tensor in header.tensors) == size
            assert ours / (1 << 20) == pytest.approx(cache, abs=0.01)
            assert working <= needs.scratch / (1 << 20) <= 2 * working + 20
            whole = sum(needs.layers) + needs.output
            assert whole == size - (0 if header_is_tied(header) else embedding(header)) + ours


def header_is_tied(header: GGUFHeader) -> bool:
    return not any(tensor.name == "output.weight" for tensor in header.tensors)


def embedding(header: GGUFHeader) -> int:
    return next(tensor.nbytes or 0 for tensor in header.tensors if tensor.name == "token_embd.weight")

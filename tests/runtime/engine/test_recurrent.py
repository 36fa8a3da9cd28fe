"""A recurrent model, whose state cannot be truncated: reuse does not change its answers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.random_gguf import copy_tokenizer
from fakes.gguf_writing import write_and_close
from galago.models.registry.resolve import builtin_folder
from galago.runtime import load
from galago.runtime.engine.scheduler import RECURRENT_REPLAY_TOKENS

WIDTH, INNER, STATE, RANK, WINDOW, LAYERS = 64, 128, 16, 4, 4, 2


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the shape of Mamba, with the built-in model's tokenizer."""
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    writer = gguf.GGUFWriter(str(path), "mamba")
    tokens = copy_tokenizer(gguf.GGUFReader(str(builtin_folder() / "text-Q8_0.gguf")), writer)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(LAYERS)
    writer.add_ssm_conv_kernel(WINDOW)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.standard_normal(shape, np.float32) * 0.2)

    tensor("token_embd.weight", tokens, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        tensor(f"{block}.ssm_in.weight", 2 * INNER, WIDTH)
        tensor(f"{block}.ssm_conv1d.weight", INNER, WINDOW)
        tensor(f"{block}.ssm_conv1d.bias", INNER)
        tensor(f"{block}.ssm_x.weight", RANK + 2 * STATE, INNER)
        tensor(f"{block}.ssm_dt.weight", INNER, RANK)
        tensor(f"{block}.ssm_dt.bias", INNER)
        writer.add_tensor(f"{block}.ssm_a", -np.exp(random.standard_normal((INNER, STATE), np.float32)))
        tensor(f"{block}.ssm_d", INNER)
        tensor(f"{block}.ssm_out.weight", WIDTH, INNER)
    write_and_close(writer)
    return path


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_reused_turns_and_prefixes_change_no_answer(mamba: Path) -> None:
    system = {"role": "system", "content": "Answer briefly, and only what you were asked. " * 3}
    talks = [[system, *chat(f"Talk number {n}, which is about something else.")] for n in range(3)]
    with load(mamba, slots=2) as model:
        for talk in talks:
            reply = model.chat(talk, max_tokens=12, ignore_eos=True)
            assert reply == model.chat(talk, max_tokens=12, ignore_eos=True, cache=False)
        assert reply.usage.cached_tokens > 60
        before = reply.usage.prompt_tokens
        # the next turn shows the last answer otherwise, as templates do that leave reasoning out
        turn = [*talks[2], *chat("", "Short.", "And then?")[1:]]
        reply = model.chat(turn, max_tokens=12, ignore_eos=True)
        assert reply.usage.cached_tokens == before - RECURRENT_REPLAY_TOKENS
        assert reply == model.chat(turn, max_tokens=12, ignore_eos=True, cache=False)

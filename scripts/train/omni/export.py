"""Writes the network as two GGUF files that llama.cpp loads: text model and projector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import gguf
import numpy as np
import torch

from .network import EncoderBlock, Omni
from .tokenizer import Vocabulary

NAME = "galago-builtin"
Named: TypeAlias = tuple[str, torch.Tensor]
_TABLES = ("v.position_embd.weight", "v.class_embd", "a.position_embd.weight")
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n' }}{%- endif %}"
    "{{- 'Tools:' }}{%- for tool in tools %}{{- '\\n' + (tool['function'] | tojson) }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if not (tools and loop.first and m['role'] == 'system') %}"
    "{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def export(net: Omni, vocabulary: Vocabulary, text: Path, projector: Path) -> None:
    """F16 matrices, F32 vectors and tables."""
    _text(net, vocabulary, text)
    _projector(net, projector)


def _text(net: Omni, vocabulary: Vocabulary, path: Path) -> None:
    c, w = net.c, gguf.GGUFWriter(path, "llama")
    w.add_name(NAME)
    w.add_context_length(c.context)
    w.add_embedding_length(c.width)
    w.add_block_count(c.layers)
    w.add_feed_forward_length(c.feed_forward)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(c.rope_base)
    w.add_rope_dimension_count(c.head_width)
    w.add_vocab_size(c.vocabulary)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(list(vocabulary.tokens))
    w.add_token_types(list(vocabulary.types))
    w.add_token_merges(list(vocabulary.merges))
    w.add_bos_token_id(vocabulary.id("<|endoftext|>"))
    w.add_eos_token_id(vocabulary.id("<|im_end|>"))
    w.add_eot_token_id(vocabulary.id("<|im_end|>"))
    w.add_pad_token_id(vocabulary.id("<|endoftext|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    _write(w, text_tensors(net))


def _projector(net: Omni, path: Path) -> None:
    c, w = net.c, gguf.GGUFWriter(path, "clip")
    w.add_type("mmproj")
    w.add_name(f"{NAME}-mmproj")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_bool("clip.has_vision_encoder", True)
    w.add_bool("clip.has_audio_encoder", True)
    w.add_string("clip.vision.projector_type", "nemotron_v2_vl")
    w.add_string("clip.audio.projector_type", "qwen3a")
    w.add_bool("clip.use_silu", True)
    for sense in ("vision", "audio"):
        w.add_uint32(f"clip.{sense}.embedding_length", c.width)
        w.add_uint32(f"clip.{sense}.feed_forward_length", c.encoder_feed_forward)
        w.add_uint32(f"clip.{sense}.block_count", c.encoder_layers)
        w.add_uint32(f"clip.{sense}.attention.head_count", c.heads)
        w.add_uint32(f"clip.{sense}.projection_dim", c.width)
        w.add_float32(f"clip.{sense}.attention.layer_norm_epsilon", 1e-5)
    w.add_uint32("clip.vision.image_size", c.image_size)
    w.add_uint32("clip.vision.patch_size", c.patch)
    w.add_uint32("clip.vision.projector.scale_factor", c.merge)
    w.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    w.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    w.add_uint32("clip.audio.num_mel_bins", c.mel_bins)
    _write(w, projector_tensors(net))


def load(net: Omni, text: Path, projector: Path) -> None:
    """Loads what `export` has written into a network of the same shape; training-only heads stay unchanged."""
    for path, tensors in ((text, text_tensors(net)), (projector, projector_tensors(net))):
        found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
        for name, tensor in tensors:
            tensor.data.copy_(torch.from_numpy(found[name].astype(np.float32)).view(tensor.shape))


def text_tensors(net: Omni) -> Iterator[Named]:
    yield "token_embd.weight", net.token_embd.weight
    yield "output_norm.weight", net.output_norm.weight
    for i, block in enumerate(net.blk):
        yield from ((f"blk.{i}.{name}", tensor) for name, tensor in block.state_dict().items())


def projector_tensors(net: Omni) -> Iterator[Named]:
    eye, ear = net.eye, net.ear
    yield "v.patch_embd.weight", eye.patch_embd.weight
    yield "v.patch_embd.bias", _bias(eye.patch_embd)
    yield "v.position_embd.weight", eye.position_embd
    yield "v.class_embd", eye.class_embd
    yield from _blocks("v", eye.blk)
    yield "v.post_ln.weight", eye.post_ln.weight
    yield "v.post_ln.bias", eye.post_ln.bias
    yield "mm.model.mlp.0.weight", eye.norm.weight
    yield "mm.model.mlp.1.weight", eye.up.weight
    yield "mm.model.mlp.3.weight", eye.down.weight
    for i, conv in enumerate(ear.conv, 1):
        assert isinstance(conv, torch.nn.Conv2d)
        yield f"a.conv2d.{i}.weight", conv.weight
        yield f"a.conv2d.{i}.bias", _bias(conv)
    yield "a.conv_out.weight", ear.conv_out.weight
    yield "a.position_embd.weight", ear.position_embd
    yield from _blocks("a", ear.blk)
    yield "a.post_ln.weight", ear.post_ln.weight
    yield "a.post_ln.bias", ear.post_ln.bias
    for i, layer in ((1, ear.mlp1), (2, ear.mlp2)):
        yield f"mm.a.mlp.{i}.weight", layer.weight
        yield f"mm.a.mlp.{i}.bias", layer.bias


def _bias(conv: torch.nn.Conv2d) -> torch.Tensor:
    assert conv.bias is not None
    return conv.bias


def _blocks(prefix: str, blocks: torch.nn.ModuleList) -> Iterator[Named]:
    for i, block in enumerate(blocks):
        assert isinstance(block, EncoderBlock)
        yield from ((f"{prefix}.blk.{i}.{name}", tensor) for name, tensor in block.state_dict().items())


def _write(w: gguf.GGUFWriter, tensors: Iterator[Named]) -> None:
    for name, tensor in tensors:
        data = tensor.detach().float().cpu().numpy()
        w.add_tensor(name, data if data.ndim == 1 or name in _TABLES else data.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

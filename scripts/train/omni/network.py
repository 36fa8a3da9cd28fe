"""The network as llama.cpp computes it: a llama text model with `nemotron_v2_vl` image and `qwen3a` audio encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import CHUNK_TOKENS, Config


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary positions on pairs (2i, 2i + 1), llama.cpp's NORM layout; x is (batch, heads, time, width)."""
    time, width = x.shape[-2:]
    frequency = base ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angle = torch.arange(time, device=x.device, dtype=torch.float32)[:, None] * frequency
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Plain matrix products; PyTorch's fused attention is three times slower for short sequences on a CPU."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


class TextBlock(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.attn_norm, self.ffn_norm = RMSNorm(c.width, 1e-5), RMSNorm(c.width, 1e-5)
        self.attn_q = nn.Linear(c.width, c.width, bias=False)
        self.attn_k = nn.Linear(c.width, c.kv_heads * c.head_width, bias=False)
        self.attn_v = nn.Linear(c.width, c.kv_heads * c.head_width, bias=False)
        self.attn_output = nn.Linear(c.width, c.width, bias=False)
        self.ffn_gate = nn.Linear(c.width, c.feed_forward, bias=False)
        self.ffn_up = nn.Linear(c.width, c.feed_forward, bias=False)
        self.ffn_down = nn.Linear(c.feed_forward, c.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attn_norm(x)
        q, k, v = (_heads(layer(h), self.c.head_width) for layer in (self.attn_q, self.attn_k, self.attn_v))
        q, k = rotate(q, self.c.rope_base), rotate(k, self.c.rope_base)
        k, v = (t.repeat_interleave(self.c.heads // self.c.kv_heads, 1) for t in (k, v))
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        a = attend(q, k, v, past)
        x = x + self.attn_output(a.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class EncoderBlock(nn.Module):
    """A transformer block with biases; the image encoder's feed-forward uses SiLU, the audio encoder's exact GELU."""

    def __init__(self, c: Config, activation: str) -> None:
        super().__init__()
        self.head_width = c.head_width
        self.activation = F.silu if activation == "silu" else F.gelu
        self.ln1, self.ln2 = nn.LayerNorm(c.width, 1e-5), nn.LayerNorm(c.width, 1e-5)
        self.attn_q, self.attn_k, self.attn_v, self.attn_out = (nn.Linear(c.width, c.width) for _ in range(4))
        self.ffn_up = nn.Linear(c.width, c.encoder_feed_forward)
        self.ffn_down = nn.Linear(c.encoder_feed_forward, c.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.ln1(x)
        q, k, v = (_heads(layer(h), self.head_width) for layer in (self.attn_q, self.attn_k, self.attn_v))
        a = attend(q, k, v, mask)
        x = x + self.attn_out(a.transpose(1, 2).flatten(2))
        return x + self.ffn_down(self.activation(self.ffn_up(self.ln2(x))))


def _heads(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


class Eye(nn.Module):
    """Pixels (batch, 3, size, size), normalised to -1..1, to image tokens (batch, tokens, width)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.patch_embd = nn.Conv2d(3, c.width, c.patch, c.patch)
        self.position_embd = nn.Parameter(torch.randn(c.patches**2, c.width) * 0.3)
        self.class_embd = nn.Parameter(torch.randn(1, c.width) * 0.3)  # a register; llama.cpp requires at least one
        self.blk = nn.ModuleList(EncoderBlock(c, "silu") for _ in range(c.encoder_layers))
        self.post_ln = nn.LayerNorm(c.width, 1e-5)
        merged = c.width * c.merge**2
        self.norm = RMSNorm(merged, 1e-6)
        self.up = nn.Linear(merged, c.width, bias=False)
        self.down = nn.Linear(c.width, c.width, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embd(pixels).flatten(2).transpose(1, 2) + self.position_embd
        x = torch.cat((self.class_embd.expand(len(x), 1, -1), x), 1)
        for block in self.blk:
            x = block(x)
        x = self.post_ln(x)[:, 1:]
        g, m = self.c.patches // self.c.merge, self.c.merge
        x = x.unflatten(1, (g, m, g, m)).permute(0, 1, 3, 2, 4, 5).reshape(len(x), g * g, -1)
        return self.down(F.relu(self.up(self.norm(x))) ** 2)


class Ear(nn.Module):
    """Log-mel chunks (batch, chunks, bins, 100) to sound tokens (batch, chunks * 13, width). `valid` counts chunks."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(i, c.channels, 3, 2, 1) for i in (1, c.channels, c.channels))
        self.conv_out = nn.Linear(c.channels * c.mel_bins // 8, c.width, bias=False)
        self.position_embd = nn.Parameter(torch.randn(CHUNK_TOKENS, c.width) * 0.3)
        self.blk = nn.ModuleList(EncoderBlock(c, "gelu") for _ in range(c.encoder_layers))
        self.post_ln = nn.LayerNorm(c.width, 1e-5)
        self.mlp1, self.mlp2 = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)

    def forward(self, mel: Tensor, valid: Tensor) -> Tensor:
        batch, chunks = mel.shape[:2]
        x = mel.flatten(0, 1)[:, None]
        for conv in self.conv:
            x = F.gelu(conv(x))
        x = self.conv_out(x.permute(0, 3, 1, 2).flatten(2)) + self.position_embd
        x = x.reshape(batch, chunks * CHUNK_TOKENS, -1)
        real = torch.arange(chunks, device=mel.device).repeat_interleave(CHUNK_TOKENS) < valid[:, None]
        for block in self.blk:
            x = block(x, real[:, None, None, :])
        return self.mlp2(F.gelu(self.mlp1(self.post_ln(x))))


class Omni(nn.Module):
    """The complete model. Three extra heads label images, image parts and words in training; they are not exported."""

    def __init__(self, c: Config, facts: int, marks: int, words: int) -> None:
        super().__init__()
        self.c = c
        self.token_embd = nn.Embedding(c.vocabulary, c.width)
        self.blk = nn.ModuleList(TextBlock(c) for _ in range(c.layers))
        self.output_norm = RMSNorm(c.width, 1e-5)
        self.eye, self.ear = Eye(c), Ear(c)
        self.facts = nn.Linear(c.image_tokens * c.width, facts)
        self.marks = nn.Linear(c.width, marks)
        self.words = nn.Linear(c.width, words + 1)
        self.apply(_initialise)
        for block in self.blk:  # smaller steps into the residual stream, as in GPT-2
            for layer in (block.attn_output, block.ffn_down):
                nn.init.normal_(layer.weight, std=0.02 / (2 * c.layers) ** 0.5)

    def embed(self, tokens: Tensor, images: Tensor, sounds: Tensor) -> Tensor:
        """Token embeddings; media embeddings replace the tokens -1 (image) and -2 (audio), in order."""
        x = self.token_embd(tokens.clamp(min=0))
        x = x.masked_scatter((tokens == -1)[..., None], images.to(x.dtype))
        return x.masked_scatter((tokens == -2)[..., None], sounds.to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blk:
            x = block(x)
        return F.linear(self.output_norm(x), self.token_embd.weight)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)

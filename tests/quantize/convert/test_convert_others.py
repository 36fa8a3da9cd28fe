"""LoRA adapters are converted to GGUF adapters; llama.cpp's own converter handles other models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import checkpoints
from fakes.checkpoints import HEAD, HEADS, INNER, LAYERS, SHARED, WIDTH
from galago.models.errors import ConfigError, ModelError
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import resolve
from galago.quantize.convert.conversion import ConversionResult, convert_checkpoint
from galago.quantize.convert.gguf_writer import FloatType
from galago.quantize.convert.llamacpp_converter import convert_with_llamacpp
from galago.quantize.convert.lora import convert_adapter
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.lora import LoraAdapter
from galago.runtime.llamacpp.reference import compute
from galago.runtime.llamacpp.weights import Weights

RANK = 3
TOKENS = [5, 260, 17, 3, 263, 90, 91, 92, 1, 40]
CHANGED = {
    "self_attn.q_proj": (HEADS * HEAD, WIDTH),
    "self_attn.k_proj": (SHARED * HEAD, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def peft(folder: Path, **settings: Any) -> checkpoints.Weights:
    """Writes an adapter as PEFT does. Returns its matrices."""
    random = np.random.default_rng(5)
    matrices: checkpoints.Weights = {}
    for layer in range(LAYERS):
        for name, (rows, columns) in CHANGED.items():
            at = f"base_model.model.model.layers.{layer}.{name}.lora_"
            matrices[f"{at}A.weight"] = random.standard_normal((RANK, columns)).astype(np.float32) / np.float32(4)
            matrices[f"{at}B.weight"] = random.standard_normal((rows, RANK)).astype(np.float32) / np.float32(4)
    folder.mkdir(exist_ok=True)
    checkpoints.safetensors(folder / "adapter_model.safetensors", matrices)
    given = {"peft_type": "LORA", "lora_alpha": 6, "r": RANK, "bias": "none", "use_dora": False, "alpha_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(given | settings))
    return matrices


def merged(weights: checkpoints.Weights, adapter: checkpoints.Weights, scale: float) -> checkpoints.Weights:
    matrices = dict(weights)
    for name in weights:
        a = adapter.get(f"base_model.model.{name.removesuffix('weight')}lora_A.weight")
        if a is not None:
            b = adapter[f"base_model.model.{name.removesuffix('weight')}lora_B.weight"]
            matrices[name] = np.asarray(weights[name] + scale * b @ a, np.float32)
    return matrices


def run(folder: Path, kind: FloatType = FloatType.F32) -> ConversionResult:
    base, target = folder.parent / "base", folder.parent / "adapter.gguf"
    return convert_adapter(folder, base, target, kind, False, no_progress)


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_converted_adapter_changes_logits_as_the_original_does(tmp_path: Path, family: str, rslora: bool) -> None:
    weights = checkpoints.decoder(tmp_path / "base", family)
    adapter = peft(tmp_path / "lora", use_rslora=rslora)
    model = convert_checkpoint(tmp_path / "base", tmp_path / "m.gguf", FloatType.F32, False, False, no_progress)
    loaded = Weights(model.path)
    ours = compute(loaded, TOKENS, [LoraAdapter(run(tmp_path / "lora").path, loaded)])
    theirs = checkpoints.decoder_logits(merged(weights, adapter, 6 / (RANK**0.5 if rslora else RANK)), TOKENS)
    assert np.abs(ours - theirs).max() < 1e-3
    assert np.abs(theirs - checkpoints.decoder_logits(weights, TOKENS)).max() > 0.5


def test_the_command_detects_adapters(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "base")
    peft(tmp_path / "lora")
    command = [sys.executable, "-m", "galago.runtime.cli.main", "convert", str(tmp_path / "lora"), "-o"]
    command += [str(tmp_path / "lora.gguf")]
    done = subprocess.run([*command, "--base", str(tmp_path / "base")], capture_output=True, text=True, timeout=60)
    assert "lora.gguf: llama adapter, 16 tensors" in done.stdout, done.stderr
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "--check cannot be used for this conversion" in done.stderr


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another PEFT method": ({"peft_type": "IA3"}, "of kind 'IA3'"),
    "biases": ({"bias": "all"}, "uses bias 'all', which GGUF cannot express"),
    "DoRA": ({"use_dora": True}, "uses use_dora True"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
    "no rank": ({"r": 0}, "r is 0, not a positive whole number"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha is missing"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_unsupported_adapters_are_refused(tmp_path: Path, wrong: str) -> None:
    checkpoints.decoder(tmp_path / "base")
    settings, message = WRONG[wrong]
    peft(tmp_path / "lora", **settings)
    with pytest.raises(ModelError, match=message):
        run(tmp_path / "lora")
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_adapter_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "base")
    matrices = peft(tmp_path / "lora")
    path, first = tmp_path / "lora" / "adapter_model.safetensors", next(iter(matrices))
    checkpoints.safetensors(path, {name: values for name, values in matrices.items() if name != first})
    with pytest.raises(ModelError, match="lacks one of the matrices A and B"):
        run(tmp_path / "lora")
    checkpoints.safetensors(path, matrices | {first: matrices[first][:, 1:]})
    with pytest.raises(ModelError, match="attn_q is .32, 32. in the model, but the adapter adds"):
        run(tmp_path / "lora")
    path.rename(path.with_name("adapter_model.bin"))
    with pytest.raises(ModelError, match="a pickle"):
        run(tmp_path / "lora")
    with pytest.raises(ConfigError, match="use --base to give the folder"):
        convert_adapter(tmp_path / "lora", None, tmp_path / "a.gguf", FloatType.F32, False, no_progress)


CONVERTER = """
import argparse, shutil, sys
parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--outtype")
parser.add_argument("--outfile")
parser.add_argument("--mmproj", action="store_true")
given = parser.parse_args()
if given.outtype != "f16":
    sys.exit("there was a warning\\nKeyError: 'no such type'")
name = given.outfile if not given.mmproj else given.outfile.replace("made.gguf", "mmproj-made.gguf")
shutil.copy({model!r}, name)
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder like llama.cpp's sources, with a converter that takes its arguments and copies the built-in model."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER.format(model=str(resolve("builtin").weights)))
    (tmp_path / "c").mkdir()
    checkpoints.safetensors(tmp_path / "c" / "model.safetensors", {})
    return folder


@pytest.mark.parametrize("projector", [False, True])
def test_llamacpps_converter_is_run_on_request(tmp_path: Path, sources: Path, projector: bool) -> None:
    target = tmp_path / "made.gguf"
    result = convert_with_llamacpp(sources, tmp_path / "c", None, target, FloatType.F16, False, projector, no_progress)
    made, original = read_header(target), read_header(resolve("builtin").weights)
    assert result.architecture == "llama" and made.tensors == original.tensors
    assert made.metadata["galago.made_from"] == "c" and made.metadata["galago.version"]
    assert made.metadata.items() >= {k: v for k, v in original.metadata.items() if k != "general.name"}.items()
    first, again = Weights(resolve("builtin").weights), Weights(target)
    assert np.array_equal(compute(again, [5, 9, 80]), compute(first, [5, 9, 80]))
    assert {path.name for path in tmp_path.iterdir()} == {"c", "llama.cpp", "made.gguf"}


def test_errors_of_llamacpps_converter_are_reported(tmp_path: Path, sources: Path) -> None:
    def run(kind: FloatType = FloatType.F32) -> ConversionResult:
        return convert_with_llamacpp(
            sources, tmp_path / "c", None, tmp_path / "m.gguf", kind, False, False, no_progress
        )

    with pytest.raises(ModelError, match="exited with code 1; it said: there was a warning . KeyError: 'no such type'"):
        run()
    (sources / "convert_hf_to_gguf.py").write_text("pass")
    with pytest.raises(ModelError, match="wrote 0 files"):
        run()
    (sources / "convert_hf_to_gguf.py").write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ModelError, match="was killed by SIGKILL"):
        run()
    (sources / "convert_hf_to_gguf.py").unlink()
    with pytest.raises(ConfigError, match="give the folder of llama.cpp's sources"):
        run()
    assert {path.name for path in tmp_path.iterdir()} == {"c", "llama.cpp"}

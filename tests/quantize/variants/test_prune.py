"""Layer pruning: which layers are dropped, what is reported, and what the file contains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes import experts
from galago.models.errors import ConfigError
from galago.models.gguf.header import GGUFHeader
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import calibration
from galago.quantize.search.divergence import mean_divergence
from galago.quantize.variants import layer_pruning
from galago.quantize.variants.source import SourceModel, open_source, sha256
from galago.runtime.cli.main import main
from galago.runtime.llamacpp.weights import Weights

TEXT = builtin_folder() / "text-F16.gguf"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prune") / "chats.jsonl"
    asked = [
        ("What day comes after Monday?", "Tuesday."),
        ("Spell ehn.", "e-h-n"),
        ("How many days has a week?", "Seven."),
    ]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in asked * 4]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_the_layer_with_the_least_divergence_is_dropped(chats: Path, tmp_path: Path) -> None:
    data = calibration.select_data(open_source(str(TEXT)), None, [chats])
    (first, divergences), (second, later) = layer_pruning.select_layers(data, 2)
    assert set(divergences) == set(range(6)) and set(later) == set(range(6)) - {first} and second != first
    assert mean_divergence(divergences[first]) == min(map(mean_divergence, divergences.values())) > 0

    small = layer_pruning.write_without_layers(data.source, [first, second], tmp_path)
    kept = [layer for layer in range(6) if layer not in (first, second)]
    assert small.header.get("llama.block_count") == 4
    assert tensors(small.header) == {name: tensors(data.source.header)[name] for name in tensors(data.source.header)
                                     if not name.startswith("blk.")} | {
        f"blk.{new}.{name.split('.', 2)[2]}": value for new, old in enumerate(kept)
        for name, value in tensors(data.source.header).items() if name.startswith(f"blk.{old}.")
    }  # fmt: skip


def tensors(header: GGUFHeader) -> dict[str, bytes]:
    content = header.path.read_bytes()
    return {t.name: content[header.data_offset + t.offset :][: t.nbytes] for t in header.tensors}


def test_the_command_reports_divergences_before_writing(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.gguf"
    arguments = ["--scheme", "Q4_K_M", "--drop-layers", "1", "--calibration", str(chats), "-o", str(out), "--json"]
    assert main(["quantize", str(TEXT), *arguments]) == 0
    printed = capsys.readouterr()
    dropped = json.loads(printed.out)["dropped_layers"]
    assert len(dropped) == 1 and dropped[0]["divergence"]["chats"] > 0
    assert f"dropping layer {dropped[0]['layer']}; KL divergence per token without each layer: 0: " in printed.err
    header = read_header(out)
    assert header.get("llama.block_count") == 5 and header.get(layer_pruning.DROPPED_LAYERS_KEY) == str(
        dropped[0]["layer"]
    )
    assert header.get("galago.quantize.source_sha256") == sha256(open_source(str(TEXT)))
    assert [path for path in tmp_path.iterdir() if path != out] == []
    Weights(out, gpu_layers=0).close()


def test_a_single_layer_cannot_be_dropped(tmp_path: Path) -> None:
    data = calibration.select_data(open_source(str(experts.write(tmp_path / "one.gguf"))), None, [])
    with pytest.raises(ConfigError, match="a single layer"):
        layer_pruning.select_layers(data, 1)


def test_at_least_one_layer_must_remain(chats: Path) -> None:
    data = calibration.select_data(open_source(str(TEXT)), None, [chats])
    for count in (0, 6, -1):
        with pytest.raises(ConfigError, match="1 to 5 of the 6 layers can be dropped"):
            layer_pruning.select_layers(data, count)


def test_a_model_with_metadata_per_layer_is_refused(chats: Path, tmp_path: Path) -> None:
    source = open_source(str(TEXT))
    metadata = {**source.header.metadata, "llama.attention.head_count_kv": (2, 2, 2, 2, 2, 2)}
    header = GGUFHeader(source.path, 3, metadata, source.tensors, source.header.data_offset, source.header.file_size)
    data = calibration.select_data(SourceModel(header, source.parts, source.tensors), None, [chats])
    with pytest.raises(ConfigError, match="one value per layer"):
        layer_pruning.select_layers(data, 1)

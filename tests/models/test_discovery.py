"""What `galago import` takes from folders as people have them, what it leaves out, and the names it is found under."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest

from fakes import crafted, lora
from galago.models.errors import ConfigError, GalagoError, ModelError, NotFound
from galago.models.gguf.reader import read_header
from galago.models.registry import imported, installed, removal
from galago.models.registry.discovery import default_folders, discover
from galago.models.registry.name import parse_ref
from galago.models.registry.resolve import builtin_folder, resolve
from galago.runtime import environment
from galago.runtime.cli.import_ import import_
from galago.runtime.cli.show import show

TEXT, EYES = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"
WRONG_EYES = {"clip__vision__projection_dim": crafted.Value(crafted.UINT32, 99)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and no models of the machine's own programs."""
    path = tmp_path / "home"
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("XDG_DATA_HOME", str(path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(path / "hub"))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files of every kind, by the words that the tables below use for them."""
    folder = tmp_path_factory.mktemp("files")
    text = crafted.read(TEXT)
    matrix = gguf.GGUFWriter(str(folder / "imatrix"), "llama")
    matrix.add_type("imatrix")
    matrix.write_header_to_file()
    matrix.write_kv_data_to_file()
    matrix.write_ti_data_to_file()
    matrix.close()
    part = {"split.no": crafted.Value(crafted.UINT32, 0), "split.count": crafted.Value(crafted.UINT32, 2)}
    empty = crafted.Model(
        {"split.no": crafted.Value(crafted.UINT32, 1), "split.count": crafted.Value(crafted.UINT32, 2)}, {}, b""
    )
    (folder / "macOS").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000))
    (folder / "cut").write_bytes(TEXT.read_bytes()[:1_000_000])
    (folder / "empty").touch()
    (folder / "page").write_text("<html>")
    return {
        "model": TEXT,
        "other model": changed(text, general__name=crafted.Value(crafted.STRING, "other")).write(folder / "other"),
        "projector": EYES,
        "wrong projector": changed(crafted.read(EYES), **WRONG_EYES).write(folder / "wrong"),
        "adapter": lora.write(folder / "lora"),
        "imatrix": folder / "imatrix",
        "vocabulary": text.having(tensors={}).write(folder / "vocabulary"),
        "head": changed(text, general__architecture=crafted.Value(crafted.STRING, "gemma4-assistant")).write(
            folder / "head"
        ),
        "fused": changed(text, llama__vision__block_count=crafted.Value(crafted.UINT32, 3)).write(folder / "fused"),
        "part 1": changed(text, **part).write(folder / "part1"),
        "part 2": empty.write(folder / "part2"),
        **{name: folder / name for name in ("macOS", "cut", "empty", "page")},
    }


def changed(model: crafted.Model, **keys: crafted.Value) -> crafted.Model:
    return model.having(keys=model.keys | {name.replace("__", "."): value for name, value in keys.items()})


def lay_out(folder: Path, layout: Mapping[str, str], files: Mapping[str, Path]) -> Path:
    for name, kind in layout.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "missing":
            path.symlink_to("/nowhere/at/all")
        else:
            os.link(files[kind], path)
    return folder


FOLDERS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    # layout: (files, models with + for a projector, texts in the lines on what was left out)
    "downloads of other programs": (
        {"a-Q8_0.gguf": "model", "b.gguf.part": "cut", "c/downloading_c.GGUF.part": "cut", "d.gguf.md": "page"},
        ["a-q8_0"],
        ["b.gguf.part belongs to a download that is not complete", "c/downloading_c.GGUF.part belongs to a download"],
    ),
    "a compressed model": (
        {"a-Q8_0.gguf": "model", "b-Q8_0.gguf.gz": "page"}, ["a-q8_0"], ["b-Q8_0.gguf.gz is compressed; unpack it"]
    ),
    "an importance matrix": (
        {"a-Q8_0.gguf": "model", "imatrix_unsloth.gguf": "imatrix"},
        ["a-q8_0"],
        ["imatrix_unsloth.gguf is an importance matrix, not a model"],
    ),
    "an importance matrix of any name": (
        {"a-Q8_0.gguf": "model", "b-Q8_0.gguf": "imatrix"}, ["a-q8_0"], ["b-Q8_0.gguf is an importance matrix"]
    ),
    "an adapter": ({"a-Q8_0.gguf": "model", "b-F16.gguf": "adapter"}, ["a-q8_0"], ["b-F16.gguf is a LoRA adapter"]),
    "a vocabulary": (
        {"a-Q8_0.gguf": "model", "ggml-vocab-a.gguf": "vocabulary"}, ["a-q8_0"], ["is a vocabulary without weights"]
    ),
    "a multi-token prediction head": (
        {"a-Q8_0.gguf": "model", "head.gguf": "head"}, ["a-q8_0"], ["head.gguf is a draft model or multi-token"]
    ),
    "a head by the name of its folder": (
        {"a-F16.gguf": "model", "MTP/a-Q8_0-MTP.gguf": "model"}, ["a-f16"], ["MTP/a-Q8_0-MTP.gguf is a draft model"]
    ),
    "a draft model beside its model": (
        {"a-F16.gguf": "model", "a-draft-Q8_0.gguf": "model"}, ["a-f16"], ["a-draft-Q8_0.gguf is a draft model"]
    ),
    "a draft model in a repository of its own": (
        {"acme/a/a-F16.gguf": "model", "acme/b/b-draft-Q8_0.gguf": "model"}, ["a-f16", "b-draft-q8_0"], []
    ),
    "a file of macOS": ({"a-Q8_0.gguf": "model", "._a-Q8_0.gguf": "macOS"}, ["a-q8_0"], ["._a-Q8_0.gguf: this is a f"]),
    "a file that was cut off": (
        {"a-Q8_0.gguf": "model", "b-Q8_0.gguf": "cut"}, ["a-q8_0"], ["b-Q8_0.gguf: the file is truncated"]
    ),
    "an empty file": ({"a-Q8_0.gguf": "model", "b.gguf": "empty"}, ["a-q8_0"], ["b.gguf is not a GGUF file"]),
    "a page": ({"a-Q8_0.gguf": "model", "sub/b.gguf": "page"}, ["a-q8_0"], ["sub/b.gguf is not a GGUF file"]),
    "a link that leads nowhere": ({"a-Q8_0.gguf": "model", "b.gguf": "missing"}, ["a-q8_0"], ["b.gguf: cannot be rea"]),
    "Ollama's fused file": (
        {"a-Q8_0.gguf": "model", "b.gguf": "fused"}, ["a-q8_0"], ["b.gguf is a model in Ollama's own form"]
    ),
    "a projector": ({"a-Q8_0.gguf": "model", "mmproj-a-F16.gguf": "projector"}, ["a-q8_0+"], []),
    "a projector of another name": ({"a-Q8_0.gguf": "model", "siglip.gguf": "projector"}, ["a-q8_0+"], []),
    "a projector called vision": ({"a-Q8_0.gguf": "model", "a-vision-F16.gguf": "projector"}, ["a-q8_0+"], []),
    "a projector above the models": ({"Q8_0/a.gguf": "model", "mmproj-F16.gguf": "projector"}, ["a-q8_0+"], []),
    "a projector below the model": ({"a-Q8_0.gguf": "model", "vision/mmproj-F16.gguf": "projector"}, ["a-q8_0+"], []),
    "a model called vision": ({"a-vision-Q8_0.gguf": "model", "a-Q8_0.gguf": "model"}, ["a-q8_0", "a-vision-q8_0"], []),
    "a quantization in the folder's name": (
        {"Q8_0/a.gguf": "model", "F16/a.gguf": "model"}, ["a-f16", "a-q8_0"], []
    ),
    "a split model": ({"a-00001-of-00002.gguf": "part 1", "a-00002-of-00002.gguf": "part 2"}, ["a"], []),
    "a missing part": (
        {"a-Q8_0.gguf": "model", "b-00001-of-00002.gguf": "part 1"},
        ["a-q8_0"],
        ["b-00001-of-00002.gguf: part 2 of 2 is missing: b-00002-of-00002.gguf"],
    ),
    "a missing first part": (
        {"a-Q8_0.gguf": "model", "b-00002-of-00002.gguf": "part 2"},
        ["a-q8_0"],
        ["b-00002-of-00002.gguf: part 1 of 2 is missing: b-00001-of-00002.gguf"],
    ),
    "parts in two folders": (
        {"a-Q8_0.gguf": "model", "x/b-00001-of-00002.gguf": "part 1", "y/b-00002-of-00002.gguf": "part 2"},
        ["a-q8_0"],
        ["/y: move all parts into one folder", "/x: move all parts into one folder"],
    ),
    "a later part under another name": (
        {"a-Q8_0.gguf": "model", "b.gguf": "part 2"}, ["a-q8_0"], ["b.gguf is a later part of a split model"]
    ),
    "a first part under another name": (
        {"a-Q8_0.gguf": "model", "b.gguf": "part 1"}, ["a-q8_0"], ["b.gguf is a part of a model in 2 parts"]
    ),
    "pieces": (
        {"a-Q8_0.gguf": "model", "b.gguf.part1of2": "cut", "b.gguf.part2of2": "cut"},
        ["a-q8_0"],
        ["join them with: cat b.gguf.part1of2 b.gguf.part2of2 > b.gguf"],
    ),
    "a part of a download": (
        {"a-Q8_0.gguf": "model", "b.gguf.incomplete": "cut"}, ["a-q8_0"], ["b.gguf.incomplete belongs to a download"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_folder_is_imported_without_what_is_not_a_model(
    layout: str, tmp_path: Path, files: Mapping[str, Path]
) -> None:
    names, models, reasons = FOLDERS[layout]
    discovery = discover(lay_out(tmp_path / "place", names, files))
    added = imported.add(discovery.models)
    assert sorted(model.name + ("+" if model.projector else "") for model in added) == models
    assert len(discovery.left_out) == len(reasons)
    for line, reason in zip(discovery.left_out, reasons, strict=True):
        assert reason in line
    assert sorted(str(model.ref) for model in installed.all_models()) == [name.rstrip("+") for name in models]


NO_MODELS: dict[str, tuple[dict[str, str], str]] = {
    "only a projector": ({"mmproj-F16.gguf": "projector"}, "mmproj-F16.gguf is a projector, and its model is not in"),
    "only an importance matrix": ({"imatrix.gguf": "imatrix"}, "imatrix.gguf is an importance matrix"),
    "only a part": ({"a-00001-of-00002.gguf": "part 1"}, "part 2 of 2 is missing: a-00002-of-00002.gguf"),
    "only pieces": ({"a.gguf-split-a": "cut", "a.gguf-split-b": "cut"}, "join them with: cat a.gguf-split-a"),
    "only a damaged file": ({"a.gguf": "page"}, "a.gguf is not a GGUF file"),
    "only a checkpoint": ({"model.safetensors": "page"}, "holds a checkpoint; convert it with: galago convert /"),
    "nothing": ({"README.md": "page"}, "there are no GGUF models"),
}


@pytest.mark.parametrize("layout", NO_MODELS)
def test_a_folder_without_models_is_refused_with_what_it_has(
    layout: str, tmp_path: Path, files: Mapping[str, Path]
) -> None:
    names, reason = NO_MODELS[layout]
    with pytest.raises(NotFound) as error:
        discover(lay_out(tmp_path / "place", names, files))
    assert reason in error.value.message and "there are no GGUF models in" in error.value.message


SINGLE_FILES: dict[str, tuple[dict[str, str], str]] = {
    # the first file is named by the user; an empty text stands for success
    "a projector": ({"mmproj.gguf": "projector"}, "is a projector, not a usable model: pass it as --mmproj"),
    "an adapter": ({"a.gguf": "adapter"}, "is a LoRA adapter, not a usable model: pass it as --lora"),
    "an importance matrix": ({"a.gguf": "imatrix"}, "is an importance matrix, not a usable model: pass it to"),
    "a vocabulary": ({"a.gguf": "vocabulary"}, "is a vocabulary without weights, not a usable model"),
    "a head": ({"mtp-a.gguf": "head"}, "it works only with the model it was made for"),
    "a fused file": ({"a.gguf": "fused"}, "pull it from the Hub, where its projector"),
    "a page": ({"a.gguf": "page"}, "a.gguf is not a GGUF file"),
    "a part whose other part is missing": ({"a-00001-of-00002.gguf": "part 1"}, "part 2 of 2 is missing: a-00002-of-0"),
    "a later part alone": ({"a-00002-of-00002.gguf": "part 2"}, "part 1 of 2 is missing: a-00001-of-00002.gguf"),
    "a part under another name": ({"a.gguf": "part 1"}, "is a part of a model in 2 parts"),
    "a later part under another name": ({"a.gguf": "part 2"}, "is a later part of a split model"),
    "a piece": ({"a.gguf.part1of2": "cut", "a.gguf.part2of2": "cut"}, "join them with: cat a.gguf.part1of2 "),
    "a piece that is alone": ({"a.gguf.part1of2": "cut"}, "was cut into 2 pieces, but only a.gguf.part1of2 is there"),
    "a model": ({"a.gguf": "model", "b.gguf": "page"}, ""),
    "a model called draft": ({"a-draft-Q8_0.gguf": "model", "a-Q8_0.gguf": "model"}, ""),
    "the second part": ({"a-00002-of-00002.gguf": "part 2", "a-00001-of-00002.gguf": "part 1"}, ""),
}  # fmt: skip


def test_show_names_the_parts_that_are_missing(
    tmp_path: Path, files: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = lay_out(tmp_path, {"a-00001-of-00002.gguf": "part 1", "a-00002-of-00002.gguf": "part 2"}, files)
    for missing in ("", "a-00002-of-00002.gguf"):
        if missing:
            (place / missing).unlink()
        show(str(place / "a-00001-of-00002.gguf"), as_json=True)
        problem = json.loads(capsys.readouterr().out)["problem"]
        assert f"part 2 of 2 is missing: {missing}" in problem if missing else problem is None


@pytest.mark.parametrize("layout", SINGLE_FILES)
def test_a_file_is_judged_alike_when_it_is_imported_and_when_it_is_loaded(
    layout: str, tmp_path: Path, files: Mapping[str, Path]
) -> None:
    names, reason = SINGLE_FILES[layout]
    path = lay_out(tmp_path / "place", names, files) / next(iter(names))
    if not reason:
        (model,) = imported.add(discover(path).models)
        assert model.weights[0] == resolve(path).weights
        return
    for use in (lambda: imported.add(discover(path).models), lambda: resolve(path)):
        with pytest.raises(GalagoError) as error:
            use()
        assert reason in error.value.message


def test_a_projector_that_does_not_match_is_left_out_with_the_reason(tmp_path: Path, files: Mapping[str, Path]) -> None:
    place = lay_out(tmp_path / "place", {"a-Q8_0.gguf": "model", "mmproj.gguf": "wrong projector"}, files)
    (model,) = discover(place).models
    assert model.projector is None and "embeddings of width 99" in model.left_out[0]


def test_each_of_several_models_in_a_folder_takes_the_projector_of_its_name(
    tmp_path: Path, files: Mapping[str, Path]
) -> None:
    layout = {"a-2b-Q8_0.gguf": "model", "b-7b-Q8_0.gguf": "other model"}
    layout |= {"mmproj-a-2b-F16.gguf": "projector", "mmproj-b-7b-F16.gguf": "projector"}
    found = {model.name: model.projector for model in discover(lay_out(tmp_path / "place", layout, files)).models}
    assert {name: path and path.name for name, path in found.items()} == {
        "a-2b-q8_0": "mmproj-a-2b-F16.gguf",
        "b-7b-q8_0": "mmproj-b-7b-F16.gguf",
    }


def ollama(place: Path, files: Mapping[str, Path], **manifests: dict[str, str]) -> Path:
    """Writes Ollama's folder: manifests by their paths, with layers by their kinds."""
    (place / "blobs").mkdir(parents=True)
    for name, layers in manifests.items():
        rows = []
        for kind, content in layers.items():
            data = files[content].read_bytes() if content in files else content.encode()
            digest = hashlib.sha256(data).hexdigest()
            (place / "blobs" / f"sha256-{digest}").write_bytes(data)
            rows.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"})
        path = place / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"layers": rows}))
    return place


LIBRARY = "registry.ollama.ai/library"


def test_models_of_ollama_are_found_by_their_names_there(tmp_path: Path, files: Mapping[str, Path]) -> None:
    names = [
        f"{LIBRARY}/tiny/latest",
        f"{LIBRARY}/tiny/7b",
        "registry.ollama.ai/me/mine/latest",
        "hf.co/acme/T-GGUF/Q8_0",
    ]
    place = ollama(tmp_path / "models", files, **{name: {"model": "model"} for name in names})
    added = imported.add(discover(place).models)
    assert {model.published_as for model in added} == {
        "hf.co/acme/T-GGUF:Q8_0",
        "me/mine:latest",
        "tiny:7b",
        "tiny:latest",
    }
    for name, expected in {
        "tiny": "tiny-latest", "tiny:latest": "tiny-latest", "TINY:Latest": "tiny-latest", "tiny/": "tiny-latest",
        "tiny:7b": "tiny-7b", "me/mine": "mine-latest", "me/mine:latest": "mine-latest", "hf.co/acme/T-GGUF:Q8_0":
        "t-gguf-q8_0", "acme/t-gguf": "t-gguf-q8_0", "https://hf.co/acme/T-GGUF": "t-gguf-q8_0",
    }.items():  # fmt: skip
        assert str(installed.find(parse_ref(name)).ref) == expected, name
    for name in ("tiny:8b", "mine", "acme/T-GGUF:Q4_0", "acme/T-GGUF@main"):
        with pytest.raises(NotFound):
            installed.find(parse_ref(name))
    assert imported.add(discover(place).models) == []
    assert removal.remove(parse_ref("tiny:7b")).model.ref.name == "tiny-7b"


def test_a_name_without_tag_that_means_several_models_of_ollama_lists_them(
    tmp_path: Path, files: Mapping[str, Path]
) -> None:
    layers = {"7b": {"model": "model"}, "1b": {"model": "other model"}}
    place = ollama(tmp_path / "models", files, **{f"{LIBRARY}/tiny/{tag}": rows for tag, rows in layers.items()})
    imported.add(discover(place).models)
    with pytest.raises(NotFound, match="stands for several imported models; name one of them: tiny-1b, tiny-7b"):
        installed.find(parse_ref("tiny"))


OLLAMA_LAYERS: dict[str, tuple[dict[str, str], list[str]]] = {
    "only weights": ({"model": "model", "license": "MIT"}, []),
    "a system prompt": ({"model": "model", "system": "You are a pirate."}, ["its system prompt"]),
    "a template": ({"model": "model", "template": "{{ .Prompt }}"}, ["Ollama's prompt template"]),
    "parameters": ({"model": "model", "params": '{"stop": ["x"]}'}, ["its parameters"]),
    "messages": ({"model": "model", "messages": "[]"}, ["its example messages"]),
    "an adapter": ({"model": "model", "adapter": "adapter"}, ["its adapter (pass it as --lora "]),
}


@pytest.mark.parametrize("layers", OLLAMA_LAYERS)
def test_what_is_not_taken_over_from_ollama_is_said_at_import_and_in_show(
    layers: str, tmp_path: Path, files: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, lost = OLLAMA_LAYERS[layers]
    place = ollama(tmp_path / "models", files, **{f"{LIBRARY}/tiny/latest": rows})
    if lost:
        with pytest.raises(ConfigError, match="--strict is set and this would be left out: tiny-latest: "):
            import_(place, strict=True)
        assert imported.read_list() == []
    import_(place)
    errors = capsys.readouterr().err
    assert all(text in errors for text in lost)
    assert errors.count("tiny-latest was imported without") == bool(lost) and not errors.endswith("...\n")
    show("tiny", as_json=True)
    receipt = json.loads(capsys.readouterr().out)["import"]
    assert receipt["made_from"] == f"tiny:latest in {place}" and receipt["version"]
    assert [text[: len(start)] for text, start in zip(receipt["left_out"], lost, strict=True)] == lost


def test_a_fused_file_of_ollama_is_left_out_with_where_to_get_the_other_form(
    tmp_path: Path, files: Mapping[str, Path]
) -> None:
    layers = {f"{LIBRARY}/a/latest": {"model": "model"}, f"{LIBRARY}/b/latest": {"model": "fused"}}
    discovery = discover(ollama(tmp_path / "models", files, **layers))
    assert [model.name for model in discovery.models] == ["a-latest"]
    assert discovery.left_out[0].startswith("b:latest: ") and "Ollama's own form" in discovery.left_out[0]
    assert "pull it from the Hub" in discovery.left_out[0]


UNUSABLE: dict[str, tuple[dict[str, str], str]] = {
    "no weights in the GGUF format": ({"image.tensor": "model"}, "it has no weights in the GGUF format"),
    "weights in two files": ({"model": "model", "x.model": "other model"}, "its weights are in 2 files"),
    "damaged weights": ({"model": "cut"}, "the file is truncated"),
    "another form": ({"model": "fused"}, "which llama.cpp cannot load, not a usable model: pull it from the Hub"),
    "an adapter as weights": ({"model": "adapter"}, "is a LoRA adapter"),
}


@pytest.mark.parametrize("layers", UNUSABLE)
def test_a_model_of_ollama_that_cannot_be_used_is_left_out_by_its_name(
    layers: str, tmp_path: Path, files: Mapping[str, Path]
) -> None:
    rows, reason = UNUSABLE[layers]
    place = ollama(tmp_path / "m", files, **{f"{LIBRARY}/a/7b": {"model": "model"}, f"{LIBRARY}/b/7b": rows})
    discovery = discover(place)
    assert [model.name for model in discovery.models] == ["a-7b"]
    assert discovery.left_out[0].startswith("b:7b: ") and reason in discovery.left_out[0]


def test_a_model_of_ollama_whose_file_is_missing_is_left_out_and_a_wrong_projector_too(
    tmp_path: Path, files: Mapping[str, Path]
) -> None:
    rows = {"a": {"model": "model", "projector": "wrong projector"}, "b": {"model": "other model"}}
    place = ollama(tmp_path / "m", files, **{f"{LIBRARY}/{name}/7b": layers for name, layers in rows.items()})
    digest = hashlib.sha256(files["other model"].read_bytes()).hexdigest()
    (place / f"blobs/sha256-{digest}").unlink()
    discovery = discover(place)
    assert "b:7b: its file sha256-" in discovery.left_out[0] and "ollama pull b:7b" in discovery.left_out[0]
    (model,) = discovery.models
    assert model.projector is None and "its projector, because it makes vision" in model.left_out[0]


@pytest.mark.parametrize(
    "name",
    ["tiny-q8_0", "Tiny-Q8_0", "tiny", "tiny:Q8_0", "acme/Tiny-GGUF", "acme/tiny-gguf:q8_0", "hf:acme/Tiny-GGUF"],
)
def test_a_model_of_lm_studio_is_found_by_its_file_and_its_repository(
    name: str, home: Path, files: Mapping[str, Path]
) -> None:
    layout = {"acme/Tiny-GGUF/Tiny-Q8_0.gguf": "model", "acme/Tiny-GGUF/Tiny-F16.gguf": "other model"}
    place = lay_out(home / ".lmstudio/models", {k: v for k, v in layout.items() if "Q8_0" in k}, files)
    imported.add(discover(place).models)
    assert str(installed.find(parse_ref(name)).ref) == "tiny-q8_0"
    imported.add(discover(lay_out(place, {k: v for k, v in layout.items() if "F16" in k}, files)).models)
    if "q8_0" in name.lower():
        assert str(installed.find(parse_ref(name)).ref) == "tiny-q8_0"
    else:
        with pytest.raises(NotFound, match="name one of them: tiny-q8_0, tiny-f16"):
            installed.find(parse_ref(name))
    assert str(installed.find(parse_ref("tiny:FP16")).ref) == "tiny-f16"


@pytest.mark.parametrize("name", ["tiny:Q4_0", "tin", "tiny@main", "acme/Tiny", "acme/Tiny-GGUF:Q4_0", "q8_0"])
def test_other_names_do_not_find_a_model_of_lm_studio(name: str, home: Path, files: Mapping[str, Path]) -> None:
    imported.add(discover(lay_out(home / "lm-studio/models", {"acme/Tiny-GGUF/Tiny-Q8_0.gguf": "model"}, files)).models)
    with pytest.raises(NotFound):
        installed.find(parse_ref(name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_left_out(tmp_path: Path, files: Mapping[str, Path]) -> None:
    place = lay_out(tmp_path / "place", {"a.gguf": "model", "closed/b.gguf": "model"}, files)
    (place / "closed").chmod(0)
    try:
        discovery = discover(place)
    finally:
        (place / "closed").chmod(0o755)
    assert [model.name for model in discovery.models] == ["a"]
    assert discovery.left_out == [f"{place / 'closed'} cannot be read: Permission denied"]


def test_a_link_to_a_folder_is_left_out_with_what_to_do(tmp_path: Path, files: Mapping[str, Path]) -> None:
    place = lay_out(tmp_path / "place", {"a.gguf": "model"}, files)
    (place / "far").symlink_to(lay_out(tmp_path / "far", {"b.gguf": "model"}, files))
    (place / "docs").symlink_to(lay_out(tmp_path / "docs", {"README.md": "page"}, files))
    discovery = discover(place)
    assert [model.name for model in discovery.models] == ["a"]
    assert discovery.left_out == [
        f"{place / 'far'} is a link to a folder, which is not followed; import it by its path"
    ]


def test_the_folder_above_ollamas_and_one_of_its_blobs_are_understood(
    tmp_path: Path, files: Mapping[str, Path]
) -> None:
    place = ollama(tmp_path / ".ollama/models", files, **{f"{LIBRARY}/tiny/latest": {"model": "model"}})
    for part in (".ollama", ".ollama/models/blobs", ".ollama/models/manifests"):
        assert [model.name for model in discover(tmp_path / part).models] == ["tiny-latest"]
    (blob,) = (place / "blobs").iterdir()
    assert [(model.name, model.weights) for model in discover(blob).models] == [("galago-builtin", (blob,))]


def test_blobs_of_ollama_without_manifests_are_named(tmp_path: Path, files: Mapping[str, Path]) -> None:
    place = ollama(tmp_path / "models", files, **{f"{LIBRARY}/tiny/latest": {"model": "model"}}) / "blobs"
    with pytest.raises(NotFound, match="it holds blobs of Ollama without their manifests"):
        discover(place.rename(tmp_path / "blobs"))


def test_a_cached_model_with_a_missing_part_is_not_installed_and_says_which(
    home: Path, files: Mapping[str, Path]
) -> None:
    snapshot = f"hub/models--acme--tiny/snapshots/{'a' * 40}/tiny-00001-of-00002.gguf"
    lay_out(home, {snapshot: "part 1"}, files)
    with pytest.raises(NotFound, match=r"part 2 of 2 is missing: tiny-00002-of-00002.gguf\); install it with"):
        installed.find(parse_ref("acme/tiny"))


def test_strict_import_refuses_a_folder_with_a_file_that_would_be_left_out(
    tmp_path: Path, files: Mapping[str, Path]
) -> None:
    place = lay_out(tmp_path / "place", {"a-Q8_0.gguf": "model", "b.gguf": "empty"}, files)
    with pytest.raises(ConfigError, match="b.gguf is not a GGUF file"):
        import_(place, strict=True)
    assert imported.read_list() == []
    (place / "b.gguf").unlink()
    import_(place, strict=True)
    assert [model.name for model in imported.read_list()] == ["a-q8_0"]


def test_the_folders_of_other_programs_are_searched(
    home: Path, tmp_path: Path, files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".lmstudio/models").mkdir(parents=True)
    elsewhere = ollama(tmp_path / "elsewhere", files, **{f"{LIBRARY}/tiny/latest": {"model": "model"}})
    monkeypatch.setenv("OLLAMA_MODELS", str(elsewhere))
    assert default_folders(environment.ollama_folder()) == [home / ".lmstudio/models", elsewhere]
    import_(None)
    assert [model.name for model in imported.read_list()] == ["tiny-latest"]


def test_similar_names_are_offered_for_what_is_not_there(home: Path, tmp_path: Path, files: Mapping[str, Path]) -> None:
    place = lay_out(tmp_path / "place", {"mistletoe-Q8_0.gguf": "model"}, files)
    imported.add(discover(place).models)
    link = lay_out(tmp_path / "links", {"x.gguf": "missing"}, files) / "x.gguf"
    lay_out(home, {f"hub/models--acme--mistletoe/snapshots/{'a' * 40}/mistletoe-Q8_0.gguf": "model"}, files)
    for name, offered in (
        ("misteltoe", "did you mean mistletoe-q8_0"),
        ("acme/misteltoe", "installed is acme/mistletoe"),
        (str(place / "misteltoe-Q8_0.gguf"), f"did you mean {place}/mistletoe-Q8_0.gguf"),
        ("acme/mistletoe-GGUF", "installed is acme/mistletoe"),
        (str(place), f"{place} is a folder; give a file in it, such as {place}/mistletoe-Q8_0.gguf"),
        (str(link), "is a link to a file that is not there"),
    ):
        with pytest.raises(NotFound, match=offered):
            resolve(name)


def test_a_commit_id_is_not_shown_as_a_name(tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    model = changed(crafted.read(TEXT), general__name=crafted.Value(crafted.STRING, commit.upper()))
    snapshot = tmp_path / "models--acme--Tiny-Chat/snapshots" / commit
    snapshot.mkdir(parents=True)
    assert read_header(model.write(snapshot / "x-Q8_0.gguf")).name == "Tiny-Chat"
    assert read_header(model.write(tmp_path / "x-Q8_0.gguf")).name == "x-Q8_0"
    address = crafted.Value(crafted.STRING, "https://huggingface.co/acme/Other-Chat/")
    stated = changed(model, general__source__repo_url=address)
    assert read_header(stated.write(tmp_path / "y-Q8_0.gguf")).name == "Other-Chat"
    (entry,) = discover(tmp_path / "models--acme--Tiny-Chat").models
    assert entry.published_as == f"hf:acme/Tiny-Chat@{commit}"
    imported.add([entry])
    assert installed.find(parse_ref(f"acme/tiny-chat@{commit[:12]}")).receipt


def test_show_prints_the_receipt_that_a_conversion_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "galago.made_from": crafted.Value(crafted.STRING, "acme/tiny@0123abc"),
        "galago.left_out": crafted.Value(crafted.ARRAY, ["lm_head.weight", "a template"], crafted.STRING),
        "galago.version": crafted.Value(crafted.STRING, "9.9"),
    }
    path = changed(crafted.read(TEXT), **values).write(tmp_path / "x.gguf")
    show(str(path))
    output = capsys.readouterr().out
    assert "made from      acme/tiny@0123abc" in output and "lm_head.weight, a template" in output and "9.9" in output


@pytest.mark.parametrize("name", ["builtin", "BUILTIN", "Builtin", "builtin/"])
def test_the_built_in_model_is_found_in_any_case(name: str) -> None:
    assert resolve(name).weights == TEXT and resolve(name).id == "builtin"


def test_a_later_part_that_is_named_stands_for_the_model(tmp_path: Path, files: Mapping[str, Path]) -> None:
    layout = {"a-00001-of-00002.gguf": "part 1", "a-00002-of-00002.gguf": "part 2"}
    place = lay_out(tmp_path / "place", layout, files)
    assert resolve(place / "a-00002-of-00002.gguf").weights.name == "a-00001-of-00002.gguf"
    with pytest.raises(ModelError, match="is a projector, not a usable model"):
        resolve(EYES)

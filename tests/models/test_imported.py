"""Imported models of other programs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import crafted
from galago.models.errors import ConfigError, GGUFError, ModelError, NotFound
from galago.models.json_file import seal
from galago.models.registry import catalog, imported, installed, removal
from galago.models.registry.discovery import discover
from galago.models.registry.imported import ImportedModel
from galago.models.registry.name import parse_ref
from galago.models.registry.resolve import builtin_folder, resolve
from galago.runtime.cli.import_ import import_

WEIGHTS, EYES = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"


@pytest.fixture(autouse=True)
def _own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def lm_studio(tmp_path: Path) -> Path:
    """A models folder in LM Studio's layout: OWNER/REPO/FILE."""
    place = tmp_path / ".lmstudio/models"
    for repo in ("one", "two"):
        folder = place / "acme" / repo
        folder.mkdir(parents=True)
        os.link(WEIGHTS, folder / f"{repo}-Q8_0.gguf")
    os.link(EYES, place / "acme/one/mmproj-one.gguf")
    return place


@pytest.fixture
def ollama(tmp_path: Path) -> Path:
    """A models folder in Ollama's layout: manifests that name blobs by digest."""
    place = tmp_path / ".ollama/models"
    (place / "blobs").mkdir(parents=True)
    layers = []
    for kind, path in (("model", WEIGHTS), ("projector", EYES)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        os.link(path, place / "blobs" / f"sha256-{digest}")
        media = f"application/vnd.ollama.image.{kind}"
        layers.append({"mediaType": media, "digest": f"sha256:{digest}", "size": path.stat().st_size})
    manifest = place / "manifests/registry.ollama.ai/library/omni/7b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return place


def test_lm_studio_models_are_imported_with_their_projectors(lm_studio: Path) -> None:
    added = imported.add(discover(lm_studio).models)
    assert [(model.name, model.projector is not None) for model in added] == [("one-q8_0", True), ("two-q8_0", False)]
    files = resolve("one-q8_0")
    assert files.weights.samefile(WEIGHTS) and files.projector and files.projector.samefile(EYES)
    assert WEIGHTS.stat().st_size and not any((lm_studio.parent.parent / "data").rglob("*.gguf"))


def test_ollama_models_are_found_by_manifest_and_verified_by_digest(ollama: Path) -> None:
    (model,) = imported.add(discover(ollama).models)
    assert (model.name, model.quant) == ("omni-7b", "q8_0")
    files = resolve("omni-7b:q8_0")
    assert files.weights.samefile(WEIGHTS) and files.projector and files.projector.samefile(EYES)
    checks = installed.verify(installed.find(parse_ref("omni-7b")))
    assert [(check.problem, check.published) for check in checks] == [("", True), ("", True)]


def test_another_hub_cache_is_imported_like_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "hub/models--a--b/snapshots" / ("0" * 40)
    (tmp_path / "hub/models--a--b/blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    os.link(WEIGHTS, tmp_path / "hub/models--a--b/blobs/x")
    (folder / "b-Q8_0.gguf").symlink_to("../../blobs/x")
    (model,) = imported.add(discover(tmp_path / "hub").models)
    assert resolve(model.name).weights.samefile(WEIGHTS)


def test_importing_twice_adds_nothing_and_names_stay_unique(lm_studio: Path, tmp_path: Path) -> None:
    imported.add(discover(lm_studio).models)
    assert imported.add(discover(lm_studio).models) == []
    other = tmp_path / "other"
    other.mkdir()
    os.link(WEIGHTS, other / "one-Q8_0.gguf")
    os.link(WEIGHTS, other / "gemma4-e2b.gguf")
    assert [model.name for model in imported.add(discover(other).models)] == ["gemma4-e2b-2", "one-q8_0-2"]


@pytest.mark.parametrize("name", ["one", "one:q8_0"])
def test_a_short_name_for_two_files_of_the_same_name_is_refused_with_both(
    name: str, lm_studio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported.add(discover(lm_studio).models)
    (tmp_path / "other").mkdir()
    os.link(WEIGHTS, tmp_path / "other/one-Q8_0.gguf")
    import_(tmp_path / "other")
    assert "one-q8_0-2: " in (output := capsys.readouterr().out)
    assert "not called one-q8_0, because another model has that name" in output
    with pytest.raises(NotFound, match="several imported models; name one of them: one-q8_0, one-q8_0-2"):
        installed.find(parse_ref(name))
    for full in ("one-q8_0", "one-q8_0-2"):
        assert str(installed.find(parse_ref(full)).ref) == full


def test_removing_an_imported_model_keeps_its_files(lm_studio: Path) -> None:
    imported.add(discover(lm_studio).models)
    assert removal.remove(parse_ref("one-q8_0")).freed == 0
    assert [model.name for model in imported.read_list()] == ["two-q8_0"]
    assert (lm_studio / "acme/one/one-Q8_0.gguf").exists()


def test_a_file_that_changed_after_its_import_is_detected(lm_studio: Path) -> None:
    path = lm_studio / "acme/two/two-Q8_0.gguf"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    imported.add(discover(path).models)
    assert [check.problem for check in installed.verify(installed.find(parse_ref("two-q8_0")))] == [""]
    path.write_bytes(data[:-1] + b"\x55")
    (check,) = installed.verify(installed.find(parse_ref("two-q8_0")))
    assert (check.problem, check.published) == ("it has changed since it was imported", False)
    path.unlink()
    (model,) = installed.all_models()
    assert model.size == 0 and [check.problem for check in installed.verify(model)] != [""]
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        installed.summarize(model)
    with pytest.raises(NotFound, match="its file .* no longer exists"):
        resolve("two-q8_0")


def test_files_that_are_not_models_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(GGUFError, match="HTML"):
        imported.add(discover(tmp_path / "page.gguf").models)
    with pytest.raises(NotFound, match="no GGUF models"):
        discover(tmp_path / "nowhere")
    assert imported.read_list() == []


def test_a_model_with_tensors_of_an_unknown_type_is_imported(tmp_path: Path) -> None:
    """A newer llama.cpp may know the type."""
    model = crafted.read(builtin_folder() / "text-Q8_0.gguf")
    tensors = {name: tensor._replace(kind=99) for name, tensor in model.tensors.items()}
    path = model.having(tensors=tensors).write(tmp_path / "model.gguf")
    assert [added.quant for added in imported.add(discover(path).models)] == ["type 99"]


@pytest.mark.parametrize("text", ["[", "{}x", '[{"name": 3}]', "[1]", "3"])
def test_a_damaged_list_is_ignored_with_a_line_in_the_log_and_not_overwritten(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    imported.add([ImportedModel("a", (WEIGHTS,), None, "here")])
    path = tmp_path / "data/galago/imported.json"
    for data in (text.encode(), seal(text.encode())):
        path.write_bytes(data)
        assert imported.read_list() == [] and catalog.find("gemma3-4b")
        with pytest.raises(ConfigError, match="is damaged; delete it"):
            imported.add([ImportedModel("b", (WEIGHTS,), None, "here")])
        assert path.read_bytes() == data
    assert capsys.readouterr().err.count("is damaged; delete it") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
LAYERS = st.lists(
    st.fixed_dictionaries({"mediaType": st.just("x.model") | JSON, "digest": st.sampled_from(
        ["sha256:" + "0" * 64, "sha256:../../../../etc/passwd", "sha256:" + "0" * 64 + "/../../x"]) | JSON})
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON | st.fixed_dictionaries({"layers": LAYERS}))
def test_any_manifest_is_read_or_skipped(tmp_path: Path, manifest: object) -> None:
    place = tmp_path / "ollama"
    (place / "blobs").mkdir(parents=True, exist_ok=True)
    path = place / "manifests/m"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest))
    with pytest.raises(NotFound):  # none of them names a blob that is there
        discover(place)

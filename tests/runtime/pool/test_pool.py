"""Several models behind one interface: a request reaches the model that it names, in the state that the model is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galago.models.errors import ModelError, NotFound, NotReady
from galago.models.files import ModelFiles
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.pool.pool import ModelPool
from galago.runtime.pool.resident import ResidentModel
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.model_info import ModelInfo, Stats
from galago.runtime.types.request import Request
from galago.runtime.types.tasks import Detokenize
from galago.runtime.types.warnings import Warnings

REQUEST = Request((Message("user", (Text("Hi"),)),))


class FakeModel:
    """Answers with what it was asked."""

    ready = True

    def __init__(self, name: str) -> None:
        self.info = ModelInfo(name, "", 64, 0, 0, False, False, 0)
        self.closed = False

    def stats(self) -> Stats:
        return Stats(finished=len(self.info.id))

    def generate(self, request: Request, cancelled: Any) -> Any:
        return self.info.id, request

    def run_task(self, task: Any, cancelled: Any) -> Any:
        return self.info.id, task

    def close(self) -> None:
        self.closed = True


class FakeResident(ResidentModel):
    """Loads a `FakeModel`, or fails with an error."""

    def __init__(self, name: str, weights: Path, error: Exception | None = None) -> None:
        super().__init__(ModelFiles(name, weights, resolve("builtin").header, None), ModelConfig())
        self.error = error

    def _open(self) -> Any:
        if self.error is not None:
            raise self.error
        return FakeModel(self.id)


@pytest.fixture
def pool(tmp_path: Path) -> ModelPool:
    for name in ("first", "second"):
        (tmp_path / f"{name}.gguf").touch()
    return ModelPool(*(FakeResident(name, tmp_path / f"{name}.gguf") for name in ("first", "second")))


def test_a_pool_is_a_service(pool: ModelPool) -> None:
    service: ModelPool = pool
    service.load()
    assert service.ready and [info.id for info in service.models()] == ["first", "second"]
    assert service.stats() == [("first", Stats(finished=5)), ("second", Stats(finished=6))]


@pytest.mark.parametrize(("name", "answered"), [(None, "first"), ("first", "first"), ("second", "second")])
def test_a_request_reaches_the_model_that_it_names(pool: ModelPool, name: str | None, answered: str) -> None:
    pool.begin()
    pool.load()
    generate: Any = pool.generate
    run_task: Any = pool.run_task
    assert generate(name, REQUEST) == (answered, REQUEST)
    assert run_task(name, Detokenize((1,))) == (answered, Detokenize((1,)))
    assert pool.model(name).id == answered
    assert pool.files(name).weights[0].stem == answered


def test_an_unknown_name_is_not_found_and_the_error_lists_the_models(pool: ModelPool) -> None:
    pool.load()
    assert pool.is_loaded("second") and not pool.is_loaded("third")
    for call in (lambda: pool.generate("third", REQUEST), lambda: pool.model("third"), lambda: pool.files("third")):
        with pytest.raises(NotFound, match="'third' is not loaded here; loaded: 'first', 'second'"):
            call()


def test_a_model_that_is_loading_is_not_ready(pool: ModelPool) -> None:
    for name in (None, "second", "third"):  # a name may be that of a model to come
        with pytest.raises(NotReady, match="still loading"):
            pool.generate(name, REQUEST)
    with pytest.raises(NotReady, match="still loading"):
        pool.models()
    assert not pool.ready and [model.state for model in pool._given] == ["loading"] * 2


def test_one_model_that_fails_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    good = FakeResident("good", tmp_path / "a.gguf")
    bad = FakeResident("bad", tmp_path / "b.gguf", ModelError("no such file"))
    pool = ModelPool(good, bad)
    pool.begin()
    with pytest.raises(ModelError, match="no such file"):
        pool.load()
    assert (good.state, bad.state) == ("ready", "failed")
    generate: Any = pool.generate
    assert generate("good", REQUEST) == ("good", REQUEST)
    with pytest.raises(NotReady, match="could not be loaded"):
        pool.generate("bad", REQUEST)


def test_a_closed_pool_answers_nothing(pool: ModelPool) -> None:
    pool.load()
    models: list[Any] = [model.loaded for model in pool._given]
    pool.close()
    assert all(model.closed for model in models)
    with pytest.raises(NotReady, match="is closed"):
        pool.generate(None, REQUEST)


def test_a_model_that_is_closed_while_it_loads_is_closed_once_it_is_loaded(tmp_path: Path) -> None:
    resident = FakeResident("late", tmp_path / "late.gguf")
    opened = FakeModel("late")

    def open_late() -> Any:
        resident.close()
        return opened

    resident._open = open_late  # type: ignore[method-assign]
    resident.load()
    assert opened.closed and resident.state == "closed" and resident.loaded is None


def test_one_model_answers_to_unknown_names_but_not_for_an_installed_model(tmp_path: Path) -> None:
    (tmp_path / "first.gguf").touch()
    pool = ModelPool(FakeResident("first", tmp_path / "first.gguf"), aliases=["friend"])
    with pytest.raises(NotReady):
        pool.model_for("gpt-4", Warnings())
    pool.load()
    warnings = Warnings()
    assert [pool.model_for(name, warnings) for name in (None, "", "default", "first", "friend")] == ["first"] * 5
    assert warnings == []
    assert pool.model_for("gpt-4", warnings) == "first"
    assert warnings == ["there is no model 'gpt-4' on this machine; 'first' answers instead"]
    with pytest.raises(NotFound, match="'builtin' is not loaded here; loaded: 'first'.*galago serve --model"):
        pool.model_for("builtin", warnings)


def test_several_models_do_not_answer_to_unknown_names(pool: ModelPool) -> None:
    pool.load()
    assert pool.model_for("second", Warnings()) == "second"
    with pytest.raises(NotFound):
        pool.model_for("third", Warnings())


def test_a_model_for_any_name_answers_without_a_warning_in_strict_mode_too(tmp_path: Path) -> None:
    (tmp_path / "first.gguf").touch()
    pool = ModelPool(FakeResident("first", tmp_path / "first.gguf"), any_model=True)
    pool.load()
    strict = Warnings()
    strict.strict = True
    assert [pool.model_for(name, strict) for name in ("gpt-4", "builtin", "/etc/passwd")] == ["first"] * 3
    assert strict == [] and pool.is_loaded("gpt-4") and pool.model("gpt-4").id == "first"

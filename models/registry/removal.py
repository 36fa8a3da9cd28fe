"""Removes models: the files of all their commits, except those that other models use."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, NotFound
from ..gguf.file_name import is_quant, quant_of, split_name
from ..hub import connection
from ..hub.cache import HubCache
from . import imported, installed, selection
from .garbage import find_garbage
from .installed import InstalledModel
from .name import ModelRef


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed: `model`, from a number of `commits`, which freed `freed` bytes.

    `remaining` are the models of the same repository that are still installed. `successor` is the file, with another
    name in another commit, that the name of `model` refers to now; empty if there is none.
    """

    model: InstalledModel
    freed: int
    commits: int = 0
    remaining: tuple[ModelRef, ...] = ()
    successor: str = ""


def remove(ref: ModelRef) -> Removal:
    """Deletes the files of a model that no other installed model uses: of all commits, or of the one that `ref` names.

    An imported model is only removed from the list. Raises `NotFound`, or `ConfigError` if an imported model is made of
    the same files.
    """
    model = _find(ref)
    if not model.repository:
        imported.remove(model.ref.name)
        return Removal(model, 0)
    cache, freed, count, label = HubCache(connection.cache_root()), 0, 0, model.ref
    is_file_named = ref.quant != "" and not is_quant(quant_of(model.names[0]), ref.quant)
    commits = [model.commit] if ref.revision else cache.commits(model.repository)
    installed_in = {commit: [*installed.in_commit(cache, model.repository, commit)] for commit in commits}
    alike = {c: [m for m in models if _is_same(m, model, models, is_file_named)] for c, models in installed_in.items()}
    for doomed in [model, *(other for same in alike.values() for other in same)]:
        _check_not_imported(doomed)
    for commit, same in alike.items():
        label = same[0].ref if same and commit == model.commit else label
        leaving = [model] if commit == model.commit else same
        used = {name for other in installed_in[commit] if other not in same for name in other.names}
        freed += cache.remove(model.repository, commit, {n for other in leaving for n in other.names if n not in used})
        count += bool(leaving)
    repository = model.repository.lower()
    others = [other for other in installed.all_models() if other.repository.lower() == repository]
    remaining = tuple(other.ref for other in others)
    if remaining and not ref.revision:
        model = InstalledModel(
            label, model.weights, model.projector, model.origin, model.repository, model.commit, model.names
        )
    successor = next((other.names[0] for other in others if str(other.ref) == str(model.ref)), "")
    return Removal(model, freed, count, remaining, successor)


def _find(ref: ModelRef) -> InstalledModel:
    try:
        return installed.find_unchecked(ref)
    except NotFound as error:
        cache = HubCache(connection.cache_root())
        if ref.kind == "hub" and any(item.kind == "partial download" for item in find_garbage(cache, ref.name)):
            raise NotFound(f"{ref} is only partly downloaded; delete what is there with: galago gc", "model") from error
        raise


def _check_not_imported(model: InstalledModel) -> None:
    files = {path.resolve() for path in model.paths}
    for entry in imported.read_list():
        if any(path.resolve() in files for path in entry.paths):
            raise ConfigError(
                f"{entry.name}, which was imported, uses files of {model.ref}; remove it first: galago rm {entry.name}",
                "model",
            )


def _is_same(other: InstalledModel, model: InstalledModel, models: list[InstalledModel], is_file_named: bool) -> bool:
    """Whether another of the `models` in a commit is the same model, by its file name: in any folder, if the user named
    no file and the commit has none of that path."""
    if is_file_named or other.commit == model.commit or any(_stem(m) == _stem(model) for m in models):
        return _stem(other) == _stem(model)
    return selection.is_same_model(other.names[0], model.names[0])


def _stem(model: InstalledModel) -> str:
    return split_name(model.names[0])[0].lower()

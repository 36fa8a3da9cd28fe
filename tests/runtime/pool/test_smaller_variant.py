"""A model that does not fit: the error names a variant of it that does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes import bert
from galago.models.errors import ConfigError
from galago.models.files import ModelFiles
from galago.models.registry import catalog
from galago.models.registry.resolve import resolve
from galago.runtime.cli.main import main
from galago.runtime.config import ModelConfig
from galago.runtime.pool.budget import plan_shared
from galago.runtime.pool.smaller_variant import smaller_variant
from galago.runtime.types.placement import LlamaBuild


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelFiles]:
    """The largest of three installed models, all of one name in their files."""
    folder = tmp_path_factory.mktemp("variants")
    for width in (64, 128, 256):
        assert main(["import", str(bert.write(folder / f"wide{width}.gguf", shape=bert.Shape(width=width)))]) == 0
    yield resolve("wide256")
    for width in (64, 128, 256):
        assert main(["rm", f"wide{width}"]) == 0


def test_the_largest_installed_variant_that_fits_is_named(large: ModelFiles) -> None:
    size = large.weights.stat().st_size
    middle = resolve("wide128").weights.stat().st_size
    assert smaller_variant(large, 1) == "wide128"
    assert smaller_variant(large, size - middle) == "wide128"
    assert smaller_variant(large, size - middle + 1) == "wide64"
    assert smaller_variant(large, size) is None


def test_a_quantization_of_the_catalog_is_named_with_the_command_that_downloads_it(large: ModelFiles) -> None:
    entry = next(one for one in catalog.entries() if sum(bool(quant.weights) for quant in one.quants) > 1)
    least = min((quant.weights, quant.name) for quant in entry.quants if quant.weights)
    unknown = replace(large, id=f"{entry.name}:q8_0", header=resolve("builtin").header)
    name = smaller_variant(unknown, large.weights.stat().st_size - least[0])
    assert name == f"{entry.name}:{least[1]} (galago pull {entry.name}:{least[1]})"


def test_the_error_of_a_model_that_does_not_fit_names_the_variant(large: ModelFiles) -> None:
    config = ModelConfig(context_length=128, slots=1)
    plan = plan_shared(large, config, LlamaBuild(), 1 << 40)
    needed = plan.mapped_bytes + plan.private_bytes
    assert plan_shared(large, config, LlamaBuild(), needed) == plan
    with pytest.raises(ConfigError, match=r"wide256 needs .* but may take only .*, such as wide128"):
        plan_shared(large, config, LlamaBuild(), needed - 1)

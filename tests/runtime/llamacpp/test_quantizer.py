"""llama.cpp's quantizer on files that are laid out differently: the same weights become the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from fakes import experts
from fakes.gguf_writing import write_and_close
from galago.models.gguf.reader import read_header
from galago.quantize.variants.schemes import find
from galago.runtime.llamacpp.quantizer import quantize


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experts.write(tmp_path_factory.mktemp("plain") / "model.gguf")


def blocks(path: Path) -> dict[str, bytes]:
    """The data of each tensor, read as the header says."""
    header, content = read_header(path), path.read_bytes()
    begins = {tensor.name: (header.data_offset + tensor.offset, tensor.nbytes or 0) for tensor in header.tensors}
    return {name: content[begin : begin + size] for name, (begin, size) in begins.items()}


def rewritten(source: Path, path: Path, alignment: int = 32, order: Sequence[int] = ()) -> Path:
    """Writes a model with another alignment, or its tensors in another order, given as their numbers."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in [reader.tensors[i] for i in order] or reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    write_and_close(writer)
    return path


@pytest.mark.parametrize("alignment", [8, 64, 4096])
@pytest.mark.parametrize("copy", [False, True])
def test_any_alignment_of_the_source_is_read_and_32_bytes_are_written(
    alignment: int, copy: bool, plain: Path, tmp_path: Path
) -> None:
    """Also where all types are kept, as when layers are dropped."""
    source = rewritten(plain, tmp_path / "aligned.gguf", alignment)
    for path, target in ((plain, "expected.gguf"), (source, "found.gguf")):
        quantize(path, tmp_path / target, find("Q4_0").ftype, 1, copy=copy)
    assert blocks(tmp_path / "found.gguf") == blocks(tmp_path / "expected.gguf")
    assert read_header(tmp_path / "found.gguf").get("general.alignment") == 32


@pytest.mark.parametrize("step", [-1, 5])
def test_the_order_of_tensors_in_the_file_does_not_matter(step: int, plain: Path, tmp_path: Path) -> None:
    count = len(read_header(plain).tensors)
    shuffled = rewritten(plain, tmp_path / "shuffled.gguf", order=[step * i % count for i in range(count)])
    assert [tensor.name for tensor in read_header(shuffled).tensors] != [t.name for t in read_header(plain).tensors]
    for path, target in ((plain, "expected.gguf"), (shuffled, "found.gguf")):
        quantize(path, tmp_path / target, find("Q4_0").ftype, 1)
    assert blocks(tmp_path / "found.gguf") == blocks(tmp_path / "expected.gguf")

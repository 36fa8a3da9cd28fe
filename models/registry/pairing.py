"""Decides which projector belongs to a model, and whether all parts of a split model are there.

Pure functions of GGUF metadata: a projector's type and embedding width decide. `selection.py` selects files by their
names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ModelError
from ..gguf.file_name import describe_missing, part_name, split_name
from ..gguf.header import GGUFHeader, MetadataValue, is_int, is_projector

_UNRELIABLE_WIDTH = ("mlp", "mlp_norm", "ldp", "ldpv2", "resampler", "adapter")
"""Projector types whose files give the width of CLIP as `projection_dim`, not that of the projected embeddings."""

# projector type (tools/mtmd/clip-impl.h) -> prefixes of the architectures (src/llama-arch.cpp) it is made for; types
# that several model families share are not listed
_PROJECTOR_ARCHITECTURES = {
    "gemma3": ("gemma3",), "gemma3nv": ("gemma3n",), "gemma3na": ("gemma3n",), "gemma4v": ("gemma4",),
    "gemma4a": ("gemma4",), "gemma4uv": ("gemma4",), "gemma4ua": ("gemma4",), "lfm2": ("lfm2",), "lfm2a": ("lfm2",),
    "qwen2vl_merger": ("qwen2vl",), "qwen2.5vl_merger": ("qwen2vl",), "qwen3vl_merger": ("qwen3",),
}  # fmt: skip


def projector_mismatch(model: Mapping[str, MetadataValue], projector: Mapping[str, MetadataValue]) -> str:
    """Returns why a projector cannot be used with a model, from the metadata of both, or an empty text if it can."""
    architecture = model.get("general.architecture")
    if not is_projector(projector):
        return "it is not a projector"
    width = model.get(f"{architecture}.embedding_length")
    kinds = {projector.get(f"clip.{modality}projector_type") for modality in ("", "vision.", "audio.")}
    for kind in sorted(kind for kind in kinds if isinstance(kind, str)):
        architectures = _PROJECTOR_ARCHITECTURES.get(kind)
        if architectures and not str(architecture).startswith(architectures):
            return (
                f"its type, {kind}, is for {' and '.join(architectures)} models, but the model is {architecture!s:.40}"
            )
    if kinds & set(_UNRELIABLE_WIDTH) or not is_int(width):
        return ""
    for modality in ("vision", "audio"):
        projected_width = projector.get(f"clip.{modality}.projection_dim")
        if (
            projector.get(f"clip.has_{modality}_encoder") is True
            and is_int(projected_width)
            and projected_width != width
        ):
            return f"it makes {modality} embeddings of width {projected_width}, but the model takes {width}"
    return ""


def pick_projector(model: GGUFHeader, candidates: Sequence[GGUFHeader]) -> GGUFHeader | None:
    """Returns the projector that matches a model best. Raises `ModelError` with the reasons if none does."""
    mismatches = [(header, projector_mismatch(model.metadata, header.metadata)) for header in candidates]
    matching = [header for header, reason in mismatches if not reason]
    if mismatches and not matching:
        why = "; ".join(f"{header.path.name}: {reason}" for header, reason in mismatches)
        raise ModelError(f"no projector matches {model.path.name} ({why})", "mmproj")
    return max(matching, key=lambda header: matching_names(model.metadata, header.metadata), default=None)


def matching_names(model: Mapping[str, MetadataValue], projector: Mapping[str, MetadataValue]) -> int:
    """Counts the `general.*` names that agree, to find the model's own projector among several compatible ones."""
    keys = ("name", "basename", "size_label", "finetune", "base_model.0.name", "base_model.0.repo_url")
    values = [(model.get(f"general.{key}"), projector.get(f"general.{key}")) for key in keys]
    return sum(ours == theirs and ours is not None for ours, theirs in values)


def dominant_type(header: GGUFHeader) -> str:
    """Returns the type of most bytes in a file, in lower case. Stands in for a quantization that the name lacks."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + (tensor.nbytes or 0)
    return max(sizes, key=lambda name: sizes[name]).lower() if sizes else ""


def check_parts(header: GGUFHeader, parts: Sequence[object]) -> None:
    """Raises `ModelError` if a file is part of a split model of which other parts are missing."""
    count = header.get("split.count", 0)
    if not is_int(count) or count < 2 or len(parts) == count:
        return
    name = header.path.name
    stem, _, named_count = split_name(name)
    if named_count != count:
        raise ModelError(
            f"{name} is a part of a model in {count} parts, or parts put one after the other, which llama.cpp cannot "
            f"load: give the parts their own names, such as {part_name('NAME', 1, count)}, or join them with "
            "llama-gguf-split --merge",
            "model",
        )
    present = {split_name(str(part))[1] for part in parts}
    missing = [part_name(Path(stem).name, n, count) for n in range(1, count + 1) if n not in present]
    raise ModelError(f"{name} is one of {count} parts: {describe_missing(missing)}; download the rest", "model")

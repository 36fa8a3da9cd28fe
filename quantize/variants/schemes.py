"""The table of quantization schemes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...models.errors import ConfigError
from ...models.gguf.header import GGML_TYPES

TYPE_NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}
BLOCKS = {name: (weights, size) for name, weights, size in GGML_TYPES.values()}
"""Weights per block and bytes per block, by type."""

FALLBACKS = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""Types that llama.cpp uses if a tensor's rows do not fill blocks (`tensor_type_fallback` in llama-quant.cpp); F16 if
they do not fill blocks of 32 either."""

_ARM = ("MATMUL_INT8", "DOTPROD")
_REPACKED = {
    "Q4_0": ("AVX2", *_ARM),
    "Q4_K": ("AVX2", *_ARM),
    "IQ4_NL": ("AVX2", "DOTPROD"),
    "MXFP4": ("AVX2", "DOTPROD"),
    "Q2_K": ("AVX512",),
    "Q5_K": _ARM,
    "Q6_K": _ARM,
    "Q8_0": _ARM,
}
"""CPU features, any of which makes llama.cpp repack a type for its fastest matrix products
(`ggml_repack_get_optimal_repack_type` in ggml-cpu/repack.cpp)."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scheme of llama.cpp: `ftype` is its number in `enum llama_ftype` (llama.h), `type` the type of most weights.

    `needs_calibration`: without an importance matrix llama.cpp refuses, or quality is poor.
    `output_type` and `embedding_type`: types of the output and of the token embeddings, in place of llama.cpp's choice.
    """

    name: str
    ftype: int
    type: str
    needs_calibration: bool = False
    output_type: str | None = None
    embedding_type: str | None = None

    @property
    def block_weights(self) -> int:
        """The number of weights in a block; a tensor's rows must be a multiple of it."""
        return BLOCKS[self.type][0]

    @property
    def bits(self) -> float:
        """Bits per weight of `type`; the mean of a model differs, because some tensors get another type."""
        weights, size = BLOCKS[self.type]
        return 8 * size / weights

    @property
    def quantized(self) -> bool:
        return self.block_weights > 1

    @property
    def uses_calibration(self) -> bool:
        """Whether an importance matrix changes the result: llama.cpp ignores it for Q8_0 and MXFP4."""
        return self.quantized and self.type not in ("Q8_0", "MXFP4")

    @property
    def fallback(self) -> str | None:
        return FALLBACKS.get(self.type)

    def is_repacked(self, features: frozenset[str]) -> bool:
        """Whether llama.cpp has its fastest matrix products for it on a CPU with these features."""
        return "REPACK" in features and not features.isdisjoint(_REPACKED.get(self.type, ()))


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("F32", 0, "F32"),
        Scheme("F16", 1, "F16"),
        Scheme("BF16", 32, "BF16"),
        Scheme("Q8_0", 7, "Q8_0"),
        Scheme("Q6_K", 18, "Q6_K"),
        Scheme("Q5_K_M", 17, "Q5_K"),
        Scheme("Q5_K_S", 16, "Q5_K"),
        Scheme("Q5_1", 9, "Q5_1"),
        Scheme("Q5_0", 8, "Q5_0"),
        Scheme("Q4_K_M", 15, "Q4_K"),
        Scheme("Q4_K_S", 14, "Q4_K"),
        Scheme("IQ4_NL", 25, "IQ4_NL"),
        Scheme("IQ4_XS", 30, "IQ4_XS"),
        Scheme("Q4_1", 3, "Q4_1"),
        Scheme("Q4_0", 2, "Q4_0"),
        Scheme("MXFP4_MOE", 38, "MXFP4"),  # for experts; all other weights become Q8_0
        Scheme("Q3_K_L", 13, "Q3_K"),
        Scheme("Q3_K_M", 12, "Q3_K"),
        Scheme("Q3_K_S", 11, "Q3_K"),
        Scheme("IQ3_M", 27, "IQ3_S", needs_calibration=True),
        Scheme("IQ3_S", 26, "IQ3_S", needs_calibration=True),
        Scheme("IQ3_XS", 22, "IQ3_S", needs_calibration=True),
        Scheme("IQ3_XXS", 23, "IQ3_XXS", needs_calibration=True),
        Scheme("Q2_K", 10, "Q2_K"),
        Scheme("Q2_K_S", 21, "Q2_K", needs_calibration=True),
        Scheme("IQ2_M", 29, "IQ2_S", needs_calibration=True),
        Scheme("IQ2_S", 28, "IQ2_XS", needs_calibration=True),
        Scheme("IQ2_XS", 20, "IQ2_XS", needs_calibration=True),
        Scheme("IQ2_XXS", 19, "IQ2_XXS", needs_calibration=True),
    )
}

LARGE_TABLE_SCHEMES = {
    name: replace(SCHEMES[base], name=name, output_type="Q8_0", embedding_type="Q8_0")
    for name, base in (
        ("Q6_K_L", "Q6_K"),
        ("Q5_K_L", "Q5_K_M"),
        ("Q4_K_L", "Q4_K_M"),
        ("Q3_K_XL", "Q3_K_L"),
        ("Q2_K_L", "Q2_K"),
    )
}
"""Schemes that keep output and token embeddings in 8 bits, under the names that publishers of models use."""

_NEED_IMPORTANCE = ("IQ2_XS", "IQ2_XXS")
TENSOR_TYPES = tuple(dict.fromkeys(s.type for s in SCHEMES.values() if s.type not in _NEED_IMPORTANCE))
"""Types usable for output and token embeddings, which have no importance matrix."""

_OTHERS_MIX = re.compile(r"UD-(?P<of>I?Q\d.*)|(?P<like>I?Q\d.*_X+L)")
"""Names of third-party mixes, such as UD-Q4_K_XL, which the pages of the Hub show as Q4_K_XL."""

_ALIASES = {"INT8": "Q8_0", "INT4": "Q4_K_M", "Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}


def find(name: str) -> Scheme:
    """Returns a scheme by name, ignoring case, such as int4 for Q4_K_M. Raises `ConfigError` that lists all names."""
    scheme = _scheme(name)
    if scheme is not None:
        return scheme
    if mix := _OTHERS_MIX.fullmatch(name.upper()):
        nearest = _nearest(mix["of"] or mix["like"])
        raise ConfigError(
            f"{name} is a mix of types that its publisher chooses for each model, not a scheme of llama.cpp; the "
            f"nearest scheme here is {nearest}, and galago quantize --like {nearest} finds the best "
            "mix of that size for your model",
            "scheme",
        )
    names = ", ".join((*SCHEMES, *LARGE_TABLE_SCHEMES))
    raise ConfigError(f"there is no quantization scheme {name}; choose one of {names}", "scheme")


def _nearest(name: str) -> str:
    """Returns the scheme that is most like a mix: the largest of its family, or the smallest of all if it has none."""
    family = re.sub(r"_[SMLX]+$", "", name)
    likely = (name, *(f"{family}_{size}" for size in ("L", "M", "S")), family, family.replace("_K", "_0"))
    return next((known for known in likely if _scheme(known)), tuple(SCHEMES)[-1])


def is_scheme(name: str) -> bool:
    return _scheme(name) is not None


def _scheme(name: str) -> Scheme | None:
    upper = _ALIASES.get(name.upper(), name.upper())
    return SCHEMES.get(upper) or LARGE_TABLE_SCHEMES.get(upper)


def tensor_type(name: str, option: str) -> str:
    """Returns a type of tensors by name, ignoring case. Raises `ConfigError` that lists all names."""
    if name.upper() not in TENSOR_TYPES:
        raise ConfigError(f"--{option}: there is no type {name}; choose one of {', '.join(TENSOR_TYPES)}", option)
    return name.upper()

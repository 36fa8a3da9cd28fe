"""Quantization schemes as rows of one table. Holds no code that quantizes."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Scheme:
    """A recipe of llama.cpp: `ftype` is its number in `enum llama_ftype` (llama.h).

    `needs_calibration`: llama.cpp makes poor weights, or refuses, without an importance matrix.
    """

    name: str
    ftype: int
    needs_calibration: bool = False


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("F32", 0),
        Scheme("F16", 1),
        Scheme("BF16", 32),
        Scheme("Q8_0", 7),
        Scheme("Q6_K", 18),
        Scheme("Q5_K_M", 17),
        Scheme("Q5_K_S", 16),
        Scheme("Q5_1", 9),
        Scheme("Q5_0", 8),
        Scheme("Q4_K_M", 15),
        Scheme("Q4_K_S", 14),
        Scheme("IQ4_NL", 25),
        Scheme("IQ4_XS", 30),
        Scheme("Q4_1", 3),
        Scheme("Q4_0", 2),
        Scheme("Q3_K_L", 13),
        Scheme("Q3_K_M", 12),
        Scheme("Q3_K_S", 11),
        Scheme("IQ3_S", 26, needs_calibration=True),
        Scheme("Q2_K", 10),
        Scheme("IQ2_S", 28, needs_calibration=True),
    )
}


def find(name: str) -> Scheme:
    """The scheme of that name, in any case. Raises `ConfigError` naming those there are."""
    scheme = SCHEMES.get(name.upper())
    if scheme is None:
        raise ConfigError(f"there is no quantization scheme {name}; there are {', '.join(SCHEMES)}", "scheme")
    return scheme

"""The built-in model's world: endless questions with right answers, in text, pictures and speech.

Everything comes from a `random.Random` that the caller seeds, and from a `Split` that keeps combinations, words, fonts
and voices of the development and the held-out set out of training. Knows no tokens and no tensors.
"""

from __future__ import annotations

from .samples import Clip, Maker, Picture, Sample, Turn
from .split import Split

__all__ = ["Clip", "Maker", "Picture", "Sample", "Split", "Turn"]

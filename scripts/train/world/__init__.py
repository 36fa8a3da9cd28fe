"""The built-in model's training data: generated questions with right answers about text, images and speech.

Everything depends on a `random.Random` that the caller seeds, and on a `Split` that keeps combinations, words, fonts
and voices of the development set and the held-out set out of training.
"""

from __future__ import annotations

from .samples import Clip, Maker, Picture, Sample, Turn
from .split import Split

__all__ = ["Clip", "Maker", "Picture", "Sample", "Split", "Turn"]

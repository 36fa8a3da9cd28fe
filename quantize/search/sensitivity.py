"""What each tensor of a model loses alone, in about four bits, all others as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..calibrate import calibration
from ..variants import plan
from . import mixture


def measure(
    model: Path, projector: Path | None, files: Sequence[Path], tell: Callable[[str, float], None]
) -> list[dict[str, Any]]:
    """For each tensor that can be quantized its name (`tensor`), the `type` it was measured as, its `bytes` as that,
    and the divergence `kl` in nats a position, on sets of questions and texts (`files`; without any, Python's manual).

    Writes the model once for each; what has been measured is kept. Raises `GalagoError`.
    """
    source = plan.open_source(str(model))
    data = calibration.data(source, projector, [path for path in files if path.suffix in (".zip", ".txt", ".md")])
    found = mixture.alone(data, lambda done, total, name: tell(f"sensitivity of {name}", done / total))
    sizes = {tensor.name: tensor for tensor in source.tensors}
    return [
        {"tensor": name, "type": kind, "bytes": plan.nbytes(sizes[name], kind), "kl": kl} for name, kind, kl in found
    ]

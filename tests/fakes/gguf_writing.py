"""Ends the writing of a GGUF file by the gguf package."""

from __future__ import annotations

import gguf


def write_and_close(writer: gguf.GGUFWriter) -> None:
    """Writes everything that was added to a writer, and closes its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

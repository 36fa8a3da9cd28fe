"""Formats numbers for people."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """Formats bytes with three digits in decimal units, as the Hub and disk vendors do."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            number = count / least
            return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"
    return f"{count:.0f} B"

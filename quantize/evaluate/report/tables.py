"""An evaluation's results as tables, for the terminal, for Markdown and for the page. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..verdict import NAMES

NONE, UNKNOWN = "-", "unknown"


class Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def overview(results: Mapping[str, Any]) -> Table:
    """A row for each variant; the recommended one is marked with a star, those that no other beats with a plus."""
    fidelity, tasks = (_senses(results, kind) for kind in ("fidelity", "tasks"))
    columns = ["variant", "MB", "memory MB", "tokens/s"]
    columns += [f"{NAMES[sense]} KL" for sense in fidelity] + [f"{NAMES[sense]} right" for sense in tasks]
    rows = []
    for variant in results["variants"]:
        name = variant["name"]
        mark = " *" if name == results["recommended"]["variant"] else " +" if name in results["front"] else ""
        row = [name + mark, f"{variant['bytes'] / 1e6:.2f}", _megabytes(variant["memory_bytes"])]
        row.append(_number(variant["speed"].get("decode_tokens_per_second"), ".1f"))
        row += [_number(variant["fidelity"].get(sense, {}).get("kl_mean"), ".3g") for sense in fidelity]
        row += [_number(variant["tasks"].get(sense, {}).get("accuracy"), ".1%") for sense in tasks]
        rows.append(row)
    return Table("Overview", columns, rows)


def costs(results: Mapping[str, Any]) -> Table:
    kinds = {
        "load s": ("load_seconds", ".2f"),
        "first token s": ("first_token_seconds", ".3f"),
        "prompt tokens/s": ("prefill_tokens_per_second", ".0f"),
        "of 4": ("prefill_tokens_per_second_4", ".0f"),
        "tokens/s": ("decode_tokens_per_second", ".1f"),
        "of 4 ": ("decode_tokens_per_second_4", ".1f"),
        "picture s": ("image_seconds", ".3f"),
        "sound s": ("audio_seconds", ".3f"),
    }
    rows = []
    for variant in results["variants"]:
        memory, joules = variant["memory"] or {}, variant["speed"].get("joules_per_answer")
        row = [variant["name"], *(_megabytes(memory.get(kind)) for kind in ("peak", "steady", "mapped"))]
        row += [_number(variant["speed"].get(name), form) for name, form in kinds.values()]
        rows.append([*row, UNKNOWN if joules is None else f"{joules:.2g}"])
    columns = ["variant", "peak MB", "steady MB", "of it weights MB", *kinds, "joules an answer"]
    return _without_empty(Table("Cost on this machine", columns, rows))


def fidelity(results: Mapping[str, Any]) -> Table:
    rows = []
    for variant, sense, one in _each(results, "fidelity"):
        row = [variant["name"], NAMES[sense], f"{one['kl_mean']:.3g} ({one['kl_low']:.3g} to {one['kl_high']:.3g})"]
        row += [f"{one['kl_p99']:.3g}", f"{one['kl_max']:.3g}"]
        row.append(f"{one['top1']:.1%} ({one['top1_low']:.1%} to {one['top1_high']:.1%})")
        row.append(f"{one['perplexity']:.4g}")
        row.append(f"{one['perplexity_ratio']:.4f} ({one['ratio_low']:.4f} to {one['ratio_high']:.4f})")
        rows.append([*row, str(one["positions"])])
    columns = ["variant", "on", "KL", "99 %", "worst", "same token", "perplexity", "to the baseline's", "positions"]
    return Table("Fidelity to the baseline", columns, rows)


def answers(results: Mapping[str, Any]) -> Table:
    rows = []
    for variant, sense, one in _each(results, "tasks"):
        row = [variant["name"], NAMES[sense], f"{one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%})"]
        row += [str(one["n"]), _interval(one.get("change"), "+.1%")]
        row += [f"{one[share]:.1%}" for share in ("empty", "repeats", "same")]
        row += [_number(one.get("valid"), ".1%"), _interval(one.get("word_error_rate"), ".1%")]
        rows.append([*row, _interval(variant["looks"].get(sense), ".2f")])
    columns = ["variant", "on", "right", "of", "gained", "empty", "repeat", "same answer", "valid JSON or call"]
    return _without_empty(Table("Answers", [*columns, "word errors", "nats from looking"], rows))


def _without_empty(table: Table) -> Table:
    """Without the columns in which nothing was measured of any variant."""
    kept = [i for i in range(len(table.columns)) if not table.rows or any(row[i] != NONE for row in table.rows)]
    return Table(table.title, [table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def _senses(results: Mapping[str, Any], kind: str) -> list[str]:
    return [sense for sense in NAMES if any(sense in variant[kind] for variant in results["variants"])]


def _each(results: Mapping[str, Any], kind: str) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    for sense in _senses(results, kind):
        for variant in results["variants"]:
            if sense in variant[kind]:
                yield variant, sense, variant[kind][sense]


def _megabytes(size: int | None) -> str:
    return NONE if size is None else f"{size / 1e6:.0f}"


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else f"{value:{form}}"


def _interval(one: Mapping[str, float] | None, form: str) -> str:
    if one is None:
        return NONE
    if one["mean"] == one["low"] == one["high"] == 0:
        return "0"
    return f"{one['mean']:{form}} ({one['low']:{form}} to {one['high']:{form}})"


def notes(results: Mapping[str, Any]) -> list[str]:
    """What stands below the overview."""
    lines = [f"{v['name']} {warning}" for v in results["variants"] for warning in v["warnings"]]
    return [*lines, f"recommended (*): {results['recommended']['reason']}"]


def circumstances(results: Mapping[str, Any]) -> str:
    device, sets = results["device"], [*results["questions"], *results["texts"]]
    made_with = f"galago {results['galago']} and llama-cpp-python {results['llama_cpp']}"
    machine = f"{device['processor']}, {device['cores']} cores, {device['memory'] / 1e9:.1f} GB"
    return (
        f"Measured {results['made']} on {machine}, with {made_with}, on {', '.join(sets)}. Losses are against "
        f"{results['baseline']}; KL is in nats a token; intervals are at 95 %; + marks those that no other beats."
    )


def markdown(results: Mapping[str, Any]) -> str:
    parts = [f"# {results['variants'][0]['model_name']} and its variants", *(f"- {note}" for note in notes(results))]
    parts += ["", circumstances(results)]
    for table in (overview(results), costs(results), fidelity(results), answers(results)):
        parts += ["", f"## {table.title}", "", *_lines(table)]
    return "\n".join(parts) + "\n"


def _lines(table: Table) -> list[str]:
    head = [name.strip() for name in table.columns]
    align = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, align, *table.rows)]

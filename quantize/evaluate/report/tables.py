"""Evaluation results as tables for the terminal, Markdown and the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..verdict import MODALITY_NAMES, EvaluationResults

NONE, UNKNOWN = "-", "unknown"


class ReportTable(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def overview(results: EvaluationResults) -> ReportTable:
    """Returns a row for each variant. The recommended one is marked *, the others on the Pareto front +."""
    fidelity, tasks = (_modalities(results, kind) for kind in ("fidelity", "tasks"))
    columns = ["variant", "MB", "memory MB", "tokens/s"]
    columns += [f"KL {MODALITY_NAMES[m]}" for m in fidelity] + [f"accuracy {MODALITY_NAMES[m]}" for m in tasks]
    rows = []
    for variant in results["variants"]:
        name = variant["name"]
        mark = " *" if name == results["recommended"]["variant"] else " +" if name in results["front"] else ""
        row = [name + mark, f"{variant['bytes'] / 1e6:.2f}", _megabytes(variant["memory_bytes"])]
        row.append(_number(variant["speed"].get("decode_tokens_per_second"), ".1f"))
        row += [_number(variant["fidelity"].get(modality, {}).get("kl_mean"), ".3g") for modality in fidelity]
        row += [_number(variant["tasks"].get(modality, {}).get("accuracy"), ".1%") for modality in tasks]
        rows.append(row)
    return ReportTable("Overview", columns, rows)


def costs(results: EvaluationResults) -> ReportTable:
    kinds = {
        "load s": ("load_seconds", ".2f"),
        "first token s": ("first_token_seconds", ".3f"),
        "prefill tokens/s": ("prefill_tokens_per_second", ".0f"),
        "4 streams": ("prefill_tokens_per_second_4", ".0f"),
        "decode tokens/s": ("decode_tokens_per_second", ".1f"),
        "4 streams ": ("decode_tokens_per_second_4", ".1f"),
        "image s": ("image_seconds", ".3f"),
        "audio s": ("audio_seconds", ".3f"),
    }
    rows = []
    for variant in results["variants"]:
        memory, joules = variant["memory"] or {}, variant["speed"].get("joules_per_answer")
        row = [variant["name"], *(_megabytes(memory.get(kind)) for kind in ("peak", "steady", "mapped"))]
        row += [_number(variant["speed"].get(name), format_spec) for name, format_spec in kinds.values()]
        rows.append([*row, UNKNOWN if joules is None else f"{joules:.2g}"])
    columns = ["variant", "peak MB", "steady MB", "mapped weights MB", *kinds, "joules/answer"]
    return _without_empty_columns(ReportTable("Cost on this machine", columns, rows))


def fidelity(results: EvaluationResults) -> ReportTable:
    rows = []
    for variant, modality, entry in _each(results, "fidelity"):
        kl = f"{entry['kl_mean']:.3g} ({entry['kl_low']:.3g} to {entry['kl_high']:.3g})"
        row = [variant["name"], MODALITY_NAMES[modality], kl]
        row += [f"{entry['kl_p99']:.3g}", f"{entry['kl_max']:.3g}"]
        row.append(f"{entry['top1']:.1%} ({entry['top1_low']:.1%} to {entry['top1_high']:.1%})")
        row.append(f"{entry['perplexity']:.4g}")
        row.append(f"{entry['perplexity_ratio']:.4f} ({entry['ratio_low']:.4f} to {entry['ratio_high']:.4f})")
        rows.append([*row, str(entry["positions"])])
    columns = ["variant", "on", "mean KL", "99th percentile KL", "max KL", "same top token", "perplexity"]
    return ReportTable("Fidelity to the baseline", [*columns, "perplexity ratio", "positions"], rows)


def answers(results: EvaluationResults) -> ReportTable:
    rows = []
    for variant, modality, entry in _each(results, "tasks"):
        accuracy = f"{entry['accuracy']:.1%} ({entry['low']:.1%} to {entry['high']:.1%})"
        row = [variant["name"], MODALITY_NAMES[modality], accuracy]
        row += [str(entry["n"]), _interval(entry.get("change"), "+.1%")]
        row += [f"{entry[share]:.1%}" for share in ("empty", "repeats", "same")]
        row += [_number(entry.get("valid"), ".1%"), _interval(entry.get("word_error_rate"), ".1%")]
        rows.append([*row, _interval(variant["looks"].get(modality), ".2f")])
    columns = ["variant", "on", "accuracy", "questions", "change", "empty", "repetitive", "most common answer"]
    columns += ["valid JSON or call", "word error rate", "media gain nats"]
    return _without_empty_columns(ReportTable("Answers", columns, rows))


def _without_empty_columns(table: ReportTable) -> ReportTable:
    kept = [i for i in range(len(table.columns)) if not table.rows or any(row[i] != NONE for row in table.rows)]
    return ReportTable(table.title, [table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def _modalities(results: EvaluationResults, kind: str) -> list[str]:
    return [modality for modality in MODALITY_NAMES if any(modality in v[kind] for v in results["variants"])]


def _each(results: EvaluationResults, kind: str) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    for modality in _modalities(results, kind):
        for variant in results["variants"]:
            if modality in variant[kind]:
                yield variant, modality, variant[kind][modality]


def _megabytes(size_bytes: int | None) -> str:
    return NONE if size_bytes is None else f"{size_bytes / 1e6:.0f}"


def _number(value: float | None, format_spec: str) -> str:
    return NONE if value is None else f"{value:{format_spec}}"


def _interval(entry: Mapping[str, float] | None, format_spec: str) -> str:
    if entry is None:
        return NONE
    if entry["mean"] == entry["low"] == entry["high"] == 0:
        return "0"
    return f"{entry['mean']:{format_spec}} ({entry['low']:{format_spec}} to {entry['high']:{format_spec}})"


def notes(results: EvaluationResults) -> list[str]:
    """Returns the lines below the overview: warnings and the recommendation."""
    lines = [f"warning: {warning}" for warning in results["warnings"]]
    lines += [f"warning: {v['name']} {warning}" for v in results["variants"] for warning in v["warnings"]]
    return [*lines, f"recommended (*): {results['recommended']['reason']}"]


def circumstances(results: EvaluationResults) -> str:
    """Describes when, where and on what the results were measured, and how to read them."""
    device, sets = results["device"], [*results["questions"], *results["texts"]]
    versions = f"galago {results['galago']} and llama-cpp-python {results['llama_cpp']}"
    machine = f"{device['processor']}, {device['cores']} cores, {device['memory'] / 1e9:.1f} GB"
    return (
        f"Measured {results['made']} on {machine}, with {versions}, on {', '.join(sets)}. The baseline is "
        f"{results['baseline']}. KL is the KL divergence from it in nats per token. Intervals are at 95 %. + marks the "
        "Pareto front: no other variant is better in size, KL or speed without being worse in another."
    )


def markdown(results: EvaluationResults) -> str:
    parts = [f"# {results['variants'][0]['model_name']} and its variants", *(f"- {note}" for note in notes(results))]
    parts += ["", circumstances(results)]
    for table in (overview(results), costs(results), fidelity(results), answers(results)):
        parts += ["", f"## {table.title}", "", *_markdown_lines(table)]
    return "\n".join(parts) + "\n"


def _markdown_lines(table: ReportTable) -> list[str]:
    head = [name.strip() for name in table.columns]
    align = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, align, *table.rows)]

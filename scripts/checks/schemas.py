"""Validates sampled answers of the built-in model to every schema of tests/fakes/schemas.py.

    scripts/check schemas [--seeds N]        default: 20 answers to each schema, at temperature 1

Exits with 1 if an answer is invalid, if fewer than half of the answers to a schema are complete, or if a schema is
accepted that cannot be enforced. For schemas without an upper bound (`OPEN`), only complete answers count.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema

from fakes.schemas import ENFORCED, OPEN, REFUSED, check_valid
from galago.models.errors import InvalidRequest
from galago.runtime import LocalModel, load

MAX_TOKENS = 400
PARALLEL_REQUESTS = 8


def answers(model: LocalModel, schema: Any, seeds: int) -> tuple[int, list[str]]:
    """Returns the number of complete answers and the problems of invalid ones."""

    def ask(seed: int) -> tuple[bool, str | None]:
        options: Any = {"json_schema": schema, "temperature": 1, "seed": seed, "max_tokens": MAX_TOKENS}
        reply = model.chat("Answer in JSON.", **options)
        try:
            if reply.finish_reason == "stop":
                check_valid(reply.text, schema)
        except (ValueError, jsonschema.ValidationError) as error:
            return True, f"{reply.text!r} to {schema}: {str(error).splitlines()[0]}"
        return reply.finish_reason == "stop", None

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        results = list(pool.map(ask, range(seeds)))
    return sum(done for done, _ in results), [problem for _, problem in results if problem]


def is_refused(model: LocalModel, schema: Any) -> bool:
    try:
        model.chat("Answer in JSON.", json_schema=schema, max_tokens=1)
    except InvalidRequest:
        return True
    return False


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args(arguments).seeds
    enforced = [schema for family in ENFORCED.values() for schema in family]
    refused = [schema for family in REFUSED.values() for schema in family]
    complete = problems = open_ended = 0

    def report(problem: str) -> None:
        nonlocal problems
        problems += 1
        print(problem, flush=True)

    with load("builtin", slots=PARALLEL_REQUESTS) as model:
        for schema in [*enforced, *OPEN]:
            done, invalid = answers(model, schema, seeds)
            for answer in invalid:
                report(f"invalid: {answer}")
            if schema in OPEN:
                open_ended += done
                continue
            complete += done
            if done < seeds / 2:
                report(f"only {done} of {seeds} answers complete: {schema}")
        for schema in refused:
            if not is_refused(model, schema):
                report(f"not refused: {schema}")
    print(f"{len(enforced)} schemas enforced: {complete} of {len(enforced) * seeds} answers complete")
    print(f"{len(OPEN)} without an upper bound: {open_ended} of {len(OPEN) * seeds} complete")
    print(f"{len(refused)} schemas refused")
    return int(problems > 0)

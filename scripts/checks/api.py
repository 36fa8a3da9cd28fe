"""Fuzzes a real server with schemathesis, from its OpenAPI document.

    scripts/check api [--cases N] [--seed N]       default: 300 random cases of each kind of request

One server runs the built-in model with a store for files, responses and batches; most requests then use the ids of
stored objects. Two more servers run random-weight models for embeddings and for reranking.

Exits with 1 if a response has a 5xx status, a status that the document does not list, or a body that does not match its
schema; if a stream fails midway; or if the model's process dies.
"""

import argparse
import contextlib
import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from schemathesis.cli import schemathesis as command

from fakes import bert
from fakes.server import Server, serving

Case = schemathesis.Case[Any]

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method,allow_header_conformance,no_failure_in_a_stream"
)
CASES_PER_ROUND = 100
"""Cases of one round; a round makes the same optional fields required."""
FIELDS_PER_ROUND = 4
MAX_TOKENS = 16
MIN_TIMEOUT_SECONDS = 60
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
LIMIT_OF_PATH = {
    "/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/api/chat": "num_predict",
    "/api/generate": "num_predict",
}
"""Path suffix -> the field that limits an answer's tokens there."""
PATHS_OF_POOLING = {"cls": "/v1/(embeddings|tokenize|detokenize)|/api/embed", "rank": "/v1/rerank"}
"""Pooling type of a model that generates no text -> the paths that it serves."""

fuzzing = False
rng = random.Random()
statuses: Counter[str] = Counter()
created_ids: dict[str, list[str]] = {}
"""Path that creates objects -> the ids it has returned."""


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Makes some optional fields of every body required; without this, random bodies contain hardly any of them."""
    for path in raw_schema["paths"].values() if fuzzing else ():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                body = raw_schema["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                required = body.setdefault("required", [])
                optional = sorted(set(body["properties"]) - set(required))
                required += rng.sample(optional, min(FIELDS_PER_ROUND, len(optional)))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Limits answers and timeouts, names the loaded model, and uses ids of objects that exist."""
    ids = created_ids.get(case.operation.path.partition("/{id}")[0])
    if ids and "id" in case.path_parameters and rng.random() < 0.8:
        case.path_parameters["id"] = ids[-1]
    body = case.body
    if not isinstance(body, dict):
        return
    if "input_file_id" in body and created_ids.get("/v1/files"):
        body["input_file_id"] = created_ids["/v1/files"][-1]
    if isinstance(body.get("model"), str):
        body["model"] = "builtin"
    options = body.get("options")
    for fields in (body, options) if isinstance(options, dict) else (body,):
        for name in TOKEN_LIMITS:
            value = fields.get(name)
            if isinstance(value, int):
                fields[name] = min(value, MAX_TOKENS)
    limit = next((name for path, name in LIMIT_OF_PATH.items() if case.operation.path.endswith(path)), None)
    if limit == "num_predict" and options is None:
        body["options"] = {limit: MAX_TOKENS}
    elif limit == "num_predict" and isinstance(options, dict) and options.get(limit, -1) in (None, -1, -2):
        options[limit] = MAX_TOKENS
    elif limit and limit != "num_predict" and all(body.get(name) is None for name in TOKEN_LIMITS):
        body[limit] = MAX_TOKENS
    timeout = body.get("timeout")
    if isinstance(timeout, int | float) and 0 <= timeout < MIN_TIMEOUT_SECONDS:
        body["timeout"] = MIN_TIMEOUT_SECONDS


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Case, response: schemathesis.Response) -> None:
    path = case.operation.path
    statuses[f"{case.method} {path} {response.status_code}"] += 1
    is_stored = path in ("/v1/responses", "/v1/files", "/v1/batches") and case.method == "POST"
    if is_stored and response.status_code == 200 and response.headers["content-type"][0] == "application/json":
        created_ids.setdefault(path, []).append(response.json()["id"])


@schemathesis.check
def no_failure_in_a_stream(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """Fails if a stream ends with a server error after its status line was sent."""
    assert b'data: {"error":' not in response.content or b'"type":"server_error"' not in response.content


def fuzz(server: Server, phases: str, cases: int, seed: int, paths: str | None) -> tuple[int, int]:
    """Runs schemathesis once; returns the number of cases and of failures."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # schemathesis writes files into it
        report = Path(folder) / "report.json"
        arguments = [f"--phases={phases}", f"--max-examples={cases}", f"--seed={seed}", f"--checks={CHECKS}"]
        arguments += ["--generation-database=none", "--request-timeout=60", "--continue-on-failure", "--no-color"]
        arguments += ["--report=json", f"--report-json-path={report}"]
        arguments += [f"--include-path-regex={paths}"] if paths else []
        try:
            command(["run", f"{server.url}/openapi.json", *arguments], standalone_mode=False)
        except SystemExit:
            pass  # the report lists the failures
        report_json = json.loads(report.read_text("utf-8"))
    counts = report_json["test_cases"]
    return counts["generated"], counts["with_failures"] + counts["errored"] + len(report_json["errors"])


def _measure_machine(server: Server) -> None:
    """Lets the first estimate wait for the machine benchmark, which takes minutes on a busy machine."""
    httpx.post(f"{server.url}/v1/plan", json={"messages": [{"role": "user", "content": "Hi"}]}, timeout=600)


def fuzz_server(cases: int, seed: int, paths: str | None, *arguments: str) -> tuple[int, int]:
    """Starts a server with these arguments and fuzzes the paths that match; returns the same counts."""
    global fuzzing
    created_ids.clear()
    with serving(*arguments) as server:
        server.wait_until_ready()
        _measure_machine(server)
        fuzzing = False
        results = [fuzz(server, "examples,coverage", CASES_PER_ROUND, seed, paths)] if cases >= CASES_PER_ROUND else []
        fuzzing = True
        rng.seed(seed)
        for start in range(0, cases, CASES_PER_ROUND):
            count = min(CASES_PER_ROUND, cases - start)
            results.append(fuzz(server, "fuzzing", count, seed + start, paths))
        died = 'galago_restarts_total{model="builtin"} 0\n' not in httpx.get(f"{server.url}/metrics").text
        if died:
            print("the model's process died")
    return sum(count for count, _ in results), sum(wrong for _, wrong in results) + died


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    cases, seed = options.cases, options.seed
    with tempfile.TemporaryDirectory() as folder:
        results = [fuzz_server(cases, seed, None, "--store", str(Path(folder) / "store"))]
        for pooling, paths in PATHS_OF_POOLING.items():
            model = bert.write(Path(folder) / f"{pooling}.gguf", pooling)
            results.append(fuzz_server(cases, seed, paths, "--model", str(model), "--name", "builtin"))
    for name, count in sorted(statuses.items()):
        print(f"{count:6} {name}")
    wrong = sum(failed for _, failed in results)
    print(f"{sum(count for count, _ in results)} cases, {wrong} of them failed")
    return int(wrong > 0)

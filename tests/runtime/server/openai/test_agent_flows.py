"""Whole conversations as coding agents hold them over the Responses API: their shapes, in words of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from websockets.sync.client import connect

from fakes.server import DATA, Server, data_uri

Body: TypeAlias = dict[str, Any]
Answer: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[Body], Answer]


def function(name: str, *required: str, **parameters: str) -> Body:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"type": "function", "name": name, "strict": False, "parameters": schema}


def message(role: str, *texts: str, **more: Any) -> Body:
    kind = "output_text" if role == "assistant" else "input_text"
    return (
        {"type": "message", "id": f"msg_{role}", "role": role}
        | more
        | {"content": [{"type": kind, "text": text} for text in texts]}
    )


META = {"internal_chat_message_metadata_passthrough": {"turn_id": "t1", "create_time": 1796042044.5}}
CODEX: Body = {
    "model": "builtin",
    "stream": True,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a2",
    "client_metadata": {"session_id": "01a2", "x-codex-turn-metadata": '{"sandbox": "seccomp"}'},
    "max_output_tokens": 8,
    "tools": [
        function("exec_command", "cmd", cmd="string", workdir="string", tty="boolean", yield_time_ms="number"),
        function("write_stdin", "session_id", session_id="number", chars="string"),
        function("view_image", "path", path="string"),
        {"type": "namespace", "name": "multi_agent_v1", "description": "Sub-agents.", "tools": [
            function("close_agent", "target", target="string"), function("spawn_agent", "message", message="string")]},
        function("get_goal"),
        {"type": "web_search", "external_web_access": False},
    ],
}  # fmt: skip
CODEX_START = [
    message("developer", "You are an agent in a terminal."),
    message("developer", "<skills>none</skills>", "<permissions>read-only</permissions>"),
    message("user", "<environment_context><cwd>/work</cwd></environment_context>"),
    message("user", "List the files.", **META),
]
RAN = [
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Let me look."}],
     "encrypted_content": None},
    message("assistant", "I look.", phase="commentary"),
    {"type": "function_call", "id": "fc_1", "name": "exec_command", "arguments": '{"cmd": "ls"}', "call_id": "call_1"},
    {"type": "function_call_output", "call_id": "call_1", "output": "Exit code: 0\nOutput:\na.txt"},
]  # fmt: skip
SAW = [
    {"type": "function_call", "name": "view_image", "arguments": '{"path": "a.png"}', "call_id": "call_2"},
    {"type": "function_call_output", "call_id": "call_2", "output": [
        {"type": "input_image", "image_url": data_uri(DATA / "picture-5.png"), "detail": "auto"}]},
]  # fmt: skip
PATCHED = [
    {"type": "custom_tool_call", "id": "ctc_1", "status": "completed", "call_id": "call_3", "name": "apply_patch",
     "input": "*** Begin Patch\n*** Add File: b.txt\n+one\n*** End Patch"},
    {"type": "custom_tool_call_output", "call_id": "call_3", "output": '{"output": "Done!", "metadata": {}}'},
    {"type": "function_call", "name": "spawn_agent", "namespace": "multi_agent_v1", "arguments": '{"message": "x"}',
     "call_id": "call_4"},
    {"type": "function_call_output", "call_id": "call_4", "output": [{"type": "input_text", "text": "agent-1"}]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    message("assistant", "Done.", phase="final_answer"),
    message("user", "Thanks. And now?"),
]  # fmt: skip
LEFT_OUT = "'web_search' belongs to another service"
SUMMARY = "reasoning.summary has no effect"


def codex_over_http(ask: Ask) -> set[str]:
    """Codex with a provider of its own: each request holds the whole conversation."""
    turns = [CODEX_START, CODEX_START + RAN, CODEX_START + RAN + SAW, CODEX_START + RAN + SAW + PATCHED]
    answers = [ask(CODEX | {"input": turn}) for turn in turns]
    assert answers[0]["usage"]["input_tokens"] < answers[-1]["usage"]["input_tokens"]
    assert answers[2]["usage"]["input_tokens_details"]["image_tokens"] == 16
    assert [tool["name"] for tool in answers[0]["tools"]] == [
        "exec_command", "write_stdin", "view_image", "close_agent", "spawn_agent", "get_goal",
    ]  # fmt: skip
    return {text for answer in answers for text in answer.get("warnings", [])}


def codex_without_streams(ask: Ask) -> set[str]:
    answer = ask(CODEX | {"input": CODEX_START + RAN, "stream": False, "parallel_tool_calls": False})
    return set(answer["warnings"])


def copilot(ask: Ask) -> set[str]:
    """An editor's agent: chat-like items, a limit for each answer, encrypted reasoning of an earlier service."""
    body = {
        "model": "builtin", "stream": True, "store": False, "max_output_tokens": 8, "top_p": 1,
        "text": {"verbosity": "medium"}, "reasoning": {"effort": "medium", "summary": "detailed"},
        "include": ["reasoning.encrypted_content"], "tools": [function("read_file", "path", path="string")],
        "input": [
            {"role": "system", "content": [{"type": "input_text", "text": "You are an assistant."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "What is in a.txt?"}]},
            {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "gAAAAABo"},
            {"type": "function_call", "call_id": "c1", "name": "read_file", "arguments": '{"path": "a.txt"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
        ],
    }  # fmt: skip
    return set(ask(body)["warnings"])


def agents_framework(ask: Ask) -> set[str]:
    """A framework for agents: hosted tools in the list and in the history, items as they were received."""
    body = {
        "model": "builtin", "max_output_tokens": 8, "tool_choice": "required", "parallel_tool_calls": None,
        "tools": [function("hand_off", reason="string"), {"type": "file_search", "vector_store_ids": ["v"]},
                  {"type": "mcp", "server_label": "s", "server_url": "https://a.example", "require_approval": "never"}],
        "include": ["file_search_call.results"],
        "input": [
            {"role": "user", "content": "Find it."},
            {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["it"], "results": None},
            {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "Here.", "annotations": [{"type": "file_citation"}]}]},
            {"role": "user", "content": "Go on."},
        ],
    }  # fmt: skip
    return set(ask(body)["warnings"])


FLOWS: dict[str, tuple[Callable[[Ask], set[str]], set[str]]] = {
    "codex over HTTP": (codex_over_http, {LEFT_OUT, SUMMARY, "'web_search_call' are shown"}),
    "codex without streams": (codex_without_streams, {LEFT_OUT, SUMMARY}),
    "copilot": (copilot, {"can decrypt it; it is left out", SUMMARY}),
    "agents framework": (
        agents_framework,
        {
            "'file_search' belongs to another service",
            "'mcp' belongs to another service",
            "'file_search_call' are shown",
            "'file_search_call.results'",
        },
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_an_agents_conversation_is_answered_with_these_warnings_only(server: Server, name: str) -> None:
    flow, expected = FLOWS[name]

    def ask(body: Body) -> Answer:
        answer = server.post(body, "/v1/responses", headers={"originator": "codex_exec", "version": "0.171.0"})
        assert answer.status_code == 200, answer.text
        if not body.get("stream"):
            return dict(answer.json())
        events = [json.loads(block.partition("data: ")[2]) for block in answer.text.split("\n\n") if block]
        assert events[-1]["type"] in ("response.completed", "response.incomplete")
        return dict(events[-1]["response"])

    warnings = {text for text in flow(ask) if "chat template" not in text}
    assert {text for text in warnings if not any(part in text for part in expected)} == set()
    assert {part for part in expected if not any(part in text for text in warnings)} == set()


def test_codex_with_its_default_provider_holds_a_conversation_over_a_websocket(server: Server) -> None:
    """It warms up, sends its tools among the items, and then only what is new."""
    common = {name: CODEX[name] for name in ("model", "store", "include", "client_metadata", "max_output_tokens")}
    common |= {"type": "response.create", "tool_choice": "auto", "parallel_tool_calls": False}
    common |= {"reasoning": {"effort": "low", "context": "all_turns"}, "text": {"verbosity": "low"}}
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /[\\s\\S]+/"}
    custom = {"type": "custom", "name": "exec", "description": "Runs JavaScript.", "format": grammar}
    groups = [{"type": "namespace", "name": "functions", "description": "", "tools": [custom]},
              {"type": "namespace", "name": "clock", "tools": [function("sleep", duration_ms="number")]}]  # fmt: skip
    added = {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": groups}
    update = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    with connect(f"ws{server.url.removeprefix('http')}/v1/responses") as socket:

        def ask(**fields: Any) -> Answer:
            socket.send(json.dumps(common | fields))
            while (event := json.loads(socket.recv(timeout=30)))["type"] not in (
                "response.completed",
                "response.incomplete",
            ):
                assert event["type"] not in ("error", "response.failed"), event
            return dict(event["response"])

        ask(input=[], generate=False)
        first = ask(
            input=[added, *CODEX_START, update], tool_choice={"type": "custom", "name": "exec"}, max_output_tokens=60
        )
        (call,) = first["output"]
        assert (call["type"], call["namespace"], call["name"]) == ("custom_tool_call", "functions", "exec")
        output = [{"type": "input_text", "text": "Script completed\n"}, {"type": "input_text", "text": "a.txt\n"}]
        result = {"type": "custom_tool_call_output", "id": "ctco_1", "call_id": call["call_id"], "output": output}
        second = ask(input=[result | META], previous_response_id=first["id"])
    assert [tool["name"] for tool in second["tools"]] == ["exec", "sleep"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]

"""Tools other than functions: offered as functions if the client runs them, else left out. Pure: no I/O."""

from __future__ import annotations

import json
from typing import Any

from ...types.warnings import Warnings
from ..http import tool_forms

_COMMAND = {"type": "string", "description": "The command to run."}
_PATH = {"type": "string", "description": "The path of the file or folder."}
_LINES = {"type": "array", "items": {"type": "integer"}, "description": "The first and the last line; -1 is the end."}
_FILE_PROPERTIES = {
    "path": _PATH,
    "view_range": _LINES,
    "file_text": {"type": "string", "description": "The content of the created file."},
    "old_str": {"type": "string", "description": "The text to replace; it must occur once."},
    "new_str": {"type": "string", "description": "The text that replaces it."},
    "insert_line": {"type": "integer", "description": "The text is inserted after this line."},
    "insert_text": {"type": "string", "description": "The text to insert."},
}
_OLD_AND_NEW_PATH = {"old_path": {"type": "string"}, "new_path": {"type": "string"}}


def _with_command(commands: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    properties = {"command": {"type": "string", "enum": commands}, **properties}
    return {"type": "object", "properties": properties, "required": ["command"]}


_BASH = {"type": "object", "properties": {"command": _COMMAND, "restart": {"type": "boolean"}}}
_EDITOR = _with_command(["view", "create", "str_replace", "insert"], _FILE_PROPERTIES)
_MEMORY = _with_command(
    ["view", "create", "str_replace", "insert", "delete", "rename"], {**_FILE_PROPERTIES, **_OLD_AND_NEW_PATH}
)
_RUN_BY_CLIENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bash_": ("bash", "Runs a command in a shell that stays open, or restarts the shell.", _BASH),
    "text_editor_": ("str_replace_based_edit_tool", "Views, creates and edits text files.", _EDITOR),
    "memory_": ("memory", "Views, creates, edits, deletes and renames files under /memories.", _MEMORY),
}
"""Tools that clients run themselves, by the start of their type. Anthropic's models know their parameters.

Each has a default name, a description and parameters.
"""


def adapt_tools(tools: list[Any], warnings: Warnings) -> tuple[list[Any], set[str]]:
    """The tools that are functions, and the names of those that are left out."""
    kept: list[Any] = []
    left_out: set[str] = set()
    for i, tool in enumerate(tools):
        path = f"tools[{i}]"
        if not isinstance(tool, dict):
            tool_forms.leave_out(tool, path, warnings)
            continue
        adapted = _adapt_tool(_flat(tool), path, warnings)
        if adapted is None:
            left_out.add(str(tool.get("name") or tool.get("mcp_server_name") or tool.get("type")))
        else:
            kept.append(adapted)
    return kept, left_out


def _flat(tool: dict[str, Any]) -> dict[str, Any]:
    """A copy of the tool, from OpenAI's forms of a function if it has one of these."""
    function = tool.get("function")
    flat = {**tool, **function} if isinstance(function, dict) else {**tool}
    flat.pop("function", None)
    if flat.get("type") == "function":
        flat["type"] = "custom"
    if "input_schema" not in flat and "parameters" in flat:
        flat["input_schema"] = flat.pop("parameters")
    return flat


def _adapt_tool(tool: dict[str, Any], path: str, warnings: Warnings) -> dict[str, Any] | None:
    """The tool as a function, or `None` if it is left out."""
    kind = tool.get("type") or "custom"
    if kind != "custom":
        for prefix, (name, description, schema) in _RUN_BY_CLIENTS.items():
            if str(kind).startswith(prefix):
                function = {"name": name, "description": description, "input_schema": schema}
                return _adapt_tool({**function, **tool, "type": "custom"}, path, warnings)
        text = f"{path} has the type {kind!r:.60}, which this server cannot run"
        warnings.add_unless_strict(text, path, instead="it is left out")
        return None
    if not tool_forms.has_name(tool):
        tool_forms.leave_out(tool, path, warnings)
        return None
    tool = tool_forms.read(tool, "input_schema", path, warnings)
    if tool.pop("defer_loading", None):
        warnings.add_unless_strict("defer_loading has no effect", "tools", instead="the tools are shown from the start")
    callers = tool.pop("allowed_callers", None)
    if isinstance(callers, list) and callers and "direct" not in callers:
        warnings.add_unless_strict(f"{path}.allowed_callers has no effect: the model calls all tools directly", path)
    examples = tool.pop("input_examples", None)
    if isinstance(examples, list) and examples:
        shown = f"Examples of its input: {json.dumps(examples, ensure_ascii=False)}"
        tool["description"] = "\n\n".join(str(part) for part in (tool.get("description"), shown) if part)
    return tool


def change_tools(tools: list[Any], messages: list[Any]) -> tuple[list[Any], list[Any]]:
    """The tools after the additions and removals in system messages, and the messages without them."""
    changed = list(tools)
    remaining: list[Any] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) and message.get("role") == "system" else None
        changes = [block for block in content if _is_change(block)] if isinstance(content, list) else []
        for change in changes:
            changed = _changed(changed, change["type"], change["tool"])
        if changes and isinstance(content, list):
            content = [block for block in content if not _is_change(block)]
            message = message | {"content": content} if content else None
        remaining += [] if message is None else [message]
    return changed, remaining


def _is_change(block: object) -> bool:
    is_change = isinstance(block, dict) and block.get("type") in ("tool_addition", "tool_removal")
    return is_change and isinstance(block, dict) and isinstance(block.get("tool"), dict)


def _changed(tools: list[Any], change: str, tool: dict[str, Any]) -> list[Any]:
    """A tool that is added by reference is among the tools already, as one to be loaded later."""
    definition = tool.get("definition")
    if change == "tool_addition" and not isinstance(definition, dict):
        return tools
    name = definition.get("name") if isinstance(definition, dict) else tool.get("name")
    others = [one for one in tools if not (isinstance(one, dict) and one.get("name") == name)]
    return [*others, definition] if change == "tool_addition" else others

"""References to stored items, outputs whose calls are missing, and warnings in bodies, over HTTP and a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from fakes.server import DATA, Server, data_uri, serving
from galago.runtime.server.openai.responses import compaction
from galago.runtime.server.storage.database import Database
from galago.runtime.server.storage.responses import ResponseStore

Json = dict[str, Any]

TOOLS: list[Json] = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]
PICTURE: Json = {"type": "input_image", "image_url": data_uri(DATA / "picture-5.png")}
ORPHAN: Json = {"type": "function_call_output", "call_id": "call_x", "output": "Result-7"}
ASK: Json = {"role": "user", "content": "And now?"}
GIVEN: dict[str, Json] = {
    "msg_a": {"role": "user", "content": "The code word is slate."},
    "msg_b": {"role": "user", "content": [PICTURE, {"type": "input_text", "text": "Look."}]},
    "rs_a": {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
    "fc_a": {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    "fco_a": {"type": "function_call_output", "call_id": "c", "output": "Result-7"},
    "ctc_a": {"type": "custom_tool_call", "call_id": "d", "name": "note", "input": "x"},
    "ctco_a": {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "Noted."}]},
    "msg_c": {"role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
}
"""Items of every kind, by the ids with which they are sent."""
ITEMS = [item | {"id": item_id} for item_id, item in GIVEN.items()]
REFERENCES: list[Json] = [{"type": "item_reference", "id": item_id} for item_id in GIVEN]


@pytest.fixture(scope="module")
def storing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("--threads", "1", "--store", str(tmp_path_factory.mktemp("store"))) as running:
        running.wait_until_ready()
        running.post({"input": ITEMS, "max_output_tokens": 1}, "/v1/responses").raise_for_status()
        yield running


def post(server: Server, body: Json, path: str = "") -> Json:
    answer = server.post({"model": "builtin"} | body, f"/v1/responses{path}")
    assert answer.status_code == 200, answer.text
    result: Json = answer.json()
    return result


def count(server: Server, items: list[Any], **fields: Any) -> Json:
    return post(server, {"input": items} | fields, "/input_tokens")


def lacks_references(answer: Json) -> bool:
    return any("item_reference" in text for text in answer.get("warnings", []))


def socket_answers(server: Server, *bodies: Json) -> Iterator[Json]:
    """The last event of each answer on one connection; a body may refer to the id before it as `previous`."""
    previous = None
    with connect(f"ws{server.url.removeprefix('http')}/v1/responses") as socket:
        for body in bodies:
            message = {"type": "response.create", "max_output_tokens": 1, "store": False} | body
            if message.pop("continues", False):
                message["previous_response_id"] = previous
            socket.send(json.dumps(message))
            event: Json = {"type": ""}
            while event["type"] not in ("response.completed", "response.incomplete", "response.failed", "error"):
                event = json.loads(socket.recv(timeout=30))
            previous = event.get("response", {"id": previous})["id"]
            yield event


@pytest.mark.parametrize("item_id", GIVEN)
def test_a_reference_stands_for_the_stored_item(storing: Server, item_id: str) -> None:
    for reference in ({"type": "item_reference", "id": item_id}, {"id": item_id}, {"type": None, "id": item_id}):
        referring = count(storing, [ASK, reference, ASK])
        assert referring == count(storing, [ASK, GIVEN[item_id], ASK]) and not lacks_references(referring)


def test_a_conversation_of_references_is_answered_everywhere(storing: Server) -> None:
    whole = post(storing, {"input": [*ITEMS, ASK], "max_output_tokens": 1})
    body = {"input": [*REFERENCES, ASK], "max_output_tokens": 1}
    (event,) = socket_answers(storing, body)
    for answer in (post(storing, body), event["response"]):
        assert answer["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
        assert answer["usage"]["input_tokens_details"]["image_tokens"] == 16
        assert answer["warnings"] == whole["warnings"]
    *kept, compacted = post(storing, {"input": REFERENCES}, "/compact")["output"]
    text = compaction.text_of(compacted["encrypted_content"])
    assert text and all(words in text for words in ("call of f", "Result-7", "Noted.", "Done."))
    assert kept[0]["content"][0]["text"] == "The code word is slate."


def test_items_of_an_answer_can_be_referred_to_and_are_stored_with_the_input(storing: Server) -> None:
    first = post(storing, {"input": "Do it.", "tools": TOOLS, "tool_choice": "required", "max_output_tokens": 60})
    call = first["output"][0]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "1"}
    second = post(storing, {"input": [ASK, {"id": call["id"]}, output], "tools": TOOLS, "max_output_tokens": 1})
    assert "warnings" not in second
    items = httpx.get(f"{storing.url}/v1/responses/{second['id']}/input_items?order=asc").json()["data"]
    assert items[1] == call | {"status": items[1]["status"]}
    third = post(storing, {"input": [{"id": item["id"]} for item in items], "tools": TOOLS, "max_output_tokens": 1})
    assert third["usage"]["input_tokens"] == second["usage"]["input_tokens"]


def test_of_items_with_one_id_the_newest_that_is_left_is_meant(storing: Server) -> None:
    texts = {"Short.": "", "A text that has some more tokens than the other one.": ""}
    for text in texts:
        texts[text] = post(storing, {"input": [{"id": "msg_twice", **ASK, "content": text}]})["id"]
    for text in reversed(texts):
        expected = count(storing, [{"role": "user", "content": text}])["input_tokens"]
        assert count(storing, [{"id": "msg_twice"}])["input_tokens"] == expected
        httpx.delete(f"{storing.url}/v1/responses/{texts[text]}").raise_for_status()
    assert lacks_references(count(storing, [{"id": "msg_twice"}, ASK]))


@pytest.mark.parametrize("item", [{"id": "msg_none"}, {"type": "item_reference", "id": "resp_x"}, {"id": ""}])
def test_a_reference_to_an_item_that_is_not_stored_is_left_out_with_a_warning(storing: Server, item: Json) -> None:
    answer = post(storing, {"input": [item, REFERENCES[0], ASK], "max_output_tokens": 1})
    assert lacks_references(answer)
    assert answer["usage"]["input_tokens"] == count(storing, [GIVEN["msg_a"], ASK])["input_tokens"]
    assert lacks_references(post(storing, {"input": [item, ASK]}, "/compact"))


def test_items_with_ids_of_other_types_do_not_fail(storing: Server) -> None:
    odd = [{**ASK, "id": 5}, {**ASK, "id": ["x"]}, {"type": "item_reference", "id": 5}, {"type": "item_reference"}]
    assert lacks_references(post(storing, {"input": odd, "max_output_tokens": 1}))


def test_items_that_an_earlier_version_stored_are_found(tmp_path: Path) -> None:
    database = Database(tmp_path)
    items, response = b'[{"id": "msg_1", "type": "message"}]', b'{"output": [{"id": "msg_2"}]}'
    ResponseStore(database).add("resp_1", None, items, response)
    with database.transaction() as connection:
        connection.execute("DROP TABLE response_items")
    assert ResponseStore(database).items(["msg_0", "msg_1", "msg_2"]) == {
        "msg_1": {"id": "msg_1", "type": "message"},
        "msg_2": {"id": "msg_2"},
    }
    database.close()


def test_an_output_without_its_call_is_shown_with_a_warning(storing: Server) -> None:
    first = post(storing, {"input": "Hi", "max_output_tokens": 1})
    continued: Json = {"input": [ORPHAN], "max_output_tokens": 1, "previous_response_id": first["id"]}
    single: Json = {"input": [{"role": "user", "content": "Hi"}, *first["output"], ORPHAN], "max_output_tokens": 1}
    answers = [post(storing, body) for body in (continued, single)]
    assert [["calls answered by input[" in text for text in answer["warnings"]] for answer in answers] == [[True]] * 2
    assert answers[0]["usage"]["input_tokens"] == answers[1]["usage"]["input_tokens"]
    empty = count(storing, [{**ORPHAN, "output": ""}], previous_response_id=first["id"])
    assert answers[0]["usage"]["input_tokens"] > empty["input_tokens"]


def test_a_conversation_over_a_websocket_goes_on_after_an_error(storing: Server) -> None:
    refused: list[Json] = [
        {"input": 5},
        {"input": "Hi", "conversation": "c"},
        {"input": "Hi", "tool_choice": "required"},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]},
        {"input": "word " * 20000},
    ]
    bodies: list[Json] = [{"input": "Hi"}, {"input": [ORPHAN], "continues": True}]
    for body in refused:
        bodies += [body | {"continues": True}, {"input": "Go on.", "continues": True}]
    kinds = [event["type"] for event in socket_answers(storing, *bodies)]
    answered = "response.incomplete"
    assert kinds == [answered, answered] + ["error", answered] * len(refused)


@pytest.mark.parametrize(
    "items",
    [
        [REFERENCES[0], ASK, REFERENCES[0]],
        [ITEMS[0], ASK, REFERENCES[0]],
        [REFERENCES[0], {"id": "msg_a"}, ASK, {"type": None, "id": "msg_a"}],
    ],
)
def test_an_item_that_is_referred_to_twice_is_shown_once(storing: Server, items: list[Json]) -> None:
    answer = count(storing, items)
    assert answer["input_tokens"] == count(storing, [GIVEN["msg_a"], ASK])["input_tokens"]
    places = [f"input[{i}] refers to" for i, item in enumerate(items) if item.get("id") == "msg_a"][1:]
    assert [text[: len(place)] for place, text in zip(places, answer["warnings"], strict=True)] == places


def test_a_reference_to_an_item_of_the_continued_conversation_is_left_out(storing: Server) -> None:
    first = post(storing, {"input": [ASK | {"id": "msg_q"}], "max_output_tokens": 1})
    before = {"previous_response_id": first["id"]}
    expected = count(storing, [ASK], **before)["input_tokens"]
    for item_id in ("msg_q", first["output"][0]["id"]):
        answer = count(storing, [{"id": item_id}, ASK], **before)
        assert answer["input_tokens"] == expected and "shown once" in answer["warnings"][0]
        compacted = post(storing, {"input": [{"id": item_id}, ASK]} | before, "/compact")
        assert "shown once" in compacted["warnings"][0]


@pytest.mark.parametrize("continues", [True, False])
def test_references_over_a_websocket_find_items_of_its_last_conversation(server: Server, continues: bool) -> None:
    with connect(f"ws{server.url.removeprefix('http')}/v1/responses") as socket:

        def ask(**fields: Any) -> Json:
            socket.send(json.dumps({"type": "response.create", "max_output_tokens": 1} | fields))
            event: Json = {"type": ""}
            while event["type"] not in ("response.completed", "response.incomplete", "error"):
                event = json.loads(socket.recv(timeout=30))
            response: Json = event["response"]
            return response

        first = ask(input=ITEMS)
        second = ask(input=[ASK | {"id": "msg_q"}], previous_response_id=first["id"])
        ids = [*GIVEN, first["output"][0]["id"], "msg_q", second["output"][0]["id"]]
        references = [{"type": "item_reference", "id": item_id} for item_id in ids]
        previous = {"previous_response_id": second["id"]} if continues else {}
        third = ask(input=[*references, ASK], **previous)
        unknown = ask(input=[{"id": "msg_none"}, ASK])
        forgotten = ask(input=[REFERENCES[0], ASK])
    whole = [*ITEMS, *first["output"], ASK, *second["output"], ASK]
    assert third["usage"]["input_tokens"] == count(server, whole)["input_tokens"]
    assert not lacks_references(third) and lacks_references(unknown) and lacks_references(forgotten)
    assert sum("shown once" in text for text in third.get("warnings", [])) == (len(ids) if continues else 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses/compact", {"input": [{"id": "msg_none"}, ASK]}),
        ("/v1/responses/input_tokens", {"input": [{"id": "msg_none"}, ASK]}),
        ("/v1/messages/count_tokens", {"messages": [ASK], "tools": [{"type": "web_search_20250305", "name": "w"}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "Hi"}]}, ASK]}),
    ],
)  # fmt: skip
def test_warnings_are_in_the_body_as_in_the_header(storing: Server, path: str, body: Json) -> None:
    answer = storing.post({"model": "builtin"} | body, path)
    assert answer.status_code == 200, answer.text
    assert answer.json()["warnings"] == json.loads(answer.headers["x-galago-warnings"]) != []

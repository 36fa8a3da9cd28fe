"""Chat templates are untrusted code: they render within limits, in processes of their own, or are refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from fakes.hostile_templates import BOMBS, UNCOMPILABLE, bomb, sleeping_bombs
from fakes.server import children_running
from fakes.waiting import wait_until
from galago.models.errors import GalagoError, ModelError, TemplateError, TemplateRefusal
from galago.runtime.prompt import template as template_module
from galago.runtime.prompt.template import MAX_RENDERERS, RENDERERS, ChatTemplate, Renderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MEMORY = 64 << 20


def messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def renderers() -> list[psutil.Process]:
    """The renderers of this test process that have not ended."""
    return children_running("galago.runtime.prompt.template_renderer")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GALAGO_LIMIT_TEMPLATE_SECONDS", "0")  # the least that a template gets is a quarter
    monkeypatch.setenv("GALAGO_LIMIT_TEMPLATE_MEMORY", "64MiB")
    RENDERERS.close()
    yield
    RENDERERS.close()


@pytest.fixture(scope="module")
def sleeping() -> ChatTemplate:
    return ChatTemplate(sleeping_bombs(CHATML))


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_goes_off_is_stopped_and_the_next_chat_is_rendered(sleeping: ChatTemplate, name: str) -> None:
    with pytest.raises(TemplateError):
        sleeping.render(messages(name))
    assert "hello<|im_end|>" in sleeping.render(messages("hello"))


@pytest.mark.parametrize("source", UNCOMPILABLE.values(), ids=UNCOMPILABLE)
def test_a_template_that_takes_too_much_to_compile_is_refused(source: str) -> None:
    with pytest.raises((TemplateError, ModelError)):
        ChatTemplate(source)


@pytest.mark.parametrize("name", ["repr", "doubled list"])
def test_a_template_that_always_goes_off_is_refused_when_it_is_loaded(name: str) -> None:
    with pytest.raises(TemplateError) as stopped:
        ChatTemplate(bomb(name))
    assert not isinstance(stopped.value, TemplateRefusal)
    assert "--chat-template" in stopped.value.message and "--limit template_" in stopped.value.message


def test_memory_stays_within_the_limit() -> None:
    code = (
        "import resource, sys; from galago.runtime.prompt.template import RENDERERS, ChatTemplate\n"
        "try: ChatTemplate(sys.argv[1])\n"
        "except Exception as error: print(error)\n"
        "RENDERERS.close()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, bomb("doubled list")], capture_output=True, text=True)
    error, kibibytes = done.stdout.splitlines()
    assert "needs too much memory" in error
    assert int(kibibytes) << 10 < MEMORY + (32 << 20)  # with the files that are mapped


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not show the limits of a process")
def test_a_renderer_writes_no_files_and_starts_no_processes() -> None:
    ChatTemplate(CHATML)
    (process,) = renderers()
    assert process.rlimit(psutil.RLIMIT_DATA) == (MEMORY, MEMORY)
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_NPROC) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_NOFILE)[0] < 20


def test_a_slow_rendering_does_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_TEMPLATE_SECONDS", "2")
    template, errors = ChatTemplate(sleeping_bombs(CHATML)), []

    def go_off() -> None:
        try:
            template.render(messages("loop"))
        except GalagoError as error:
            errors.append(error)

    thread = threading.Thread(target=go_off)
    thread.start()
    wait_until(lambda: RENDERERS._busy == 1)
    assert "hello" in template.render(messages("hello"))
    assert thread.is_alive() and not errors
    thread.join()
    assert len(errors) == 1 and isinstance(errors[0], TemplateError)


def test_many_renderings_at_once_share_a_few_renderers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renderer for which others wait is kept: starting one takes longer than a hundred renderings."""
    started: list[Renderer] = []
    answers: list[str] = []

    class Counted(Renderer):
        def __init__(self) -> None:
            started.append(self)
            super().__init__()

    template = ChatTemplate(CHATML)
    monkeypatch.setattr(template_module, "Renderer", Counted)
    threads = [
        threading.Thread(target=lambda: answers.extend(template.render(messages("hello")) for _ in range(20)))
        for _ in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 640 and all("hello" in answer for answer in answers)
    assert len(started) <= MAX_RENDERERS


def test_renderings_of_one_request_share_their_time() -> None:
    source = "{% for a in range(99999) %}{% for b in range(20) %}{% endfor %}{% endfor %}" + CHATML
    template = ChatTemplate("{% if messages[0].content == 'slow' %}" + source + "{% else %}" + CHATML + "{% endif %}")
    with pytest.raises(TemplateError, match="too long"), template.one_request():
        for _ in range(1000):
            template.render(messages("slow"))
    for _ in range(1000):
        template.render(messages("hello"))


def test_a_refusal_is_cut_short() -> None:
    with pytest.raises(TemplateRefusal) as refused:
        ChatTemplate("{{ raise_exception('x' * 99999) }}").render(messages("hello"))
    assert "xxx" in refused.value.message and len(refused.value.message) < 2000


def test_a_renderer_that_was_killed_from_outside_is_replaced() -> None:
    template = ChatTemplate(CHATML)
    for process in renderers():
        process.kill()
        process.wait()
    assert "hello" in template.render(messages("hello"))


@pytest.mark.parametrize("word", ["hello", "loop"])
def test_renderers_end_with_their_parent(word: str) -> None:
    code = (
        "import sys; from galago.runtime.prompt.template import ChatTemplate\n"
        "template = ChatTemplate(sys.argv[1]); print('ready', flush=True)\n"
        "while True: template.render([{'role': 'user', 'content': sys.argv[2]}])"
    )
    command = [sys.executable, "-c", code, sleeping_bombs(CHATML), word]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdout.readline()
        children = psutil.Process(parent.pid).children()
        parent.kill()
    psutil.wait_procs(children, 10)
    assert children and not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_process_starts_its_own_renderers() -> None:
    code = (
        "import os; from galago.runtime.prompt.template import RENDERERS, ChatTemplate\n"
        "template = ChatTemplate('{{ messages[0].content }}')\n"
        "pid = os.fork()\n"
        "word = 'parent' if pid else 'child'\n"
        "for _ in range(200): assert template.render([{'role': 'user', 'content': word}]) == word\n"
        "RENDERERS.close()\n"
        "os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""A model in a worker process: it gives the same answers, and survives a crash or hang of the process."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image as Pixels

from fakes.server import DATA, WORKER_PROGRAM, children_running, serving
from galago.models import errors
from galago.models.errors import (
    Cancelled,
    EngineCrashed,
    GalagoError,
    InvalidRequest,
    ModelError,
    NotReady,
    Unloaded,
)
from galago.models.files import ModelFiles
from galago.models.registry.resolve import resolve
from galago.runtime import LocalModel, load
from galago.runtime.config import ModelConfig
from galago.runtime.inference.stream import Stream
from galago.runtime.pool.pool import ModelPool
from galago.runtime.pool.resident import ResidentModel
from galago.runtime.process.channel import encode
from galago.runtime.process.messages import Generate
from galago.runtime.process.spawn import WorkerProcess
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started
from galago.runtime.types.messages import Audio, Image, Message, Text
from galago.runtime.types.placement import LoadPlan
from galago.runtime.types.request import Request, Sampling
from galago.runtime.worker import policy
from galago.runtime.worker.main import PREPARATION_THREADS, ModelWorker
from galago.runtime.worker.policy import restart_delay
from galago.runtime.worker.supervisor import WorkerSupervisor

BUILTIN = resolve("builtin")
PICTURE = Image((DATA / "picture-5.png").read_bytes())
SOUND = Audio((DATA / "sound-1.wav").read_bytes())


def ask(*parts: str | Image | Audio, **options: Any) -> Request:
    texts = (Text(part) if isinstance(part, str) else part for part in parts)
    return Request((Message("user", tuple(texts)),), **options)


SHORT = ask("Opposite of big?")
ENDLESS = ask("Tell", ignore_eos=True)


@contextmanager
def working(files: ModelFiles = BUILTIN, **config: Any) -> Iterator[WorkerSupervisor]:
    settings = ModelConfig(**{"threads": 1, "slots": 4} | config)
    worker = WorkerSupervisor(files, lambda: LoadPlan(settings))
    try:
        yield worker
    finally:
        worker.close()


@pytest.fixture(scope="module")
def calm() -> Iterator[WorkerSupervisor]:
    """A worker that no test kills."""
    with working(threads=None) as worker:
        yield worker


def process(worker: WorkerSupervisor) -> psutil.Process:
    return psutil.Process(worker._worker._process.pid)


def text(stream: Stream) -> str:
    return "".join(event.text for event in stream if isinstance(event, Delta))


def begun(worker: WorkerSupervisor, request: Request = ENDLESS) -> Stream:
    """Returns a stream whose answer has begun."""
    stream = worker.generate(request)
    while not any(isinstance(event, Delta) for event in list(stream._events)):
        time.sleep(0.005)
    return stream


def last(stream: Stream) -> Event:
    return list(stream)[-1]


def crash(worker: WorkerSupervisor, number: int = signal.SIGKILL, request: Request = ENDLESS) -> GalagoError:
    """Kills the process in the middle of an answer and returns the error that the answer ends with."""
    stream = begun(worker, request)
    process(worker).send_signal(number)
    end = last(stream)
    assert isinstance(end, Failed)
    return end.error


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def at_rest(worker: WorkerSupervisor) -> bool:
    """Returns whether the process is idle for a quarter of a second."""
    begin = process(worker).cpu_times().user
    time.sleep(0.25)
    return bool(process(worker).cpu_times().user - begin < 0.05)


@pytest.mark.parametrize(
    "request_",
    [
        SHORT,
        ask(PICTURE, "Count the shapes."),
        ask(SOUND, "What was said?"),
        ask("What is 8 - 2?", json_schema={"type": "integer"}),
        ask("Spell ehn.", stop=("h",)),
        ask("Tell", max_tokens=5, sampling=Sampling(temperature=0.8, seed=3)),
        ask("Hi", max_tokens=100_000),
        ask("Spell ehn.", logprobs=2, sampling=Sampling(frequency_penalty=1.0, repeat_penalty=1.2)),
        ask("Hi", max_tokens=5, regex="[ab]+", sampling=Sampling(logit_bias=((5, 1.0), (6, -1.0)))),
    ],
    ids=["text", "picture", "sound", "schema", "stop", "sampled", "warned", "logprobs", "biased"],
)
def test_events_are_those_of_a_model_in_this_process(
    calm: WorkerSupervisor, model: LocalModel, request_: Request
) -> None:
    def events(stream: Stream) -> list[object]:
        return [(event.reason, event.usage) if isinstance(event, Finished) else event for event in stream]

    alone = replace(request_, cache=False)
    assert events(calm.generate(alone)) == events(model._service.generate(None, alone))


@pytest.mark.parametrize(
    "request_",
    [ask("x " * 5000), ask(Image(b"nothing", "messages[0]"), "?"), ask("x", json_schema={"type": "nothing"})],
    ids=["too long", "no picture", "no schema"],
)
def test_an_error_arrives_as_it_was_raised(calm: WorkerSupervisor, model: LocalModel, request_: Request) -> None:
    with pytest.raises(GalagoError) as here:
        model._service.generate(None, request_)
    with pytest.raises(GalagoError) as there:
        calm.generate(request_)
    assert type(here.value) is type(there.value)
    assert (here.value.message, here.value.param) == (there.value.message, there.value.param)


def test_the_model_info_is_the_same(calm: WorkerSupervisor, model: LocalModel) -> None:
    assert calm.info == model.info


def test_a_schema_that_is_not_json_is_refused(calm: WorkerSupervisor) -> None:
    with pytest.raises(InvalidRequest) as refused:
        calm.generate(ask("x", json_schema={"const": {1, 2}}))
    assert refused.value.param == "json_schema"


def test_large_media_are_sent_quickly(calm: WorkerSupervisor) -> None:
    begin = time.process_time()  # other processes do not count
    with pytest.raises(errors.MediaError):
        calm.generate(ask(Image(bytes(28 << 20)), "?"))
    assert time.process_time() - begin < 2


def test_load_progress_is_reported() -> None:
    fractions: list[float] = []
    with load("builtin", isolated=True, progress=fractions.append) as isolated:
        assert isolated.chat("Opposite of big?") == "Small."
    assert fractions == sorted(fractions) and fractions[-1] == 1


def test_closing_a_stream_cancels_its_request(calm: WorkerSupervisor) -> None:
    begun(calm).close()
    wait_until(lambda: at_rest(calm), 30)
    assert not calm._worker._calls


def test_a_caller_that_leaves_cancels_the_preparation(calm: WorkerSupervisor) -> None:
    file = io.BytesIO()
    Pixels.new("RGB", (4000, 4000)).save(file, "PNG")  # takes a tenth of a second to decode
    leaves = time.monotonic() + 0.1
    before = process(calm).cpu_times().user
    with pytest.raises(Cancelled):
        calm.generate(ask(*[Image(file.getvalue())] * 60, "?"), lambda: time.monotonic() > leaves)
    wait_until(lambda: not calm._worker._calls, 30)
    wait_until(lambda: at_rest(calm), 30)
    assert process(calm).cpu_times().user - before < 3  # all 60 take twice as long


def test_many_streams_run_at_once(calm: WorkerSupervisor) -> None:
    streams = [calm.generate(ask(PICTURE, "Count the shapes.")) for _ in range(8)]
    assert [text(stream) for stream in streams] == ["Four."] * 8


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_signal_fails_running_streams_and_the_worker_is_restarted(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with working() as worker:
        before = process(worker).pid
        error = crash(worker, number)
        assert isinstance(error, EngineCrashed) and f"killed by {number.name}" in error.message
        assert not worker.ready
        assert text(worker.generate(SHORT)) == "Small."
        assert process(worker).pid != before
    assert capfd.readouterr().err == f"galago: the worker of builtin was killed by {number.name}; restarting it now\n"


def _has_new_stats(worker: WorkerSupervisor, before: object) -> bool:
    return worker._worker.stats is not before


def test_a_silent_worker_is_restarted_and_an_idle_one_is_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with working(hang_limit=4) as worker:
        healthy = process(worker).pid
        for _ in range(5):  # heartbeats, each a second after the one before
            wait_until(partial(_has_new_stats, worker, worker._worker.stats))
        assert process(worker).pid == healthy and text(worker.generate(SHORT)) == "Small."
        stream = begun(worker)
        process(worker).send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        end = last(stream)
        assert time.monotonic() - begin > 3.5
        assert isinstance(end, Failed) and isinstance(end.error, EngineCrashed)
        assert "no sign of life for 4 s" in end.error.message
        assert text(worker.generate(SHORT)) == "Small."
    assert "no sign of life for 4 s and was killed by SIGKILL" in capfd.readouterr().err


def test_a_busy_worker_exits_when_its_parent_is_killed() -> None:
    code = (
        "import time; from galago.runtime import load; model = load('builtin', isolated=True)\n"
        "stream = model.chat('Tell', stream=True, ignore_eos=True)\n"
        "print(model._service._given[0].loaded._worker._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], 5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_restart_delays_grow_to_a_minute() -> None:
    assert [restart_delay(crashes) for crashes in range(1, 12)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_restarts_are_delayed_from_the_third_crash_until_a_request_finishes(capfd: pytest.CaptureFixture[str]) -> None:
    with working() as worker:
        for _ in range(3):
            process(worker).kill()
            wait_until(lambda: not worker.ready)
            begin = time.monotonic()
            wait_until(lambda: worker.ready)
        assert time.monotonic() - begin > 1
        assert text(worker.generate(SHORT)) == "Small."
        process(worker).kill()
        wait_until(lambda: not worker.ready)
        wait_until(lambda: worker.ready)
    ends = [line.rsplit(" ", 2)[1:] for line in capfd.readouterr().err.splitlines()]
    assert ends == [["it", "now"], ["it", "now"], ["1", "s"], ["it", "now"]]


def test_a_request_waits_for_a_restart_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with working() as worker:
        monkeypatch.setattr(policy, "RESTART_WAIT_SECONDS", 0.1)
        crash(worker)
        with pytest.raises(NotReady):
            worker.generate(SHORT)
        with pytest.raises(Cancelled):
            worker.generate(SHORT, lambda: True)


def test_a_request_that_crashed_the_worker_twice_is_refused() -> None:
    with working() as worker:
        crash(worker)
        crash(worker)
        with pytest.raises(InvalidRequest, match="crashed the model's process twice"):
            worker.generate(ENDLESS)
        assert text(worker.generate(SHORT)) == "Small."


def test_a_request_that_finishes_between_two_crashes_is_not_refused() -> None:
    long = ask("Tell", ignore_eos=True, max_tokens=1000)
    with working() as worker:
        crash(worker, request=long)
        assert isinstance(last(worker.generate(long)), Finished)
        crash(worker, request=long)
        assert isinstance(last(worker.generate(long)), Finished)


def test_two_requests_in_the_same_crash_are_not_refused() -> None:
    with working() as worker:
        other = ask("Tell me", ignore_eos=True)
        for _ in range(2):
            stream = begun(worker, other)
            assert isinstance(crash(worker), EngineCrashed)
            assert isinstance(last(stream), Failed)
        begun(worker).close()
        begun(worker, other).close()


def test_a_failed_reload_is_retried_until_it_works(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(BUILTIN.weights.read_bytes())
    with working(replace(resolve(weights), trusted=True)) as worker:
        weights.rename(tmp_path / "away")
        process(worker).kill()
        wait_until(lambda: worker._crashes >= 2)
        (tmp_path / "away").rename(weights)
        assert text(worker.generate(SHORT)) == "Small."
    assert "the worker of model cannot load its model" in capfd.readouterr().err


def test_a_file_that_crashes_llama_cpp_raises_the_same_error_as_in_this_process(tmp_path: Path) -> None:
    assert BUILTIN.projector
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(BUILTIN.projector.read_bytes().replace(b"v.blk.2.attn_k.weight", b"v.flk.2.attn_k.weight"))
    with pytest.raises(ModelError, match=r"crashed on text-Q8_0.gguf with damaged.gguf: .* was killed by SIG"):
        WorkerSupervisor(resolve("builtin", damaged), lambda: LoadPlan(ModelConfig()))


def test_a_crash_during_the_first_load_is_an_error() -> None:
    def kill(_fraction: float) -> None:
        for child in set(children_running(WORKER_PROGRAM)) - others:
            child.kill()

    others = set(children_running(WORKER_PROGRAM))

    with pytest.raises(EngineCrashed, match="that loads builtin was killed by SIGKILL"):
        WorkerSupervisor(BUILTIN, lambda: LoadPlan(ModelConfig()), kill)


def test_close_ends_running_streams_and_the_process() -> None:
    with working() as worker:
        stream, child = begun(worker), process(worker)
        worker.close()
        end = last(stream)
        assert isinstance(end, Failed) and end.error.message == "the model was closed"
        assert not child.is_running()
        with pytest.raises(Unloaded, match="closed"):
            worker.generate(SHORT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["restarting", "hanging"])
def test_close_waits_neither_for_a_restart_nor_for_a_hanging_worker(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "CLOSE_GRACE_SECONDS", 0.5)
    with working() as worker:
        child = process(worker)
        child.send_signal(number)
        begin = time.monotonic()
        worker.close()
        assert time.monotonic() - begin < 10  # a stopped process never answers
        assert not child.is_running()


def test_the_workers_environment_keeps_what_the_user_has_set() -> None:
    def environment(**extra: str) -> dict[str, str]:
        code = (
            "import json; from galago.runtime.environment import worker_environment\n"
            "print(json.dumps(worker_environment()))"
        )
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | extra, capture_output=True, check=True)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    plain = environment()
    assert (plain["GGML_NO_BACKTRACE"], plain["GOMP_SPINCOUNT"]) == ("1", "1000") and "KMP_BLOCKTIME" in plain
    assert int(plain["MALLOC_ARENA_MAX"]) == 2 and int(plain["MALLOC_MMAP_THRESHOLD_"]) >= 1 << 20
    assert environment(MALLOC_ARENA_MAX="8")["MALLOC_ARENA_MAX"] == "8"
    assert environment(GOMP_SPINCOUNT="7")["GOMP_SPINCOUNT"] == "7"
    assert "GOMP_SPINCOUNT" not in environment(OMP_WAIT_POLICY="passive")


def test_a_worker_gets_that_environment(calm: WorkerSupervisor) -> None:
    assert process(calm).environ()["GOMP_SPINCOUNT"] == os.environ.get("GOMP_SPINCOUNT", "1000")


def test_a_worker_gets_no_variables_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = "HF_TOKEN GALAGO_API_KEY OPENAI_API_KEY AWS_SECRET_ACCESS_KEY NVIDIA_API_KEY HTTPS_PROXY SSH_AUTH_SOCK A"
    for name in secrets.split():
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("GALAGO_LIMIT_PARTS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    started = WorkerProcess()
    try:
        worker = psutil.Process(started.pid)
        # until the program runs, Linux shows the parent's variables, or none
        wait_until(lambda: WORKER_PROGRAM in worker.cmdline() and "PATH" in worker.environ())
        found = worker.environ()
    finally:
        started.kill()
        started.reap()
        started.connection.close()
    assert "secret" not in found.values() and not set(found) & set(secrets.split())
    assert found["GALAGO_LIMIT_PARTS"] == "7" and found["CUDA_VISIBLE_DEVICES"] == "0"
    assert found["PATH"] == os.environ["PATH"] and found["HOME"] == os.environ["HOME"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads another process's limits")
def test_a_worker_is_limited(calm: WorkerSupervisor) -> None:
    limits = {
        name: process(calm).rlimit(getattr(psutil, f"RLIMIT_{name}")) for name in ("CORE", "NOFILE", "FSIZE", "DATA")
    }
    assert limits["CORE"] == (0, 0)
    assert max(limits["NOFILE"]) <= 4096
    assert max(limits["FSIZE"]) == 4096 << 20
    assert 8 << 30 < max(limits["DATA"]) < 10 << 30


def test_a_service_is_not_ready_between_a_crash_and_the_restart() -> None:
    service = ModelPool(ResidentModel(BUILTIN, ModelConfig(), isolated=True))
    service.load()
    try:
        assert service.ready and isinstance(service._given[0].loaded, WorkerSupervisor)
        crash(service._given[0].loaded)
        assert not service.ready
        wait_until(lambda: service.ready)
    finally:
        service.close()


def test_a_process_that_was_started_before_is_used() -> None:
    started = WorkerProcess()
    service = ModelPool(ResidentModel(BUILTIN, ModelConfig(threads=1), isolated=True, process=started))
    service.begin()
    service.load()
    try:
        assert (
            isinstance(service._given[0].loaded, WorkerSupervisor)
            and process(service._given[0].loaded).pid == started.pid
        )
        assert text(service.generate(None, SHORT)) == "Small."
    finally:
        service.close()


def test_load_raises_the_error_of_a_background_load() -> None:
    service = ModelPool(ResidentModel(BUILTIN, ModelConfig(4096), isolated=True, process=WorkerProcess()))
    service.begin()
    with pytest.raises(ModelError, match="trained for a context of 2048"):
        service.load()
    service.close()


def test_an_unused_worker_exits_when_its_connection_is_closed() -> None:
    started = WorkerProcess()
    started.connection.close()
    assert started.wait(20) == 0


def test_a_worker_imports_little_before_its_first_heartbeat() -> None:
    code = "import sys, galago.runtime.worker.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"llama_cpp", "numpy", "asyncio", "filelock", "psutil", "galago.models.registry.installed"}


def test_a_process_with_an_isolated_model_loads_neither_llama_cpp_nor_numpy() -> None:
    code = (
        "import sys; from galago.runtime import load; import galago.runtime.server.app\n"
        "with load('builtin', isolated=True) as model: assert model.chat('Opposite of big?') == 'Small.'\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"llama_cpp", "numpy", "PIL", "jinja2", "soundfile"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_api_process_is_small() -> None:
    """A separate server, because other tests' requests leave a fragmented heap."""
    with serving() as server:
        server.wait_until_ready()
        assert all(server.ask("Opposite of big?").status_code == 200 for _ in range(20))
        api = psutil.Process(server.process.pid)
        assert not [m.path for m in api.memory_maps() if "llama" in m.path or "ggml" in m.path or "numpy" in m.path]
        assert api.memory_full_info().pss < 60e6


def all_answered_again(ends: list[list[str]], before: list[int]) -> bool:
    """Returns whether every stream has completed another answer."""
    return all(each.count("done") > count for each, count in zip(ends, before, strict=True))


def streamed(url: str, ends: list[str], enough: threading.Event) -> None:
    """Sends requests one after another and records how each answer ended."""
    while not enough.is_set():
        body = {"messages": [{"role": "user", "content": "Tell"}], "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body | {"max_tokens": 50}, timeout=60) as answer:
            *_, end = (line for line in answer.iter_lines() if line)
        ends.append("done" if end == "data: [DONE]" else json.loads(end.removeprefix("data: "))["error"]["code"])


def test_a_server_with_eight_streams_survives_several_crashes() -> None:
    with serving("--threads", "1") as running:
        running.wait_until_ready()
        ends: list[list[str]] = [[] for _ in range(8)]
        enough = threading.Event()
        threads = [threading.Thread(target=streamed, args=(running.url, end, enough)) for end in ends]
        for thread in threads:
            thread.start()
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL):
            before = [each.count("done") for each in ends]
            wait_until(partial(all_answered_again, ends, before), 60)
            running.worker().send_signal(number)
        enough.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert {end for each in ends for end in each} == {"done", "engine_crashed"}
        assert sum(each.count("engine_crashed") for each in ends) >= 8  # some were between two answers
        assert running.ask("Opposite of big?").json()["choices"][0]["message"]["content"] == "Small."
        assert len([line for line in running.lines if "the worker of builtin was killed by SIG" in line]) == 3
        assert not [line for line in running.lines if "Traceback" in line]


def test_a_ctrl_c_stops_the_server_and_its_worker() -> None:
    with serving() as running:
        running.wait_until_ready()
        child = running.worker()
        assert os.getpgid(child.pid) != os.getpgid(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        running.process.wait(15)
        assert not child.is_running()
        assert not [line for line in running.lines if "Traceback" in line or "restarting" in line]


def test_started_is_the_first_event(calm: WorkerSupervisor) -> None:
    first = next(iter(calm.generate(SHORT)))
    assert isinstance(first, Started) and first.prompt_tokens > 1


class _Outbox:
    """Stands in for a channel: keeps the messages."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()

    def encode(self, message: Any) -> Any:
        return message

    def send_encoded(self, message: Any, _urgent: bool) -> None:
        self.messages.put(message)


class _WaitingModel:
    """Refuses every request, those with a grammar only when the event is set."""

    def __init__(self) -> None:
        self.compiled = threading.Event()

    def generate(self, request: Request, _cancelled: Callable[[], bool]) -> Stream:
        if request.is_constrained:
            self.compiled.wait()
        raise InvalidRequest("no")


def test_text_does_not_wait_for_requests_whose_grammars_are_compiled() -> None:
    outbox, model = _Outbox(), _WaitingModel()
    worker: Any = ModelWorker(outbox, load)  # type: ignore[arg-type]
    worker._model = model
    for number in range(2 * PREPARATION_THREADS):
        worker.handle(Generate(number, encode(ask("x", regex="a"))))
    worker.handle(Generate(99, encode(SHORT)))
    assert outbox.messages.get().number == 99
    model.compiled.set()
    assert {outbox.messages.get().number for _ in range(2 * PREPARATION_THREADS)} == {*range(2 * PREPARATION_THREADS)}

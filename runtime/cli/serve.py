"""`galago serve`: serves a model over HTTP, on the loopback address by default."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..types.keep_alive import keep_alive_seconds
from ..types.load_options import FILES, LOADING
from .ui import config_file, options, progress

if TYPE_CHECKING:
    from ..config import ServerConfig
    from ..service import Service

ServedModel = Annotated[
    str | None,
    typer.Option(
        help="serve only this model: builtin, an installed one, a preset, or a GGUF file  [default: any, loaded when "
        "a request names it]",
        metavar="MODEL",
    ),
]
KeepAlive = Annotated[
    str,
    typer.Option(
        help="without --model: unload a model that has had no request for this long, such as 90s, 5m or 2h; -1: never",
        metavar="TIME",
    ),
]
Name = Annotated[str | None, typer.Option(help="the model's id in the API  [default: the file's name]", metavar="NAME")]
Alias = Annotated[
    list[str] | None, typer.Option(help="another name of the model in the API; may be repeated", metavar="NAME")
]
AnyModel = Annotated[bool, typer.Option("--any-model", help="answer requests for any model with this one")]
Host = Annotated[str, typer.Option(help="address to listen on", metavar="HOST")]
Port = Annotated[int, typer.Option(help="port to listen on; 0 means any free port", metavar="PORT")]
Key = Annotated[
    str | None, typer.Option(help="key that clients must send; shows in the list of processes", metavar="KEY")
]
KeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", help="file with the key that clients must send", metavar="FILE")
]
KeysFile = Annotated[
    Path | None,
    typer.Option("--api-keys-file", help="TOML file with several keys, each with a name and limits", metavar="FILE"),
]
AuditFile = Annotated[
    Path | None,
    typer.Option(
        "--audit-log",
        help="append a JSON line about each request, without its content, to this file",
        metavar="FILE",
    ),
]
LogFileOption = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        help="also write the log to this file, which begins anew at 5 MiB; 3 older ones are kept",
        metavar="FILE",
    ),
]
Grace = Annotated[
    float,
    typer.Option(help="time for running requests to finish after SIGTERM, before they are ended", metavar="SECONDS"),
]
AllowHost = Annotated[
    list[str] | None, typer.Option(help="accept this Host header too; may be repeated", metavar="HOST")
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        help="let pages of this origin send requests, such as app://obsidian.md, or tauri:// for all of a scheme; may "
        "be repeated",
        metavar="ORIGIN",
    ),
]
StoreDir = Annotated[
    Path | None,
    typer.Option(
        "--store", help="keep clients' files, batches and responses in this folder; only you can read it", metavar="DIR"
    ),
]
AllowPull = Annotated[bool, typer.Option("--allow-pull", help="let clients download models from the Hub")]
AllowCreate = Annotated[bool, typer.Option("--allow-create", help="let clients make presets")]
AllowRm = Annotated[bool, typer.Option("--allow-rm", help="let clients delete models and presets")]
LimitValue = Annotated[
    list[str] | None,
    typer.Option("--limit", help="change a limit, such as body_bytes=128MiB; may be repeated", metavar="NAME=VALUE"),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        config_file.CONFIG_FLAG,
        help="TOML file with these options, without their dashes  [default: config.toml in the settings folder]",
        metavar="FILE",
    ),
]
ShowConfig = Annotated[
    bool,
    typer.Option(config_file.SHOW_FLAG, help="show which options apply and where they come from, and serve nothing"),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="refuse a request instead of warning that something is changed or left out, such as an unknown field or "
        "model",
    ),
]


_MAX_KEY_FILE_BYTES = 4096


def run_command(command: Any, arguments: list[str]) -> Any:
    """Runs the command with the options of the configuration file, or shows what applies."""
    from ...models.errors import GalagoError

    run = partial(command.main, prog_name="galago serve", standalone_mode=False)
    if not {"--help", "-h"}.isdisjoint(arguments):
        return run(arguments)
    file = config_file.config_file(command, arguments)
    if config_file.SHOW_FLAG in arguments:
        print("\n".join(file.shown(arguments)))
        return 0
    try:
        return run(file.arguments(arguments))
    except GalagoError as error:
        raise file.located(error, arguments) from error


@options.with_options(loading=LOADING)
def serve(
    *,
    model: ServedModel = None,
    name: Name = None,
    alias: Alias = None,
    any_model: AnyModel = False,
    keep_alive: KeepAlive = "5m",
    host: Host = "127.0.0.1",
    port: Port = 8080,
    loading: options.OptionValues,
    api_key: Key = None,
    api_key_file: KeyFile = None,
    api_keys_file: KeysFile = None,
    audit_log: AuditFile = None,
    log_file: LogFileOption = None,
    grace: Grace = 10.0,
    allow_host: AllowHost = None,
    allow_origin: AllowOrigin = None,
    store: StoreDir = None,
    allow_pull: AllowPull = False,
    allow_create: AllowCreate = False,
    allow_rm: AllowRm = False,
    strict: Strict = False,
    limit: LimitValue = None,
    config: ConfigOption = None,
    show_config: ShowConfig = False,
) -> None:
    """Serve models over HTTP (OpenAI, Anthropic, Ollama APIs), all of which share --memory unless --model names one."""
    from ...models.errors import ConfigError
    from ..config import ServerConfig
    from ..types.limits import check_limits, set_limits

    set_limits(limit or ())
    check_limits()
    server_config = ServerConfig(
        host=host,
        port=port,
        api_key=_api_key(api_key, api_key_file),
        api_keys_file=api_keys_file,
        audit_log=audit_log,
        grace_seconds=grace,
        allowed_hosts=tuple(allow_host or ()),
        allowed_origins=tuple(origin.lower() for origin in allow_origin or ()),
        strict=strict,
        allow_pull=allow_pull,
        allow_create=allow_create,
        allow_rm=allow_rm,
        store=store,
    )
    names = _Names(name, tuple(alias or ()), any_model)
    if "" in names.aliases:
        raise ConfigError("an alias cannot be empty", "alias")
    from ..server import log_file as log_files
    from ..server import signals

    with signals.handled(), log_files.copied_to(log_file):
        if model is None and not (name or any_model or any(loading.get(file.name) for file in FILES)):
            _serve_installed(names, loading, keep_alive_seconds(keep_alive, "keep-alive"), server_config)
        else:
            _serve_one(model or "builtin", names, loading, server_config)


def _api_key(given: str | None, file: Path | None) -> str | None:
    from ...models.errors import ConfigError
    from ..environment import api_key_from_environment
    from ..log import log

    if given is not None and file is not None:
        raise ConfigError("--api-key and --api-key-file exclude each other; use --api-key-file", "api-key")
    if file is not None:
        return _key_in(file)
    if given is not None:
        log("--api-key shows in the list of processes; give the key in GALAGO_API_KEY or with --api-key-file instead")
        return given
    return api_key_from_environment()


def _key_in(file: Path) -> str:
    """Returns the only line of a file. Raises `ConfigError`."""
    from ...models.errors import ConfigError

    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_KEY_FILE_BYTES + 1)
        text = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API key cannot be read from {file}: {error}", "api-key-file") from error
    if len(content) > _MAX_KEY_FILE_BYTES:
        raise ConfigError(
            f"{file} has more than {_MAX_KEY_FILE_BYTES} bytes; it must contain only the API key", "api-key-file"
        )
    if not text or "\n" in text:
        raise ConfigError(f"{file} must contain the API key as its only line", "api-key-file")
    return text


class _Names(NamedTuple):
    """The model's names in the API."""

    id: str | None
    aliases: tuple[str, ...]
    any: bool


def _serve_one(model: str, names: _Names, loading: options.OptionValues, config: ServerConfig) -> None:
    """Starts the worker first, so that it loads the model while this process imports the server."""
    from ..process.spawn import WorkerProcess

    process = WorkerProcess()
    from ..pool.pool import ModelPool
    from ..pool.presets import resolve_model
    from ..pool.resident import ResidentModel

    resolved = resolve_model(model, loading, names.id)
    resident = ResidentModel(
        resolved.files, resolved.config, progress.percent("loading"), isolated=True, process=process
    )
    service = ModelPool(resident, aliases=(*names.aliases, *resolved.aliases), any_model=names.any)
    service.begin()
    _run(service, config)


def _serve_installed(names: _Names, loading: options.OptionValues, keep_alive: float, config: ServerConfig) -> None:
    """Serves all models of this machine, which share the memory that is free now or that --memory gives."""
    from ...models import units
    from ...models.device import this_machine
    from ..pool.opening import ModelOpener
    from ..pool.pool import ModelPool
    from ..pool.presets import model_settings
    from ..pool.residency import Residency, free_memory

    memory = model_settings(loading).get("memory") or free_memory(this_machine())
    opener = ModelOpener({name: value for name, value in loading.items() if name != "memory"}, keep_alive)
    service = ModelPool(aliases=names.aliases, residency=Residency(memory), open_model=opener)
    _log(f"models are loaded when a request names them, in {units.format_bytes(memory)} of memory together")
    _run(service, config)


def _run(service: Service, config: ServerConfig) -> None:
    from ..server.run import serve as run_server

    run_server(service, config, _log)


def _log(line: str) -> None:
    print(f"galago: {line}", file=sys.stderr, flush=True)

"""`galago serve`: the OpenAI-shaped API, on loopback unless told otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .ui import options

if TYPE_CHECKING:
    from ...models.files import ModelFiles
    from ..config import ModelConfig, ServerConfig

ServedModel = Annotated[str, typer.Option(help="builtin, an installed model, or a GGUF file", metavar="MODEL")]
Name = Annotated[str | None, typer.Option(help="the model's id in the API  [default: the file's stem]", metavar="NAME")]
Host = Annotated[str, typer.Option(help="address to listen on", metavar="HOST")]
Port = Annotated[int, typer.Option(help="port to listen on; 0: any free one", metavar="PORT")]
CacheRam = Annotated[
    int, typer.Option(help="memory for conversations set aside and encoded media; 0: none", metavar="MIB")
]
CacheDir = Annotated[
    Path | None, typer.Option(help="also keep them here, over restarts; yours alone to read", metavar="DIR")
]
CacheDisk = Annotated[int, typer.Option(help="most that --cache-dir may hold", metavar="MIB")]
Key = Annotated[str | None, typer.Option(help="clients must send it; better set GALAGO_API_KEY", metavar="KEY")]
AllowHost = Annotated[
    list[str] | None, typer.Option(help="further Host name to answer to; may be repeated", metavar="HOST")
]
HangLimit = Annotated[
    float, typer.Option(help="seconds without a sign of life until the model is loaded again", metavar="SECONDS")
]
StoreDir = Annotated[
    Path | None,
    typer.Option("--store", help="keep clients' files, batches and responses here; yours alone to read", metavar="DIR"),
]
AllowPull = Annotated[bool, typer.Option("--allow-pull", help="clients may have models downloaded from the Hub")]
AllowRm = Annotated[bool, typer.Option("--allow-rm", help="clients may have models deleted")]
Strict = Annotated[bool, typer.Option("--strict", help="refuse unknown request fields")]


def serve(
    model: ServedModel = "builtin",
    mmproj: options.ProjectorOption = None,
    name: Name = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    ctx: options.ContextLength = None,
    parallel: options.Parallel = None,
    memory: options.MemoryOption = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    kv_type: options.KVTypeOption = "f16",
    flash_attention: options.FlashAttentionOption = "auto",
    lora: options.Lora = None,
    draft: options.Draft = None,
    cache_ram: CacheRam = 256,
    cache_dir: CacheDir = None,
    cache_disk: CacheDisk = 4096,
    hang_limit: HangLimit = 30.0,
    api_key: Key = None,
    allow_host: AllowHost = None,
    store: StoreDir = None,
    allow_pull: AllowPull = False,
    allow_rm: AllowRm = False,
    strict: Strict = False,
) -> None:
    """Serve an OpenAI-shaped API on this machine."""
    from ..config import ModelConfig, ServerConfig, api_key_from_environment

    config = ServerConfig(
        host=host,
        port=port,
        api_key=api_key if api_key is not None else api_key_from_environment(),
        allowed_hosts=tuple(allow_host or ()),
        strict=strict,
        allow_pull=allow_pull,
        allow_rm=allow_rm,
        store=store,
    )
    settings = ModelConfig(
        ctx,
        threads,
        parallel,
        gpu_layers,
        cache_mib=cache_ram,
        cache_folder=cache_dir,
        cache_disk_mib=cache_disk,
        kv_type=kv_type,
        flash_attention=flash_attention,
        hang_limit=hang_limit,
        memory=None if memory is None else _share(memory),
    )

    def find() -> ModelFiles:
        from ...models.registry.resolve import resolve

        return resolve(model, mmproj, name, lora or (), draft)

    _serve(config, settings, find)


def _serve(config: ServerConfig, settings: ModelConfig, find: Callable[[], ModelFiles]) -> None:
    """Two processes at once import what they need, and the model loads meanwhile."""
    from ..process.spawn import start

    started = start()
    from ..service import Service

    service = Service(find(), settings, options.progress_line("loading"), isolated=True, started=started)
    service.begin()
    from ..server.app import serve as run_server

    run_server(service, config, lambda line: print(f"galago: {line}", file=sys.stderr, flush=True))


def _share(memory: str) -> int:
    """Bytes that are meant."""
    from ...models.device import memory_size, this_machine

    return memory_size(memory, this_machine().total_memory)

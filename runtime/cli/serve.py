"""`galago serve`: the OpenAI-shaped API, on loopback unless told otherwise."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import options


def serve(
    model: Annotated[str, typer.Option(help="builtin, or the path of a GGUF file", metavar="MODEL")] = "builtin",
    mmproj: options.Projector = None,
    name: Annotated[
        str | None, typer.Option(help="the model's id in the API  [default: the file's stem]", metavar="NAME")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0: any free one", metavar="PORT")] = 8080,
    ctx: options.ContextLength = None,
    slots: Annotated[int, typer.Option(help="requests answered at once", metavar="N")] = 4,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    api_key: Annotated[
        str | None, typer.Option(help="clients must send it; better set GALAGO_API_KEY", metavar="KEY")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="further Host name to answer to; may be repeated", metavar="HOST")
    ] = None,
    hang_limit: Annotated[
        float, typer.Option(help="seconds without a sign of life until the model is loaded again", metavar="SECONDS")
    ] = 30.0,
    strict: Annotated[bool, typer.Option("--strict", help="refuse unknown request fields")] = False,
) -> None:
    """Serve an OpenAI-shaped API on this machine."""
    from ...models.ref import resolve
    from ..config import ModelConfig, ServerConfig, api_key_from_environment
    from ..server.app import serve as run_server
    from ..service import Service

    config = ServerConfig(
        host=host,
        port=port,
        api_key=api_key if api_key is not None else api_key_from_environment(),
        allowed_hosts=tuple(allow_host or ()),
        strict=strict,
    )
    files = resolve(model, mmproj, name)
    model_config = ModelConfig(ctx, threads, slots, gpu_layers, hang_limit=hang_limit)
    service = Service(files, model_config, options.progress_line("loading"), isolated=True)
    run_server(service, config, lambda line: print(f"galago: {line}", file=sys.stderr, flush=True))

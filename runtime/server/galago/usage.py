"""`GET /v1/usage`: what the API keys have used. A key sees its own usage, and that of all keys if it is an admin's."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import NotFound
from ..accounts.account import Account
from ..http.openapi import Endpoint, RouteDescription
from ..http.request_context import CURRENT
from ..http.request_io import json_response
from ..resource import Resource, ServerContext
from . import usage_schema as schema

SHOW = RouteDescription(
    "What the API key has used since the server started, or all keys if it is an admin's",
    {200: schema.UsageList},
    errors=(NotFound,),
)


class UsageReport(Resource):
    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self._since = int(time.time())

    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint(f"{prefix}/usage", self.show, SHOW)]

    async def show(self, _request: Request) -> Response:
        keys, context = self.context.accounts.keys, CURRENT.get()
        account = None if context is None or context.record is None else context.record.account
        if keys is None or account is None:
            raise NotFound("this server has no API keys, so it counts no usage; give it some with --api-keys-file")
        shown = keys.accounts() if account.is_admin else [account]
        return json_response(schema.UsageList(self._since, [_usage(one) for one in shown]))


def _usage(account: Account) -> schema.KeyUsage:
    used, limits = account.usage(), account.limits
    return schema.KeyUsage(
        account.name,
        sum(one.requests for one in used.values()),
        sum(one.prompt_tokens for one in used.values()),
        sum(one.completion_tokens for one in used.values()),
        schema.UsageLimits(
            limits.requests_per_minute, limits.tokens_per_minute, None if limits.models is None else list(limits.models)
        ),
        [
            schema.ModelTokens(model, one.requests, one.prompt_tokens, one.completion_tokens)
            for model, one in used.items()
        ],
    )

"""OpenAI's Responses API: `/v1/responses`. Wire shapes, conversion, events, the local store and routes, a file each."""

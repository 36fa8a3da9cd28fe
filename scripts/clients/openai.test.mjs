// The official client for JavaScript, from npm. It finds the server by OPENAI_BASE_URL and OPENAI_API_KEY.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';

import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const client = new OpenAI({ maxRetries: 0 });
const model = 'builtin';
const hi = [{ role: 'user', content: 'Hi' }];
const sample = (name) => readFileSync(join(process.env.GALAGO_SAMPLES, name)).toString('base64');
const text = (words) => ({ type: 'text', text: words });
const picture = { type: 'image_url', image_url: { url: `data:image/png;base64,${sample('picture-5.png')}` } };
const sound = { type: 'input_audio', input_audio: { data: sample('sound-1.wav'), format: 'wav' } };
const SENSES = {
  text: [text('Describe a shape.')],
  picture: [picture, text('Count the shapes.')],
  sound: [sound, text('What was said?')],
};

const Shape = z.object({ color: z.enum(['red', 'blue']), sure: z.boolean(), count: z.number().int().min(0).max(9) });
const City = z.object({ city: z.enum(['Bern', 'Rom']), days: z.number().int().min(1).max(9) });
const weather = zodFunction({ name: 'get_weather', parameters: City, function: () => 'sunny' });
const light = zodFunction({ name: 'turn_on', parameters: z.object({ room: z.enum(['hall', 'kitchen']) }) });

const ask = (options) => client.chat.completions.create({ model, messages: hi, ...options });

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

for (const [sense, content] of Object.entries(SENSES)) {
  const messages = [{ role: 'user', content }];

  test(`${sense}: a plain answer, with its usage`, async () => {
    const answer = await ask({ messages });
    const { choices, usage } = answer;
    assert.equal(choices.length, 1);
    assert.equal(choices[0].finish_reason, 'stop');
    assert.ok(choices[0].message.content);
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert.equal(usage.prompt_tokens_details.image_tokens > 0, sense === 'picture');
    assert.equal(usage.prompt_tokens_details.audio_tokens > 0, sense === 'sound');
    assert.equal(answer.warnings, undefined);
    assert.ok(answer._request_id);
  });

  test(`${sense}: a stream says the same, and its usage at the end`, async () => {
    const whole = await ask({ messages });
    const chunks = await collected(await ask({ messages, stream: true, stream_options: { include_usage: true } }));
    const said = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    assert.equal(said, whole.choices[0].message.content);
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.total_tokens, whole.usage.total_tokens);
    assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
  });

  test(`${sense}: an answer of a schema is parsed`, async () => {
    const answer = await client.chat.completions.parse({
      model,
      messages,
      response_format: zodResponseFormat(Shape, 'shape'),
    });
    assert.deepEqual(Object.keys(answer.choices[0].message.parsed), ['color', 'sure', 'count']);
    Shape.parse(answer.choices[0].message.parsed);
  });
}

test('the streaming helper tells of pieces and the whole', async () => {
  const stream = client.chat.completions.stream({
    model,
    messages: hi,
    stream_options: { include_usage: true },
    response_format: zodResponseFormat(Shape, 'shape'),
  });
  let said = '';
  stream.on('content', (piece) => (said += piece));
  const final = await stream.finalChatCompletion();
  assert.equal(said, final.choices[0].message.content);
  Shape.parse(final.choices[0].message.parsed);
  assert.ok((await stream.totalUsage()).completion_tokens > 5);
});

test('a required call, and its result sent back', async () => {
  const tools = [weather, light];
  const first = await ask({ tools, tool_choice: 'required', parallel_tool_calls: false });
  const { finish_reason, message } = first.choices[0];
  assert.equal(finish_reason, 'tool_calls');
  assert.equal(message.content, null);
  assert.equal(message.tool_calls.length, 1);
  const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: 'done' };
  const second = await ask({ tools, messages: [...hi, message, result] });
  assert.equal(second.warnings, undefined);
  assert.ok(second.usage.prompt_tokens > first.usage.prompt_tokens);
});

test('a named call is of that tool, its arguments streamed', async () => {
  const options = { tools: [weather, light], tool_choice: { type: 'function', function: { name: 'get_weather' } } };
  const stream = client.chat.completions.stream({ model, messages: hi, ...options });
  let pieces = 0;
  stream.on('tool_calls.function.arguments.delta', () => (pieces += 1));
  const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  City.parse(JSON.parse(call.function.arguments));
  City.parse(call.function.parsed_arguments);
  assert.ok(pieces > 3);
});

test('allowed tools are a choice among them', async () => {
  const allowed = { mode: 'required', tools: [{ type: 'function', function: { name: 'turn_on' } }] };
  const answer = await ask({
    tools: [weather, light],
    tool_choice: { type: 'allowed_tools', allowed_tools: allowed },
  });
  assert.ok(answer.choices[0].message.tool_calls.every((call) => call.function.name === 'turn_on'));
});

test('left to itself it answers or calls', async () => {
  const answer = await ask({ tools: [weather], tool_choice: 'auto', max_tokens: 200 });
  const { content, tool_calls } = answer.choices[0].message;
  assert.ok(content || tool_calls?.length);
  for (const call of tool_calls ?? []) City.parse(JSON.parse(call.function.arguments));
});

test('the client runs tools by itself', async () => {
  const runner = client.chat.completions.runTools(
    {
      model,
      messages: hi,
      tools: [weather],
      tool_choice: { type: 'function', function: { name: 'get_weather' } },
    },
    { maxChatCompletions: 2 },
  );
  assert.equal(await runner.finalFunctionToolCallResult(), 'sunny');
});

test('several answers, logprobs and stop strings', async () => {
  const answer = await ask({ n: 2, temperature: 1, seed: 7, logprobs: true, top_logprobs: 2, max_tokens: 5 });
  assert.deepEqual(
    answer.choices.map((choice) => choice.index),
    [0, 1],
  );
  assert.ok(answer.choices.every((choice) => choice.logprobs.content[0].top_logprobs.length === 2));
  const whole = (await ask({})).choices[0].message.content;
  const stop = whole.slice(2, 4);
  assert.equal((await ask({ stop })).choices[0].message.content, whole.slice(0, whole.indexOf(stop)));
});

test('a stream that is left does not hold the server up', async () => {
  const stream = await ask({ stream: true, ignore_eos: true });
  for await (const _ of stream) break;
  assert.ok((await ask({})).choices[0].message.content);
});

test('errors are of the class of their status', async () => {
  const refused = async (work, kind, status, code) => {
    const error = await work.then(
      () => assert.fail('was answered'),
      (error) => error,
    );
    assert.ok(error instanceof kind, `${error}`);
    assert.deepEqual([error.status, error.code], [status, code]);
    assert.ok(error.requestID);
    return error;
  };
  const bad = await refused(ask({ stop: Array(300).fill('x') }), OpenAI.BadRequestError, 400, 'invalid_value');
  assert.equal(bad.param, 'stop');
  const words = [{ role: 'user', content: 'word '.repeat(5000) }];
  await refused(ask({ messages: words }), OpenAI.BadRequestError, 400, 'context_length_exceeded');
  const far = [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://example.com/x.png' } }] }];
  await refused(ask({ messages: far }), OpenAI.BadRequestError, 400, 'invalid_media');
  const stranger = new OpenAI({ apiKey: 'wrong', maxRetries: 0 });
  await refused(stranger.models.list(), OpenAI.AuthenticationError, 401, 'invalid_api_key');
  const strict = new OpenAI({ baseURL: process.env.GALAGO_VECTORS_URL, maxRetries: 0 });
  const other = strict.chat.completions.create({ model: 'gpt-4o', messages: hi });
  await refused(other, OpenAI.NotFoundError, 404, 'model_not_found');
  await refused(client.get('/chat/completions'), OpenAI.APIError, 405, 'method_not_allowed');
});

test('an answer that takes too long is not asked for again', async () => {
  let asked = 0;
  const counting = new OpenAI({
    maxRetries: 3,
    fetch: (...request) => {
      asked += 1;
      return fetch(...request);
    },
  });
  const late = { model, messages: hi, timeout: 0.001, ignore_eos: true };
  await assert.rejects(counting.chat.completions.create(late), { status: 504, code: 'deadline_exceeded' });
  assert.equal(asked, 1);
});

test('an error within a stream is thrown from it', async () => {
  const stream = await ask({ stream: true, timeout: 0.2, ignore_eos: true });
  await assert.rejects(collected(stream), { code: 'deadline_exceeded' });
});

test('models are listed and shown', async () => {
  const ids = [];
  for await (const listed of client.models.list()) ids.push(listed.id);
  assert.ok(ids.includes(model));
  assert.equal((await client.models.retrieve(model)).id, model);
});

test('a model that makes no vectors says so', async () => {
  const asked = client.embeddings.create({ model, input: ['red', 'blue'] });
  await assert.rejects(asked, (error) => error.status === 400 && error.param === 'model');
});

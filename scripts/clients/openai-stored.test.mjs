// The official client for JavaScript again, from npm: completions, responses, embeddings, files and batches. It finds a
// server with a store by OPENAI_BASE_URL and OPENAI_API_KEY, and one with an embedding model by GALAGO_VECTORS_URL.

import assert from 'node:assert/strict';
import { createReadStream, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';

import OpenAI, { toFile } from 'openai';
import { zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const client = new OpenAI({ maxRetries: 0 });
const vectors = new OpenAI({ maxRetries: 0, baseURL: process.env.GALAGO_VECTORS_URL });
const model = 'builtin';
const sample = (name) => join(process.env.GALAGO_SAMPLES, name);
const uri = (name) => `data:image/png;base64,${readFileSync(sample(name)).toString('base64')}`;
const shown = (text) => [
  { role: 'user', content: [{ type: 'input_image', detail: 'auto', image_url: uri('picture-5.png') }, { type: 'input_text', text }] },
];

const Shape = z.object({ color: z.enum(['red', 'blue']), count: z.number().int().min(0).max(9) });
const City = z.object({ city: z.enum(['Bern', 'Rom']) });
const weather = zodResponsesFunction({ name: 'get_weather', parameters: City });

const ask = (input, options) => client.responses.create({ model, input, ...options });

test('a prompt is completed, streamed and with the probabilities of its tokens', async () => {
  const asked = { model, prompt: 'One two three', max_tokens: 4, temperature: 0 };
  const whole = await client.completions.create(asked);
  let streamed = '';
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) streamed += chunk.choices[0].text;
  assert.equal(streamed, whole.choices[0].text);
  const scored = await client.completions.create({ ...asked, max_tokens: 0, echo: true, logprobs: 1 });
  const { tokens, token_logprobs: told } = scored.choices[0].logprobs;
  assert.equal(scored.choices[0].text, 'One two three');
  assert.equal(tokens.length, told.length);
  assert.ok(told.slice(1).every((logprob) => logprob <= 0));
});

test('a response, of pictures too, and its events', async () => {
  const whole = await ask(shown('Count the shapes.'));
  assert.equal(whole.status, 'completed');
  assert.ok(whole.output_text && whole.usage.input_tokens > 16);
  const stream = client.responses.stream({ model, input: shown('Count the shapes.') });
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  assert.equal(kinds[0], 'response.created');
  assert.equal(kinds.at(-1), 'response.completed');
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
});

test('a response of a schema is parsed', async () => {
  const answer = await client.responses.parse({ model, input: 'A shape?', text: { format: zodTextFormat(Shape, 'shape') } });
  assert.ok(Shape.safeParse(answer.output_parsed).success);
});

test('a function is called, and its result sent back', async () => {
  const asked = { tools: [weather], tool_choice: 'required', parallel_tool_calls: false };
  const first = await client.responses.parse({ model, input: 'How warm is it?', ...asked });
  const [call] = first.output;
  assert.equal(call.type, 'function_call');
  assert.ok(City.safeParse(call.parsed_arguments).success);
  const result = { type: 'function_call_output', call_id: call.call_id, output: '20 degrees' };
  const next = await ask([result], { previous_response_id: first.id, tools: [weather], tool_choice: 'none' });
  assert.equal(next.status, 'completed');
  const { data } = await client.responses.inputItems.list(next.id);
  assert.equal(data[0].output, '20 degrees');
});

test('a response is stored, followed, counted and deleted', async () => {
  const first = await ask('Opposite of big?', { metadata: { a: 'b' } });
  const found = await client.responses.retrieve(first.id);
  assert.equal(found.output_text, first.output_text);
  assert.deepEqual(found.metadata, { a: 'b' });
  const second = await ask('And of hot?', { previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  const { input_tokens } = await client.responses.inputTokens.count({ model, input: 'Opposite of big?' });
  assert.equal(input_tokens, first.usage.input_tokens);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
});

test('a response in the background is fetched, and can be cancelled', async () => {
  const endless = { text: { format: { type: 'json_schema', name: 'x', schema: { type: 'array', minItems: 900 } } } };
  const begun = await ask('List.', { background: true, ...endless });
  assert.equal(begun.status, 'in_progress');
  assert.equal((await client.responses.cancel(begun.id)).status, 'cancelled');
});

test('texts become vectors, as floats and in base64', async () => {
  const input = ['a cat sat', 'the dog ran'];
  const told = await vectors.embeddings.create({ model: 'vectors', input });
  const floats = await vectors.embeddings.create({ model: 'vectors', input, encoding_format: 'float' });
  assert.equal(told.data.length, 2);
  assert.ok(told.usage.prompt_tokens > 4);
  for (const [i, { embedding }] of told.data.entries()) {
    assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-5);
    embedding.forEach((value, k) => assert.ok(Math.abs(value - floats.data[i].embedding[k]) < 1e-6));
  }
  const short = await vectors.embeddings.create({ model: 'vectors', input: 'a cat', dimensions: 8 });
  assert.equal(short.data[0].embedding.length, 8);
  await assert.rejects(vectors.embeddings.create({ model: 'vectors', input: [] }), OpenAI.BadRequestError);
});

test('a file is uploaded, shown to a model by its id, listed, read and deleted', async () => {
  const file = await client.files.create({ file: createReadStream(sample('picture-5.png')), purpose: 'vision' });
  const content = [
    { type: 'file', file: { file_id: file.id } },
    { type: 'text', text: 'Count the shapes.' },
  ];
  const answer = await client.chat.completions.create({ model, messages: [{ role: 'user', content }] });
  assert.equal(answer.usage.prompt_tokens_details.image_tokens, 16);
  const names = [];
  for await (const listed of client.files.list({ limit: 1 })) names.push(listed.id);
  assert.ok(names.includes(file.id));
  const bytes = Buffer.from(await (await client.files.content(file.id)).arrayBuffer());
  assert.deepEqual(bytes, readFileSync(sample('picture-5.png')));
  assert.ok((await client.files.delete(file.id)).deleted);
  await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
});

test('a batch answers each line once', async () => {
  const body = (i) => ({ messages: [{ role: 'user', content: `Say ${i}.` }], regex: `${i}!` });
  const lines = [1, 2, 3].map((i) => ({ custom_id: `${i}`, method: 'POST', url: '/v1/chat/completions', body: body(i) }));
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines.map((line) => JSON.stringify(line)).join('\n')), 'lines.jsonl'),
    purpose: 'batch',
  });
  const asked = { input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' };
  let batch = await client.batches.create(asked);
  for (let i = 0; i < 300 && !batch.completed_at; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.deepEqual(batch.request_counts, { total: 3, completed: 3, failed: 0 });
  const output = await (await client.files.content(batch.output_file_id)).text();
  const told = output.trim().split('\n').map((line) => JSON.parse(line));
  const answers = told.map((line) => [line.custom_id, line.response.body.choices[0].message.content]);
  assert.deepEqual(answers.sort(), [['1', '1!'], ['2', '2!'], ['3', '3!']]);
  assert.ok((await client.batches.list({ limit: 1 })).data.length === 1);
  await assert.rejects(client.batches.cancel(batch.id), OpenAI.BadRequestError);
});

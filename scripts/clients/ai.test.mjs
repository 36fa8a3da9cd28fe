// Vercel's AI SDK with @ai-sdk/openai-compatible, from npm: agents, structured output, streams, embeddings, errors.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import {
  APICallError, Output, ToolLoopAgent, embed, embedMany, generateText, stepCountIs, streamText, tool,
} from 'ai';
import { z } from 'zod';

const apiKey = process.env.OPENAI_API_KEY;
const provider = (baseURL, options = {}) =>
  createOpenAICompatible({ name: 'galago', baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true, ...options });
const model = provider(process.env.OPENAI_BASE_URL)('builtin');
const scripted = provider(process.env.GALAGO_SCRIPTED_URL)('scripted');
const vectors = provider(process.env.GALAGO_VECTORS_URL).embeddingModel('vectors');
const picture = readFileSync(join(process.env.GALAGO_SAMPLES, 'picture-5.png'));

const script = JSON.parse(readFileSync(process.env.GALAGO_SCRIPT, 'utf8'));
const expected = script.flatMap((answer) => answer.calls ?? []).map((call) => [call.name, call.arguments]);
const [final, next] = script.filter((answer) => !answer.calls).map((answer) => answer.text);
const turns = script.filter((answer) => answer.calls).length + 1;

function recordedTools() {
  const calls = [];
  const recorded = (name, description, inputSchema, execute) =>
    tool({
      description,
      inputSchema,
      execute: async (input) => {
        calls.push([name, input]);
        return execute(input);
      },
    });
  const place = z.object({ city: z.string(), unit: z.enum(['celsius', 'fahrenheit']) });
  const tools = {
    get_temperature: recorded('get_temperature', 'Measures the temperature of a city.', place, () => '20 degrees'),
    add: recorded('add', 'Adds two numbers.', z.object({ first: z.number().int(), second: z.number().int() }), (x) => x.first + x.second),
  };
  return { calls, tools };
}

const Shape = z.object({
  color: z.enum(['red', 'blue']),
  count: z.number().int().min(0).max(9),
  sides: z.array(z.object({ length: z.number().int().min(0).max(99), label: z.string().max(8).nullable() })).min(1).max(2),
  sure: z.boolean(),
});

test('an agent runs its tools over several turns', async () => {
  const { calls, tools } = recordedTools();
  const result = await generateText({ model: scripted, prompt: 'How warm is it?', tools, stopWhen: stepCountIs(9) });
  assert.deepEqual(calls, expected);
  assert.equal(result.text, final);
  assert.equal(result.steps.length, turns);
  assert.equal(result.steps[1].text, 'Two more.');
  assert.ok(result.totalUsage.inputTokens > 100 && result.totalUsage.outputTokens > 10);
  assert.equal(result.finishReason, 'stop');
  const messages = [{ role: 'user', content: 'How warm is it?' }, ...result.responseMessages];
  const again = await generateText({ model: scripted, tools, messages: [...messages, { role: 'user', content: 'Thank you.' }] });
  assert.equal(again.text, next);
});

test('an agent that streams does the same', async () => {
  const { calls, tools } = recordedTools();
  const result = streamText({ model: scripted, prompt: 'How warm is it?', tools, stopWhen: stepCountIs(9) });
  const kinds = {};
  let said = '';
  for await (const part of result.fullStream) {
    kinds[part.type] = (kinds[part.type] ?? 0) + 1;
    assert.notEqual(part.type, 'error', JSON.stringify(part));
    if (part.type === 'text-delta') said += part.text;
  }
  assert.deepEqual(calls, expected);
  assert.equal(said, `Two more.${final}`);
  assert.equal(kinds['tool-call'], expected.length);
  assert.equal(kinds['tool-result'], expected.length);
  assert.ok(kinds['tool-input-delta'] > expected.length && kinds['text-delta'] > 3);
  assert.equal(await result.text, final);
  assert.ok((await result.totalUsage).outputTokens > 10);
});

test('the agent class does the same, several side by side', async () => {
  const runs = [1, 2, 3].map(async () => {
    const { calls, tools } = recordedTools();
    const agent = new ToolLoopAgent({ model: scripted, tools, instructions: 'Be brief.' });
    const result = await agent.generate({ prompt: 'How warm is it?' });
    assert.deepEqual(calls, expected);
    assert.equal(result.text, final);
  });
  await Promise.all(runs);
});

for (const [kind, output, check] of [
  ['object', Output.object({ schema: Shape }), (value) => Shape.parse(value)],
  ['choice', Output.choice({ options: ['sunny', 'rainy'] }), (value) => assert.ok(['sunny', 'rainy'].includes(value))],
]) {
  test(`structured output is enforced: ${kind}`, async () => {
    const result = await generateText({ model, prompt: 'Describe a shape.', output, maxOutputTokens: 400 });
    check(result.output);
  });
}

test('structured output streams the elements of a list', async () => {
  const controller = new AbortController();
  const output = Output.array({ element: z.object({ name: z.enum(['a', 'b']) }) });
  const result = streamText({ model, prompt: 'List.', output, maxOutputTokens: 400, abortSignal: controller.signal });
  const elements = [];
  for await (const element of result.elementStream) {
    elements.push(element.name);
    if (elements.length === 3) break;
  }
  controller.abort();
  assert.ok(elements.length > 0 && elements.every((name) => 'ab'.includes(name)));
});

test('structured output streams partial objects', async () => {
  const result = streamText({ model, prompt: 'Describe a shape.', output: Output.object({ schema: Shape }) });
  let count = 0;
  for await (const _ of result.partialOutputStream) count += 1;
  assert.ok(count > 1);
  Shape.parse(await result.output);
});

test('a required tool is called with what its schema allows', async () => {
  const City = z.object({ city: z.enum(['Bern', 'Rom']), days: z.number().int().min(1).max(9) });
  const tools = { get_weather: tool({ inputSchema: City }) };
  for (const toolChoice of ['required', { type: 'tool', toolName: 'get_weather' }]) {
    const { toolCalls, finishReason } = await generateText({ model, prompt: 'Hi', tools, toolChoice, maxOutputTokens: 300 });
    assert.equal(finishReason, 'tool-calls');
    for (const call of toolCalls) City.parse(call.input);
  }
});

test('a plain answer, streamed and whole, with its usage', async () => {
  const whole = await generateText({ model, prompt: 'Describe a shape.', temperature: 0 });
  assert.ok(whole.text);
  assert.equal(whole.usage.totalTokens, whole.usage.inputTokens + whole.usage.outputTokens);
  const stream = streamText({ model, prompt: 'Describe a shape.', temperature: 0 });
  let said = '';
  for await (const piece of stream.textStream) said += piece;
  assert.equal(said, whole.text);
  assert.equal((await stream.usage).totalTokens, whole.usage.totalTokens);
});

test('a picture is shown', async () => {
  const content = [{ type: 'text', text: 'Count the shapes.' }, { type: 'file', data: picture, mediaType: 'image/png' }];
  const shown = await generateText({ model, messages: [{ role: 'user', content }] });
  const plain = await generateText({ model, prompt: 'Count the shapes.' });
  assert.ok(shown.text);
  assert.ok(shown.usage.inputTokens >= plain.usage.inputTokens + 16);
});

test('settings arrive', async () => {
  const settings = { maxOutputTokens: 4, temperature: 1, topP: 0.9, seed: 3, frequencyPenalty: 0.1, presencePenalty: 0.1 };
  const result = await generateText({ model, prompt: 'Hi', ...settings, stopSequences: ['@@'] });
  assert.ok(result.usage.outputTokens <= 4);
  assert.equal(result.finishReason, 'length');
});

test('a stream that is left does not hold the server up', async () => {
  const controller = new AbortController();
  const result = streamText({ model, prompt: 'Hi', abortSignal: controller.signal, onError: () => {} });
  for await (const _ of result.textStream) controller.abort();
  assert.ok((await generateText({ model, prompt: 'Hi' })).text);
});

test('texts become vectors', async () => {
  const { embeddings, usage } = await embedMany({ model: vectors, values: ['a cat sat', 'the dog ran'] });
  assert.equal(embeddings.length, 2);
  assert.ok(usage.tokens > 4);
  for (const embedding of embeddings) assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-4);
  const { embedding } = await embed({ model: vectors, value: 'a cat sat' });
  embedding.forEach((value, i) => assert.ok(Math.abs(value - embeddings[0][i]) < 1e-4));
});

test('errors are API call errors of their status, whole and streamed', async () => {
  const refused = async (options, status, words) => {
    const asked = { model, prompt: 'Hi', maxRetries: 0, ...options };
    const errors = [await generateText(asked).then(() => assert.fail('was answered'), (error) => error)];
    const stream = streamText({ ...asked, onError: ({ error }) => errors.push(error) });
    await stream.consumeStream();
    assert.equal(errors.length, 2);
    for (const error of errors) {
      assert.ok(APICallError.isInstance(error), `${error}`);
      assert.equal(error.statusCode, status);
      assert.match(error.message, words);
    }
  };
  const url = process.env.OPENAI_BASE_URL;
  await refused({ prompt: 'word '.repeat(5000) }, 400, /maximum context length/);
  await refused({ providerOptions: { galago: { regex: '(' } } }, 400, /regular expression/);
  await refused({ model: provider(process.env.GALAGO_VECTORS_URL)('gpt-4o') }, 404, /gpt-4o/);
  await refused({ model: provider(url, { apiKey: 'wrong' })('builtin') }, 401, /key/i);
});

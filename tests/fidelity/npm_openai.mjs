// The npm package `openai` against the emulator; run by hand, since it needs Node 18 or newer.
//
//   imagen-async serve --port 8931 &
//   cd "$(mktemp -d)" && npm install openai && cp .../tests/fidelity/npm_openai.mjs .
//   node npm_openai.mjs http://127.0.0.1:8931
//
// It prints a line for each check and ends with 1 if one failed.
import OpenAI from 'openai';

const origin = process.argv[2] ?? 'http://127.0.0.1:8931';
const baseURL = `${origin}/v1`;
let failed = 0;

function check(what, holds) {
  console.log(`${holds ? 'ok  ' : 'FAIL'} ${what}`);
  failed += holds ? 0 : 1;
}

function client(fault, maxRetries = 0) {
  const defaultHeaders = fault ? { 'x-emulator-fault': fault } : {};
  return new OpenAI({ baseURL, apiKey: 'sk-foreign', maxRetries, defaultHeaders });
}

async function total() {
  const ledger = await (await fetch(`${origin}/_emulator/ledger`)).json();
  return ledger.total;
}

const ask = { model: 'imagen4', prompt: 'A lighthouse' };
const isPng = (bytes) => Buffer.from(bytes).subarray(1, 4).toString() === 'PNG';

const link = await client().images.generate({ ...ask, response_format: 'url' });
check('a link answer', typeof link.created === 'number' && link.data.length === 1);
check('its link leads to a PNG', isPng(await (await fetch(link.data[0].url)).arrayBuffer()));

const embedded = await client().images.generate({ ...ask, n: 2, response_format: 'b64_json' });
check(
  'two images as base64',
  embedded.data.length === 2 && embedded.data.every((d) => isPng(Buffer.from(d.b64_json, 'base64'))),
);

for (const [fault, kind] of [
  ['429', OpenAI.RateLimitError],
  ['401', OpenAI.AuthenticationError],
  ['400', OpenAI.BadRequestError],
  ['403_quota', OpenAI.PermissionDeniedError],
  ['status:404', OpenAI.NotFoundError],
  ['500', OpenAI.InternalServerError],
  ['drop', OpenAI.APIConnectionError],
]) {
  const seen = await client(fault).images.generate(ask).catch((error) => error);
  check(`${fault} is ${kind.name}`, seen instanceof kind);
  if (seen instanceof OpenAI.APIError && seen.status) check(`${fault} has a code`, Boolean(seen.code));
}

const before = await total();
await client('504', 2).images.generate(ask).catch(() => null);
const after = await total();
check('its retries after 504 buy again', after.charged - before.charged === 3);

process.exit(failed ? 1 : 0);

// The hooks that the host calls. An exception of the form { payload } is the hook's error result. Any other exception
// ends the instance.

import { write } from 'switchyard:plugin/log@0.2.0';
import { InvalidFilter, canonical, parse, passes, plan, readEvent } from './filter.js';

// By the id that the host assigned.
const filters = new Map();
let strict = false;

export const lifecycle = logErrors({
  describe: () => ({
    name: 'javascript-filter',
    version: '0.1.0',
    hooks: { subscribe: true, deliver: true },
    metrics: [],
    configSchema: '{"type":"object","properties":{"strict":{"type":"boolean"}},"additionalProperties":false}',
    filterSchema: JSON.stringify({
      type: 'object',
      properties: {
        minChange: { type: 'number' },
        chains: { type: 'array', items: { type: 'string' } },
      },
      additionalProperties: false,
    }),
  }),

  init(text) {
    const { strict: value = false, ...others } = JSON.parse(text);
    const [other] = Object.keys(others);
    if (other !== undefined) throw { payload: `config: unknown field '${other}'; expected strict` };
    if (typeof value !== 'boolean') {
      throw { payload: `config.strict must be true or false, got ${JSON.stringify(value)}` };
    }
    strict = value;
  },
});

export const subscribe = logErrors({
  authorize(_who, _room, filter) {
    if (filter === undefined) return {};
    return { filter: canonical(parseOrReject(filter, (reason) => ({ code: 'invalid', reason }))) };
  },
});

export const deliver = logErrors({
  compile(id, text) {
    const filter = parseOrReject(text, (reason) => reason);
    filters.set(id, filter);
    return plan(filter);
  },

  release(ids) {
    for (const id of ids) filters.delete(id);
  },

  matches(_room, _event, data, ids) {
    const event = readEvent(data, strict);
    const words = new BigUint64Array(Math.ceil(ids.length / 64));
    // The same bits as 32-bit numbers, because every operation on a BigInt allocates.
    const halves = new Uint32Array(words.buffer);
    ids.forEach((id, index) => {
      if (passes(filters.get(id), event)) halves[index >> 5] |= 1 << (index & 31);
    });
    return words;
  },
});

/** Parses a filter. If it is invalid, throws the hook's error result, which `toPayload` makes from the reason. */
function parseOrReject(text, toPayload) {
  try {
    return parse(text);
  } catch (error) {
    if (error instanceof InvalidFilter) throw { payload: toPayload(error.message) };
    throw error;
  }
}

/**
 * Wraps hooks so that they log exceptions. Without WASI, an exception has nowhere to be printed. The host shows the
 * last error that was logged.
 */
function logErrors(hooks) {
  const wrap = (hook) => (...args) => {
    try {
      return hook(...args);
    } catch (error) {
      if (error instanceof Error) write('error', `${error}\n${error.stack}`);
      throw error;
    }
  };
  return Object.fromEntries(Object.entries(hooks).map(([name, hook]) => [name, wrap(hook)]));
}

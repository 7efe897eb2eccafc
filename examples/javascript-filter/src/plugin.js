// The hooks, as the host calls them. What is thrown as { payload } is an answer; anything else ends the instance.

import { write } from 'switchyard:plugin/log@0.1.0';
import { Wrong, canonical, parse, passes, plan, read } from './filter.js';

// By the host's numbers.
const filters = new Map();
let strict = false;

export const lifecycle = told({
  describe: () => ({
    name: 'javascript-filter',
    version: '0.1.0',
    hooks: { subscribe: true, deliver: true },
    metrics: [],
    configSchema: '{"type":"object","properties":{"strict":{"type":"boolean"}},"additionalProperties":false}',
  }),

  init(text) {
    const { strict: asked = false, ...others } = JSON.parse(text);
    const [other] = Object.keys(others);
    if (other !== undefined) throw { payload: `config.${other} is unknown: there is only config.strict` };
    if (typeof asked !== 'boolean') throw { payload: 'config.strict must be true or false' };
    strict = asked;
  },
});

export const subscribe = told({
  authorize(_who, _room, filter) {
    if (filter === undefined) return {};
    return { filter: canonical(refused(() => parse(filter), (reason) => ({ code: 'invalid', reason }))) };
  },
});

export const deliver = told({
  compile(id, text) {
    const filter = refused(() => parse(text), (reason) => reason);
    filters.set(id, filter);
    return plan(filter);
  },

  release(ids) {
    for (const id of ids) filters.delete(id);
  },

  matches(_room, _event, data, ids) {
    const event = read(data, strict);
    const words = new BigUint64Array(Math.ceil(ids.length / 64));
    // The same bits as numbers, because each step of a BigInt is an allocation.
    const halves = new Uint32Array(words.buffer);
    ids.forEach((id, at) => {
      if (passes(filters.get(id), event)) halves[at >> 5] |= 1 << (at & 31);
    });
    return words;
  },
});

/** Turns a wrong filter into an answer of the hook. */
function refused(ask, payload) {
  try {
    return ask();
  } catch (error) {
    if (error instanceof Wrong) throw { payload: payload(error.message) };
    throw error;
  }
}

/** Without WASI an exception has nowhere to be printed: the host shows what was logged last as an error. */
function told(hooks) {
  const wrap = (hook) => (...given) => {
    try {
      return hook(...given);
    } catch (error) {
      if (error instanceof Error) write('error', `${error}\n${error.stack}`);
      throw error;
    }
  };
  return Object.fromEntries(Object.entries(hooks).map(([name, hook]) => [name, wrap(hook)]));
}

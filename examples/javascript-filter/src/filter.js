// Filters and events, without anything of the host. An event must satisfy every field of a filter that is present,
// and match any one entry of `chains`.

const FIELDS = ['minChange', 'chains'];
const MAX_CHAINS = 256;

/** An invalid filter, with a message for the client that sent it. */
export class InvalidFilter extends Error {}

/** Reads a filter from JSON text and normalizes it: chains in lower case, sorted, without duplicates. */
export function parse(text) {
  const fields = parseJson(text);
  if (fields === null || typeof fields !== 'object' || Array.isArray(fields)) {
    throw new InvalidFilter('the filter must be an object with minChange, chains or both');
  }
  for (const field of Object.keys(fields)) {
    if (!FIELDS.includes(field)) {
      throw new InvalidFilter(`unknown field ${JSON.stringify(field)} in the filter; expected minChange or chains`);
    }
  }
  const filter = {};
  if ('minChange' in fields) filter.minChange = parseMinChange(fields.minChange);
  if ('chains' in fields) filter.chains = parseChains(fields.chains);
  return filter;
}

/** The canonical form. Equal filters have the same text, so the host treats them as one. */
export function canonical(filter) {
  return JSON.stringify(filter);
}

/** Whether the host has to call `matches` for this filter. `all` and `none` cost no call. */
export function plan(filter) {
  if (filter.chains?.length === 0) return { tag: 'none' };
  return { tag: Object.keys(filter).length === 0 ? 'all' : 'guest' };
}

/** Whether an event passes. It does not if it lacks a field that the filter names. */
export function passes(filter, event) {
  const { minChange, chains } = filter;
  if (minChange !== undefined && !(Math.abs(event.change) >= minChange)) return false;
  return chains === undefined || chains.includes(event.chain);
}

/**
 * The parts of a message that filters look at. The data is JSON of any type. With `strict`, this throws if there is no
 * numeric `change`.
 */
export function readEvent(data, strict) {
  const { change, chain } = JSON.parse(new TextDecoder().decode(data)) ?? {};
  if (strict && typeof change !== 'number') {
    throw new TypeError(`change must be a number, got ${JSON.stringify(change)}`);
  }
  return {
    change: typeof change === 'number' ? change : NaN,
    chain: typeof chain === 'string' ? chain.toLowerCase() : undefined,
  };
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InvalidFilter(`the filter is not valid JSON: ${error.message}`);
  }
}

function parseMinChange(value) {
  if (!Number.isFinite(value) || value < 0) {
    throw new InvalidFilter(`minChange must be a number, 0 or more, got ${JSON.stringify(value)}`);
  }
  // Turns -0 into 0, so that both have the same text.
  return value + 0;
}

function parseChains(value) {
  if (!Array.isArray(value) || value.some((name) => typeof name !== 'string')) {
    throw new InvalidFilter(`chains must be a list of strings, e.g. ["base"], got ${JSON.stringify(value)}`);
  }
  if (value.length > MAX_CHAINS) {
    throw new InvalidFilter(`chains may have at most ${MAX_CHAINS} entries, got ${value.length}`);
  }
  return [...new Set(value.map((name) => name.toLowerCase()))].sort();
}

// What a subscriber asks for. Every field that is there must hold; one entry of `chains` is enough.

const FIELDS = ['minChange', 'chains'];
const LONGEST = 256;

/** A wrong filter, in words for the one who sent it. */
export class Wrong extends Error {}

/** The filter that the text asks for: chains in lower case, sorted, without repetition. */
export function parse(text) {
  const asked = json(text);
  if (asked === null || typeof asked !== 'object' || Array.isArray(asked)) {
    throw new Wrong('the filter is no object: it may have minChange and chains');
  }
  for (const field of Object.keys(asked)) {
    if (!FIELDS.includes(field)) {
      throw new Wrong(`the filter has an unknown field ${JSON.stringify(field)}: it may have minChange and chains`);
    }
  }
  const filter = {};
  if ('minChange' in asked) filter.minChange = size(asked.minChange);
  if ('chains' in asked) filter.chains = names(asked.chains);
  return filter;
}

/** Equal filters have equal texts, so that they are one to the host. */
export function canonical(filter) {
  return JSON.stringify(filter);
}

/** `all` and `none` cost the host no call. */
export function plan(filter) {
  if (filter.chains?.length === 0) return { tag: 'none' };
  return { tag: Object.keys(filter).length === 0 ? 'all' : 'guest' };
}

/** An event without a field that is asked for does not pass. */
export function passes(filter, event) {
  const { minChange, chains } = filter;
  if (minChange !== undefined && !(Math.abs(event.change) >= minChange)) return false;
  return chains === undefined || chains.includes(event.chain);
}

/** What of a message the filters look at. Its data is JSON, but need not be an object, unless `strict`. */
export function read(data, strict) {
  const { change, chain } = JSON.parse(new TextDecoder().decode(data)) ?? {};
  if (strict && typeof change !== 'number') {
    throw new TypeError(`change is ${JSON.stringify(change)}, but must be a number`);
  }
  return {
    change: typeof change === 'number' ? change : NaN,
    chain: typeof chain === 'string' ? chain.toLowerCase() : undefined,
  };
}

function json(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Wrong(`the filter is no JSON: ${error.message}`);
  }
}

function size(value) {
  if (!Number.isFinite(value) || value < 0) {
    throw new Wrong(`minChange is ${JSON.stringify(value)}, but must be a number, 0 or more`);
  }
  // Makes the -0 that is equal to 0 the same text too.
  return value + 0;
}

function names(value) {
  if (!Array.isArray(value) || value.some((name) => typeof name !== 'string')) {
    throw new Wrong(`chains is ${JSON.stringify(value)}, but must be a list of texts, such as ["base"]`);
  }
  if (value.length > LONGEST) {
    throw new Wrong(`chains has ${value.length} entries: ${LONGEST} are the most`);
  }
  return [...new Set(value.map((name) => name.toLowerCase()))].sort();
}

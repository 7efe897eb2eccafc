#include "filter.h"
#include <stdlib.h>
#include <string.h>

void message_add_text(message *message, text words) {
  size_t room = sizeof message->at - message->length;
  size_t length = words.length < room ? words.length : room;
  // Cuts between characters.
  while (length < words.length && length > 0 && (words.at[length] & 0xc0) == 0x80) length--;
  memcpy(message->at + message->length, words.at, length);
  message->length += length;
}

void message_add(message *message, const char *words) {
  message_add_text(message, (text){(char *)words, strlen(words)});
}

// Only ASCII: the names of chains are.
static text lower(text name) {
  for (size_t i = 0; i < name.length; i++) {
    if (name.at[i] >= 'A' && name.at[i] <= 'Z') name.at[i] |= 0x20;
  }
  return name;
}

static bool got(message *reason, const char *expected, text value) {
  message_add(reason, expected);
  message_add(reason, ", got ");
  message_add_text(reason, value);
  return false;
}

static bool parse_min_change(text value, filter *filter, message *reason) {
  bool is_number = json_number(value, &filter->min_change);
  if (!is_number || (filter->min_change.negative && filter->min_change.digits.length)) {
    return got(reason, "minChange must be a number, 0 or more", value);
  }
  return filter->has_min_change = true;
}

// Whether the name is among the chains, and where it is or would be.
static bool find_chain(const filter *filter, text name, size_t *position) {
  size_t low = 0, high = filter->chain_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = text_compare(name, filter->chains[middle]);
    if (order == 0) return true;
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  *position = low;
  return false;
}

static bool parse_chains(text value, filter *filter, message *reason) {
  size_t count = 0;
  bool all_strings = json_is_array(value);
  text name;
  if (all_strings) {
    for (items rest = json_items(value); json_item(&rest, &name); count++) all_strings &= json_is_string(name);
  }
  if (!all_strings) return got(reason, "chains must be a list of strings, e.g. [\"base\"]", value);
  if (count > MAX_CHAINS) {
    message_add(reason, "chains may have at most 256 entries");
    return false;
  }
  filter_free(filter);  // of a field that is there twice
  filter->has_chains = true;
  filter->chains = allocate(count * sizeof *filter->chains);
  for (items rest = json_items(value); json_item(&rest, &name);) {
    size_t position;
    name = lower(json_string(name));
    if (find_chain(filter, name, &position)) continue;
    text *at = filter->chains + position;
    memmove(at + 1, at, (filter->chain_count - position) * sizeof *at);
    *at = name;
    filter->chain_count++;
  }
  return true;
}

void filter_free(filter *filter) {
  free(filter->chains);
  filter->chains = NULL;
  filter->chain_count = 0;
}

bool filter_parse(text value, filter *filter, message *reason) {
  memset(filter, 0, sizeof *filter);
  if (!json_is_object(value)) {
    message_add(reason, "the filter must be an object with minChange, chains or both");
    return false;
  }
  text name, field;
  for (items rest = json_items(value); json_member(&rest, &name, &field);) {
    bool is_valid;
    if (text_is(name, "minChange")) {
      is_valid = parse_min_change(field, filter, reason);
    } else if (text_is(name, "chains")) {
      is_valid = parse_chains(field, filter, reason);
    } else {
      message_add(reason, "unknown field \"");
      message_add_text(reason, name);
      message_add(reason, "\" in the filter; expected minChange or chains");
      return false;
    }
    if (!is_valid) return false;
  }
  return true;
}

static char *put(char *out, const char *words) {
  size_t length = strlen(words);
  memcpy(out, words, length);
  return out + length;
}

static char *put_integer(char *out, long long value) {
  if (value < 0) *out++ = '-';
  unsigned long long rest = value < 0 ? -(unsigned long long)value : (unsigned long long)value;
  char digits[20];
  int count = 0;
  do digits[count++] = '0' + rest % 10;
  while (rest /= 10);
  while (count > 0) *out++ = digits[--count];
  return out;
}

static char *put_decimal(char *out, const decimal *number) {
  if (number->digits.length == 0) *out++ = '0';
  for (size_t i = 0; i < number->digits.length; i++) {
    if (number->digits.at[i] != '.') *out++ = number->digits.at[i];
  }
  if (number->exponent == 0) return out;
  *out++ = 'e';
  return put_integer(out, number->exponent);
}

static char *put_string(char *out, text value) {
  static const char hex[] = "0123456789abcdef";
  *out++ = '"';
  for (size_t i = 0; i < value.length; i++) {
    unsigned char c = value.at[i];
    if (c < 0x20) {
      out = put(out, "\\u00");
      *out++ = hex[c >> 4];
      *out++ = hex[c & 15];
      continue;
    }
    if (c == '"' || c == '\\') *out++ = '\\';
    *out++ = c;
  }
  *out++ = '"';
  return out;
}

// A character takes at most three times its place in the input, which can write a control character as two
// characters, such as \n. The rest is for the names of the fields and an exponent.
size_t filter_canonical_size(size_t length) { return 3 * length + 64; }

size_t filter_canonical(const filter *filter, char *out) {
  char *at = put(out, "{");
  if (filter->has_min_change) at = put_decimal(put(at, "\"minChange\":"), &filter->min_change);
  if (filter->has_chains) {
    at = put(at, filter->has_min_change ? ",\"chains\":[" : "\"chains\":[");
    for (size_t i = 0; i < filter->chain_count; i++) {
      if (i > 0) *at++ = ',';
      at = put_string(at, filter->chains[i]);
    }
    *at++ = ']';
  }
  *at++ = '}';
  return at - out;
}

bool filter_passes(const filter *filter, const event *event) {
  if (filter->has_min_change) {
    if (!event->has_change || decimal_compare(&event->change, &filter->min_change) < 0) return false;
  }
  size_t position;
  return !filter->has_chains || (event->has_chain && find_chain(filter, event->chain, &position));
}

bool event_read(text value, bool strict, event *event, message *reason) {
  event->has_change = event->has_chain = false;
  text change = {"undefined", 9}, name, field;
  if (json_is_object(value)) {
    for (items rest = json_items(value); json_member(&rest, &name, &field);) {
      if (text_is(name, "change")) {
        change = field;
        event->has_change = json_number(field, &event->change);
      } else if (text_is(name, "chain")) {
        event->has_chain = json_is_string(field);
        if (event->has_chain) event->chain = lower(json_string(field));
      }
    }
  }
  if (strict && !event->has_change) return got(reason, "change must be a number", change);
  return true;
}

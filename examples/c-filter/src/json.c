#include "json.h"
#include <string.h>

// Exponents beyond this are cut. They make every number huge or tiny.
#define MAX_EXPONENT 1000000000LL

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static char *skip_space(char *at, char *end) {
  while (at < end && is_space(*at)) at++;
  return at;
}

// The end of the string that begins at `at`.
static char *skip_string(char *at, char *end) {
  for (at++; at < end && *at != '"'; at++) {
    if (*at == '\\') at++;
  }
  return at < end ? at + 1 : end;
}

// The end of the value that begins at `at`.
static char *skip_value(char *at, char *end) {
  size_t depth = 0;
  while (at < end) {
    if (*at == '"') {
      at = skip_string(at, end);
      if (depth == 0) return at;
      continue;
    }
    if (*at == '[' || *at == '{') depth++;
    if (*at == ']' || *at == '}') {
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
    }
    if (depth == 0 && (*at == ',' || *at == ':' || is_space(*at))) return at;
    at++;
  }
  return end;
}

text json_value(char *at, size_t length) {
  char *end = at + length;
  at = skip_space(at, end);
  return (text){at, skip_value(at, end) - at};
}

static bool begins_with(text value, char c) { return value.length > 0 && value.at[0] == c; }

bool json_is_object(text value) { return begins_with(value, '{'); }
bool json_is_array(text value) { return begins_with(value, '['); }
bool json_is_string(text value) { return begins_with(value, '"'); }

items json_items(text value) { return (items){value.at + 1, value.at + value.length - 1}; }

bool json_item(items *rest, text *value) {
  char *at = skip_space(rest->at, rest->end);
  if (at < rest->end && *at == ',') at++;
  *value = json_value(at, rest->end - at);
  rest->at = skip_space(value->at + value->length, rest->end);
  return value->length > 0;
}

bool json_member(items *rest, text *name, text *value) {
  if (!json_item(rest, name)) return false;
  *name = json_string(*name);
  char *at = rest->at + 1;  // behind the colon
  *value = json_value(at, rest->end - at);
  rest->at = value->at + value->length;
  return true;
}

static unsigned read_hex(const char *at) {
  unsigned code = 0;
  for (int i = 0; i < 4; i++) {
    char c = at[i];
    code = code << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return code;
}

// Writes a character in UTF-8. Half of a surrogate pair becomes U+FFFD.
static char *write_utf8(char *out, unsigned code) {
  if (code >= 0xd800 && code < 0xe000) code = 0xfffd;
  if (code < 0x80) {
    *out++ = code;
    return out;
  }
  int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  *out++ = (0xf00 >> more & 0xff) | code >> 6 * more;
  while (more-- > 0) *out++ = 0x80 | (code >> 6 * more & 0x3f);
  return out;
}

text json_string(text value) {
  char *at = value.at + 1, *end = value.at + value.length - 1, *out = at;
  text decoded = {out, 0};
  while (at < end) {
    char c = *at++;
    if (c != '\\') {
      *out++ = c;
      continue;
    }
    c = *at++;
    const char *known = strchr("b\bf\fn\nr\rt\t", c);
    if (c == 'u' && end - at >= 4) {
      unsigned code = read_hex(at), low = 0;
      at += 4;
      if (code >> 10 == 0xd800 >> 10 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') low = read_hex(at + 2);
      if (low >> 10 == 0xdc00 >> 10) {
        code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
        at += 6;
      }
      out = write_utf8(out, code);
    } else {
      *out++ = known ? known[1] : c;  // \" \\ \/ stand for themselves
    }
  }
  decoded.length = out - decoded.at;
  return decoded;
}

bool json_number(text value, decimal *number) {
  char *at = value.at, *end = at + value.length;
  number->negative = begins_with(value, '-');
  if (number->negative) at++;
  if (at == end || *at < '0' || *at > '9') return false;
  char *last = at;
  while (last < end && (*last == '.' || (*last >= '0' && *last <= '9'))) last++;
  long long exponent = 0;
  if (last < end) {
    char *digit = last + 1;
    bool negative = digit < end && *digit == '-';
    if (digit < end && (*digit == '-' || *digit == '+')) digit++;
    for (; digit < end && exponent < MAX_EXPONENT; digit++) exponent = exponent * 10 + (*digit - '0');
    if (negative) exponent = -exponent;
  }
  char *point = memchr(at, '.', last - at);
  if (point) exponent -= last - point - 1;
  while (at < last && (*at == '0' || *at == '.')) at++;
  while (last > at && (last[-1] == '0' || last[-1] == '.')) {
    if (last[-1] == '0') exponent++;
    last--;
  }
  number->digits = (text){at, last - at};
  number->exponent = at == last ? 0 : exponent;
  return true;
}

bool text_is(text a, const char *b) { return a.length == strlen(b) && memcmp(a.at, b, a.length) == 0; }

int text_compare(text a, text b) {
  int order = memcmp(a.at, b.at, a.length < b.length ? a.length : b.length);
  return order ? order : (a.length > b.length) - (a.length < b.length);
}

static size_t count_digits(const decimal *number) {
  size_t points = number->digits.length && memchr(number->digits.at, '.', number->digits.length) ? 1 : 0;
  return number->digits.length - points;
}

int decimal_compare(const decimal *a, const decimal *b) {
  size_t of_a = count_digits(a), of_b = count_digits(b);
  if (!of_a || !of_b) return (of_a > 0) - (of_b > 0);
  long long largest_a = of_a + a->exponent, largest_b = of_b + b->exponent;
  if (largest_a != largest_b) return largest_a < largest_b ? -1 : 1;
  const char *at_a = a->digits.at, *at_b = b->digits.at;
  const char *end_a = at_a + a->digits.length, *end_b = at_b + b->digits.length;
  while (at_a < end_a && at_b < end_b) {
    if (*at_a == '.') at_a++;
    if (*at_b == '.') at_b++;
    if (*at_a != *at_b) return *at_a < *at_b ? -1 : 1;
    at_a++, at_b++;
  }
  return (at_a < end_a) - (at_b < end_b);
}

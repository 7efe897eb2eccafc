// Reading JSON without building a tree. The host has checked that the text is JSON, so this looks only for what
// it needs. Strings are decoded in place, in the buffer that holds the text.
#pragma once
#include <stdbool.h>
#include <stddef.h>

// A part of a buffer, not terminated by 0. As a value of JSON, it begins and ends without white space.
typedef struct {
  char *at;
  size_t length;
} text;

// What is left of the inside of an array or object.
typedef struct {
  char *at;
  char *end;
} items;

// A number as `digits` × 10^`exponent`. The digits begin and end with another digit than 0; zero has none.
// The decimal point may be among them, and is skipped.
typedef struct {
  bool negative;
  text digits;
  long long exponent;
} decimal;

text json_value(char *at, size_t length);

bool json_is_object(text value);
bool json_is_array(text value);
bool json_is_string(text value);

// The items of an array or object.
items json_items(text value);
// Moves to the next item of an array. False at its end.
bool json_item(items *rest, text *value);
// Moves to the next member of an object. False at its end. `name` is decoded.
bool json_member(items *rest, text *name, text *value);

// Decodes a string, once: its text in the buffer is overwritten.
text json_string(text value);
// False if the value is not a number.
bool json_number(text value, decimal *number);

bool text_is(text a, const char *b);
// Less than, equal to or greater than 0, as memcmp.
int text_compare(text a, text b);
// Compares without the signs.
int decimal_compare(const decimal *a, const decimal *b);

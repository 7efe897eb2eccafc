// Filters and events, without anything of the host. An event must satisfy every field of a filter that is
// present, and match any one entry of `chains`.
#pragma once
#include "json.h"

#define MAX_CHAINS 256

typedef struct {
  bool has_min_change;
  decimal min_change;
  bool has_chains;
  // In lower case, sorted, without duplicates. Allocated.
  text *chains;
  size_t chain_count;
} filter;

// The parts of a message that filters look at.
typedef struct {
  bool has_change;
  decimal change;
  bool has_chain;
  text chain;
} event;

// A message for the client, built piece by piece and cut at its end.
typedef struct {
  char at[512];
  size_t length;
} message;

void message_add(message *message, const char *words);
void message_add_text(message *message, text words);

// Memory, or the end of the instance if there is none.
void *allocate(size_t size);

// Reads a filter. Its parts point into `value`. False with the reason if it is invalid.
bool filter_parse(text value, filter *filter, message *reason);
// Frees what a filter holds, also one that was invalid.
void filter_free(filter *filter);
// The size of a buffer for the canonical form of a filter that was read from a text of this length.
size_t filter_canonical_size(size_t length);
// Writes the canonical form and returns its length. Equal filters have the same text, so the host treats them
// as one.
size_t filter_canonical(const filter *filter, char *out);
// Whether an event passes. It does not if it lacks a field that the filter names.
bool filter_passes(const filter *filter, const event *event);

// Reads an event from JSON of any type. With `strict`, it is an error if there is no numeric `change`.
bool event_read(text value, bool strict, event *event, message *reason);

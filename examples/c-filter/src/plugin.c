// The hooks that the host calls. Their names and types are in bindings/plugin.h. A hook owns its arguments and
// frees them; the host's side frees what a hook returns.
#include "filter.h"
#include "plugin.h"
#include <stdlib.h>
#include <string.h>

#define CONFIG_SCHEMA \
  "{\"type\":\"object\",\"properties\":{\"strict\":{\"type\":\"boolean\"}},\"additionalProperties\":false}"
#define FILTER_SCHEMA \
  "{\"type\":\"object\",\"properties\":{\"minChange\":{\"type\":\"number\"}," \
  "\"chains\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}},\"additionalProperties\":false}"

// A filter under the id that the host assigned.
typedef struct {
  uint32_t id;
  // Holds the text into which the filter points.
  plugin_string_t text;
  filter filter;
} compiled;

// Sorted by id.
static compiled **filters;
static size_t filter_count, filter_capacity;
static bool strict;

// Ends the instance. The host shows the last error that was logged.
static _Noreturn void fail(message *reason) {
  plugin_string_t text = {(uint8_t *)reason->at, reason->length};
  switchyard_plugin_log_write(SWITCHYARD_PLUGIN_LOG_LEVEL_ERROR, &text);
  abort();
}

void *allocate(size_t size) {
  void *memory = malloc(size ? size : 1);
  if (!memory) {
    message reason = {.length = 0};
    message_add(&reason, "out of memory");
    fail(&reason);
  }
  return memory;
}

static text value_of(plugin_string_t *json) { return json_value((char *)json->ptr, json->len); }

static void return_message(plugin_string_t *out, const message *message) {
  plugin_string_dup_n(out, message->at, message->length);
}

void exports_switchyard_plugin_lifecycle_describe(exports_switchyard_plugin_lifecycle_info_t *info) {
  memset(info, 0, sizeof *info);
  plugin_string_dup(&info->name, "c-filter");
  plugin_string_dup(&info->version, "0.1.0");
  info->hooks = SWITCHYARD_PLUGIN_TYPES_HOOKS_SUBSCRIBE | SWITCHYARD_PLUGIN_TYPES_HOOKS_DELIVER;
  info->config_schema.is_some = true;
  plugin_string_dup(&info->config_schema.val, CONFIG_SCHEMA);
  info->filter_schema.is_some = true;
  plugin_string_dup(&info->filter_schema.val, FILTER_SCHEMA);
}

bool exports_switchyard_plugin_lifecycle_init(plugin_string_t *config, plugin_string_t *error) {
  message reason = {.length = 0};
  text name, field;
  for (items rest = json_items(value_of(config)); reason.length == 0 && json_member(&rest, &name, &field);) {
    if (!text_is(name, "strict")) {
      message_add(&reason, "config: unknown field '");
      message_add_text(&reason, name);
      message_add(&reason, "'; expected strict");
    } else if (!text_is(field, "true") && !text_is(field, "false")) {
      message_add(&reason, "config.strict must be true or false, got ");
      message_add_text(&reason, field);
    } else {
      strict = text_is(field, "true");
    }
  }
  plugin_string_free(config);
  if (reason.length == 0) return true;
  return_message(error, &reason);
  return false;
}

bool exports_switchyard_plugin_subscribe_authorize(
    exports_switchyard_plugin_subscribe_principal_t *who, plugin_string_t *room, plugin_string_t *maybe_filter,
    exports_switchyard_plugin_subscribe_counts_t *counts, exports_switchyard_plugin_subscribe_grant_t *grant,
    exports_switchyard_plugin_subscribe_reject_t *reject) {
  (void)counts;
  exports_switchyard_plugin_subscribe_principal_free(who);
  plugin_string_free(room);
  memset(grant, 0, sizeof *grant);
  if (!maybe_filter) return true;
  filter parsed;
  message reason = {.length = 0};
  bool is_valid = filter_parse(value_of(maybe_filter), &parsed, &reason);
  if (is_valid) {
    grant->filter.is_some = true;
    grant->filter.val.ptr = allocate(filter_canonical_size(maybe_filter->len));
    grant->filter.val.len = filter_canonical(&parsed, (char *)grant->filter.val.ptr);
  } else {
    reject->code = SWITCHYARD_PLUGIN_TYPES_CODE_INVALID;
    return_message(&reject->reason, &reason);
  }
  filter_free(&parsed);
  plugin_string_free(maybe_filter);
  return is_valid;
}

// Where the filter with this id is, or would be.
static size_t position_of(uint32_t id) {
  size_t low = 0, high = filter_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (filters[middle]->id < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

static bool is_at(size_t position, uint32_t id) { return position < filter_count && filters[position]->id == id; }

static void discard(compiled *entry) {
  filter_free(&entry->filter);
  plugin_string_free(&entry->text);
  free(entry);
}

static void insert(compiled *entry) {
  size_t position = position_of(entry->id);
  if (is_at(position, entry->id)) {
    discard(filters[position]);
    filters[position] = entry;
    return;
  }
  if (filter_count == filter_capacity) {
    filter_capacity = filter_capacity ? 2 * filter_capacity : 16;
    compiled **larger = allocate(filter_capacity * sizeof *larger);
    if (filter_count > 0) memcpy(larger, filters, filter_count * sizeof *larger);
    free(filters);
    filters = larger;
  }
  memmove(filters + position + 1, filters + position, (filter_count - position) * sizeof *filters);
  filters[position] = entry;
  filter_count++;
}

bool exports_switchyard_plugin_deliver_compile(
    uint32_t id, plugin_string_t *text, exports_switchyard_plugin_deliver_plan_t *plan, plugin_string_t *error) {
  compiled *entry = allocate(sizeof *entry);
  entry->id = id;
  entry->text = *text;
  message reason = {.length = 0};
  if (!filter_parse(value_of(&entry->text), &entry->filter, &reason)) {
    return_message(error, &reason);
    discard(entry);
    return false;
  }
  const filter *filter = &entry->filter;
  if (filter->has_chains && filter->chain_count == 0) plan->tag = EXPORTS_SWITCHYARD_PLUGIN_DELIVER_PLAN_NONE;
  else if (!filter->has_chains && !filter->has_min_change) plan->tag = EXPORTS_SWITCHYARD_PLUGIN_DELIVER_PLAN_ALL;
  else plan->tag = EXPORTS_SWITCHYARD_PLUGIN_DELIVER_PLAN_GUEST;
  insert(entry);
  return true;
}

void exports_switchyard_plugin_deliver_release(plugin_list_u32_t *ids) {
  for (size_t i = 0; i < ids->len; i++) {
    size_t position = position_of(ids->ptr[i]);
    if (!is_at(position, ids->ptr[i])) continue;
    discard(filters[position]);
    filter_count--;
    memmove(filters + position, filters + position + 1, (filter_count - position) * sizeof *filters);
  }
  plugin_list_u32_free(ids);
}

void exports_switchyard_plugin_deliver_matches(
    plugin_string_t *room, plugin_string_t *name, plugin_list_u8_t *data, plugin_list_u32_t *ids,
    plugin_list_u64_t *words) {
  event event;
  message reason = {.length = 0};
  if (!event_read(json_value((char *)data->ptr, data->len), strict, &event, &reason)) fail(&reason);
  words->len = (ids->len + 63) / 64;
  words->ptr = allocate(words->len * sizeof *words->ptr);
  memset(words->ptr, 0, words->len * sizeof *words->ptr);
  for (size_t i = 0; i < ids->len; i++) {
    size_t position = position_of(ids->ptr[i]);
    if (is_at(position, ids->ptr[i]) && filter_passes(&filters[position]->filter, &event)) {
      words->ptr[i / 64] |= 1ull << i % 64;
    }
  }
  plugin_string_free(room);
  plugin_string_free(name);
  plugin_list_u8_free(data);
  plugin_list_u32_free(ids);
}

#!/bin/sh
# Builds c_filter.wasm. The bindings come from `switchyard plugin bindings`, the compiler from requirements.txt.
set -eu
cd "$(dirname "$0")"
venv/bin/python -m ziglang cc -target wasm32-wasi -mexec-model=reactor -Oz -flto -Wall -Wextra -Werror \
  -Wl,--no-entry -Wl,--strip-debug -Wl,-z,stack-size=65536 -Ibindings \
  src/plugin.c src/filter.c src/json.c bindings/*.c bindings/plugin_component_type.o -o c_filter.wasm

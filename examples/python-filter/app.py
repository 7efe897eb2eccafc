"""The hooks that the host calls. `Err` is a hook's error result. Any other exception ends the instance."""

import json
import traceback
from functools import wraps

from componentize_py_types import Err
from filters import Event, Filter, InvalidFilter
from wit_world.exports import deliver, lifecycle, subscribe
from wit_world.imports import log, types

# By the id that the host assigned.
FILTERS: dict[int, Filter] = {}
STRICT = False


def log_errors(hook):
    """Logs exceptions of a hook.

    Without WASI, an exception has nowhere to be printed. The host shows the last error that was logged.
    """

    @wraps(hook)
    def wrapped(*args):
        try:
            return hook(*args)
        except Err:
            raise
        except Exception as error:
            log.write(log.Level.ERROR, format_error(error))
            raise

    return wrapped


def format_error(error):
    """Formats an error and where it was raised. `traceback.format_exc` would look for source files, and there are none."""
    frames = traceback.walk_tb(error.__traceback__)
    places = [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames]
    return " < ".join([f"{type(error).__name__}: {error}", *reversed(places)])


class Lifecycle:
    @log_errors
    def describe(self):
        hooks = types.Hooks.SUBSCRIBE | types.Hooks.DELIVER
        schema = {"type": "object", "properties": {"strict": {"type": "boolean"}}, "additionalProperties": False}
        fields = {"minChange": {"type": "number"}, "chains": {"type": "array", "items": {"type": "string"}}}
        filters = {"type": "object", "properties": fields, "additionalProperties": False}
        return lifecycle.Info("python-filter", "0.1.0", hooks, [], json.dumps(schema), json.dumps(filters))

    @log_errors
    def init(self, config):
        global STRICT
        fields = json.loads(config)
        for name in fields.keys() - {"strict"}:
            raise Err(f"config: unknown field '{name}'; expected strict")
        STRICT = fields.get("strict", False)
        if not isinstance(STRICT, bool):
            raise Err(f"config.strict must be true or false, got {json.dumps(STRICT)}")


class Subscribe:
    @log_errors
    def authorize(self, _who, _room, filter, _counts):
        if filter is None:
            return subscribe.Grant(None, None)
        try:
            return subscribe.Grant(Filter.parse(filter).canonical(), None)
        except InvalidFilter as error:
            raise Err(types.Reject(types.Code.INVALID, str(error))) from error


class Deliver:
    @log_errors
    def compile(self, id, text):
        try:
            filter = Filter.parse(text)
        except InvalidFilter as error:
            raise Err(str(error)) from error
        FILTERS[id] = filter
        if filter.chains == ():
            return deliver.Plan_None_()
        return deliver.Plan_All() if filter == Filter() else deliver.Plan_Guest()

    @log_errors
    def release(self, ids):
        for id in ids:
            FILTERS.pop(id, None)

    @log_errors
    def matches(self, _room, _event, data, ids):
        event = Event.read(data, STRICT)
        words = [0] * -(-len(ids) // 64)
        for index, id in enumerate(ids):
            if FILTERS[id].passes(event):
                words[index // 64] |= 1 << index % 64
        return words

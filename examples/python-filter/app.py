"""The hooks, as the host calls them. `Err` is an answer; any other exception ends the instance."""

import json
import traceback
from functools import wraps

from componentize_py_types import Err
from filters import Event, Filter, Wrong
from wit_world.exports import deliver, lifecycle, subscribe
from wit_world.imports import log, types

# By the host's numbers.
FILTERS: dict[int, Filter] = {}
STRICT = False


def told(hook):
    """Without WASI an exception has nowhere to be printed: the host shows what was logged last as an error."""

    @wraps(hook)
    def wrapped(*given):
        try:
            return hook(*given)
        except Err:
            raise
        except Exception as error:
            log.write(log.Level.ERROR, described(error))
            raise

    return wrapped


def described(error):
    """As a traceback, which itself would look for the lines in files, of which there are none."""
    frames = traceback.walk_tb(error.__traceback__)
    places = [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames]
    return " < ".join([f"{type(error).__name__}: {error}", *reversed(places)])


class Lifecycle:
    @told
    def describe(self):
        hooks = types.Hooks.SUBSCRIBE | types.Hooks.DELIVER
        schema = {"type": "object", "properties": {"strict": {"type": "boolean"}}, "additionalProperties": False}
        return lifecycle.Info("python-filter", "0.1.0", hooks, [], json.dumps(schema))

    @told
    def init(self, config):
        global STRICT
        asked = json.loads(config)
        for name in asked.keys() - {"strict"}:
            raise Err(f"config.{name} is unknown: there is only config.strict")
        STRICT = asked.get("strict", False)
        if not isinstance(STRICT, bool):
            raise Err("config.strict must be true or false")


class Subscribe:
    @told
    def authorize(self, _who, _room, filter, _counts):
        if filter is None:
            return subscribe.Grant(None, None)
        try:
            return subscribe.Grant(Filter.parse(filter).canonical(), None)
        except Wrong as wrong:
            raise Err(types.Reject(types.Code.INVALID, str(wrong))) from wrong


class Deliver:
    @told
    def compile(self, id, text):
        try:
            filter = Filter.parse(text)
        except Wrong as wrong:
            raise Err(str(wrong)) from wrong
        FILTERS[id] = filter
        if filter.chains == ():
            return deliver.Plan_None_()
        return deliver.Plan_All() if filter == Filter() else deliver.Plan_Guest()

    @told
    def release(self, ids):
        for id in ids:
            FILTERS.pop(id, None)

    @told
    def matches(self, _room, _event, data, ids):
        event = Event.read(data, STRICT)
        words = [0] * -(-len(ids) // 64)
        for at, id in enumerate(ids):
            if FILTERS[id].passes(event):
                words[at // 64] |= 1 << at % 64
        return words

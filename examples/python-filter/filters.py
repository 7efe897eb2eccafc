"""Filters and events, without anything of the host.

An event must satisfy every field of a filter that is present, and match any one entry of `chains`.
"""

import json
import math
from dataclasses import dataclass

MAX_CHAINS = 256


class InvalidFilter(Exception):
    """An invalid filter, with a message for the client that sent it."""


@dataclass(frozen=True)
class Event:
    """The parts of a message that filters look at. A field that is missing or of another type is None."""

    change: float | None
    chain: str | None

    @staticmethod
    def read(data: bytes, strict: bool) -> "Event":
        """Reads JSON of any type. With `strict`, raises an error if there is no numeric `change`."""
        # As float, because Python refuses to read integers with thousands of digits.
        data = json.loads(data, parse_int=float)
        fields = data if isinstance(data, dict) else {}
        change, chain = fields.get("change"), fields.get("chain")
        if strict and not isinstance(change, float):
            raise TypeError(f"change must be a number, got {json.dumps(change)}")
        return Event(
            change if isinstance(change, float) else None,
            chain.lower() if isinstance(chain, str) else None,
        )


@dataclass(frozen=True)
class Filter:
    """A subscriber's filter."""

    min_change: float | None = None
    chains: tuple[str, ...] | None = None

    @staticmethod
    def parse(text: str) -> "Filter":
        """Reads a filter from JSON text and normalizes it: chains in lower case, sorted, without duplicates."""
        try:
            fields = json.loads(text, parse_int=float)
        except ValueError as error:
            raise InvalidFilter(f"the filter is not valid JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InvalidFilter("the filter must be an object with minChange, chains or both")
        for field in fields:
            if field not in ("minChange", "chains"):
                raise InvalidFilter(f"unknown field {json.dumps(field)} in the filter; expected minChange or chains")
        return Filter(
            parse_min_change(fields["minChange"]) if "minChange" in fields else None,
            parse_chains(fields["chains"]) if "chains" in fields else None,
        )

    def canonical(self) -> str:
        """The canonical form. Equal filters have the same text, so the host treats them as one."""
        fields = {"minChange": self.min_change, "chains": self.chains}
        present = {name: value for name, value in fields.items() if value is not None}
        return json.dumps(present, separators=(",", ":"))

    def passes(self, event: Event) -> bool:
        """Whether an event passes. It does not if it lacks a field that the filter names."""
        if self.min_change is not None and (event.change is None or abs(event.change) < self.min_change):
            return False
        return self.chains is None or event.chain in self.chains


def parse_min_change(value: object) -> float:
    if not isinstance(value, float) or not 0 <= value < math.inf:
        raise InvalidFilter(f"minChange must be a number, 0 or more, got {json.dumps(value)}")
    # Turns -0.0 into 0.0, so that both have the same text.
    return value + 0.0


def parse_chains(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InvalidFilter(f'chains must be a list of strings, e.g. ["base"], got {json.dumps(value)}')
    if len(value) > MAX_CHAINS:
        raise InvalidFilter(f"chains may have at most {MAX_CHAINS} entries, got {len(value)}")
    return tuple(sorted({name.lower() for name in value}))

"""What a subscriber asks for. Every field that is there must hold; one entry of `chains` is enough."""

import json
import math
from dataclasses import dataclass

LONGEST = 256


class Wrong(Exception):
    """A wrong filter, in words for the one who sent it."""


@dataclass(frozen=True)
class Event:
    """What of a message the filters look at; a field that is missing, or of another kind, is None."""

    change: float | None
    chain: str | None

    @staticmethod
    def read(data: bytes, strict: bool) -> "Event":
        """The data is JSON, but need not be an object, unless `strict`."""
        # As a float, because Python refuses to read whole numbers of thousands of digits.
        data = json.loads(data, parse_int=float)
        fields = data if isinstance(data, dict) else {}
        change, chain = fields.get("change"), fields.get("chain")
        if strict and not isinstance(change, float):
            raise TypeError(f"change is {json.dumps(change)}, but must be a number")
        return Event(
            change if isinstance(change, float) else None,
            chain.lower() if isinstance(chain, str) else None,
        )


@dataclass(frozen=True)
class Filter:
    min_change: float | None = None
    chains: tuple[str, ...] | None = None

    @staticmethod
    def parse(text: str) -> "Filter":
        """Chains are in lower case, sorted, without repetition."""
        try:
            asked = json.loads(text, parse_int=float)
        except ValueError as error:
            raise Wrong(f"the filter is no JSON: {error}") from error
        if not isinstance(asked, dict):
            raise Wrong("the filter is no object: it may have minChange and chains")
        for field in asked:
            if field not in ("minChange", "chains"):
                raise Wrong(f"the filter has an unknown field {json.dumps(field)}: it may have minChange and chains")
        return Filter(
            size(asked["minChange"]) if "minChange" in asked else None,
            names(asked["chains"]) if "chains" in asked else None,
        )

    def canonical(self) -> str:
        """Equal filters have equal texts, so that they are one to the host."""
        fields = {"minChange": self.min_change, "chains": self.chains}
        asked = {name: value for name, value in fields.items() if value is not None}
        return json.dumps(asked, separators=(",", ":"))

    def passes(self, event: Event) -> bool:
        """An event without a field that is asked for does not pass."""
        if self.min_change is not None and (event.change is None or abs(event.change) < self.min_change):
            return False
        return self.chains is None or event.chain in self.chains


def size(value: object) -> float:
    if not isinstance(value, float) or not 0 <= value < math.inf:
        raise Wrong(f"minChange is {json.dumps(value)}, but must be a number, 0 or more")
    # Makes the -0.0 that is equal to 0.0 the same text too.
    return value + 0.0


def names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Wrong(f'chains is {json.dumps(value)}, but must be a list of texts, such as ["base"]')
    if len(value) > LONGEST:
        raise Wrong(f"chains has {len(value)} entries: {LONGEST} are the most")
    return tuple(sorted({name.lower() for name in value}))

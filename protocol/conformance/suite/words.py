"""Lines of the driver protocol, and what a scenario expects of a value."""

import json
import re
from urllib.parse import quote, unquote

#: How long a program may take to start, however short the patience with what it does then is: a slow start is no mistake of a client.
START_SECONDS = 60


class Mismatch(AssertionError):
    """Something else was seen than what the scenario says."""


def line(head, fields):
    """HEAD KEY=VALUE…, where values are percent-encoded. A list gives the key several times."""
    words = [head]
    for key, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            words.append(f"{key}={quote(str(one), safe='/:,.-_')}")
    return " ".join(words)


def fields(words):
    """The other way round."""
    return {key: unquote(value, errors="surrogateescape") for key, _, value in (word.partition("=") for word in words)}


def filled(value, variables):
    """`value` with variables in the place of "$name", at whatever depth."""
    if isinstance(value, dict):
        return {key: filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, variables) for one in value]
    if isinstance(value, str) and value.startswith("$"):
        name, slash, rest = value[1:].partition("/")
        found = variables[name]
        return f"{found}/{rest}" if slash else found
    return value


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def match(expected, actual, variables, where="answer"):
    """Fails unless `actual` is as expected; members that are not named do not matter. "$name" is a variable, which takes
    the value where it has none; ">N", "<N" compare numbers; "/…/" is a regular expression, "*" anything; null: not there."""
    def wrong():
        raise Mismatch(f"{where} is {actual!r}, expected {expected!r}")

    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            wrong()
        for key, value in expected.items():
            if value is None and actual.get(key) is not None or value is not None and key not in actual:
                raise Mismatch(f"{where}.{key} is {actual.get(key)!r}, expected {value!r}, in {actual!r}")
            if value is not None:
                match(value, actual[key], variables, f"{where}.{key}")
    elif isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            wrong()
        for index, (one, other) in enumerate(zip(expected, actual)):
            match(one, other, variables, f"{where}[{index}]")
    elif isinstance(expected, str) and expected.startswith("$") and "/" in expected:
        match(filled(expected, variables), actual, variables, where)
    elif isinstance(expected, str) and expected.startswith("$"):
        if expected[1:] not in variables:
            variables[expected[1:]] = actual
        elif _text(variables[expected[1:]]) != _text(actual):
            raise Mismatch(f"{where} is {actual!r}, expected {variables[expected[1:]]!r} ({expected})")
    elif isinstance(expected, str) and re.match(r"[<>][$\d-]", expected):
        bound = filled(expected[1:], variables)
        try:
            holds = int(actual) > int(bound) if expected[0] == ">" else int(actual) < int(bound)
        except (TypeError, ValueError):
            holds = False
        if not holds:
            raise Mismatch(f"{where} is {actual!r}, expected {expected} ({bound})")
    elif expected == "*":
        return
    elif isinstance(expected, str) and len(expected) > 1 and expected[0] == expected[-1] == "/":
        if not re.fullmatch(expected[1:-1], _text(actual), re.DOTALL):
            wrong()
    elif _text(expected) != _text(actual):
        wrong()

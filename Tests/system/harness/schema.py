"""Checks values against the JSON Schemas of protocol/openrpc.json.

It knows the part of JSON Schema that the document uses, and refuses to check against anything else.
"""

import json
import pathlib
import re

PROTOCOL = pathlib.Path(__file__).resolve().parents[3] / "protocol"
DOCUMENT = json.loads((PROTOCOL / "openrpc.json").read_text())
ERRORS = {entry["code"]: entry for entry in json.loads((PROTOCOL / "errors.json").read_text())["errors"]}
METHODS = {method["name"]: method for method in DOCUMENT["methods"]}
NOTIFICATIONS = {method["name"]: method for method in DOCUMENT["x-notifications"]}

TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
}
ANNOTATIONS = {"description", "title", "$comment", "x-label"}


def _resolve(schema):
    while "$ref" in schema:
        value = DOCUMENT
        for part in schema["$ref"].removeprefix("#/").split("/"):
            value = value[part]
        schema = value
    return schema


def problems(value, schema, where="$"):
    """What is wrong with `value`, as a list of texts; empty when it fits."""
    if isinstance(schema, bool):
        return [] if schema else [f"{where}: may not be there"]
    schema = _resolve(schema)
    found = []
    for keyword, wanted in schema.items():
        if keyword in ANNOTATIONS or keyword in ("patternProperties", "required") and not isinstance(value, dict):
            continue
        if keyword == "type":
            if not TYPES[wanted](value):
                return [f"{where}: {value!r} is not of type {wanted}"]
        elif keyword == "const":
            if value != wanted or type(value) is not type(wanted):
                found.append(f"{where}: {value!r} is not {wanted!r}")
        elif keyword == "enum":
            if value not in wanted:
                found.append(f"{where}: {value!r} is not one of {wanted}")
        elif keyword == "minimum":
            if TYPES["number"](value) and value < wanted:
                found.append(f"{where}: {value} is below {wanted}")
        elif keyword == "maximum":
            if TYPES["number"](value) and value > wanted:
                found.append(f"{where}: {value} is above {wanted}")
        elif keyword == "minLength":
            if isinstance(value, str) and len(value) < wanted:
                found.append(f"{where}: shorter than {wanted}")
        elif keyword == "maxLength":
            if isinstance(value, str) and len(value) > wanted:
                found.append(f"{where}: longer than {wanted}")
        elif keyword == "minItems":
            if isinstance(value, list) and len(value) < wanted:
                found.append(f"{where}: fewer than {wanted} items")
        elif keyword == "maxItems":
            if isinstance(value, list) and len(value) > wanted:
                found.append(f"{where}: more than {wanted} items")
        elif keyword == "items":
            for index, item in enumerate(value if isinstance(value, list) else []):
                found += problems(item, wanted, f"{where}[{index}]")
        elif keyword == "required":
            found += [f"{where}: {name} is missing" for name in wanted if name not in value]
        elif keyword == "properties":
            for name in value if isinstance(value, dict) else []:
                if name in wanted:
                    found += problems(value[name], wanted[name], f"{where}.{name}")
        elif keyword == "patternProperties":
            for name in value:
                for pattern, inner in wanted.items():
                    if re.search(pattern, name):
                        found += problems(value[name], inner, f"{where}.{name}")
        elif keyword == "additionalProperties":
            patterns = schema.get("patternProperties", {})
            for name in value if isinstance(value, dict) else []:
                if name in schema.get("properties", {}) or any(re.search(p, name) for p in patterns):
                    continue
                if wanted is False:
                    found.append(f"{where}: {name} is not known")
                elif wanted is not True:
                    found += problems(value[name], wanted, f"{where}.{name}")
        elif keyword == "oneOf":
            fitting = [option for option in wanted if not problems(value, option, where)]
            if len(fitting) != 1:
                found.append(f"{where}: {value!r} fits {len(fitting)} of the alternatives, not one")
        elif keyword == "not":
            if not problems(value, wanted, where):
                found.append(f"{where}: {value!r} fits what it must not")
        else:
            raise AssertionError(f"the schema at {where} uses {keyword}, which this check does not know")
    return found


def reply_problems(method, message):
    """What is wrong with a reply to `method` (None when that is not known)."""
    found = problems(message, {"$ref": "#/components/schemas/Reply"})
    if "error" in message:
        code = message["error"].get("code")
        entry = ERRORS.get(code)
        if entry is None:
            found.append(f"code {code} is not in the table")
        elif message["error"].get("data", {}).get("reason") != entry["reason"]:
            found.append(f"code {code} does not go with that reason")
        elif not entry["given"]:
            found.append(f"{entry['reason']} is not given in this version")
        elif method in METHODS and code > 0:
            allowed = [error["$ref"].rsplit("/", 1)[1] for error in METHODS[method].get("errors", [])]
            if entry["reason"] not in allowed:
                found.append(f"{method} does not give {entry['reason']}")
    elif method in METHODS and "result" in message:
        found += problems(message["result"], METHODS[method]["result"]["schema"], "$.result")
    return found


def notification_problems(message):
    """What is wrong with a notification."""
    found = problems(message, {"$ref": "#/components/schemas/Notification"})
    known = NOTIFICATIONS.get(message.get("method"))
    if known is None:
        return found + [f"the notification {message.get('method')} is not in the document"]
    for param in known["params"]:
        if param["name"] not in message["params"]:
            if not param["required"]:
                continue
            found.append(f"{param['name']} is missing")
        else:
            found += problems(message["params"][param["name"]], param["schema"], f"$.params.{param['name']}")
    return found

"""Messages of gRPC as the bodies of HTTP that they stand for, and back.

Numbers of JSON objects (metadata, filters) are 64-bit floats in messages; whole ones become integers here, as clients
write them in JSON, so that a year is a year in either.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from serve.grpc_server.messages import MESSAGES, STRUCT
from shoal.errors import InvalidArgument
from shoal.metadata import EXACT_INTEGERS

_STRUCT, _VALUE, _LIST = MESSAGES[STRUCT], MESSAGES["google.protobuf.Value"], MESSAGES["google.protobuf.ListValue"]


def read_message(name: str, data: bytes) -> dict[str, Any]:
    """Return the fields of a message that were given.

    Raises InvalidArgument for bytes that are no such message, fields that are not known, and numbers of JSON objects
    that JSON cannot hold.
    """
    message = MESSAGES[name]()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise InvalidArgument(f"what was sent is no {name} of Pinecone's data plane") from None
    size = message.ByteSize()
    unknown = sorted({field.field_number for field in UnknownFieldSet(message)})
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        numbers = f"field {unknown[0]} of {name}" if unknown else f"a field of a message in {name}"
        raise InvalidArgument(f"{numbers} is not known here; leave it out")
    return _fields(message)


def write_message(name: str, body: Mapping[str, Any]) -> bytes:
    """Return a message in bytes. body: its fields; None is left out, vectors are arrays or lists."""
    data: bytes = _message(MESSAGES[name], body).SerializeToString()
    return data


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: _value(field.name, value) for field, value in message.ListFields()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, _STRUCT):
        return {key: _plain(each, f"{name}.{key}") for key, each in value.fields.items()}
    if hasattr(value, "ListFields"):
        return _fields(value)
    if len(value) and hasattr(value[0], "ListFields"):
        return [_fields(each) for each in value]
    return list(value)


def _plain(value: Any, place: str) -> Any:
    """What JSON would hold for a value."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise InvalidArgument(f"{place[:200]} should be a finite number")
            return int(number) if number.is_integer() and abs(number) <= EXACT_INTEGERS else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {key: _plain(each, f"{place}.{key}") for key, each in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(each, f"{place}[{number}]") for number, each in enumerate(value.list_value.values)]
        case _:
            return None


def _message(cls: Any, body: Mapping[str, Any]) -> Any:
    fields = cls.DESCRIPTOR.fields_by_name
    return cls(**{name: _given(fields[name], value) for name, value in body.items() if value is not None})


def _given(field: Any, value: Any) -> Any:
    """What the constructor of a message takes for a field."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    type_ = field.message_type
    if type_ is None:
        return value
    if type_.full_name == STRUCT:
        return _struct(value)
    if type_.GetOptions().map_entry:
        cls = MESSAGES[type_.fields_by_name["value"].message_type.full_name]
        return {key: _message(cls, each) for key, each in value.items()}
    cls = MESSAGES[type_.full_name]
    return [_message(cls, each) for each in value] if isinstance(value, list) else _message(cls, value)


def _struct(fields: Mapping[str, Any]) -> Any:
    return _STRUCT(fields={key: _packed(value) for key, value in fields.items()})


def _packed(value: Any) -> Any:
    match value:
        case None:
            return _VALUE(null_value=0)
        case bool():
            return _VALUE(bool_value=value)
        case int() | float():
            return _VALUE(number_value=value)
        case str():
            return _VALUE(string_value=value)
        case Mapping():
            return _VALUE(struct_value=_struct(value))
        case _:
            return _VALUE(list_value=_LIST(values=[_packed(each) for each in value]))

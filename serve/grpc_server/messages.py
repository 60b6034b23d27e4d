"""The messages of Pinecone's data plane over gRPC, made when this is imported.

No code is generated and none is copied: what is written below is what clients and servers agree on, in the notation of
`.proto` files, and protobuf makes the classes. A field has the name that JSON gives it in Pinecone's API over HTTP; on
the wire only its number counts. Fields are added here and nowhere else.

A request has the fields that the body over HTTP has (`serve.dialects.pinecone_api.bodies`), so that what is refused is
refused by its name. Whatever is not here is refused by its number.
"""

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

STRUCT = "google.protobuf.Struct"
"""The type of JSON objects: metadata and filters."""
_PROTO = {
    "SparseValues": "repeated uint32 indices = 1; repeated float values = 2;",
    "Vector": "string id = 1; repeated float values = 2; Struct metadata = 3; SparseValues sparseValues = 4;",
    "ScoredVector": "string id = 1; float score = 2; repeated float values = 3; Struct metadata = 4;",
    "Usage": "optional uint32 readUnits = 1;",
    "QueryRequest": "string namespace = 1; uint32 topK = 2; Struct filter = 3; bool includeValues = 4;"
    "bool includeMetadata = 5; repeated float vector = 7; string id = 8; SparseValues sparseVector = 9;"
    "optional float scanFactor = 10; optional uint32 maxCandidates = 11;",
    "QueryResponse": "repeated ScoredVector matches = 2; string namespace = 3; Usage usage = 4;",
    "FetchRequest": "repeated string ids = 1; string namespace = 2;",
    "FetchResponse": "map<string,Vector> vectors = 1; string namespace = 2; Usage usage = 3;",
    "FetchByMetadataRequest": "string namespace = 1; optional Struct filter = 2; optional uint32 limit = 3;"
    "optional string paginationToken = 4;",
    "FetchByMetadataResponse": "map<string,Vector> vectors = 1; string namespace = 2; Usage usage = 3;"
    "Pagination pagination = 4;",
    "ListRequest": "optional string prefix = 1; optional uint32 limit = 2; optional string paginationToken = 3;"
    "string namespace = 4;",
    "ListItem": "string id = 1;",
    "Pagination": "string next = 1;",
    "ListResponse": "repeated ListItem vectors = 1; Pagination pagination = 2; string namespace = 3; Usage usage = 4;",
    "ListNamespacesRequest": "optional string paginationToken = 1; optional uint32 limit = 2;"
    "optional string prefix = 3;",
    "NamespaceDescription": "string name = 1; uint32 record_count = 2;",
    "ListNamespacesResponse": "repeated NamespaceDescription namespaces = 1; Pagination pagination = 2;",
    "DescribeNamespaceRequest": "string namespace = 1;",
    "DescribeNamespaceResponse": "string name = 1; uint32 record_count = 2;",
    "DeleteNamespaceRequest": "string namespace = 1;",
    "DeleteNamespaceResponse": "",
    "DescribeIndexStatsRequest": "Struct filter = 1;",
    "NamespaceSummary": "uint32 vectorCount = 1;",
    "DescribeIndexStatsResponse": "map<string,NamespaceSummary> namespaces = 1; optional uint32 dimension = 2;"
    "float indexFullness = 3; uint32 totalVectorCount = 4; optional string metric = 5; optional string vectorType = 6;",
    "UpsertRequest": "repeated Vector vectors = 1; string namespace = 2;",
    "UpsertResponse": "uint32 upsertedCount = 1;",
    "UpdateRequest": "string id = 1; repeated float values = 2; Struct setMetadata = 3; string namespace = 4;"
    "SparseValues sparseValues = 5; Struct filter = 6; optional bool dryRun = 7;",
    "UpdateResponse": "uint32 matchedRecords = 1;",
    "DeleteRequest": "repeated string ids = 1; bool deleteAll = 2; string namespace = 3; Struct filter = 4;",
    "DeleteResponse": "",
}
"""Every message by its name, which those of a call have from the call, since on the wire there is none. Numbers that
are not here are of fields that are not served."""
_FIELD = re.compile(r"(?:(?P<label>repeated|optional) )?(?P<type>\w+|map<string,\w+>) (?P<name>\w+) = (?P<number>\d+)")
"""One field in this notation."""
_FieldProto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FieldProto.TYPE_STRING,
    "float": _FieldProto.TYPE_FLOAT,
    "uint32": _FieldProto.TYPE_UINT32,
    "bool": _FieldProto.TYPE_BOOL,
}
"""The types that are no messages."""


def _add_field(message: Any, label: str | None, type_: str, name: str, number: int) -> None:
    """Add a field to the description of a message."""
    field = message.field.add(name=name, json_name=name, number=number)
    field.label = _FieldProto.LABEL_OPTIONAL
    if type_.startswith("map<"):
        entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        _add_field(entry, None, "string", "key", 1)
        _add_field(entry, None, type_.removeprefix("map<string,").removesuffix(">"), "value", 2)
        label, type_ = "repeated", f"{message.name}.{entry.name}"
    if label == "repeated":
        field.label = _FieldProto.LABEL_REPEATED
    elif label == "optional":  # whether it was given is known, which is told by a group of one
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
    if type_ in _SCALARS:
        field.type = _SCALARS[type_]
    else:
        field.type = _FieldProto.TYPE_MESSAGE
        field.type_name = f".{STRUCT if type_ == 'Struct' else type_}"


def _classes() -> dict[str, Any]:
    """Make the classes of all messages, by name, in a pool of their own: clients in this process have theirs."""
    file = descriptor_pb2.FileDescriptorProto(
        name="shoal/pinecone_data.proto", syntax="proto3", dependency=[struct_pb2.DESCRIPTOR.name]
    )
    for name, fields in _PROTO.items():
        message = file.message_type.add(name=name)
        for text in filter(None, map(str.strip, fields.split(";"))):
            matched = _FIELD.fullmatch(text)
            assert matched is not None, text
            _add_field(message, matched["label"], matched["type"], matched["name"], int(matched["number"]))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    names = [*_PROTO, STRUCT, "google.protobuf.Value", "google.protobuf.ListValue"]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names}


MESSAGES = _classes()
"""The class of each message by its name, and those of JSON values by theirs."""

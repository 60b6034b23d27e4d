"""Messages as bodies of HTTP and back, beside what protobuf itself makes of both."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from serve.grpc_server.conversion import read_message, write_message
from serve.grpc_server.data_calls import CALLS
from serve.grpc_server.messages import MESSAGES
from shoal.errors import InvalidArgument

BODIES = {
    "QueryRequest": {
        "namespace": "n",
        "topK": 25,
        "vector": [0.5, -2.0],
        "filter": {"$and": [{"year": {"$gte": 2020}}, {"tag": {"$in": ["a", "b"]}}, {"price": 2.5}, {"new": True}]},
        "includeMetadata": True,
        "includeValues": True,
        "sparseVector": {"indices": [1, 7], "values": [0.5, 0.25]},
        "scanFactor": 2.5,
        "maxCandidates": 7,
    },
    "FetchRequest": {"ids": ["a", "b"], "namespace": "n"},
    "FetchByMetadataRequest": {"filter": {"year": 2020}, "limit": 3, "paginationToken": "t", "namespace": "n"},
    "ListNamespacesRequest": {"prefix": "p", "limit": 3, "paginationToken": "t"},
    "DescribeNamespaceRequest": {"namespace": "n"},
    "DeleteNamespaceRequest": {"namespace": "n"},
    "ListRequest": {"prefix": "p", "limit": 3, "paginationToken": "t", "namespace": "n"},
    "DescribeIndexStatsRequest": {"filter": {"year": 2020}},
    "UpsertRequest": {
        "vectors": [
            {"id": "a", "values": [1.0, 2.0], "metadata": {"text": "otter", "list": ["x"], "nothing": None}},
            {"id": "b", "values": [3.0], "sparseValues": {"indices": [1], "values": [1.0]}},
        ]
    },
    "UpdateRequest": {
        "id": "a", "values": [1.0], "setMetadata": {"year": 2021}, "namespace": "n", "dryRun": True, "filter": {"a": 1},
        "sparseValues": {"indices": [1], "values": [1.0]},
    },
    "DeleteRequest": {"ids": ["a"], "deleteAll": True, "namespace": "n", "filter": {"year": {"$lt": 2000}}},
}  # fmt: skip
ANSWERS: dict[str, dict[str, Any]] = {
    "QueryResponse": {
        "matches": [{"id": "a", "score": 0.5, "values": [1.0], "metadata": {"year": 2020, "of": [1, "b", None, {}]}}],
        "namespace": "n",
        "usage": {"readUnits": 1},
    },
    "FetchResponse": {"vectors": {"a": {"id": "a", "values": [1.0, 2.0], "metadata": {"x": False}}}, "namespace": "n"},
    "FetchByMetadataResponse": {
        "vectors": {"a": {"id": "a", "values": [1.0, 2.0], "metadata": {"x": False}}},
        "namespace": "n",
        "pagination": {"next": "t"},
        "usage": {"readUnits": 1},
    },
    "ListNamespacesResponse": {"namespaces": [{"name": "n", "record_count": 7}], "pagination": {"next": "t"}},
    "DescribeNamespaceResponse": {"name": "n", "record_count": 7},
    "DeleteNamespaceResponse": {},
    "ListResponse": {"vectors": [{"id": "a"}, {"id": "b"}], "pagination": {"next": "t"}, "usage": {"readUnits": 1}},
    "DescribeIndexStatsResponse": {
        "namespaces": {"n": {"vectorCount": 7}}, "dimension": 64, "indexFullness": 0.5, "totalVectorCount": 7,
        "metric": "cosine", "vectorType": "dense",
    },
    "UpsertResponse": {"upsertedCount": 2},
    "UpdateResponse": {"matchedRecords": 1},
    "DeleteResponse": {},
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_request_is_the_body_that_protobuf_makes_json_of(name: str) -> None:
    data = ParseDict(BODIES[name], MESSAGES[name]()).SerializeToString()
    assert read_message(name, data) == BODIES[name]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_json_that_protobuf_makes_of_it(name: str) -> None:
    written = MESSAGES[name].FromString(write_message(name, ANSWERS[name]))
    assert MessageToDict(written, preserving_proto_field_name=True) == ANSWERS[name]


def test_each_call_is_tried_here() -> None:
    assert {call.name for call in CALLS} == {name.removesuffix("Request") for name in BODIES}
    assert {call.name for call in CALLS} == {name.removesuffix("Response") for name in ANSWERS}


def test_vectors_are_arrays_and_what_is_not_there_is_left_out() -> None:
    body = {"matches": [{"id": "a", "score": np.float32(0.25), "values": np.float32([0.1, 0.2])}], "usage": None}
    (match,) = MESSAGES["QueryResponse"].FromString(write_message("QueryResponse", body)).matches
    assert (match.id, match.score) == ("a", 0.25)
    np.testing.assert_array_equal(np.float32(match.values), np.float32([0.1, 0.2]))


def test_whole_numbers_of_metadata_are_integers_and_large_ones_stay_what_they_are() -> None:
    struct = {"year": 2020.0, "price": 2.5, "large": 2.0**60, "negative": -3.0}
    data = ParseDict({"filter": struct}, MESSAGES["DescribeIndexStatsRequest"]()).SerializeToString()
    filter_ = read_message("DescribeIndexStatsRequest", data)["filter"]
    assert {name: type(value) for name, value in filter_.items()} == {
        "year": int, "price": float, "large": float, "negative": int
    }  # fmt: skip
    assert filter_ == struct


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x10\x05\x30\x01", "field 6 of QueryRequest is not known here"),
        # A field of a message within it: number 9 of SparseValues.
        (b"\x4a\x02\x48\x01", "a field of a message in QueryRequest is not known here"),
        (b"\x10", "is no QueryRequest"),
        (b"\xff\xff\xff\xff", "is no QueryRequest"),
        (b"\x0a\x02\xff\xfe", "is no QueryRequest"),  # no UTF-8
        (b"\x3a\x03\x00\x00\x00", "is no QueryRequest"),  # three quarters of a number
    ],
)
def test_what_is_not_understood_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        read_message("QueryRequest", data)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_metadata_has_no_numbers_that_json_has_not(number: float) -> None:
    message = MESSAGES["UpsertRequest"]()
    message.vectors.add(id="a").metadata.fields["list"].list_value.values.add(number_value=number)
    with pytest.raises(InvalidArgument, match=r"metadata.list\[0\] should be a finite number"):
        read_message("UpsertRequest", message.SerializeToString())


def test_objects_in_objects_have_an_end() -> None:
    message = MESSAGES["DescribeIndexStatsRequest"]()
    inner = message.filter
    for _ in range(200):
        inner = inner.fields["a"].struct_value
    with pytest.raises(InvalidArgument, match="is no DescribeIndexStatsRequest"):
        read_message("DescribeIndexStatsRequest", message.SerializeToString())

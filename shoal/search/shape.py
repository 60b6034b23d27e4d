"""Whether what is asked of the shape of an answer fits the version, and each other."""

from shoal.errors import InvalidArgument
from shoal.filters import field_type
from shoal.metadata import FieldTypes
from shoal.records import ID, OrderBy, SearchRequest
from shoal.search.distinct import check_group
from shoal.search.facets import check_facets


def check_shape(request: SearchRequest, types: FieldTypes) -> None:
    """Check that what is asked of an answer fits the version, and each other. Raises InvalidArgument."""
    shape = request.shape
    check_facets(shape.facets, types)
    check_group(shape.group_by, types)
    if shape.group_by and shape.diversity:
        raise InvalidArgument("diversity chooses single passages; leave it or group_by out", param="diversity")
    if shape.order_by is not None:
        _check_order(request, shape.order_by, types)


def _check_order(request: SearchRequest, order_by: OrderBy, types: FieldTypes) -> None:
    """Check what passages are put by, and that nothing else is asked for that would put them."""
    if order_by.field == ID:
        if order_by.descending:
            raise InvalidArgument(
                f"order_by.descending: by {ID} there is one direction; leave it out", param="order_by.descending"
            )
    elif field_type(types, order_by.field, "order_by.field", "order by") == "list":
        raise InvalidArgument(
            f"order_by.field: {order_by.field} holds lists, which have no order; name a field with one value",
            param="order_by.field",
        )
    shape = request.shape
    others = {
        "rerank": request.rerank,
        "group_by": shape.group_by,
        "diversity": shape.diversity,
        "collapse": shape.collapse,
        "min_score": shape.min_score is not None,
    }
    for name, asked in others.items():
        if asked:
            raise InvalidArgument(f"order_by puts passages by a field, and not by scores; leave {name} out", param=name)

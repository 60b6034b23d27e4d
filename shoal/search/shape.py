"""Whether what is asked of the shape of an answer fits the version, and each other."""

from shoal.errors import InvalidArgument
from shoal.metadata import FieldTypes
from shoal.records import SearchRequest
from shoal.search.distinct import check_group
from shoal.search.facets import check_facets


def check_shape(request: SearchRequest, types: FieldTypes) -> None:
    """Check that what is asked of an answer fits the version, and each other. Raises InvalidArgument."""
    shape = request.shape
    check_facets(shape.facets, types)
    check_group(shape.group_by, types)
    if shape.group_by and shape.diversity:
        raise InvalidArgument("diversity chooses single passages; leave it or group_by out", param="diversity")

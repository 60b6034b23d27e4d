"""What `shoal.capacity.calibration` measures of a machine, in the file that `shoal plan` reads."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal.errors import InvalidArgument

SHIPPED = Path(__file__).parent / "shipped_constants.json"
"""Constants of one named machine, for plans where nobody has measured."""


class Record(BaseModel):
    """Base of what is measured and planned: immutable, without unknown fields."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)


class Point(Record):
    """How far a search looked, and what it found.

    recall: share of the ten nearest. share: of the lists of an index, those that were probed. refine: candidates that
    were compared exactly, for each result.
    """

    recall: float = Field(ge=0, le=1)
    share: float = Field(gt=0, le=1)
    refine: int = Field(ge=0)


class KindCost(Record):
    """Searching one index kind: microseconds of a core for each code compared, at `Constants.search_dim` dimensions.

    points: ascending by recall, each the cheapest of its recall.
    """

    row_us: float = Field(gt=0)
    points: list[Point] = Field(min_length=1)


class Constants(Record):
    """What the formulas are fed with, measured on one machine."""

    machine: str
    """Processor, cores and memory."""
    measured_at: str
    """UTC, ISO 8601."""
    device: str
    """`cpu` or `cuda`: where models computed. Their speeds are those of one core, or of one GPU."""
    encoder: str
    encoder_dim: int = Field(gt=0)
    encode_bytes_per_s: float = Field(gt=0)
    """UTF-8 bytes of passages that are embedded in a second."""
    query_ms: float = Field(gt=0)
    """To encode one query, with nothing beside it, in the median."""
    query_p99_ms: float = Field(gt=0)
    reranker: str
    rerank_bytes_per_s: float = Field(gt=0)
    """UTF-8 bytes of passages that are reranked in a second, none of them read before."""
    search_dim: int = Field(gt=0)
    search_us: float = Field(ge=0)
    """Of one search of a shard, whatever its size."""
    exact_us: float = Field(ge=0)
    """To compare one candidate exactly, whose vector is in memory."""
    kinds: dict[str, KindCost]
    lexical_us: float = Field(gt=0)
    """BM25 of a query, for each passage of a shard."""
    index_us: float = Field(gt=0)
    """To index one passage, its vector (`ivf_sq8`) and its words, without embedding it."""
    read_us: float = Field(gt=0)
    """To read a row of a mapped file that is not in memory."""
    answer_ms: float = Field(gt=0)
    """Of an answer beside the encoder and the shards, in the median: HTTP, the ingress, the hop to the encoder."""
    answer_p99_ms: float = Field(gt=0)
    hop_ms: float = Field(gt=0)
    """Of a call to a single shard beside the search, in the median."""
    call_ms: float = Field(gt=0)
    """What each shard more adds to an answer: work of the ingress, which makes all calls."""
    tail: list[tuple[float, float]] = Field(min_length=2)
    """Quantiles of a call whose search takes no time: (probability, multiple of the median), both ascending."""
    process_bytes: int = Field(gt=0)
    """Memory of a retriever beside the index."""

    @classmethod
    def shipped(cls) -> "Constants":
        """Return the constants that come with Shoal, of the machine that they name."""
        return cls.read(SHIPPED)

    @classmethod
    def read(cls, path: Path) -> "Constants":
        """Read a file of constants. Raises InvalidArgument when it is none."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
        except FileNotFoundError:
            raise InvalidArgument(
                f"there are no constants of this machine in {path}; measure them with shoal plan --calibrate",
                param="--constants",
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
        raise InvalidArgument(
            f"{path} holds no constants of this Shoal ({reason}); measure them with shoal plan --calibrate",
            param="--constants",
        )

"""Whether an index is trained and filled on a GPU. The CPU index is what is searched: GPU indexes ignore selectors."""

from typing import Any

import faiss


def borrow(index: Any) -> tuple[Any, bool]:
    """Return the index to train or fill, and whether it is a copy on a GPU that `give_back` has to copy home.

    The index itself comes back when faiss is built without GPU support, when this process sees no GPU, and when FAISS
    has no GPU implementation of its kind (HNSW, for one).
    """
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return index, False
    try:
        # Ray shows a worker only its own GPUs: the first one is ours.
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index), True
    except RuntimeError:
        return index, False


def give_back(index: Any, on_gpu: bool) -> Any:
    """Return a trained or filled index as a CPU index."""
    return faiss.index_gpu_to_cpu(index) if on_gpu else index

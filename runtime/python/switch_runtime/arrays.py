"""Python objects out of native results. Whatever is read here is copied."""

import ctypes
from typing import TYPE_CHECKING

from switch_runtime import native

if TYPE_CHECKING:
    import numpy


def sequences(result: ctypes.c_void_p) -> list[tuple[list[int], float, int]]:
    """Return token ids, score and end token (-1: none) of each sequence."""
    library = native.library()
    read = []
    count = ctypes.c_size_t()
    for index in range(library.switch_result_count(result)):
        ids = library.switch_result_ids(result, index, count)
        score = library.switch_result_score(result, index)
        eos = library.switch_result_eos(result, index)
        read.append((ids[: count.value] if count.value else [], score, eos))
    return read


def named_arrays(arrays: ctypes.c_void_p) -> list[tuple[str, "numpy.ndarray"]]:
    """Return name and value of each array, in the library's order."""
    import numpy

    library = native.library()
    read = []
    rank = ctypes.c_size_t()
    for index in range(library.switch_arrays_count(arrays)):
        name = library.switch_arrays_name(arrays, index).decode()
        shape = library.switch_arrays_shape(arrays, index, rank)
        shape = tuple(shape[axis] for axis in range(rank.value))
        value = numpy.empty(shape, native.NUMPY_TYPES[library.switch_arrays_type(arrays, index)])
        if value.size:
            data = library.switch_arrays_data(arrays, index)
            ctypes.memmove(value.ctypes.data, data, value.nbytes)
        read.append((name, value))
    return read

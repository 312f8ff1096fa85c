"""Tokens and text while they are decoded."""

import atexit
import contextlib
import functools
import threading
import unicodedata
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from switch_runtime.options import NativeOptions
from switch_runtime.tokenizer import Tokenizer

_ZWJ = "\u200d"
# What joins the character before it though its category is no mark's: joiners, half-width voiced
# sound marks, skin tones, tags, and the second letter of a flag.
_JOINERS = {"\u200c", _ZWJ, "\uff9e", "\uff9f"}
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_TAGS = range(0xE0020, 0xE0080)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)


class _End:
    """The last thing in the queue: the decoding is over, perhaps by an error."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def tokens(decode: Callable[[], object], options: NativeOptions) -> Iterator[int]:
    """Yield every token as it is chosen.

    A thread of its own runs `decode`, which decodes one sequence with `options`. When the generator
    is closed, collected or left by an exception, the decoding is cancelled and the thread joined;
    so it is at the end of the process.
    """
    queue: SimpleQueue = SimpleQueue()
    options.struct.on_token = options.control.callbacks.token(queue.put)
    # A daemon, or a program that ends in mid-stream would wait for the rest of the text.
    worker = threading.Thread(
        target=_work, args=(decode, queue), name="switch_runtime.stream", daemon=True
    )
    stop = functools.partial(_stop, options.control.flag, worker)
    atexit.register(stop)
    try:
        worker.start()
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        atexit.unregister(stop)
        stop()


def _work(decode: Callable[[], object], queue: SimpleQueue) -> None:
    try:
        decode()
    except BaseException as error:
        queue.put(_End(error))
    else:
        queue.put(_End())


def _stop(flag: object, worker: threading.Thread) -> None:
    """Cancel the decoding and wait for its thread, whatever signals come meanwhile."""
    flag.value = 1
    interrupted = False
    # Garbage may be collected on any thread, so also on the worker.
    while worker is not threading.current_thread() and worker.is_alive():
        try:
            worker.join()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def texts(tokenizer: Tokenizer, ids: Iterator[int]) -> Iterator[str]:
    """Yield the text of token ids in pieces that a terminal can show one after the other.

    What may still be joined by the next character is held back: everything from the last character
    that does not join the one before it, unless the text ends in an ASCII character.
    """
    held: list[str] = []
    last = ""
    with contextlib.closing(ids):
        for text in tokenizer.decode_each(ids):
            cut = _last_boundary(last, text)
            if cut is not None:
                held.append(text[:cut])
                if piece := "".join(held):
                    yield piece
                held.clear()
            held.append(text if cut is None else text[cut:])
            last = text[-1:] or last
    if piece := "".join(held):
        yield piece


def _last_boundary(last: str, text: str) -> int | None:
    """Return where text can be cut for good; None: nowhere.

    Args:
        last: the character before the text.
        text: what follows it; not what comes next.
    """
    if text and text[-1].isascii():
        return len(text)
    for index in range(len(text) - 1, -1, -1):
        if not _joins(text[index - 1] if index else last, text[index]):
            return index
    return None


def _joins(before: str, char: str) -> bool:
    """Say whether a reader takes `char` as part of the character before it."""
    code = ord(char)
    if before and ord(before) in _FLAG_LETTERS and code in _FLAG_LETTERS:
        return True
    is_mark = unicodedata.category(char)[0] == "M"
    return is_mark or before == _ZWJ or char in _JOINERS or code in _SKIN_TONES or code in _TAGS

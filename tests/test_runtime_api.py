"""switch_runtime as a caller meets it: sources, forward, route, closing."""

import threading

import numpy as np
import pytest

import switch_runtime
from switch_runtime import InvalidArgument

SOURCE = [5, 6, 7, 1]


def ids(results) -> list[list[int]]:
    return [result.token_ids for result in results]


# Sources.


@pytest.mark.parametrize(
    "sources",
    [
        SOURCE,
        tuple(SOURCE),
        [SOURCE],
        np.array(SOURCE),
        np.array([SOURCE], dtype=np.int32),
        [np.array(SOURCE, dtype=np.uint8)],
        [np.int64(token) for token in SOURCE],
    ],
)
def test_one_row_is_one_result_whatever_its_type(tiny_model, sources):
    results = tiny_model.generate(sources, max_new_tokens=5)
    assert ids(results) == ids(tiny_model.generate([SOURCE], max_new_tokens=5))
    assert len(results) == 1


def test_a_batch_has_the_results_of_its_rows_in_order(tiny_model, sources):
    alone = [tiny_model.generate(row, num_beams=3, max_new_tokens=6)[0] for row in sources]
    together = tiny_model.generate(sources, num_beams=3, max_new_tokens=6)
    assert ids(together) == ids(alone)
    assert [r.score for r in together] == pytest.approx([r.score for r in alone], abs=1e-4)


def test_several_sequences_per_source_are_neighbours_the_best_first(tiny_model, sources):
    options = {"num_beams": 4, "max_new_tokens": 5}
    best = tiny_model.generate(sources, **options)
    several = tiny_model.generate(sources, num_return_sequences=3, **options)
    assert ids(several[::3]) == ids(best)
    for start in range(0, len(several), 3):
        scores = [result.score for result in several[start : start + 3]]
        assert scores == sorted(scores, reverse=True)


def test_a_directory_without_tokenizer_gives_ids_and_no_text(tiny_model):
    assert tiny_model.tokenizer is None
    assert tiny_model.generate(SOURCE, max_new_tokens=2)[0].text is None


def test_texts_are_their_token_ids(text_model):
    texts = ["abcd <extra_id_0> efgh", "", "<extra_id_1>"]
    rows = [text_model.tokenizer.encode(text) for text in texts]
    from_texts = text_model.generate(texts, max_new_tokens=6)
    assert from_texts == text_model.generate(rows, max_new_tokens=6)
    assert from_texts[0].text == text_model.generate(texts[0], max_new_tokens=6)[0].text
    for result in from_texts:
        assert result.text == text_model.tokenizer.decode(result.token_ids)


def test_text_and_ids_may_share_a_batch(text_model):
    row = text_model.tokenizer.encode("abcd")
    first, second = text_model.generate(["abcd", row], max_new_tokens=4)
    assert first.token_ids == second.token_ids


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "sources is empty"),
        ([[]], r"sources\[0\] has no token ids"),
        ([SOURCE, []], r"sources\[1\] has no token ids"),
        ([[1.5]], r"sources\[0\]\[0\] is 1.5, expected an integer"),
        ([[True]], r"sources\[0\]\[0\] is True"),
        (np.array([1.0]), r"sources\[0\] is .*1.0.*, expected an integer"),
        ([[3, None], ["a"]], r"(?s)sources\[0\]\[1\] is None.*sources\[1\]\[0\] is 'a'"),
        ([[2**63]], "which no token id can be"),
        ([[-1]], "-1, expected an id from 0 to 130"),
        ([SOURCE, [5, 131]], "131, expected an id from 0 to 130"),
        (b"text", "sources is bytes"),
        (7, "sources is int 7"),
        (None, "sources is NoneType"),
        ({"a": 1}, "sources is dict"),
        (np.array(3), "expected text or token ids"),
        ("text", r"sources\[0\] is text, but the model directory has no tokenizer"),
    ],
)
def test_bad_sources_are_named_and_leave_the_model_usable(tiny_model, sources, message):
    with pytest.raises(InvalidArgument, match=message) as caught:
        tiny_model.generate(sources)
    assert isinstance(caught.value, ValueError)


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize(
    ("sources", "options"),
    [
        (SOURCE, {"max_new_tokens": 10**15}),
        ([[5] * 1_000_000], {"max_new_tokens": 1}),
        (SOURCE, {"num_beams": 1024, "max_new_tokens": 10**9}),
    ],
)
def test_what_no_memory_holds_is_out_of_memory_before_it_starts(tiny_model, sources, options):
    with pytest.raises(switch_runtime.OutOfMemory, match="GiB") as caught:
        tiny_model.generate(sources, **options)
    assert isinstance(caught.value, MemoryError)


# The other calls.


def test_generate_of_an_encoder_is_refused(encoder_model):
    with pytest.raises(InvalidArgument, match="encoder"):
        encoder_model.generate(SOURCE)


def test_forward_agrees_with_greedy_decoding(tiny_model):
    """Up to two tokens nothing is dropped, and the greedy token has the largest logit."""
    target = tiny_model.generate([5, 6, 7], max_new_tokens=2, min_new_tokens=2)[0].token_ids
    logits = tiny_model.forward([5, 6, 7], target)
    logits[:, 1] = -np.inf  # min_new_tokens: no end token
    assert logits.shape == (2, 131)
    assert logits.argmax(-1).tolist() == target


def test_route_names_the_sparse_layers_and_drops_beyond_capacity(tiny_model, sources):
    routes = tiny_model.route(sources[0])
    model = tiny_model.describe()["switch_json"]["model"]
    assert list(routes) == [f"encoder.{block}" for block in model["sparse_encoder_layers"]]
    for expert, gate in routes.values():
        assert expert.shape == gate.shape == (len(sources[0]),)
        assert expert.min() == -1  # 13 tokens, 4 experts of capacity 2
        assert gate.min() > 0
        assert gate.max() <= 1
    decoder = [f"decoder.{block}" for block in model["sparse_decoder_layers"]]
    assert list(tiny_model.route(SOURCE, [4, 1])) == [*routes, *decoder]


@pytest.mark.usefixtures("stays_usable")
def test_forward_and_route_name_their_bad_input(tiny_model):
    with pytest.raises(InvalidArgument, match="target has no token ids"):
        tiny_model.forward(SOURCE, [])
    with pytest.raises(InvalidArgument, match="target.*131"):
        tiny_model.forward(SOURCE, [131])
    with pytest.raises(InvalidArgument, match=r"source\[0\] is \[5\]"):
        tiny_model.route([[5]])


def test_describe_tells_engine_and_directory(tiny_model, tiny_directory):
    description = tiny_model.describe()
    assert description["directory"] == str(tiny_directory)
    assert description["switch_json"]["format"] == 1
    assert description["onnxruntime"].startswith("1.")
    description["switch_json"].clear()
    assert tiny_model.describe()["switch_json"]["format"] == 1


def test_a_closed_model_says_so(tiny_directory):
    with switch_runtime.load(tiny_directory) as model:
        pass
    with pytest.raises(InvalidArgument, match="the model is closed"):
        model.generate(SOURCE)
    model.close()


def test_threads_may_share_a_model(tiny_model, sources):
    expected = [tiny_model.generate(row, num_beams=2) for row in sources]
    found: dict[int, list] = {}

    def work(index: int) -> None:
        found[index] = [tiny_model.generate(row, num_beams=2) for row in sources]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [found[index] for index in range(4)] == [expected] * 4


def test_close_waits_for_the_calls_of_other_threads(tiny_directory):
    model = switch_runtime.load(tiny_directory)
    found = []
    options = {"max_new_tokens": 200, "min_new_tokens": 200}
    worker = threading.Thread(target=lambda: found.extend(model.generate(SOURCE, **options)))
    worker.start()
    while model._calls == 0 and worker.is_alive():
        pass
    model.close()
    worker.join()
    assert len(found[0].token_ids) == 200

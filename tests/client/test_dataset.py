"""The dataset as a trainer uses it: epochs, checkpoints, elastic shares, what a batch is and who owns its memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch

from owl_client import Batch, OwlStreamDataset
from owl_client.transport import Share
from owl_stream.errors import (
    ConfigError,
    DataChangedError,
    FrameError,
    OwlStreamError,
    PeerGoneError,
    RequestError,
    StateMismatchError,
)
from owl_stream.wire import Cursor, ErrorInfo, pack_frame, parse_frames
from tests.client.conftest import client_threads
from tests.client.peers import NO_WAIT, MemoryTransport, cut_at, memory_dataset
from tests.client.world import TOKENS_PER_UNIT, World, key_of, keys_of, row_keys

WORLD = World(steps=4)


def state_with(**changes: object) -> dict[str, Any]:
    """A good state of the world, changed."""
    state: dict[str, Any] = memory_dataset(WORLD).state_dict()
    return {**state, **changes}


def test_one_for_is_one_epoch_and_the_next_for_the_next() -> None:
    """Epochs follow each other without being asked for."""
    dataset = memory_dataset(WORLD)
    epochs = [[(batch.meta.epoch, batch.meta.step) for batch in dataset] for _ in range(3)]
    assert epochs == [[(epoch, step) for step in range(4)] for epoch in range(3)]


def test_a_batch_is_ready_for_a_model_and_says_what_it_is() -> None:
    """Keys, types, normalised pixels and meta are those of the plan; a step without images has no pixels."""
    dataset = memory_dataset(WORLD, world_size=2, rank=1, micro_batch_size=1)
    batches = list(dataset)
    first, third = batches[0], batches[2]
    assert sorted(first) == ["attention_mask", "input_ids", "labels", "media_offset", "pixel_values"]
    assert "pixel_values" not in third
    arrays = WORLD.arrays(Cursor(0, 0, 0), Share(1, 2, 1))
    assert torch.equal(first["input_ids"], torch.from_numpy(arrays["input_ids"]))
    assert torch.equal(first["pixel_values"], (torch.from_numpy(arrays["pixel_values"]).float() / 255 - 0.5) / 0.5)
    meta = batches[1].meta
    assert (meta.vision_tokens, meta.units) == (TOKENS_PER_UNIT, 1)
    assert (third.meta.vision_tokens, third.meta.units) == (0, 0)
    assert (meta.epoch, meta.step, meta.micro, meta.rank, meta.world_size) == (0, 0, 1, 1, 2)
    assert (meta.attended_tokens, meta.supervised_tokens, meta.step_supervised_tokens) == (3, 1, 4)
    assert [row.key for row in meta.rows] == ["000003"]
    assert (meta.state["epoch"], meta.state["step"], meta.state["micro"]) == (0, 1, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_pixels_come_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    """uint8 are the raw pixels; all else is normalised in float32 and rounded once."""
    batch = next(iter(memory_dataset(WORLD, dtype=dtype)))
    raw = torch.from_numpy(WORLD.arrays(Cursor(0, 0, 0), Share(0, 1, 4))["pixel_values"])
    expected = raw if dtype == torch.uint8 else ((raw.float() / 255 - 0.5) / 0.5).to(dtype)
    assert batch["pixel_values"].dtype == dtype
    assert torch.equal(batch["pixel_values"], expected)


def test_ragged_offsets_become_a_list_of_one_tensor_a_row() -> None:
    """owl3-241101 has per row its own positions; the lengths do not reach the model."""
    world = World(layout="owl3-241101")
    first = next(iter(memory_dataset(world)))
    assert sorted(first) == ["attention_mask", "input_ids", "labels", "media_offset", "pixel_values"]
    assert [row.tolist() for row in first["media_offset"]] == [[], [0], [1, 2], []]


def test_ragged_lengths_that_do_not_fit_are_refused() -> None:
    """Lengths that do not cut the flat tensor into the batch's rows are an error, not a shifted batch."""
    world = World(layout="owl3-241101")

    def forge(frames: list[bytes]) -> list[bytes]:
        frame = next(iter(parse_frames(frames[3])))
        specs = frame.header.tensors  # type: ignore[union-attr]
        at = next(spec.offset for spec in specs if spec.name == "media_offset_lengths")
        payload = bytearray(frame.payload)
        payload[at] += 1
        return [*frames[:3], pack_frame(frame.header, payload), *frames[4:]]

    with pytest.raises(
        FrameError, match="'media_offset_lengths': expected lengths from 0 with the sum 3, got 4 from 0 with the sum 4"
    ):
        next(iter(memory_dataset(world, *[forge] * 9)))
    assert keys_of(memory_dataset(world, forge)) == keys_of(memory_dataset(world))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_yielded_batch_owns_its_memory(dtype: torch.dtype) -> None:
    """Batches that are kept while many more are received do not change."""
    dataset = memory_dataset(World(steps=12, side=200), dtype=dtype, prefetch=3)
    kept, before = [], []
    for _ in range(2):
        for batch in dataset:
            kept.append(batch)
            before.append(key_of(batch))
    assert keys_of(kept) == before
    assert len(set(before)) == 24


def test_tensors_may_be_written_to() -> None:
    """A trainer may change its batch in place without a warning, and no other batch sees it."""
    batches = list(memory_dataset(WORLD, dtype=torch.uint8))
    batches[0]["input_ids"].fill_(-1)
    batches[0]["pixel_values"].fill_(7)
    assert key_of(batches[2]) == key_of(list(memory_dataset(WORLD, dtype=torch.uint8))[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_receive_memory_is_used_again_once_batches_have_died(dtype: torch.dtype) -> None:
    """A long epoch of batches that nobody keeps needs no more slabs than are in flight."""
    dataset = memory_dataset(World(steps=40, side=200), dtype=dtype, prefetch=1)
    for _ in dataset:
        pass
    memory = dataset._here()._memory
    assert memory is not None
    payload = 4 * 3 * 200 * 200
    assert payload <= memory.idle_bytes <= 6 * 2 * payload


RESUME_POINTS = {"start": 0, "first": 1, "middle": 5, "before_last": 7, "end": 8, "next_epoch": 11}


@pytest.mark.parametrize("point", RESUME_POINTS.values(), ids=RESUME_POINTS)
def test_fault_17_a_checkpoint_resumes_exactly_behind_the_last_batch(point: int) -> None:
    """The state after any batch, through JSON and in a new dataset, continues with the next one, to the bit."""
    options = {"rank": 0, "world_size": 2, "micro_batch_size": 1}

    def endless(dataset: OwlStreamDataset) -> Any:
        while True:
            yield from dataset

    whole = keys_of(islice(endless(memory_dataset(WORLD, **options)), 20))
    first = memory_dataset(WORLD, **options)
    before = keys_of(islice(endless(first), point))
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    second = memory_dataset(WORLD, **options)
    second.load_state_dict(state)
    assert before + keys_of(islice(endless(second), 20 - point)) == whole
    second.close()


def test_fault_16_the_state_never_counts_a_prefetched_batch() -> None:
    """However much waits in the queue, the state is that of the batch in the trainer's hands."""
    dataset = memory_dataset(World(steps=10), prefetch=8)
    for batch in dataset:
        assert dataset.state_dict() == batch.meta.state == dataset.state_dict(batch)
        assert dataset.state_dict()["step"] == (batch.meta.step + 1) % 10


def test_the_state_before_the_first_batch_is_the_beginning() -> None:
    """A dataset that has yielded nothing has a state too."""
    state = memory_dataset(WORLD).state_dict()
    assert (state["epoch"], state["step"], state["micro"]) == (0, 0, 0)
    assert state["components"] == WORLD.components


def test_the_end_of_an_epoch_is_the_start_of_the_next() -> None:
    """(e, last step) normalises to (e + 1, 0), whether the state was made so or loaded so."""
    dataset = memory_dataset(WORLD)
    list(dataset)
    assert dataset.state_dict() == state_with(epoch=1)
    dataset.load_state_dict(state_with(epoch=4, step=WORLD.steps))
    assert dataset.state_dict() == state_with(epoch=5)


DIVISORS = [(1, 4), (1, 2), (1, 1), (2, 2), (2, 1), (4, 1)]


@pytest.mark.parametrize(("world_size", "rows"), DIVISORS)
def test_fault_19_any_world_size_resumes_the_same_global_steps(world_size: int, rows: int) -> None:
    """A state of one rank at world size 2 serves all ranks at every divisor, at every micro-batch size."""
    state = state_with(step=2, world_size=2, micro_batch_size=1)
    steps: dict[int, set[str]] = {}
    for rank in range(world_size):
        dataset = memory_dataset(WORLD, rank=rank, world_size=world_size, micro_batch_size=rows)
        dataset.load_state_dict(state)
        for batch in dataset:
            steps.setdefault(batch.meta.step, set()).update(row_keys(batch))
    assert steps == {step: {f"{step * 4 + row:06}" for row in range(4)} for step in (2, 3)}


def test_the_share_cannot_change_in_the_middle_of_a_step() -> None:
    """Micro-batch 1 of another cut is another set of rows: a clear error, and nothing has moved."""
    dataset = memory_dataset(WORLD, rank=0, world_size=1, micro_batch_size=2)
    with pytest.raises(RequestError, match=r"world size 2 and micro-batches of 1; got 1 and 2.*micro 0"):
        dataset.load_state_dict(state_with(step=1, micro=1, world_size=2, micro_batch_size=1))
    assert [batch.meta.step for batch in dataset] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_fault_18_a_state_of_other_data_is_refused_by_name() -> None:
    """The component that changed is named, with what was expected and what is there."""
    state = memory_dataset(World(steps=5, seed=3)).state_dict()
    dataset = memory_dataset(WORLD)
    with pytest.raises(StateMismatchError, match="manifest: expected 5x4, got 4x4; seed: expected 3, got 0") as caught:
        dataset.load_state_dict(state)
    assert caught.value.differences == {"manifest": ("5x4", "4x4"), "seed": ("3", "0")}


def test_force_goes_on_with_other_data() -> None:
    """Whoever knows better continues at the same place of what the server has."""
    dataset = memory_dataset(WORLD)
    dataset.load_state_dict({**memory_dataset(World(seed=3)).state_dict(), "step": 2}, force=True)
    assert [batch.meta.step for batch in dataset] == [2, 3]
    assert dataset.state_dict()["fingerprint"] == WORLD.fingerprint


def test_a_state_finds_the_server_that_still_has_its_data(caplog: pytest.LogCaptureFixture) -> None:
    """With several servers, one with other data is named and passed over, and the stream comes from the right one."""
    transport = MemoryTransport({"http://a": World(steps=4, seed=9), "http://b": WORLD})
    dataset = OwlStreamDataset(["http://a", "http://b"], transport=transport, backoff=NO_WAIT)
    dataset.load_state_dict(state_with(step=3))
    assert [batch.meta.step for batch in dataset] == [3]
    assert [url for url, _ in transport.opened] == ["http://b"]
    assert "passed over http://a" in caplog.text


def test_another_assembly_only_warns_on_resume(caplog: pytest.LogCaptureFixture) -> None:
    """New decoder versions after a restart are allowed, and said."""
    dataset = memory_dataset(WORLD)
    dataset.load_state_dict(state_with(step=3, assembly="pillow-9"))
    assert "pillow-9" in caplog.text
    assert [batch.meta.step for batch in dataset] == [3]


BAD_STATES: dict[str, tuple[object, str]] = {
    "not_a_map": ([1], "got list"),
    "empty": ({}, "'version'"),
    "negative_step": (state_with(step=-1), "from 0 at 'step', got -1"),
    "text_for_epoch": (state_with(epoch="two"), "'epoch', got 'two'"),
    "boolean": (state_with(micro=True), "'micro'"),
    "past_the_end": (state_with(step=5), "past an epoch of 4 steps"),
    "micro_past_the_step": (state_with(micro=1), "micro 1 is past"),
    "no_world": (state_with(world_size=0), "from 1 at 'world_size'"),
    "components": (state_with(components=None), "'components'"),
}


@pytest.mark.parametrize(("state", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_fault_20_a_state_that_cannot_be_is_refused(state: Any, message: str) -> None:
    """Negative, past the end, not a number, missing: one clear error, and the dataset stays where it was."""
    dataset = memory_dataset(WORLD)
    with pytest.raises(RequestError, match=message):
        dataset.load_state_dict(state)
    assert len(list(dataset)) == 4


def test_fault_23_a_state_of_another_format_version_is_a_version_error() -> None:
    """A state that a newer client wrote is not guessed at."""
    with pytest.raises(StateMismatchError, match="format version 1, got 2"):
        memory_dataset(WORLD).load_state_dict(state_with(version=2))


def test_a_for_that_was_left_early_goes_on_behind_its_last_batch() -> None:
    """Breaking out loses nothing and repeats nothing."""
    dataset = memory_dataset(WORLD)
    for batch in dataset:
        if batch.meta.step == 1:
            break
    assert [batch.meta.step for batch in dataset] == [2, 3]


def test_leaving_behind_the_last_batch_begins_the_next_epoch() -> None:
    """A trainer that counts steps and leaves at the last has finished the epoch."""
    dataset = memory_dataset(WORLD)
    list(islice(dataset, 4))
    assert [(batch.meta.epoch, batch.meta.step) for batch in islice(dataset, 1)] == [(1, 0)]


def test_a_new_iterator_ends_the_one_before() -> None:
    """Two loops over one dataset cannot both be right, and the older says so."""
    dataset = memory_dataset(WORLD)
    older = iter(dataset)
    next(older)
    newer = iter(dataset)
    assert next(newer).meta.step == 1
    with pytest.raises(RequestError, match="a newer iterator"):
        next(older)
    dataset.close()
    with pytest.raises(RequestError, match="was closed"):
        next(newer)


def test_set_epoch_moves_to_the_start_of_an_epoch() -> None:
    """Any epoch can be asked for, forwards and backwards."""
    dataset = memory_dataset(WORLD)
    for epoch in (3, 0, 7):
        dataset.set_epoch(epoch)
        assert [(batch.meta.epoch, batch.meta.step) for batch in dataset] == [(epoch, step) for step in range(4)]


def test_set_epoch_after_a_resume_cannot_rewind() -> None:
    """Trainers announce the epoch they resume in, some twice; the place in it stays. Later calls mean what they say."""
    dataset = memory_dataset(WORLD)
    dataset.load_state_dict(state_with(epoch=2, step=3))
    dataset.set_epoch(2)
    dataset.set_epoch(2)
    assert [(batch.meta.epoch, batch.meta.step) for batch in dataset] == [(2, 3)]
    dataset.set_epoch(3)
    dataset.set_epoch(2)
    assert len(list(dataset)) == 4
    dataset.load_state_dict(state_with(epoch=5))
    dataset.set_epoch(4)
    assert next(iter(dataset)).meta.epoch == 5
    dataset.load_state_dict(state_with(epoch=5, step=1))
    dataset.set_epoch(6)
    assert [batch.meta.epoch for batch in dataset] == [6] * 4


def test_set_epoch_never_goes_back_behind_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    """Accelerate counts epochs from 0 in every process; to obey would be to train on whole epochs again."""
    dataset = memory_dataset(WORLD)
    dataset.load_state_dict(state_with(epoch=5, step=3))
    seen = []
    for counted in range(3):
        dataset.set_epoch(counted)
        seen.append({batch.meta.epoch for batch in dataset})
    assert seen == [{5}, {6}, {7}]
    assert "it would repeat epochs" in caplog.text


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", 1 << 64])
def test_set_epoch_refuses_what_is_no_epoch(epoch: Any) -> None:
    """A wrong epoch is a usage error."""
    with pytest.raises(RequestError, match="whole number from 0"):
        memory_dataset(WORLD).set_epoch(epoch)


def test_len_is_the_micro_batches_of_an_epoch() -> None:
    """Also after a resume: progress bars count from the state's step."""
    dataset = memory_dataset(WORLD, rank=0, world_size=2, micro_batch_size=1)
    assert len(dataset) == 8
    assert len(list(dataset)) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0, "world_size": 3}, r"world_size 3 does not divide.*valid: 1, 2, 4"),
        ({"micro_batch_size": 3}, r"micro_batch_size 3 does not divide the 4 rows.*valid: 1, 2, 4"),
        ({"rank": 0, "world_size": 2, "micro_batch_size": 4}, "the 2 rows that each of 2 ranks gets"),
    ],
)
def test_shares_that_cannot_be_name_the_valid_ones(options: dict[str, Any], message: str) -> None:
    """World and micro-batch sizes that do not divide the global batch are the caller's error."""
    with pytest.raises(RequestError, match=message):
        len(memory_dataset(WORLD, **options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OwlStreamDataset([]), "at least one url"),
        (lambda: OwlStreamDataset("ftp://x"), "http://host:port"),
        (lambda: OwlStreamDataset("loader:8000"), "http://host:port"),
        (lambda: OwlStreamDataset("http://a", prefetch=0), "prefetch"),
        (lambda: OwlStreamDataset("http://a", dtype=torch.int64), "dtype: expected one of"),
        (lambda: OwlStreamDataset("http://a", device="gpu"), "device"),
        (lambda: OwlStreamDataset("http://a", rank=0), "both or neither"),
        (lambda: OwlStreamDataset("http://a", token="sécret"), "token"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(make: Callable[[], object], message: str) -> None:
    """A newcomer's mistakes are named where they are made, without a connection."""
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "sécret" not in str(caught.value)


def test_cuda_without_cuda_is_a_clear_error() -> None:
    """Asking for a device that is not there says so when reading begins."""
    if torch.cuda.is_available():
        return
    with pytest.raises(ConfigError, match="no CUDA device"):
        next(iter(memory_dataset(WORLD, device="cuda")))


def test_errors_reach_the_trainer_with_their_type_and_iteration_can_go_on() -> None:
    """What came before an error is yielded first; a new `for` tries again behind it."""
    gone = pack_frame(ErrorInfo("data_changed", "shard train-0.tar changed", False))
    dataset = memory_dataset(WORLD, lambda frames: [*frames[:4], gone])
    iterator = iter(dataset)
    assert next(iterator).meta.step == 0
    with pytest.raises(DataChangedError, match=r"shard train-0\.tar changed"):
        next(iterator)
    assert [batch.meta.step for batch in dataset] == [1, 2, 3]


def test_a_server_that_never_answers_is_given_up_naming_all_tried() -> None:
    """After `give_up_after_s` without a batch the last error is raised, chained, with every address."""
    dataset = OwlStreamDataset(
        ["http://a", "http://b"], transport=MemoryTransport({}), backoff=NO_WAIT, give_up_after_s=0
    )
    with pytest.raises(PeerGoneError, match=r"gave up after 0 s.*http://a.*connection refused") as caught:
        next(iter(dataset))
    assert isinstance(caught.value.__cause__, OwlStreamError)


def test_statistics_count_what_was_yielded_and_received() -> None:
    """Batches, rows by status, bytes, reconnects and the server's own report."""
    dataset = memory_dataset(WORLD, cut_at(2000))
    list(dataset)
    stats = dataset.stats()
    assert (stats.batches, stats.rows, stats.reconnects) == (4, {"ok": 14, "masked": 2}, 1)
    assert stats.nbytes > 4000
    assert stats.server == {"decode_s": 0.5}


def test_dropping_an_iterator_ends_its_thread() -> None:
    """Leaving a loop, or forgetting an iterator, leaves no thread behind although batches still wait."""
    dataset = memory_dataset(World(steps=50), prefetch=1)
    for _ in dataset:
        break
    assert client_threads() == []
    iterator = iter(dataset)
    next(iterator)
    assert len(client_threads()) == 1
    del iterator
    assert client_threads() == []


def test_iterating_opens_nothing_before_the_first_batch_is_asked_for() -> None:
    """Frameworks call `iter` to look; no thread and no connection come of it."""
    dataset = memory_dataset(WORLD)
    before = threading.active_count()
    iterator = iter(dataset)
    assert threading.active_count() == before
    assert dataset.stats().nbytes == 0
    del iterator


def test_an_epoch_without_steps_is_empty_and_passes() -> None:
    """Too few rows for one step under `last: drop` is an empty epoch, not a hang."""
    dataset = memory_dataset(World(steps=0))
    assert list(dataset) == []
    assert len(dataset) == 0


def test_repr_shows_addresses_and_no_token() -> None:
    """What lands in logs holds no secret."""
    text = repr(OwlStreamDataset("http://a:8000/", token="s3cret"))
    assert text == "OwlStreamDataset(http://a:8000, dataset='train', device=cpu)"


def test_the_largest_frame_is_a_setting() -> None:
    """A batch over `max_frame_bytes` is refused with the remedy, after it was not noise."""
    dataset = memory_dataset(World(side=64), max_frame_bytes=4096)
    with pytest.raises(FrameError, match="smaller micro_batch_size"):
        next(iter(dataset))


def test_empty_tensors_arrive() -> None:
    """A tensor without elements is delivered as such."""
    batch: Batch = next(iter(memory_dataset(World(layout="owl3-241101", rows=1, steps=1))))
    assert [row.tolist() for row in batch["media_offset"]] == [[]]

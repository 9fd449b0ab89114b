"""The one class a trainer needs."""

from __future__ import annotations

import copy
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils.worker import WorkerInfo

from owl_client.batch import Batch
from owl_client.connection import HttpTransport, Timeouts, Tls, Token, check_url
from owl_client.device import check_dtype, parse_device
from owl_client.epoch import EpochIterator, Pass
from owl_client.failover import Backoff
from owl_client.identity import resolve_rank, resolve_share
from owl_client.loader import refuse_batching, refuse_redistribution
from owl_client.local import LocalServer
from owl_client.order import Order
from owl_client.position import FixedPosition, Position
from owl_client.receiver import Receiver
from owl_client.session import Session, Settings, identity
from owl_client.source import Ready
from owl_client.state import MOST_COUNT, Part, State, start_cursor
from owl_client.stats import ClientStats
from owl_client.training_order import ORDER
from owl_client.transport import Description, Share, Transport
from owl_client.work import Work
from owl_stream.errors import ConfigError, RequestError
from owl_stream.wire import MAX_FRAME_BYTES, Cursor, Limits

if TYPE_CHECKING:
    from typing import Self

log = logging.getLogger("owl_client")


class _Swap:
    """Threads begin and end iterators one at a time. Not a dataset's own lock, for datasets are pickled."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        """In a fork, whose parent's thread may have held it."""
        cls.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Swap.renew)


class OwlStreamDataset(IterableDataset[Batch]):
    """Batches of a dataset that an owl-stream server holds, for one data-parallel rank.

    One `for` yields one epoch, or the rest of the current one after a resume; the next `for` the next epoch. After a
    `for` that was left early, also by `next(iter(dataset))`, the next goes on behind the last batch yielded. Through
    DataLoader workers, where only the trainer knows that batch, it begins the pass again and says so in the log, unless
    they had read it to its end. Only one iterator lives at a time: a new one ends the old. Threads may share it: each
    batch goes to one of them.

    With `evaluate` every `for` begins at the first batch of epoch 0, however far the one before got, through workers
    too: the same batches in the same order each time.

    Args:
        url: `http://host:port`, or several for failover, tried in that order.
        dataset: its name on the server.
        device: where tensors go. In DataLoader workers they stay on the CPU and `batch.to(device)` finishes.
        dtype: of pixels, normalised as the model's processor does; `torch.uint8` leaves them raw, 0 to 255.
        rank, world_size: of the *data-parallel* group; else `torch.distributed`, RANK and WORLD_SIZE, or 0 and 1.
        micro_batch_size: rows a batch has; None gives a rank its whole part of a global step at once.
        evaluate: every `for` is the same pass from its beginning; there is no state to load and no epoch to set.
        prefetch: batches that may wait, beside the one being received.
        prefetch_bytes: bytes that those may hold together; one may always wait.
        give_up_after_s: seconds since the last batch after which iteration raises, whatever else came; the last try
            may take a second longer. Each of n servers gets an n-th of it to give a batch before the next is asked. 0
            raises at the first failure.
        token: for servers that ask for one; else the environment variable OWL_TOKEN.
        timeouts: to connect, to get the head of an answer, and how long a connection may be silent.
        tls: whom to trust and who we are, for `https` addresses.
        max_frame_bytes: a larger batch is refused before memory is taken for it.
        transport: another carrier than HTTP, for tests.
        backoff: how long to wait between rounds over the servers.

    Raises:
        ConfigError: an argument that cannot be.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        dataset: str = "train",
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int | None = None,
        world_size: int | None = None,
        micro_batch_size: int | None = None,
        evaluate: bool = False,
        prefetch: int = 2,
        prefetch_bytes: int = 1 << 30,
        give_up_after_s: float = 300.0,
        token: str | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 # frozen
        tls: Tls = Tls(),  # noqa: B008 # frozen
        transport: Transport | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008 # frozen
    ) -> None:
        super().__init__()
        urls = (url,) if isinstance(url, str) else tuple(url)
        if not urls or prefetch < 1 or prefetch_bytes < 1 or not give_up_after_s >= 0:
            raise ConfigError(
                f"expected at least one url, prefetch and prefetch_bytes from 1 and give_up_after_s from 0, got "
                f"{len(urls)} urls, {prefetch}, {prefetch_bytes} and {give_up_after_s}"
            )
        self._settings = Settings(
            urls=tuple(check_url(each) for each in urls),
            dataset=dataset,
            device=parse_device(device),
            dtype=check_dtype(dtype),
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            give_up_after_s=give_up_after_s,
            limits=Limits(max_frame_bytes=max_frame_bytes),
            transport=transport or HttpTransport(Token.find(token), timeouts, tls),
            backoff=backoff,
        )
        self._rank, self._world_size, self._micro_batch_size = rank, world_size, micro_batch_size
        if rank is not None or world_size is not None:
            resolve_rank(rank, world_size)
        self._evaluate = evaluate
        self._position = FixedPosition() if evaluate else Position()
        self._cut: tuple[int, int] | None = None
        """World size and micro-batch size that the position's `micro` was cut for."""
        self._resumed = self._epoch_was_set = self._never_back = False
        self._work: Work | None = None
        self._restored: State | None = None
        self._session: Session | None = None
        self._known: Description | None = None
        self._live: weakref.ref[EpochIterator] | None = None
        self._inherited: Session | None = None
        ORDER.begin()

    def __iter__(self) -> EpochIterator:
        """An iterator over the rest of the current epoch. Connects when its first batch is asked for.

        Raises:
            RequestError: a DataLoader asks that makes batches of batches.
        """
        refuse_batching()
        iterator = EpochIterator(self._begin, self._yielded, self._here().counters)
        self._supersede("a newer iterator of this dataset began", iterator)
        self._work = None
        return iterator

    @property
    def evaluate(self) -> bool:
        """Whether every `for` begins at the beginning."""
        return self._evaluate

    def __len__(self) -> int:
        """Micro-batches of one whole epoch of this rank. Asks a server, once."""
        return self.steps_per_epoch * self.micros_per_step

    @property
    def steps_per_epoch(self) -> int:
        """Global steps of every epoch. Asks a server, once."""
        return self._describe().steps_per_epoch

    @classmethod
    def local(cls, config: str | Path, dataset: str = "train", **options: Any) -> OwlStreamDataset:
        """Batches of a configuration file, by a server that is started beside the trainer and ends with it.

        The same plan, workers, state and batches as from a server that somebody else runs, on this machine alone: the
        configuration's address and certificate are not used.
        Returns when the data is indexed. `options` are those of the class but `url` and `token`. Each rank that calls
        it has a server of its own; torchrun's ranks of one machine share its cores.

        Raises:
            ConfigError: the configuration cannot be served, or an argument that cannot be.
            ServerError: the server ended.
        """
        server = LocalServer(config)
        try:
            made = cls(server.url, dataset, token=server.token, **options)
        except BaseException:
            server.close()
            raise
        weakref.finalize(made, server.close)
        return made

    @property
    def global_batch_size(self) -> int:
        """Rows of a global step, on all ranks together. Asks a server, once."""
        return self._describe().global_batch_size

    @property
    def micro_batch_size(self) -> int:
        """Rows of a batch of this rank. Asks a server, once."""
        return self._share(self._describe()).micro_batch_size

    @property
    def micros_per_step(self) -> int:
        """Micro-batches that each rank gets per global step: what trainers call gradient accumulation steps."""
        description = self._describe()
        share = self._share(description)
        return description.global_batch_size // (share.world_size * share.micro_batch_size)

    def __repr__(self) -> str:
        urls = ", ".join(self._settings.urls)
        return f"OwlStreamDataset({urls}, dataset={self._settings.dataset!r}, device={self._settings.device})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End a running iteration and its thread; the next `for` goes on behind the last batch yielded."""
        self._supersede("the dataset was closed")

    def stats(self) -> ClientStats:
        """How reading went in this process."""
        return self._here().counters.snapshot()

    def metrics(self) -> dict[str, float]:
        """Numbers for the trainer's own log, since the last call: `wandb.log(dataset.metrics())`.

        Names and units: see `ReadingMetrics.look`. Empty where no batch came. They are of this rank.

        Raises:
            RequestError: DataLoader workers read, of whose batches nothing is known here; `OwlStreamLoader.metrics`
                knows.
        """
        if self._position.read_by_workers:
            raise RequestError(
                "metrics() knows nothing of batches that came from DataLoader workers; read through "
                "OwlStreamLoader(dataset, num_workers=...) and call its metrics()"
            )
        session = self._here()
        return session.metrics.look(self.micros_per_step)

    def state_dict(self, batch: Batch | None = None) -> dict[str, Any]:
        """The state after the last batch yielded in this process, or after `batch`: a plain dict, fit for JSON.

        Give the batch where something looks ahead (Accelerate does, by one batch) or where DataLoader workers read.
        Inside a worker it is that worker's own state, which torchdata's StatefulDataLoader collects.

        Raises:
            RequestError: without a batch, where workers read: what they have yielded is not what was trained on.

        With `evaluate` and without a batch it is always the state of the beginning.
        """
        if batch is not None:
            return copy.deepcopy(batch.meta.state)
        worker = get_worker_info()
        if worker is not None:
            return self._work_of(worker).state().to_dict()
        if self._position.read_by_workers:
            raise RequestError(
                "state_dict() cannot know which batches arrived from DataLoader workers; pass the last batch that was "
                "trained on: state_dict(batch)"
            )
        description = self._describe()
        return State.of(description, self._share(description), self._position.cursor).to_dict()

    def load_state_dict(self, state: dict[str, Any], force: bool = False) -> None:
        """Go on after `state`. Asks the servers at once, so that a state of other data is refused here.

        World size and micro-batch size may have changed if the state lies between steps. `force` goes on at the same
        place of whatever data the server has. Another assembly id only warns.

        Raises:
            StateMismatchError: the state belongs to other data, recipe, seed or plan: `differences` names them.
            RequestError: the state is damaged, past the epoch, or was cut for another share in mid-step; or the dataset
                is for evaluation.
        """
        if self._evaluate:
            raise RequestError(
                "load_state_dict: a dataset with evaluate=True begins at its beginning with every `for`, so there is "
                "no state to go on from; load the state into the dataset that is trained on"
            )
        saved = State.from_dict(state)
        self._end_begun("load_state_dict moved the dataset")
        description = self._here().describe(None if force else saved)
        share = self._share(description)
        cursor = start_cursor(saved, description, share)
        if description.assembly != saved.assembly:
            log.warning(
                "the state was written under assembly %s, the server has %s: pixels may differ by a grey level",
                saved.assembly,
                description.assembly,
            )
        self._position.unpin()
        self._position.pin(identity(description))
        if saved.part is None:
            self._position.move(cursor)
        else:
            self._restore_part(saved, saved.part)
        self._cut = (share.world_size, share.micro_batch_size)
        self._resumed, self._epoch_was_set, self._never_back = True, False, True
        ORDER.begin()

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` with the next `for`.

        Trainers call this at the start of every epoch, also after a resume: until batches have been yielded again, it
        never moves us from where `load_state_dict` put us within the epoch. And it never goes back to an earlier epoch
        then: Accelerate counts epochs from 0 in every process, so that would read again what was trained on. With
        `evaluate` every epoch is the same one, and this does nothing.

        Raises:
            RequestError: not a whole number from 0.
            ConfigError: a loader asks that deals batches out to other ranks.
        """
        refuse_redistribution()
        if not isinstance(epoch, int) or not 0 <= epoch <= MOST_COUNT:
            raise RequestError(f"set_epoch: expected a whole number from 0, got {epoch!r}")
        if self._evaluate:
            return
        at = self._position.cursor.epoch
        if self._resumed and epoch <= at:
            self._epoch_was_set = True
            return
        if self._never_back and epoch < at:
            log.warning("set_epoch(%d) after a resume, in epoch %d: ignored, for it would repeat epochs", epoch, at)
            return
        self._resumed = False
        if self._position.cursor != Cursor(epoch, 0, 0) or self._position.read_by_workers:
            self._end_begun("set_epoch moved the dataset")
            self._position.move(Cursor(epoch, 0, 0))
            ORDER.begin()

    @property
    def read_by_workers(self) -> bool:
        """Whether the latest pass was read through DataLoader workers: then only their batches say how far it got."""
        return self._position.read_by_workers

    def go_on_behind(self, state: dict[str, Any]) -> None:
        """Where workers read, begin the next pass behind the batch that `state` is of. Else it does so by itself.

        For loaders that know which batch they handed out last.
        """
        if self._position.read_by_workers:
            self._position.move(State.from_dict(state).cursor)

    def _begin(self) -> Pass:
        """Open the stream of one pass over the rest of an epoch; in a DataLoader worker, of its part."""
        worker = get_worker_info()
        if worker is None:
            description = self._describe()
            share = self._share(description)
            start = self._start(description, share, self._position.cursor)
            receiver = self._receive(Order(description, share, start), start.epoch, in_worker=False)
            return Pass(receiver, lambda: self._position.move(Cursor(start.epoch + 1, 0, 0)))
        work = self._work_of(worker)
        receiver = self._receive(work.order(), work.start.epoch, in_worker=True)
        return Pass(receiver, lambda: self._position.finish_pass(work.worker))

    def _receive(self, order: Order, epoch: int, *, in_worker: bool) -> Receiver[Ready] | None:
        if not order.dataset.steps_per_epoch:
            log.warning("dataset %s: its server says that an epoch has no steps; nothing is read", order.dataset.name)
            return None
        return None if order.next.epoch > epoch else self._here().open(order, in_worker=in_worker)

    def _start(self, description: Description, share: Share, at: Cursor) -> Cursor:
        was = self._cut or (share.world_size, share.micro_batch_size)
        return start_cursor(State.of(description, Share(share.rank, *was), at), description, share)

    def _work_of(self, worker: WorkerInfo) -> Work:
        """What this worker has to read of the pass that its siblings read too."""
        if self._work is None:
            description = self._describe()
            share = self._share(description)
            at = self._position.begin_pass(worker.id, worker.num_workers, worker.seed - worker.id)
            start = self._start(description, share, at)
            self._work = Work.begin(description, share, start, worker.id, worker.num_workers)
            if self._restored is not None:
                self._work.next, self._restored = self._restored.cursor, None
            if self._work.done:
                self._position.finish_pass(worker.id)
        return self._work

    def _restore_part(self, saved: State, part: Part) -> None:
        worker = get_worker_info()
        if worker is None or (worker.id, worker.num_workers) != (part.worker, part.workers):
            raise RequestError(
                f"state: it belongs to DataLoader worker {part.worker} of {part.workers}; load it through torchdata's "
                f"StatefulDataLoader with num_workers={part.workers}, or load state_dict(batch) of a batch instead"
            )
        self._position.restore_pass(part.worker, part.workers, part.start)
        self._restored, self._work = saved, None

    def _yielded(self, batch: Batch) -> None:
        meta = batch.meta
        self._here().counters.yielded(batch)
        if self._work is not None:
            self._work.took()
            if self._work.done:  # a trainer that counts batches never asks for the end
                self._position.finish_pass(self._work.worker)
        else:
            state = meta.state
            self._position.move(Cursor(state["epoch"], state["step"], state["micro"]))
            self._cut = (state["world_size"], state["micro_batch_size"])
            self._resumed = self._resumed and not self._epoch_was_set

    def _describe(self) -> Description:
        session = self._here()
        description = session.describe()
        if not self._position.pin(identity(description)):  # a kept worker, and load_state_dict in its parent
            session.description = None
            description = session.describe()
        return description

    def _share(self, description: Description) -> Share:
        rank, world_size = resolve_rank(self._rank, self._world_size)
        return resolve_share(rank, world_size, self._micro_batch_size, description.global_batch_size)

    def _here(self) -> Session:
        """The session of this process."""
        if self._session is None or self._session.pid != os.getpid():
            # A fork keeps its parent's session untouched: freeing pinned memory there would call CUDA.
            self._inherited = self._session
            known = self._session.description if self._session is not None else self._known
            self._session = Session(self._settings, self._position.pin, known)
        return self._session

    def _supersede(self, why: str, by: EpochIterator | None = None) -> None:
        """End the iterator that lives, and let `by` be the one that does."""
        with _Swap.lock:
            before, self._live = self._live, None if by is None else weakref.ref(by)
        live = before() if before is not None else None
        if live is not None:
            live.close(why)

    def _end_begun(self, why: str) -> None:
        """End the iterator that lives, unless nothing was asked of it yet: then it begins where the dataset is then."""
        live = self._live() if self._live is not None else None
        if live is not None and live.begun:
            self._supersede(why)

    def __getstate__(self) -> dict[str, Any]:
        """For spawned workers: rank and world size are settled here, where `torch.distributed` is initialised."""
        rank, world_size = resolve_rank(self._rank, self._world_size)
        known = self._session.description if self._session is not None else self._known
        own = {"_session": None, "_inherited": None, "_live": None, "_known": known, "_work": None, "_restored": None}
        return {**self.__dict__, **own, "_rank": rank, "_world_size": world_size}

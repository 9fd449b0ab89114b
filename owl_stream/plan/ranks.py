"""Which world sizes and micro-batch sizes divide a global batch."""

from __future__ import annotations

from owl_stream.errors import RequestError


def check_deal(global_batch_size: int, world_size: int, micro_batch_size: int) -> int:
    """M, the micro-batches that each rank receives per global step.

    Raises:
        RequestError: world_size * micro_batch_size does not divide global_batch_size; the message names what does.
    """
    asked = world_size * micro_batch_size
    if world_size >= 1 and micro_batch_size >= 1 and global_batch_size % asked == 0:
        return global_batch_size // asked
    sizes = valid_micro_batch_sizes(global_batch_size, world_size)
    worlds = _listed(valid_world_sizes(global_batch_size, micro_batch_size))
    raise RequestError(
        f"world_size {world_size}, micro_batch_size {micro_batch_size}: their product must be positive and divide the "
        f"global batch of {global_batch_size}, got {asked}; valid micro_batch_size for world_size {world_size}: "
        f"{_listed(sizes)}; valid world_size for micro_batch_size {micro_batch_size}: {worlds}; "
        f"valid world_size at all: {_listed(valid_world_sizes(global_batch_size))}"
    )


def check_rank(rank: int, world_size: int) -> int:
    """The rank itself.

    Raises:
        RequestError: rank is not in 0..world_size-1.
    """
    if 0 <= rank < world_size:
        return rank
    valid = f"0 to {world_size - 1}" if world_size >= 1 else "none"
    raise RequestError(f"rank {rank}: expected a rank of world_size {world_size}; valid ranks: {valid}")


def valid_micro_batch_sizes(global_batch_size: int, world_size: int) -> tuple[int, ...]:
    """Micro-batch sizes that go with this world size; empty when no size does."""
    if world_size < 1 or global_batch_size % world_size:
        return ()
    return _divisors(global_batch_size // world_size)


def valid_world_sizes(global_batch_size: int, micro_batch_size: int = 1) -> tuple[int, ...]:
    """World sizes that go with this micro-batch size; empty when no size does."""
    if micro_batch_size < 1 or global_batch_size % micro_batch_size:
        return ()
    return _divisors(global_batch_size // micro_batch_size)


def _divisors(number: int) -> tuple[int, ...]:
    return tuple(candidate for candidate in range(1, number + 1) if number % candidate == 0)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"

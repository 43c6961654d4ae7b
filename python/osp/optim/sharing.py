"""Work on matrices that several ranks share: who orthogonalises which, and the transport of the pieces.

Replicated matrices (DDP): each has an owner, which orthogonalises it and broadcasts the result in bf16.
Sharded matrices (FSDP2, rows split over the ranks): the ranks send their rows, normalised and in bf16, to the
owner, which orthogonalises the whole matrix and sends the rows back. Both give the bits of one process.
Owners are chosen by cost, largest first, so that the work is even; the choice depends on shapes alone, so all
ranks make the same.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

# Elements of one exchange: bounds the memory beside the state.
ELEMENTS_AT_ONCE = 1 << 26


def local(tensor: Tensor) -> Tensor:
    """The piece of this rank; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_group(parameter: Tensor):
    """The group over which the first dimension is split in even pieces; None for every other layout."""
    if not isinstance(parameter, DTensor):
        return None
    sharded = [i for i, p in enumerate(parameter.placements) if not isinstance(p, Replicate)]
    if len(sharded) != 1 or type(parameter.placements[sharded[0]]) is not Shard:
        return None
    if parameter.placements[sharded[0]].dim != 0:
        return None
    return parameter.device_mesh.get_group(sharded[0])


def is_whole(parameter: Tensor) -> bool:
    """Whether this rank's piece consists of whole matrices."""
    if not isinstance(parameter, DTensor):
        return True
    dims = [p.dim for p in parameter.placements if isinstance(p, Shard)]
    replicated = all(isinstance(p, Shard | Replicate) for p in parameter.placements)
    return replicated and all(dim < parameter.dim() - 2 for dim in dims)


def rows_of(rows: int, ranks: int) -> list[int]:
    """Rows of each rank's piece: as torch.chunk splits them, which may leave none for the last ranks."""
    most = -(-rows // ranks)
    return [max(0, min(most, rows - rank * most)) for rank in range(ranks)]


def cost_of(shape: Sequence[int]) -> int:
    """Relative number of operations of the iteration."""
    rows, columns = shape[-2], shape[-1]
    count = shape[0] if len(shape) == 3 else 1
    return count * max(rows, columns) * min(rows, columns) ** 2


def choose_owners(shapes: Sequence[Sequence[int]], ranks: int) -> list[int]:
    """The owner of each matrix: the largest first, each to the rank with the least work so far."""
    work, owners = [0] * ranks, [0] * len(shapes)
    for i in sorted(range(len(shapes)), key=lambda i: (-cost_of(shapes[i]), i)):
        owners[i] = min(range(ranks), key=lambda rank: (work[rank], rank))
        work[owners[i]] += cost_of(shapes[i])
    return owners


def buckets(
    shapes: Sequence[Sequence[int]], owners: list[int], ranks: int, limit: int = ELEMENTS_AT_ONCE
) -> Iterator[list[int]]:
    """Indices in parts of about `limit` elements, in each of which every owner has its share."""
    queues = [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(ranks)]
    while any(queues):
        bucket = []
        for queue in queues:
            elements = 0
            while queue and (elements == 0 or elements < limit // ranks):
                elements += torch.Size(shapes[queue[0]]).numel()
                bucket.append(queue.pop(0))
        yield bucket


def broadcast_results(
    updates: list[Tensor], owners: list[int], group, orthogonalise: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Orthogonalised `updates` (the same on every rank), each computed by its owner alone."""
    rank = dist.get_rank(group)
    results, works = [], []
    for owner in range(dist.get_world_size(group)):
        mine = [i for i, o in enumerate(owners) if o == owner]
        if not mine:
            continue
        sizes = [updates[i].numel() for i in mine]
        if rank == owner:
            flat = torch.cat([orthogonalise(updates[i]).reshape(-1) for i in mine])
        else:
            flat = torch.empty(sum(sizes), dtype=torch.bfloat16, device=updates[mine[0]].device)
        works.append(dist.broadcast(flat, group=group, group_src=owner, async_op=True))
        results.append((mine, sizes, flat))
    for work in works:
        work.wait()
    out: list[Tensor] = [None] * len(updates)  # type: ignore[list-item]
    for mine, sizes, flat in results:
        for i, piece in zip(mine, flat.split(sizes), strict=True):
            out[i] = piece.view(updates[i].shape)
    return out


def exchange_rows(
    pieces: list[Tensor],
    shapes: list[torch.Size],
    owners: list[int],
    group,
    iterate: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """The rows of this rank of each orthogonalised matrix, from its rows of the normalised ones (bf16)."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    by_owner = [[i for i, owner in enumerate(owners) if owner == o] for o in range(ranks)]
    mine = by_owner[rank]
    rows = [rows_of(shape[0], ranks) for shape in shapes]

    def elements(of_rank: int, matrices: list[int]) -> int:
        return sum(rows[i][of_rank] * shapes[i][1] for i in matrices)

    outward = [elements(rank, by_owner[owner]) for owner in range(ranks)]
    inward = [elements(source, mine) for source in range(ranks)]
    # Send the rows to the owners.
    flat = torch.cat([pieces[i].reshape(-1) for matrices in by_owner for i in matrices])
    received = flat.new_empty(sum(inward))
    dist.all_to_all_single(received, flat, inward, outward, group=group)
    # Put this rank's matrices together and orthogonalise them.
    parts: dict[int, list[Tensor]] = {i: [] for i in mine}
    for source, part in enumerate(received.split(inward)):
        sizes = [rows[i][source] * shapes[i][1] for i in mine]
        for i, piece in zip(mine, part.split(sizes), strict=True):
            parts[i].append(piece.view(-1, shapes[i][1]))
    results = {i: iterate(torch.cat(parts[i])).to(torch.bfloat16).split(rows[i]) for i in mine}
    # Send the rows of the results back.
    answer = [results[i][source].reshape(-1) for source in range(ranks) for i in mine]
    answers = torch.cat(answer) if answer else received
    returned = flat.new_empty(flat.numel())
    dist.all_to_all_single(returned, answers, outward, inward, group=group)
    order = [i for matrices in by_owner for i in matrices]
    out: list[Tensor] = [None] * len(pieces)  # type: ignore[list-item]
    for i, piece in zip(order, returned.split([pieces[i].numel() for i in order]), strict=True):
        out[i] = piece.view(pieces[i].shape)
    return out

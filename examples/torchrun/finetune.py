"""Trains an exported model further, on documents of one line each, with data parallelism:

    microgpt export --format huggingface --model-dir names-model --output names-hf
    torchrun --nproc-per-node 2 finetune.py names-hf names.txt tuned-hf --steps 100
    microgpt generate --model-dir tuned-hf

The processes communicate through NCCL on GPUs and through gloo on the CPU. As in `microgpt train`, the
loss is the mean over all predicted tokens of a step.
"""

import argparse
import random

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="directory of the exported model")
    parser.add_argument("documents", help="text file, one document per line")
    parser.add_argument("output", help="directory to write")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--batch-size", type=int, default=32, help="documents per step, of all processes"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--in-order", action="store_true", help="do not shuffle the documents")
    return parser.parse_args()


def encode(path, tokenizer, block_size):
    """The token ids of each document, `<bos>` at both ends."""
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    end = [tokenizer.bos_token_id]
    return [(tokenizer(line).input_ids + end)[: block_size + 1] for line in lines if line]


def loss_sum(model, documents, pad, device):
    """The sum of the losses of all predicted tokens, in nats, and their number."""
    length = max(map(len, documents))
    ids = torch.tensor(
        [document + [pad] * (length - len(document)) for document in documents], device=device
    )
    lengths = torch.tensor([len(document) for document in documents], device=device)
    targets = ids[:, 1:].clone()
    targets[torch.arange(1, length, device=device)[None] >= lengths[:, None]] = -100
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), (
        targets != -100
    ).sum()


def main():
    args = parse_arguments()
    is_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if is_gpu else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", rank % torch.cuda.device_count()) if is_gpu else torch.device("cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=True, dtype=torch.float32)
    model = DistributedDataParallel(model.to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, betas=(0.85, 0.99))
    documents = encode(args.documents, tokenizer, model.module.config.block_size)
    if not args.in_order:
        random.Random(args.seed).shuffle(documents)
    for step in range(args.steps):
        batch = [
            documents[(step * args.batch_size + i) % len(documents)] for i in range(args.batch_size)
        ]
        total, count = loss_sum(model, batch[rank::world_size], tokenizer.pad_token_id, device)
        dist.all_reduce(count)
        # DistributedDataParallel averages the gradients of the processes.
        loss = total * world_size / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = loss.detach() / world_size
        dist.all_reduce(loss)
        if rank == 0:
            print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
    if rank == 0:
        model.module.save_pretrained(args.output)
        tokenizer.save_pretrained(args.output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

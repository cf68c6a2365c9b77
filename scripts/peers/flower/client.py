"""The client of run.py, in a module of its own so that Ray's actors import it once and keep its data."""

import os
from functools import cache

import common
import torch
import workloads
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn import functional as F

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    config, client = message.content["config"], int(context.node_config["partition-id"])
    workload = workloads.WORKLOADS[config["workload"]]
    images, labels, net = prepared(config["workload"])
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), workload.rate)
    rows = torch.from_numpy(workloads.rows(workload, config["server-round"] - 1, client))
    for x, y in zip(images[rows].split(workload.batch), labels[rows].split(workload.batch)):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(rows), "process": os.getpid(), "peak_mb": common.peak_mb()})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@cache
def prepared(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
    """An actor's images, labels and model, for all the clients it plays."""
    torch.set_num_threads(1)
    workload = workloads.WORKLOADS[name]
    images, labels = common.inputs(workload)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    net = common.torch_cnn(workload).to(memory_format=torch.channels_last)
    return x, torch.from_numpy(labels).long(), net

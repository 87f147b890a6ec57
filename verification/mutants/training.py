"""Planted bugs of a training loop."""

from __future__ import annotations

_MODULE = "verification.training.loop"

ROWS = [
    ("training run", bug, _MODULE, old, new)
    for bug, old, new in (
        ("gradients not zeroed", "            optimizer.zero_grad()\n", ""),
        ("dropout and batch norm of training in validation", "        net.eval()\n", ""),
        ("dropout active in validation", "net.eval()\n",
         "net.eval(); [m.train() for m in net.modules() if isinstance(m, torch.nn.Dropout)]\n"),
        ("batch norm in training mode in validation", "net.eval()\n",
         "net.eval(); [m.train() for m in net.modules() if isinstance(m, torch.nn.BatchNorm1d)]\n"),
        ("evaluation mode for ever", "    for _ in range(epochs):\n        net.train()\n",
         "    net.train()\n    for _ in range(epochs):\n"),
        ("step before backward",
         "            torch.autograd.backward(loss)\n            clip_grad_norm_(net.parameters(), 0.5)\n            optimizer.step()\n",
         "            optimizer.step()\n            torch.autograd.backward(loss)\n            clip_grad_norm_(net.parameters(), 0.5)\n"),
        ("loss averaged twice", "loss = (focus * losses).mean()", "loss = (focus * losses).mean() / len(losses)"),
        ("loss summed", "loss = (focus * losses).mean()", "loss = (focus * losses).sum()"),
        ("schedule stepped per batch", "            optimizer.step()\n",
         "            optimizer.step(); schedule.step()\n"),
        ("schedule never stepped", "        schedule.step()\n", ""),
        ("weight decay on biases and norms", '{"params": others}', '{"params": others, "weight_decay": 0.01}'),
        ("no weight decay", '"weight_decay": 0.01', '"weight_decay": 0.0'),
        ("a parameter forgotten in the optimizer", '{"params": others}', '{"params": others[:-1]}'),
        ("data in another order", "torch.Generator().manual_seed(0)", "torch.Generator().manual_seed(1)"),
        ("the same order in every epoch", "        order = torch.randperm(len(x), generator=generator)\n",
         "        order = torch.randperm(len(x), generator=generator.manual_seed(0))\n"),
        ("data not shuffled", "order = torch.randperm(len(x), generator=generator)", "order = torch.arange(len(x))"),
        ("labels of other rows", "losses = cross_entropy(scores, y[rows]", "losses = cross_entropy(scores, y[: len(rows)]"),
        ("missing detach", "focus = (1 - probability).detach()", "focus = 1 - probability"),
        ("softmax before the loss", "scores = net(x[rows])", "scores = net(x[rows]).softmax(1)"),
        ("gradients clipped after the step",
         "            clip_grad_norm_(net.parameters(), 0.5)\n            optimizer.step()\n",
         "            optimizer.step()\n            clip_grad_norm_(net.parameters(), 0.5)\n"),
        ("gradients not clipped", "            clip_grad_norm_(net.parameters(), 0.5)\n", ""),
        ("the last, smaller batch left out", "range(0, len(x), SIZE)", "range(0, len(x) - SIZE, SIZE)"),
        ("a new optimizer in every epoch", "        net.train()\n",
         "        net.train(); optimizer = torch.optim.SGD(groups, lr=optimizer.param_groups[0][\"lr\"], momentum=0.9)\n"),
        ("random state spent by the validation", "        net.eval()\n", "        net.eval(); torch.rand(1)\n"),
    )
]  # fmt: skip

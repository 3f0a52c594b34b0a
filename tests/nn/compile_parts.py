"""Compile and export every part, without the type checkers of the tests; prints a JSON of failures. Run by a test."""

from __future__ import annotations

import copy
import json
import sys
import warnings

import torch

from tests.nn.parts import Case, features, parts, presence


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failures: dict[str, str] = {}
    met: set[type] = set()
    for name, case in parts().items():
        if not case.compiled:
            continue
        try:
            check(case, met)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {str(error)[:1500]}"
    print(json.dumps(failures))


def check(case: Case, met: set[type]) -> None:
    torch.manual_seed(0)
    part = case.build()
    x, present = features(case), presence(case)
    for training, arguments in ((True, (x, present)), (False, (x,))):
        part.train(training)
        plain, fast = copy.deepcopy(part), copy.deepcopy(part)
        torch.manual_seed(1)
        expected = plain(*arguments)
        torch.manual_seed(1)
        torch._dynamo.reset()
        got = torch.compile(fast, backend="eager", fullgraph=True)(*arguments)
        torch.testing.assert_close(got, expected)
    part.eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    for arguments in ((x,), (x, present)):
        shapes = None
        if len(arguments) == 2 and type(part) not in met:  # any batch size, once for each class: it takes twice as long
            met.add(type(part))
            shapes = [{m: {0: batch} for m in one} for one in arguments]
        program = torch.export.export(part, arguments, dynamic_shapes=shapes)
        if shapes is not None:
            arguments = [{m: torch.cat([v, v[:2]]) for m, v in one.items()} for one in arguments]
        torch.testing.assert_close(program.module()(*arguments), part(*arguments))


if __name__ == "__main__":
    sys.exit(main())

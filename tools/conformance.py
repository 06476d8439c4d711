"""All models of ONNX's backend suites through a pipeline: does any of them change?

    python tools/conformance.py [--passes TEXT] [--form FORM] [--jobs N] [--limit SECONDS]
                                [--only GLOB] [--json FILE] [--keep FOLDER] [--once]

The suites are those in the installed `onnx`: node, simple, pytorch-converted, pytorch-operator, and
light. Each model comes in five forms: as it is; `constant-inputs`, so that all of it may be folded;
`all-but-first`, as weights are constants; `defaults`, initializers that are inputs too and that
a caller overrides; `dynamic`, every input dimension symbolic. The original and the result run on
the suite's data in the same engine: ONNX Runtime with its optimizations off, or the reference
evaluator where ONNX Runtime does not run the original.

What a model may come out as:

    ok           none of the others
    wrong        outputs differ: by one bit; if a fusion was applied, by more than
                 graphopt.runtime.difference allows for the dtype; if there is float16 in the
                 model, by 2e-3 of the peak (1e-2 if fused)
    invalid      onnx.checker (full check) or the engine accepts the original but not the result
    crash        the pipeline raises, hangs over the limit, or ends its process
    io-changed   an input, output, metadata, doc string, version, opset import, signature changed
    grown        the result is over 1.05 times the original plus 1 MB
    unstable     a second run of the pipeline changes something (not with --once), or a pass does
                 not say truthfully whether it changed the model
    not-checked  it draws random numbers, or no engine runs the original, the rest is checked; or
                 set-opset refuses to convert it
    absent       the model has no such form, such as no inputs that could be constants

The exit status is 1 if any is wrong, invalid, crash, io-changed, grown or unstable.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from conformance_cases import FORMS, SUITES, cases, not_available
from conformance_check import BAD, STATUSES
from conformance_pool import Row, Settings, Task, run_tasks

from graphopt.cli.progress import Bars
from graphopt.errors import GraphoptError
from graphopt.pipeline.base import PassContext
from graphopt.pipeline.presets import DEFAULT
from graphopt.pipeline.runner import check_needs
from graphopt.pipeline.text import parse
from graphopt.progress import Progress, Quiet

COLUMNS = (*STATUSES, "absent")


def conform(
    passes: str,
    forms: Sequence[str],
    *,
    jobs: int,
    limit: float = 60.0,
    only: str = "*",
    keep: Path | None = None,
    twice: bool = True,
    progress: Progress | None = None,
) -> list[Row]:
    """A row for each model whose name or `suite/name` matches `only`, in each of `forms`.

    Raises:
        GraphoptError: if `passes` is no pipeline, a pass needs data, or nothing matches `only`.
    """
    check_needs(parse(passes), PassContext())
    chosen = [
        case
        for case in cases()
        if fnmatch.fnmatchcase(case.name, only)
        or fnmatch.fnmatchcase(f"{case.suite}/{case.name}", only)
    ]
    if not chosen:
        raise GraphoptError(f"no model is called '{only}'", fix="try a glob such as 'test_add*'")
    # The large ones first, so that no process is left alone with them at the end.
    ordered = sorted(chosen, key=lambda case: case.suite != "light")
    tasks = [Task(case, form) for case in ordered for form in forms]
    rows = run_tasks(tasks, Settings(passes, twice, keep), jobs=jobs, limit=limit)
    found = list((progress or Quiet()).track(rows, "checking", len(tasks)))
    places = {(c.suite, c.name): place for place, c in enumerate(chosen)}
    return sorted(found, key=lambda r: (places[r.suite, r.name], list(FORMS).index(r.form)))


def count(rows: Sequence[Row]) -> dict[tuple[str, str], Counter[str]]:
    """How many of each status, by suite and form."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        counts.setdefault((row.suite, row.form), Counter())[row.status] += 1
    return counts


def table(rows: Sequence[Row]) -> str:
    """The counts as text, a line for each suite and form, and their sum."""
    counts = count(rows)
    total = Counter(row.status for row in rows)
    lines = [f"{'suite':<18}{'form':<17}" + "".join(f"{name:>12}" for name in COLUMNS)]
    for suite in SUITES:
        for form in FORMS:
            if (suite, form) in counts:
                lines.append(_line(suite, form, counts[suite, form]))
    lines.append(_line("all", f"{sum(row.modified for row in rows)} modified", total))
    return "\n".join(lines)


def _line(suite: str, form: str, counts: Counter[str]) -> str:
    return f"{suite:<18}{form:<17}" + "".join(f"{counts[name]:>12}" for name in COLUMNS)


def complaints(rows: Sequence[Row]) -> list[str]:
    """One line for each row that is neither ok nor absent."""
    order = [status for status in STATUSES if status != "ok"]
    return [
        f"{row.status}: {row.suite}/{row.name} [{row.form}]: {row.detail}"
        for status in order
        for row in rows
        if row.status == status
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    forms = list(FORMS) if options.form == "all" else [options.form]
    print("collecting the models takes about ten seconds", file=sys.stderr)
    try:
        rows = conform(
            options.passes,
            forms,
            jobs=options.jobs,
            limit=options.limit,
            only=options.only,
            keep=options.keep,
            twice=not options.once,
            progress=Bars(),
        )
    except GraphoptError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return error.exit_code
    for line in complaints(rows):
        print(line)
    print(table(rows))
    print(f"not in onnx, so not run: suite real ({', '.join(not_available())})")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return int(any(row.status in BAD for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", default=DEFAULT, metavar="TEXT", help="pipeline or preset")
    parser.add_argument("--form", default="all", choices=[*FORMS, "all"])
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="a model")
    parser.add_argument("--only", default="*", metavar="GLOB", help="of name or suite/name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rows")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for models that are not ok")
    parser.add_argument("--once", action="store_true", help="do not run the pipeline twice")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

"""The table and the figure of docs/robustness.md from the table of studies/robustness.py.

    python scripts/robustness_table.py runs/robustness/table.csv docs/robustness.png

The round is that of the best accuracy on the validation set; figures are means over seeds on the first test set.
"""

import csv
import pathlib
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedjax_mri.core import disk
from fedjax_mri.report.figures import STYLE, WIDE

SUCCESS = "attack success/accuracy"
TESTS = {"unseen sites": "synthetic", "grouped test": "real slices"}  # first test sets, and what their images are
Rows = Sequence[Mapping[str, str]]
Values = dict[tuple[str, str, str], list[dict[str, float]]]  # data, rule, attack -> chosen rows of the seeds


def chosen_rows(table: Rows, test: str) -> Values:
    """The row of each cell with the best accuracy on the validation set, by data, rule and attack."""
    cells = defaultdict(list)
    for row in table:
        if int(row["round"]):
            cells[row["cell"]].append(row)
    found: Values = defaultdict(list)
    for rows in cells.values():
        best = max(rows, key=lambda row: float(row["validation/accuracy"]))
        columns = {"accuracy": f"{test}/accuracy", "success": SUCCESS}
        numbers = {name: float(best[column]) for name, column in columns.items() if best.get(column)}
        kept, sent = (sum(float(row.get(f"uplink/attack/{name}") or 0) for row in rows) for name in ("kept", "sent"))
        numbers |= {"kept": kept / sent} if any(row.get("uplink/attack/kept") for row in rows) and sent else {}
        found[best["data"], best["uplink"], best["attack"]].append(numbers)
    return found


def cell(rows: list[dict[str, float]]) -> str:
    """Mean accuracy over seeds, with the attack's success in brackets where it is measured; no rows: it diverged."""
    if not rows:
        return "diverged"
    accuracy = np.mean([row["accuracy"] for row in rows])
    success = [row["success"] for row in rows if "success" in row]
    return f"{accuracy:.3f}" + (f" ({np.mean(success):.2f})" if success else "")


def markdown(found: Values) -> str:
    """A table for each kind of data: a row for each rule, a column for each attack."""
    lines = []
    for data in dict.fromkeys(key[0] for key in found):
        attacks = list(dict.fromkeys(key[2] for key in found))
        lines += ["", f"{data}:", "", f"| rule | {' | '.join(attacks)} |", "|---" * (len(attacks) + 1) + "|"]
        for rule in dict.fromkeys(key[1] for key in found):
            lines.append(f"| {rule} | {' | '.join(cell(found[data, rule, attack]) for attack in attacks)} |")
    kept = {key: np.mean([row["kept"] for row in rows]) for key, rows in found.items() if rows and "kept" in rows[0]}
    lines += [""] + [f"{', '.join(key)}: kept {share:.2f} of the attackers' updates" for key, share in kept.items()]
    return "\n".join(lines)


def draw(found: Values, test: str) -> Figure:
    """A panel for each kind of data: the accuracy of each rule under each attack."""
    data, rules, attacks = (list(dict.fromkeys(key[place] for key in found)) for place in range(3))
    figure = Figure(figsize=(WIDE, 2.6 * len(data)), layout="constrained")
    for ax, one in zip(figure.subplots(len(data), 1, squeeze=False)[:, 0], data):
        for place, rule in enumerate(rules):
            each = [[row["accuracy"] for row in found[one, rule, attack]] for attack in attacks]
            values = [np.mean(rows) if rows else 0.0 for rows in each]
            places = np.arange(len(attacks)) + 0.16 * (place - len(rules) / 2 + 0.5)
            ax.bar(places, values, 0.15, label=rule)
            for x, rows in zip(places, each):
                if not rows:
                    ax.text(x, 0.02, "diverged", rotation=90, ha="center", va="bottom", fontsize=6)
        ax.set(title=f"{one}, {TESTS[test]}", ylabel=f"accuracy, {test}", ylim=(0, 1))
        ax.set_xticks(range(len(attacks)), attacks)
    figure.axes[0].legend(ncols=len(rules), fontsize=7, loc="upper center")
    return figure


if __name__ == "__main__":
    lines = list(csv.DictReader(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()))
    first = next(name for name in TESTS if f"{name}/accuracy" in lines[0])
    values = chosen_rows(lines, first)
    print(markdown(values))
    with matplotlib.rc_context(STYLE):
        disk.write_bytes(pathlib.Path(sys.argv[2]), disk.encoded(draw(values, first), 110))

"""Writes docs/configs.md: every config and study with its question, command, hardware, time and data, from its header.

python scripts/config_pages.py
"""

import ast
import pathlib
import re

HOME = pathlib.Path(__file__).parents[1]
PAGE = HOME / "docs" / "configs.md"
INTRODUCTION = """# Every config and study

Each file below is a run or a study that you can repeat with one command, and a place to start your own from. Copy it,
or change any field by a flag: `fedjax-mri show configs/quickstart.py` lists the fields. Data that are called synthetic
are drawn, not scanned. Systems A to E are [five published designs](index.md#five-published-systems). This page is made
from the headers of the files by `python scripts/config_pages.py`.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


def page() -> str:
    """Returns the text of the page."""
    parts = [INTRODUCTION]
    for title, folder in (("Configs", "configs"), ("Studies", "studies")):
        parts += [f"## {title}\n", *(section(path) for path in sorted((HOME / folder).glob("*.py")))]
    return "\n".join(parts)


def section(path: pathlib.Path) -> str:
    """Returns the part of the page on one file: what it is, its commands as code, and the rest of its header."""
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    title, _, rest = header.partition("\n\n")
    lines = list(joined(rest.splitlines()))
    commands = [line for line in lines if COMMAND.match(line)]
    others = [line for line in lines if line not in commands]
    code = "\n".join(COMMAND.sub("", line) for line in commands)
    name = path.relative_to(HOME).as_posix()
    return f"### {name}\n\n{title}\n\n```\n{code}\n```\n\n{paragraphs(others)}\n"


COMMAND = re.compile(r"^(?:Command|Then): +|^ +(?=fedjax-mri )")


def joined(lines: list[str]) -> list[str]:
    """Returns the lines with a command's flags, which may lie on a line below it, in one line with it."""
    found = list[str]()
    for line in lines:
        if found and COMMAND.match(found[-1]) and re.match(r" +--", line):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return found


def paragraphs(lines: list[str]) -> str:
    """Returns the rest of a header, hardware and data as paragraphs of their own, lists of flags as code."""
    text = list[str]()
    for line in lines:
        indented = line.startswith("  ")
        starts = re.match(r"(Hardware|Data|Expect)\b", line) or (text and indented != text[-1].startswith("    "))
        if starts and text and text[-1]:
            text.append("")
        text.append(f"    {line.strip()}" if indented else line)
    return "\n".join(text).strip()


if __name__ == "__main__":
    main()

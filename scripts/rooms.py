"""Draws the rooms of the package and what each imports: `python scripts/rooms.py` writes docs/rooms.svg.

The arrows are made from the import statements of all files, and from names of modules in strings. A room stands above
all rooms that it imports. An arrow that follows from others is left out.
"""

import ast
import pathlib
import re

HOME = pathlib.Path(__file__).parents[1]
PACKAGE, PICTURE = HOME / "fedjax_mri", HOME / "docs" / "rooms.svg"
WIDE, HIGH, ROW = 96, 34, 84  # px: a box, and from one row to the next
NAMED = re.compile(r"fedjax_mri\.(\w+)\.")

Imports = dict[str, set[str]]  # room -> the other rooms that its files import


def imports_of(path: pathlib.Path) -> set[str]:
    """The rooms that a file imports, by statements and by names of modules in strings."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedjax_mri":
            found.add([*node.module.split(".")[1:], *(alias.name for alias in node.names)][0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fedjax_mri.")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(NAMED.findall(node.value))
    return found


def rooms() -> Imports:
    """All rooms of the package, with what they import."""
    folders = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    return {
        room.name: set().union(*map(imports_of, room.rglob("*.py"))) - {room.name, "__version__"} for room in folders
    }


def floor(room: str, imports: Imports) -> int:
    """How far a room stands above those that import nothing."""
    return max((floor(below, imports) + 1 for below in imports[room]), default=0)


def arrows(imports: Imports) -> list[tuple[str, str]]:
    """Pairs of rooms, of which the first imports the second and reaches it by no other way."""

    def reached(room: str) -> set[str]:
        return imports[room].union(*map(reached, imports[room]))

    pairs = [(room, below) for room in imports for below in imports[room]]
    return sorted((room, below) for room, below in pairs if not any(below in reached(x) for x in imports[room]))


def picture(imports: Imports) -> str:
    """The drawing as SVG."""
    floors = [sorted(room for room in imports if floor(room, imports) == number) for number in range(len(imports))]
    floors = [row for row in floors if row]
    width = 2 * WIDE * (max(map(len, floors)) + 1) // 1.5
    height = ROW * len(floors)
    centre = {
        room: (width * (place + 1) / (len(row) + 1), height - ROW * (number + 0.5))
        for number, row in enumerate(floors)
        for place, room in enumerate(row)
    }
    lines = [arrow(*centre[room], *centre[below]) for room, below in arrows(imports)]
    boxes = [box(room, *centre[room]) for room in sorted(imports)]
    return "\n".join([HEAD.format(width=width, height=height), *lines, *boxes, "</svg>\n"])


HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
font-family="sans-serif" font-size="14">
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0L8 4L0 8z" fill="#566"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>"""


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """An arrow from the lower edge of one box to the upper edge of another; around a box where it passes a row."""
    y, to_y = y + HIGH / 2, to_y - HIGH / 2
    style = 'fill="none" stroke="#566" marker-end="url(#tip)"'
    if to_y - y < ROW:
        return f'<line x1="{x:.0f}" y1="{y:.0f}" x2="{to_x:.0f}" y2="{to_y:.0f}" {style}/>'
    aside = to_x + (WIDE if to_x >= x else -WIDE) / 2
    return (
        f'<path d="M{x:.0f} {y:.0f}C{aside:.0f} {y:.0f} {aside:.0f} {to_y - HIGH:.0f} {to_x:.0f} {to_y:.0f}" {style}/>'
    )


def box(room: str, x: float, y: float) -> str:
    """A box with the name of a room."""
    corner = f'x="{x - WIDE / 2:.0f}" y="{y - HIGH / 2:.0f}" width="{WIDE}" height="{HIGH}"'
    words = f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{room}</text>'
    return f'<rect {corner} rx="4" fill="#eef4f8" stroke="#566"/>{words}'


if __name__ == "__main__":
    PICTURE.write_text(picture(rooms()), encoding="utf-8")
    print(PICTURE)

#!/usr/bin/env python3
"""Runs a command in a terminal of its own and draws what it prints: ansi_svg.py COLUMNS COMMAND… > picture.svg."""

import contextlib
import os
import pty
import re
import sys
from html import escape

INK, PAPER = "#d7dde4", "#0d1117"
COLOURS = {31: "#ff7b72", 32: "#56d364", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea"}
WIDTH, HEIGHT, EDGE = 8.4, 18, 14  # of a character, of a line, around all


def printed_by(columns: int, command: list[str]) -> str:
    """Return what a command prints to a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"COLUMNS": str(columns), "TERM": "xterm-256color"}
        os.execvp(command[0], command)
    output = b""
    with contextlib.suppress(OSError):  # that is how its end is told
        while data := os.read(terminal, 4096):
            output += data
    _, status = os.waitpid(pid, 0)
    text = output.decode()
    if status != 0:
        sys.exit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}:\n{text}")
    return text.replace("\r\n", "\n").rstrip("\n")


def painted(line: str) -> list[tuple[str, str]]:
    """Split a line into texts, each with what SVG has for how it is painted."""
    parts: list[tuple[str, str]] = []
    on: set[int] = set()
    for text in re.split(r"(\x1b\[[\d;]*m)", line):
        if text.startswith("\x1b["):
            for code in (int(c or 0) for c in text[2:-1].split(";")):
                on = on | {code} if code else set()
        elif text:
            colour = next((COLOURS[c] for c in on if c in COLOURS), INK)
            style = f' fill="{colour}"' if colour != INK else ""
            style += ' font-weight="bold"' if 1 in on else ""
            style += ' opacity="0.6"' if 2 in on else ""
            parts.append((text, style))
    return parts


def svg(columns: int, text: str) -> str:
    """Draw lines of text with colours."""
    lines = text.split("\n")
    width, height = columns * WIDTH + 2 * EDGE, len(lines) * HEIGHT + 2 * EDGE
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" fill="{INK}">',
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
    ]
    for i, line in enumerate(lines):
        column = 0
        for part, style in painted(line):
            x, y, long = EDGE + column * WIDTH, EDGE + (i + 0.75) * HEIGHT, len(part) * WIDTH
            if part.strip():
                out.append(f'<text x="{x:.1f}" y="{y:.1f}" textLength="{long:.1f}" xml:space="preserve"{style}>{escape(part)}</text>')
            column += len(part)
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    """Do what the command line says."""
    columns = int(sys.argv[1])
    sys.stdout.write(svg(columns, printed_by(columns, sys.argv[2:])))


main()

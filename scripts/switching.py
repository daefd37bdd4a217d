"""Puts mutants into the source, all at once, each behind a switch that the environment turns on.

A mutant of `cargo mutants` is a place and a text. Here a place becomes a choice between what stands there and the
mutants of it: one build has them all, and each costs only the tests that reach it.
"""

from __future__ import annotations

import dataclasses
import re

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
COMPARISONS = {"==", "!=", "<", ">", "<=", ">="}
LAZY = {"&&", "||"}
# Where nothing is evaluated at run time.
CONSTANT = {"const_item", "static_item", "array_type", "const_block", "enum_variant", "attribute_item"}
MARK = re.compile(rb"/\*m(\d+)\*/|/\*end\*/")

# Reads the switch, and notes which were asked for. Off in constants.
RUNTIME = """//! Written by scripts/mutants.py.
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

static REACHED: [AtomicU8; COUNT] = [const { AtomicU8::new(0) }; COUNT];

struct State {
    on: u32,
    is_noting: bool,
}

unsafe extern "C" {
    fn atexit(call: extern "C" fn()) -> i32;
}

extern "C" fn note() {
    if let Ok(path) = std::env::var("MUTANTS_REACHED") {
        let path = format!("{path}-{}", env!("CARGO_PKG_NAME"));
        let bytes: Vec<u8> = REACHED.iter().map(|place| place.load(Ordering::Relaxed)).collect();
        let _ = std::fs::write(path, bytes);
    }
}

fn state() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| {
        let is_noting = std::env::var_os("MUTANTS_REACHED").is_some();
        if is_noting {
            unsafe { atexit(note) };
        }
        State { on: std::env::var("MUTANT").ok().and_then(|on| on.parse().ok()).unwrap_or(u32::MAX), is_noting }
    })
}

fn is_on(mutant: u32) -> bool {
    let state = state();
    if state.is_noting {
        REACHED[mutant as usize].store(1, Ordering::Relaxed);
    }
    state.on == mutant
}

const fn is_off(_: u32) -> bool {
    false
}

#[inline(never)]
pub const fn on(mutant: u32) -> bool {
    core::intrinsics::const_eval_select((mutant,), is_off, is_on)
}
"""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One of `cargo mutants --list --json`."""

    number: int
    name: str
    file: str
    genre: str
    replacement: str
    # (line, column) from 1, in characters
    start: tuple[int, int]
    end: tuple[int, int]
    # What names it until its function changes.
    key: str


class Refused(Exception):
    """No switch can choose this mutant at run time."""


# Why: one of a constant is evaluated by the compiler, and one of another kind changes what is built.
A_CONSTANT, OF_ANOTHER_KIND, AN_IMPL = "a constant", "of another kind", "returns `impl`"
REASONS = (A_CONSTANT, OF_ANOTHER_KIND, AN_IMPL)
# `||` in a chain of `let` is no Rust.
NO_RUST = "not an expression"


def on(number: int) -> bytes:
    return b"crate::mutants::on(%d)" % number


class Source:
    """A file, its syntax, and the mutants at its nodes."""

    def __init__(self, text: bytes):
        self.text = text
        self.tree = PARSER.parse(text)
        self.lines = [0]
        for line in text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.at: dict[tuple[int, int, str], list[Mutant]] = {}

    def offset(self, place: tuple[int, int]) -> int:
        begin = self.lines[place[0] - 1]
        line = self.text[begin : self.lines[place[0]]].decode()
        return begin + len(line[: place[1] - 1].encode())

    def add(self, mutant: Mutant) -> None:
        node = self._node(mutant)
        above = node.parent
        while above is not None:
            # As `{ A - B }` of a const generic.
            if above.type in CONSTANT or above.type == "type_arguments":
                raise Refused(A_CONSTANT)
            above = above.parent
        self.at.setdefault((node.start_byte, node.end_byte, node.type), []).append(mutant)

    def _node(self, mutant: Mutant) -> tree_sitter.Node:
        start, end = self.offset(mutant.start), self.offset(mutant.end)
        node = self.tree.root_node.descendant_for_byte_range(start, end)
        if mutant.genre == "BinaryOperator":
            node = node.parent
            if node is None or node.type not in ("binary_expression", "compound_assignment_expr"):
                raise Refused(NO_RUST)
            if mutant.replacement in LAZY and self._has_let(node):
                raise Refused(NO_RUST)
            return node
        if mutant.genre == "UnaryOperator":
            node = node.parent
            if node is None or node.type != "unary_expression":
                raise Refused(NO_RUST)
            return node
        wanted = {"FnValue": "function_item", "MatchArm": "match_arm", "MatchArmGuard": "match_arm"}.get(mutant.genre)
        while node is not None and node.type != wanted:
            node = node.parent
        if wanted is None or node is None:
            raise Refused(OF_ANOTHER_KIND)
        returned = node.child_by_field_name("return_type")
        if mutant.genre == "FnValue" and returned is not None and b"impl " in returned.text:
            raise Refused(AN_IMPL)
        return node

    @staticmethod
    def _has_let(node: tree_sitter.Node) -> bool:
        return "let_c" in str(node)

    def switched(self) -> bytes:
        return self._emit(self.tree.root_node)

    def _plain(self, node: tree_sitter.Node, replaced: dict[int, bytes] | None = None) -> bytes:
        """Its text with its children switched; `replaced` has other texts for children by their start."""
        out, last = [], node.start_byte
        for child in node.children:
            out.append(self.text[last : child.start_byte])
            text = (replaced or {}).get(child.start_byte)
            out.append(self._emit(child) if text is None else text)
            last = child.end_byte
        out.append(self.text[last : node.end_byte])
        return b"".join(out)

    def _emit(self, node: tree_sitter.Node) -> bytes:
        mutants = self.at.get((node.start_byte, node.end_byte, node.type))
        if not mutants:
            return self._plain(node) if node.child_count else self.text[node.start_byte : node.end_byte]
        mark = b"/*m%d*/" % mutants[0].number
        if node.type == "function_item":
            return self._function(node, mutants)
        if node.type == "match_arm":
            return self._arm(node, mutants)
        if node.type == "unary_expression":
            inner = self._emit(node.children[-1])
            operator = self.text[node.start_byte : node.children[-1].start_byte]
            text = b"(if " + on(mutants[0].number) + b" { " + inner + b" } else { " + operator + inner + b" })"
            return mark + text + b"/*end*/"
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        operator = self.text[
            node.child_by_field_name("operator").start_byte : node.child_by_field_name("operator").end_byte
        ].decode()
        lhs, rhs = self._emit(left), self._emit(right)

        def choose(first: bytes, second: bytes) -> bytes:
            text = b""
            for mutant in mutants:
                text += (
                    b"if "
                    + on(mutant.number)
                    + b" { "
                    + first
                    + b" "
                    + mutant.replacement.encode()
                    + b" "
                    + second
                    + b" } else "
                )
            return text + b"{ " + first + b" " + operator.encode() + b" " + second + b" }"

        if node.type == "compound_assignment_expr":
            text = b"(match (" + rhs + b") { r_ => " + choose(lhs, b"r_") + b" })"
        elif operator in LAZY:
            if self._has_let(node):
                return self._plain(node)
            text = b"({ let l_: bool = " + lhs + b"; " + choose(b"l_", b"(" + rhs + b")") + b" })"
        elif operator in COMPARISONS:
            text = b"(match (&(" + lhs + b"), &(" + rhs + b")) { (l_, r_) => " + choose(b"*l_", b"*r_") + b" })"
        else:
            text = b"(match (" + lhs + b", " + rhs + b") { (l_, r_) => " + choose(b"l_", b"r_") + b" })"
        return mark + text + b"/*end*/"

    def _function(self, node: tree_sitter.Node, mutants: list[Mutant]) -> bytes:
        body = node.child_by_field_name("body")
        brace = body.children[0]
        text = b"{"
        for mutant in mutants:
            returned = b"return " + mutant.replacement.encode()
            text += b"/*m%d*/if " % mutant.number + on(mutant.number) + b" { " + returned + b"; }/*end*/"
        return self._plain(node, {body.start_byte: self._plain(body, {brace.start_byte: text})})

    def _arm(self, node: tree_sitter.Node, mutants: list[Mutant]) -> bytes:
        pattern = node.child_by_field_name("pattern")
        guard = pattern.child_by_field_name("condition")
        text = self._emit(guard) if guard is not None else None
        mark = b"/*m%d*/" % mutants[0].number
        for mutant in mutants:
            if mutant.genre == "MatchArm":
                continue
            is_true = mutant.replacement == "true"
            text = (
                b"(" + on(mutant.number) + b" || (" + text + b"))"
                if is_true
                else b"(!" + on(mutant.number) + b" && (" + text + b"))"
            )
        for mutant in mutants:
            if mutant.genre == "MatchArm":
                text = b"!" + on(mutant.number) + (b" && (" + text + b")" if text is not None else b"")
        text = mark + text + b"/*end*/"
        if guard is not None:
            changed = self._plain(pattern, {guard.start_byte: text})
        else:
            changed = self._plain(pattern) + b" if " + text + b" "
        return self._plain(node, {pattern.start_byte: changed})


def marked(text: bytes, place: int) -> int | None:
    """The first mutant of the innermost switch around that byte."""
    open_: list[int] = []
    for mark in MARK.finditer(text):
        if mark.start() > place:
            break
        if mark.group(1):
            open_.append(int(mark.group(1)))
        elif open_:
            open_.pop()
    return open_[-1] if open_ else None

#!/usr/bin/env python3
"""Checks that no crate has a cycle of modules, and that crates depend only on those they may.

    python3 tools/check_layers.py [REPOSITORY]
    python3 tools/check_layers.py --self-test

A module is a file. Module A depends on module B if a path in A's code, excluding tests, leads to an item that
B defines; re-exports are followed to the definition. Declaring a child (`mod x;`) and re-exporting its items
is not a dependency. Method calls name no module and do not count.

A `mod x { … }` belongs to the module of its file, so two of them in one file never form a cycle.
"""

import re
import sys
import tempfile
import tomllib
from pathlib import Path

# Allowed dependencies of each crate, excluding tests. The root package is the binary and the library.
ALLOWED = {
    "capi": {"nanoinfer"},
    "python": {"nanoinfer", "platform"},
    "nanoinfer": {"engine", "format", "grammar", "hub", "interface", "kernels", "packer", "platform", "serve", "text"},
    "grammar": {"engine", "text"},
    "interface": {"engine", "platform", "text"},
    "serve": {"engine", "format", "grammar", "platform", "text"},
    "hub": {"engine", "format", "packer", "platform"},
    "packer": {"format", "kernels", "platform", "text"},
    "engine": {"format", "kernels", "platform", "text"},
    "format": {"platform"},
    "kernels": set(),
    "platform": set(),
    "text": set(),
}
# Packages that call the operating system: only platform and tests may depend on them.
SYSTEM = {"ctrlc", "fs2", "fs4", "libc", "nix", "rustix", "signal-hook", "winapi", "windows", "windows-sys"}

TOKEN = re.compile(
    r"""
      (?P<skip> //[^\n]* | \s+
        | b?c?r(?P<hash>\#*)"(?s:.*?)"(?P=hash)      # raw strings
        | [bc]?"(?s:\\.|[^"\\])*"
        | b?'(?:\\(?:u\{[^}]*\}|x[0-9a-fA-F]{2}|.)|[^\\'\n])'
        | '[A-Za-z_]\w* )                            # lifetimes
    | (?P<token> (?:r\#)?[A-Za-z_]\w* | \d[\w.]* | :: | . )
    """,
    re.VERBOSE | re.DOTALL,
)
DEFINES = {"fn", "struct", "enum", "trait", "type", "const", "static", "union"}
OPEN, CLOSE = "([{", ")]}"


def tokens(source):
    """`source` as (token, line), without comments, strings, lifetimes and test-only code."""
    while match := re.search(r"/\*(?:(?!/\*|\*/).)*\*/", source, re.DOTALL):  # innermost first
        newlines = "\n" * match[0].count("\n")
        source = source[: match.start()] + newlines + source[match.end() :]
    found, line = [], 1
    for match in TOKEN.finditer(source):
        if match["token"]:
            found.append((match["token"], line))
        line += match[0].count("\n")
    return without_tests(found)


def without_tests(found):
    kept, at = [], 0
    while at < len(found):
        if found[at][0] == "#" and found[at + 1][0] == "[":
            end = closing(found, at + 1) + 1
            if only_tests([token for token, _ in found[at:end]]):
                at = end_of_item(found, end)
                continue
        kept.append(found[at])
        at += 1
    return kept


def only_tests(attribute):
    """Whether `attribute` is a `#[cfg(…)]` with `test` alone or only within `all(…)`."""
    around = []
    for token, following in zip(attribute, attribute[1:]):
        if following == "(":
            around.append(token)
        elif token == ")":
            around.pop()
        elif token == "test" and around[:1] == ["cfg"] and set(around[1:]) <= {"all"}:
            return True
    return False


def closing(found, at):
    depth = 0
    for end in range(at, len(found)):
        depth += (found[end][0] in OPEN) - (found[end][0] in CLOSE)
        if depth == 0:
            return end
    return len(found) - 1


def end_of_item(found, at):
    """The end of the item, field, variant, argument or statement that starts at `at`."""
    angles, where = 0, False
    while at < len(found):
        token = found[at][0]
        if token in CLOSE:
            return at
        if token == ";" or (token == "," and angles <= 0 and not where):
            return at + 1
        angles += (token == "<") - (token == ">" and found[at - 1][0] not in "-=")  # not `->`, `=>`
        where = where or token == "where"  # its bounds are separated by commas
        at = closing(found, at) if token in OPEN else at
        if token == "{":
            return at + 1
        at += 1
    return at


class Module:
    """The declarations of a file, or of a `mod x { … }` in a file, and the paths in its code."""

    def __init__(self, parent, node, folder, found):
        self.parent, self.node = parent, node
        self.children, self.items, self.names, self.globs = {}, set(), {}, []
        self.paths = []  # (path, line, is a re-export)
        pairs = [(a, b) for (a, _), (b, _) in zip(found, found[1:])]
        self.variables = {a for a, b in pairs if b == ":"} | {b for a, b in pairs if a in ("let", "mut", "|")}
        self.read(folder, found)

    def read(self, folder, found):
        at, depth = 0, 0
        while at < len(found):
            token, line = found[at]
            following = found[at + 1][0] if at + 1 < len(found) else ""
            if token == "mod" and following.isidentifier():
                at = self.read_child(folder, found, at)
            elif token == "use" and following != "<":
                end = next(i for i in range(at, len(found)) if found[i][0] == ";")
                public = at > 0 and (found[at - 1][0] in ("pub", ")"))
                self.read_use(found[at + 1 : end], [], public, depth == 0)
                at = end
            elif token == "macro_rules":
                self.items.add(found[at + 2][0])
                at += 2
            elif token in DEFINES and following.isidentifier() and depth == 0:
                self.items.add(following)
                at += following not in DEFINES  # `const fn`
            elif re.match(r"[A-Za-z_]", token):
                at = self.read_path(found, at)
            depth += (token in OPEN) - (token in CLOSE) if len(token) == 1 else 0
            at += 1

    def read_child(self, folder, found, at):
        name, line = found[at + 1]
        if found[at + 2][0] == "{":
            end = closing(found, at + 2)
            inside = found[at + 3 : end]
            self.children[name] = Module(self, self.node, folder / name, inside)
            return end
        for path in folder / f"{name}.rs", folder / name / "mod.rs":
            if path.exists():
                node = f"{self.node}::{name}" if self.parent else name
                self.children[name] = Module(self, node, folder / name, tokens(path.read_text()))
                return at + 2
        sys.exit(f"{self.node}, line {line}: `mod {name};` has no file {folder / name}.rs or {folder / name}/mod.rs")

    def read_use(self, found, prefix, public, outside):
        """Reads one tree of a `use`: `a::{b, c::d as e, f::*}`."""
        path, at = list(prefix), 0
        while at < len(found) and found[at][0] not in ("{", "as"):
            path += [found[at][0]] if found[at][0] != "::" else []
            at += 1
        if at < len(found) and found[at][0] == "{":
            start, depth = at + 1, 0
            for end in range(at, len(found)):
                depth += (found[end][0] == "{") - (found[end][0] == "}")
                if (depth == 1 and found[end][0] == ",") or depth == 0:
                    self.read_use(found[start:end], path, public, outside)
                    start = end + 1
        elif path and path[-1] == "*":
            self.globs.append(path[:-1])
        elif path and found:
            path = path[:-1] if path[-1] == "self" and len(path) > 1 else path
            name = found[at + 1][0] if at < len(found) else path[-1]
            self.names[name] = path if outside else self.names.get(name, path)
            self.paths.append((path, found[0][1], public))

    def read_path(self, found, at):
        start = found[at - 1][0] if at else ""
        path, end = [found[at][0]], at
        while end + 2 < len(found) and found[end + 1][0] == "::" and found[end + 2][0].isidentifier():
            path.append(found[end + 2][0])
            end += 2
        call = end + 1 < len(found) and found[end + 1][0] == "("
        if start not in (".", "::") and (call or len(path) > 1 or path[0] not in self.variables):
            self.paths.append((path, found[at][1], False))
        return end

    def root(self):
        return self.parent.root() if self.parent else self

    def resolve(self, path, seen=()):
        """The module that defines `path` as seen from here; None if unresolved or in another crate."""
        first, *rest = path
        here = {"crate": self.root(), "self": self, "super": self.parent}.get(first)
        return here.descend(rest, seen) if here else self.descend(path, seen, exact=True)

    def descend(self, path, seen, exact=False):
        if not path:
            return None  # only a module: each use of its items has its own path
        first, *rest = path
        if (self, first) in seen:
            return None
        seen = (*seen, (self, first))
        if first == "super":
            return self.parent and self.parent.descend(rest, seen)
        if first in self.children:
            return self.children[first].descend(rest, seen)
        if first in self.items:
            return self
        if first in self.names:
            target = self.names[first]
            module = self.module(target)
            return module.descend(rest, seen) if module and rest else self.resolve(target, seen)
        for glob in self.globs:
            module = self.module(glob)
            if module and (hit := module.descend(path, seen, exact=True)):
                return hit
        return None if exact else self  # presumably defined by a macro

    def module(self, path):
        """The module that `path` names, if any."""
        here = self
        for at, name in enumerate(path):
            if name in ("crate", "self", "super"):
                here = {"crate": self.root(), "self": here, "super": here.parent}[name]
            elif name in here.children:
                here = here.children[name]
            elif name in here.names and here.names[name] != path[at:]:
                here = here.module(here.names[name])
            else:
                return None
            if here is None:
                return None
        return here

    def edges(self):
        for path, line, public in self.paths:
            other = self.resolve(path)
            if other and other.node != self.node and not (public and other.is_below(self)):
                yield (self.node, other.node), f"{'::'.join(path)}, line {line}"
        for child in self.children.values():
            yield from child.edges()

    def is_below(self, other):
        return self is other or bool(self.parent and self.parent.is_below(other))


def edges_of(root_file):
    found = {}
    root = Module(None, root_file.stem, root_file.parent, tokens(root_file.read_text()))
    for edge, why in root.edges():
        found.setdefault(edge, why)
    return found


def cycles(edges):
    """The strongly connected components of more than one module."""
    after = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reach(start):
        seen, todo = set(), [start]
        while todo:
            for b in after.get(todo.pop(), set()) - seen:
                seen.add(b)
                todo.append(b)
        return seen

    reached = {a: reach(a) for a in after}
    found = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in after}
    return sorted(sorted(cycle) for cycle in found if cycle)


def dependencies(manifest, shared):
    """The packages that `manifest` depends on, excluding tests; `shared` is the workspace's table."""
    for table in [manifest, *manifest.get("target", {}).values()]:
        for kind in "dependencies", "build-dependencies":
            for key, details in table.get(kind, {}).items():
                if isinstance(details, dict) and details.get("workspace"):
                    details = shared[key]
                yield details.get("package", key) if isinstance(details, dict) else key


def check_crates(repository):
    """Prints all cycles within crates and all forbidden dependencies; returns their number."""
    wrong = 0
    shared = tomllib.loads((repository / "Cargo.toml").read_text())["workspace"].get("dependencies", {})
    for manifest in [repository / "Cargo.toml", *sorted(repository.glob("crates/*/Cargo.toml"))]:
        data = tomllib.loads(manifest.read_text())
        name = data["package"]["name"].removeprefix("nanoinfer-")
        packages = set(dependencies(data, shared))
        ours = {package.removeprefix("nanoinfer-") for package in packages if package.startswith("nanoinfer")}
        system = packages & SYSTEM if name != "platform" else set()
        for other in sorted((ours - ALLOWED.get(name, set())) | system):
            print(f"{name} must not depend on {other}: see ALLOWED and SYSTEM in tools/check_layers.py")
            wrong += 1
        src = manifest.parent / "src"
        for root in (src / file for file in ("lib.rs", "main.rs") if (src / file).exists()):
            wrong += check_modules(f"{name} ({root.name})", edges_of(root))
    return wrong


def check_modules(name, edges):
    """Prints the cycles of modules and the imports between commands; returns their number."""
    found = cycles(edges)
    for cycle in found:
        print(f"{name}: cycle of {', '.join(cycle)}")
        for (a, b), why in sorted(edges.items()):
            if a in cycle and b in cycle:
                print(f"    {a} -> {b}  ({why})")
    crossing = [(a, b, why) for (a, b), why in sorted(edges.items()) if are_two_commands(a, b)]
    for a, b, why in crossing:
        print(f"{name}: the command {a} imports {b} ({why}); move it to a shared module")
    print(f"{name}: {len(edges)} dependencies between modules, {len(found)} cycles")
    return len(found) + len(crossing)


def are_two_commands(a, b):
    a, b = a.split("::"), b.split("::")
    return a[0] == b[0] == "commands" and len(a) > 1 and len(b) > 1 and a[1] != b[1]


# For each rule: files, and the edges that they produce.
EXAMPLES = {
    "a path through the root": ({"lib": "mod a; mod b;", "a": "use crate::b::B;", "b": "pub struct B;"}, "a>b"),
    "a re-export is followed to the definition": (
        {"lib": "mod a; mod b; pub use b::B;", "a": "use crate::B;", "b": "pub struct B;"},
        "a>b",
    ),
    "groups, renames and nesting": (
        {"lib": "mod a; mod b; mod c;", "a": "use crate::{b::{B as X}, c::{self, C}};", "b": "struct B;", "c": "struct C;"},
        "a>b a>c",
    ),
    "a path in code": ({"lib": "mod a; mod b;", "a": "fn f() { crate::b::g(); }", "b": "fn g() {}"}, "a>b"),
    "a module's name is not an edge, a use of its item is": (
        {"lib": "mod a; mod b; mod c;", "a": "use crate::{b, c}; fn f() { c::g() }", "b": "", "c": "fn g() {}"},
        "a>c",
    ),
    "a module re-exported by another": (
        {"lib": "mod a; mod b;", "a": "use crate::b::c; fn f() { c::g() }", "b": "pub mod c;", "b/c": "fn g() {}"},
        "a>b::c",
    ),
    "declaring and re-exporting a child is not an edge": (
        {"lib": "mod a;", "a": "mod b; pub(crate) use b::B;", "a/b": "use super::A; struct B;"},
        "a::b>a",
    ),
    "using a child's item is an edge": (
        {"lib": "mod a;", "a": "mod b; pub use b::B; struct A(B);", "a/b": "use super::A; struct B;"},
        "a>a::b a::b>a",
    ),
    "a variable of the same name is not an edge": (
        {"lib": "mod a;", "a": "mod b; pub use b::f; fn g() { let f = 1; f + 1; S { f: 2 } }", "a/b": "fn f() {}"},
        "",
    ),
    "a sibling through the parent's re-export": (
        {"lib": "mod a;", "a": "mod b; mod c; pub use b::B;", "a/b": "struct B;", "a/c": "use super::B;"},
        "a::c>a::b",
    ),
    "an item of the root": ({"lib": "mod a; pub const N: usize = 1;", "a": "use crate::N;"}, "a>lib"),
    "another crate's names": ({"lib": "mod a; pub use serde::De;", "a": "use crate::De; use std::io;"}, ""),
    "a glob import of the parent": (
        {"lib": "mod a; mod b;", "a": "mod c; use crate::b::B; struct A;", "a/c": "use super::*; fn f(_: A, _: B) {}", "b": "struct B;"},
        "a>b a::c>a a::c>b",
    ),
    "a module within the file": (
        {"lib": "mod a; mod b;", "a": "mod m { use super::super::b::B; use super::A; } struct A;", "b": "struct B;"},
        "a>b",
    ),
    "tests, comments and strings": (
        {
            "lib": "mod a; mod b; #[cfg(test)] mod t;",
            "a": '/* crate::b::g /* */ */ // crate::b::g\n#[cfg(test)] mod tests { use crate::b::g; }\n'
            '#[cfg(test)] use crate::b::g;\nfn f<\'b>() { r#"crate::b::g"#; "\\"crate::b::g"; \'"\'; x.b(); }',
            "b": "fn g() {}",
            "t": "use crate::b::g;",
        },
        "",
    ),
    "code that is not only for tests": (
        {
            "lib": "mod a; mod b; mod c;",
            "a": '#[cfg(any(test, feature = "x"))] use crate::b::B; #[cfg(not(test))] use crate::c::C;',
            "b": "struct B;",
            "c": "struct C;",
        },
        "a>b a>c",
    ),
    "test-only code with further conditions": (
        {
            "lib": "mod a; mod b;",
            "a": "#[cfg(all(not(miri), test))] use crate::b::B; #[cfg(all(test, any(unix, windows)))] use crate::b::B;",
            "b": "struct B;",
        },
        "",
    ),
    "a test-only field, and the next field": (
        {
            "lib": "mod a; mod b; mod c;",
            "a": "struct S { #[cfg(test)] pub x: Map<crate::b::B, fn(u8) -> crate::b::B>, y: crate::c::C }",
            "b": "struct B;",
            "c": "struct C;",
        },
        "a>c",
    ),
    "a test-only variant, and the next variant": (
        {
            "lib": "mod a; mod b; mod c;",
            "a": "enum E { #[cfg(test)] X(u8, crate::b::B), #[cfg(test)] Z, Y(crate::c::C) }",
            "b": "struct B;",
            "c": "struct C;",
        },
        "a>c",
    ),
    "a test-only last field, and the next item": (
        {
            "lib": "mod a; mod b; mod c;",
            "a": "struct S { #[cfg(test)] x: crate::b::B } fn f(#[cfg(test)] x: crate::b::B) -> crate::c::C {}",
            "b": "struct B;",
            "c": "struct C;",
        },
        "a>c",
    ),
    "a test-only item with commas": (
        {
            "lib": "mod a; mod b;",
            "a": "#[cfg(test)] impl<T, U> A<T, U> for S where T: X, U: Y { fn f(_: crate::b::B) {} }",
            "b": "struct B;",
        },
        "",
    ),
    "two modules within one file count as one": (
        {"lib": "mod a;", "a": "mod m { use super::n::N; struct M; } mod n { use super::m::M; struct N; }"},
        "",
    ),
    "a variant imported into a function": (
        {"lib": "mod a; mod b; mod c;", "a": "use crate::c::X; use crate::b::K; fn f() { use K::{X, Y}; }", "b": "enum K {}", "c": "struct X;"},
        "a>b a>c",
    ),
    "an item defined by a macro": ({"lib": "mod a; mod b;", "a": "use crate::b::Made;", "b": "make!(Made);"}, "a>b"),
}


MANIFEST = """
[dependencies]
plain = "1"
fmt = { package = "nanoinfer-format", path = "../format" }
nanoinfer-text.workspace = true
kern.workspace = true
[target.'cfg(unix)'.build-dependencies.c]
package = "libc"
[dev-dependencies]
rustix = "1"
"""


def edge_names(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, f"{name}.rs")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return sorted(f"{a}>{b}" for a, b in edges_of(Path(folder, "lib.rs")))


def self_test():
    for rule, (files, expected) in EXAMPLES.items():
        found = edge_names(files)
        assert found == sorted(expected.split()), f"{rule}: found {found}, expected {expected}"
    for declaration in '#[path = "b.rs"] mod a;', "macro_rules! m { () => { mod a; } }":
        try:
            edge_names({"lib": declaration, "b": ""})
        except SystemExit as error:
            assert "`mod a;` has no file" in str(error)
        else:
            raise AssertionError(f"{declaration}: no error")
    shared = {"nanoinfer-text": {"path": "text"}, "kern": {"package": "nanoinfer-kernels"}}
    found = sorted(dependencies(tomllib.loads(MANIFEST), shared))
    assert found == ["libc", "nanoinfer-format", "nanoinfer-kernels", "nanoinfer-text", "plain"], found
    pairs = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "e")]
    assert cycles(pairs) == [["a", "b", "c"], ["e", "f"]]
    assert cycles(pairs[:2]) == []
    assert are_two_commands("commands::chat", "commands::bench::limits")
    assert not are_two_commands("commands::bench", "commands::bench::table")
    assert not are_two_commands("commands", "commands::bench")


def main():
    self_test()
    if sys.argv[1:] == ["--self-test"]:
        return 0
    repository = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parent.parent
    return 1 if check_crates(repository) else 0


if __name__ == "__main__":
    sys.exit(main())

//! The order of rooms in `src/`: imports go to the left only, files of one room do not import one another in a circle,
//! and no file is longer than a reader can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From left to right; the modules of one row do not import one another unless they stand in [`JOINT`].
const ORDER: &[&[&str]] = &[
    &["error"],
    &["rng", "dtype", "npy", "file"],
    &["device"],
    &["cpu"],
    &["tensor", "tape"],
    &["ops"],
    &["nn", "optim", "data"],
    &["models"],
    &["infer"],
    &["prune", "attack", "verify"],
    &["train"],
    &["io"],
    &["run"],
    &["bench"],
    &["report"],
    &["cli"],
];

/// Rows whose modules may use one another, in either direction.
const JOINT: &[&str] = &["rng", "dtype", "npy", "file", "tensor", "tape"];

/// Pairs (from, to) that would be arrows to the right and are meant.
const ALLOWED: &[(&str, &str)] = &[
    // A gradient that two consumers contribute to is summed by the operation `add`.
    ("tape", "ops"),
];

/// Lines of the longest file.
const LONGEST: usize = 500;

/// A path as code writes it, from its first segment on.
type Segments = Vec<String>;

/// What the product's part of one file says of others.
#[derive(Debug, Default)]
struct Source {
    /// Child modules that are declared with a file of their own, and whether only tests have them.
    children: BTreeMap<String, bool>,
    /// Names that `use` brings in, with their paths, and whether they are given on.
    names: Vec<(String, Segments, bool)>,
    /// Paths in the code itself.
    paths: Vec<Segments>,
}

/// Identifiers, numbers and punctuation; comments, strings and characters are left out, `::` is one token.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut at) = (Vec::new(), 0);
    let starts =
        |at: usize, what: &str| chars[at..].iter().take(what.len()).copied().eq(what.chars());
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            at += chars[at..].iter().position(|&c| c == '\n').unwrap_or(chars.len() - at);
        } else if starts(at, "/*") {
            let ends = (at + 2..chars.len()).find(|&end| starts(end, "*/"));
            at = ends.map_or(chars.len(), |end| end + 2);
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == 'r' && (starts(at, "r\"") || starts(at, "r#\"")) {
            let hash = starts(at, "r#\"");
            let close = if hash { "\"#" } else { "\"" };
            at += if hash { 3 } else { 2 };
            let ends = (at..chars.len()).find(|&end| starts(end, close));
            at = ends.map_or(chars.len(), |end| end + close.len());
        } else if c == '\''
            && (chars.get(at + 2) == Some(&'\'') || chars.get(at + 1) == Some(&'\\'))
        {
            at += 2 + chars[at + 2..].iter().position(|&c| c == '\'').unwrap_or(0) + 1;
        } else if c.is_alphanumeric() || c == '_' {
            let end = chars[at..].iter().position(|&c| !(c.is_alphanumeric() || c == '_'));
            let end = end.map_or(chars.len(), |len| at + len);
            found.push(chars[at..end].iter().collect());
            at = end;
        } else if starts(at, "::") {
            found.push("::".into());
            at += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.into());
            }
            at += 1;
        }
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Position behind the block, list or statement that starts at `at`.
fn behind(tokens: &[String], mut at: usize) -> usize {
    let mut depth = 0usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.as_str() {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => {
                depth -= 1;
                if depth == 0 && token == "}" {
                    return at;
                }
            }
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    at
}

/// Reads a `use` tree at `at` behind `before`; gives the position behind it.
fn use_tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    given: bool,
    names: &mut Vec<(String, Segments, bool)>,
) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = use_tree(tokens, at, &path, given, names);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            "as" => {
                names.push((tokens[at + 1].clone(), path, given));
                return at + 2;
            }
            "self" if path.len() > before.len() || !before.is_empty() => at += 1,
            name if is_name(name) || name == "*" => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    if let Some(last) = path.last() {
        names.push((last.clone(), path.clone(), given));
    }
    at
}

fn read(text: &str) -> Source {
    let tokens = tokens(text);
    let mut source = Source::default();
    let (mut at, mut test, mut given) = (0, false, false);
    let is = |at: usize, what: &str| tokens.get(at).is_some_and(|token| token == what);
    while at < tokens.len() {
        match tokens[at].as_str() {
            "#" if is(at + 1, "[") => {
                let end =
                    (at..tokens.len()).find(|&end| tokens[end] == "]").unwrap_or(tokens.len());
                // `cfg(test)` and `cfg(all(test, …))`, but not `cfg(not(test))` and `cfg(any(test, …))`.
                let words = &tokens[at..end];
                let has = |word: &str| words.iter().any(|token| token == word);
                test |= has("cfg") && has("test") && !has("not") && !has("any");
                let mut depth = 0;
                while at < tokens.len() {
                    depth += i32::from(is(at, "[")) - i32::from(is(at, "]"));
                    at += 1;
                    if depth == 0 && is(at - 1, "]") {
                        break;
                    }
                }
                continue;
            }
            "pub" => {
                given = true;
                at += 1;
                if is(at, "(") {
                    at += tokens[at..].iter().position(|token| token == ")").unwrap_or(0) + 1;
                }
                continue;
            }
            "mod" if is(at + 2, ";") => {
                source.children.insert(tokens[at + 1].clone(), test);
                at += 3;
            }
            _ if test => at = behind(&tokens, at),
            "use" => {
                at = use_tree(&tokens, at + 1, &[], given, &mut source.names);
            }
            name if is_name(name) && is(at + 1, "::") && (at == 0 || !is(at - 1, "::")) => {
                let mut path = vec![tokens[at].clone()];
                at += 1;
                while is(at, "::") && tokens.get(at + 1).is_some_and(|token| is_name(token)) {
                    path.push(tokens[at + 1].clone());
                    at += 2;
                }
                source.paths.push(path);
            }
            _ => at += 1,
        }
        (test, given) = (false, false);
    }
    source
}

/// All files of the product by module path; the crate's root is the empty one.
struct Crate {
    files: BTreeMap<Segments, (PathBuf, Source)>,
}

impl Crate {
    /// What lies in the folder `root`, by the text of each file.
    fn of(root: &Path, text: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut files = BTreeMap::new();
        let mut open = vec![(Segments::new(), root.join("lib.rs"), root.to_owned())];
        while let Some((module, path, folder)) = open.pop() {
            let source = text(&path).unwrap_or_else(|| panic!("{} is not there", path.display()));
            let source = read(&source);
            for (name, _) in source.children.iter().filter(|(_, test)| !**test) {
                let (file, below) = (folder.join(format!("{name}.rs")), folder.join(name));
                let file = if text(&file).is_some() { file } else { below.join("mod.rs") };
                open.push(([&module[..], std::slice::from_ref(name)].concat(), file, below));
            }
            files.insert(module, (path, source));
        }
        Self { files }
    }

    /// The module whose file holds what `path` names, seen from `module`.
    fn home(
        &self,
        module: &[String],
        path: &[String],
        seen: &mut BTreeSet<(Segments, Segments)>,
    ) -> Option<Segments> {
        let mut at = module.to_vec();
        let mut rest = path;
        let mut anchored = false;
        while let Some(first) = rest.first() {
            match first.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => break,
            }
            anchored = true;
            rest = &rest[1..];
        }
        if !seen.insert((at.clone(), rest.to_vec())) {
            return None;
        }
        let mut deeper = false;
        while let Some(first) = rest.first() {
            let child = [&at[..], std::slice::from_ref(first)].concat();
            if !self.files.contains_key(&child) {
                break;
            }
            (at, rest, deeper) = (child, &rest[1..], true);
        }
        let Some(name) = rest.first() else { return (anchored || deeper).then_some(at) };
        let (_, source) = self.files.get(&at)?;
        let brought = source.names.iter().find(|(own, _, _)| own == name);
        if let Some((_, from, _)) = brought {
            let whole = [&from[..], &rest[1..]].concat();
            return self.home(&at, &whole, seen);
        }
        (anchored || deeper).then_some(at)
    }

    /// By module, the modules whose files its file imports. What is only given on is not imported.
    fn imports(&self) -> BTreeMap<&Segments, BTreeSet<Segments>> {
        let mut all = BTreeMap::new();
        for (module, (_, source)) in &self.files {
            let used = source.names.iter().filter(|(_, _, given)| !given).map(|(_, path, _)| path);
            let homes = used.chain(&source.paths);
            let homes = homes.filter_map(|path| self.home(module, path, &mut BTreeSet::new()));
            all.insert(module, homes.filter(|home| home != module).collect());
        }
        all
    }
}

/// Groups of nodes that reach one another.
fn circles(arrows: &BTreeMap<&Segments, BTreeSet<Segments>>) -> Vec<BTreeSet<Segments>> {
    let reach = |from: &Segments| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(node) = open.pop() {
            for next in arrows.get(&node).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Segments, BTreeSet<Segments>> =
        arrows.keys().map(|&node| (node, reach(node))).collect();
    let mut found = BTreeSet::new();
    for (node, others) in &reached {
        let circle: BTreeSet<Segments> = others
            .iter()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(*node)))
            .cloned()
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&module))
}

fn product() -> Crate {
    let text = |path: &Path| fs::read_to_string(path).ok();
    let own = Crate::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &text);
    assert!(own.files.len() > 100, "only {} files were found", own.files.len());
    own
}

/// Each use of a room to the right, as a line.
fn arrows_to_the_right(own: &Crate) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, (path, source)) in own.files.iter().filter(|(module, _)| !module.is_empty()) {
        let room = module[0].as_str();
        let from = rank(room).unwrap_or_else(|| panic!("src/{room} has no place in ORDER"));
        for used in source.names.iter().map(|(_, path, _)| path).chain(&source.paths) {
            let Some(home) = own.home(module, used, &mut BTreeSet::new()) else { continue };
            let Some(other) = home.first().filter(|other| *other != room) else { continue };
            let to = rank(other).unwrap_or_else(|| panic!("src/{other} has no place in ORDER"));
            let joint = to == from && JOINT.contains(&room);
            if to >= from && !joint && !ALLOWED.contains(&(room, other.as_str())) {
                wrong.push(format!("{} uses {}", path.display(), used.join("::")));
            }
        }
    }
    wrong
}

/// Each circle of files inside a room, with its arrows.
fn circles_in_rooms(own: &Crate) -> Vec<String> {
    let mut imports = own.imports();
    for (module, used) in &mut imports {
        used.retain(|home| !home.is_empty() && home.first() == module.first());
    }
    let shown = |circle: &BTreeSet<Segments>| {
        let inside = |module: &Segments| {
            let to = imports[module].intersection(circle).map(|to| to.join("::"));
            format!("    {} -> {}", module.join("::"), to.collect::<Vec<_>>().join(", "))
        };
        circle.iter().map(inside).collect::<Vec<_>>().join("\n")
    };
    circles(&imports).iter().map(shown).collect()
}

#[test]
fn imports_go_to_the_left_only() {
    let wrong = arrows_to_the_right(&product());
    assert!(wrong.is_empty(), "arrows to the right:\n{}", wrong.join("\n"));
}

#[test]
fn files_of_a_room_have_no_circle() {
    let found = circles_in_rooms(&product());
    assert!(found.is_empty(), "{} circles:\n{}", found.len(), found.join("\n  and\n"));
}

#[test]
fn no_file_is_too_long() {
    let mut long = Vec::new();
    for (path, _) in product().files.values() {
        let lines = fs::read_to_string(path).unwrap().lines().count();
        if lines > LONGEST {
            long.push(format!("{}: {lines} lines, at most {LONGEST}", path.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// A crate of these files.
fn planted(files: &[(&str, &str)]) -> Crate {
    let text = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned())
    };
    Crate::of(Path::new("."), &text)
}

#[test]
fn every_form_of_an_arrow_to_the_right_is_seen() {
    for line in [
        "use crate::cli;",
        "use crate::{error, cli::{self}};",
        "use crate::{\n    error::{Error},\n    cli,\n};",
        "pub use crate::cli::run;",
        "use super::cli::run as start;",
        "fn f() { crate::cli::run() }",
        "fn f() { let x: super::cli::Run = 1; }",
        "impl A for crate::cli::Run {}",
        "#[cfg(not(test))]\nuse crate::cli;",
        "#[cfg(any(test, feature = \"x\"))]\nuse crate::cli;",
    ] {
        let own = planted(&[
            ("./lib.rs", "mod ops; mod cli; mod error;"),
            ("./ops.rs", line),
            ("./cli.rs", ""),
            ("./error.rs", ""),
        ]);
        assert_eq!(arrows_to_the_right(&own).len(), 1, "{line}");
    }
    for line in [
        "use crate::error::Error;",
        "// use crate::cli;",
        "/* crate::cli::run */",
        "const TEXT: &str = \"crate::cli::run\";",
        "#[cfg(test)]\nmod tests { use crate::cli; }",
        "#[cfg(test)]\nuse crate::cli;",
    ] {
        let own = planted(&[
            ("./lib.rs", "mod ops; mod cli; mod error;"),
            ("./ops.rs", line),
            ("./cli.rs", ""),
            ("./error.rs", ""),
        ]);
        assert_eq!(arrows_to_the_right(&own), [""; 0], "{line}");
    }
}

#[test]
fn every_form_of_a_circle_is_seen() {
    let room = |front: &str, a: &str, b: &str| {
        let own = planted(&[
            ("./lib.rs", "mod ops;"),
            ("./ops/mod.rs", front),
            ("./ops/a.rs", a),
            ("./ops/b.rs", b),
        ]);
        circles_in_rooms(&own).len()
    };
    let front = "mod a; mod b; pub use a::A; pub use b::B;";
    assert_eq!(room(front, "use super::b::B;", "use super::a::A;"), 1);
    // What the front door gives on is at home in its own file.
    assert_eq!(room(front, "use super::B;", "use crate::ops::A;"), 1);
    assert_eq!(room(front, "use super::{b, c};", "fn f() { super::a::g() }"), 1);
    assert_eq!(room(front, "use super::B;", ""), 0);
    // A front door with something of its own, which its files use.
    assert_eq!(room("mod a; mod b; pub struct C; fn f() { a::g() }", "use super::C;", ""), 1);
    assert_eq!(room("mod a; mod b; pub struct C;", "use super::C;", "use super::C;"), 0);
}

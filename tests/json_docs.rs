//! `docs/json.md` lists every key that `--json` prints and that JSON files hold, with its type, and no other.

use crate::fixture;
use rewire::nn::{Arch, Builder, Model};
use rewire::{Device, Seed, io};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const DATA: &str = "synthetic:classes=4,size=8,channels=1,train=8,test=8";

const RECIPE: &str = r#"
schema = 1
name = "tiny"
data = { set = "DATA" }
model = { arch = "vgg16", init = "m.safetensors" }
train = { epochs = 2, batch_size = 8 }
prune = { method = "dnr", density = 0.5 }

[[eval]]
attack = "fgsm"

[[eval]]
attack = "pgd"
steps = 2
"#;

/// A section of the page and a command whose document it describes. Every command leaves what the next ones read.
const COMMANDS: [(&str, &str); 32] = [
    ("error", "eval absent.safetensors"),
    ("train", "train tiny.toml --out run"),
    ("train --resume", "train --resume run"),
    ("prune", "prune m.safetensors -o p.safetensors --density 0.5"),
    ("prune", "prune m.safetensors -o p.safetensors --density 0.5 --data DATA"),
    ("eval", "eval m.safetensors --data DATA"),
    ("attack", "attack m.safetensors --data DATA --attack fgsm"),
    (
        "attack",
        "attack m.safetensors --data DATA --attack pgd,eot-pgd --steps 2 --target next --eot-samples 2 --weight-noise 0.1",
    ),
    ("attack", "attack m.safetensors --data DATA --attack pgd --steps 2 --early-stop"),
    (
        "attack",
        "attack m.safetensors --data DATA --attack cw-l2,bb-l0 --steps 9 --faithful --at-eps 0.5,1 --binary-search-steps 1",
    ),
    (
        "attack",
        "attack m.safetensors --data DATA --attack transfer --source p.safetensors --sweep eps=0,8/255,0.3",
    ),
    ("attack", "attack m.safetensors --data DATA --attack autoattack --steps 1 --out attacked"),
    ("predict", "predict m.safetensors --data DATA -o l.npy"),
    ("inspect", "inspect m.safetensors"),
    ("inspect, any other safetensors file", "inspect run/checkpoints/state.safetensors"),
    // So few weights are kept that sparse layers are worth measuring.
    ("bench", "bench m.safetensors --batch 1 --seconds 0 --density 0.1 --granularity irregular"),
    ("bench", "bench m.safetensors --batch 1 --seconds 0"),
    ("bench --train-step", "bench m.safetensors --batch 1 --seconds 0 --train-step"),
    ("report", "report run"),
    ("shrink", "shrink m.safetensors -o s.safetensors"),
    ("export", "export m.safetensors -o m.onnx"),
    ("import", "import m.onnx -o i.safetensors"),
    ("data list", "data list"),
    ("data info", "data info DATA"),
    ("list", "list"),
    ("list", "list models"),
    ("doctor", "doctor"),
    ("completions", "completions bash"),
    ("man", "man"),
    ("man --out", "man --out pages"),
    // What is not whole is an error here too.
    ("error", "attack m.safetensors --data DATA --eps nan"),
    ("error", "nonsense"),
];

/// A section of the page and the file that the commands above have left.
const FILES: [(&str, &str); 7] = [
    ("result.json", "run/result.json"),
    ("environment.json", "run/environment.json"),
    ("samples.json", "run/samples.json"),
    ("events.jsonl", "run/events.jsonl"),
    ("attack.json", "attacked/attack.json"),
    ("attack", "attacked/result.json"),
    ("parts", "attacked/parts/0-0.json"),
];

/// Sections that no test compares, and why.
const UNTRIED: [&str; 2] = [
    // It takes minutes.
    "demo",
    // It needs the publisher's files.
    "data fetch",
];

/// Starts of keys that these commands do not print on every machine.
const ELSEWHERE: [(&str, &str); 4] = [
    // Where there is a driver, a GPU or NVRTC, or where there is none.
    ("doctor", "cuda_"),
    ("doctor", "nvrtc."),
    // Where a sparse layer is the faster one.
    ("bench", "plans[].layers[].format"),
    // Where the system names the processor.
    ("bench", "cpu"),
];

/// A row of a table.
#[derive(Clone)]
struct Key {
    path: String,
    kind: String,
    optional: bool,
}

/// The tables by section.
fn sections(page: &str) -> BTreeMap<String, Vec<Key>> {
    let mut sections: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    let mut included = Vec::new();
    let mut name = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            name = title.to_owned();
            assert!(sections.insert(name.clone(), Vec::new()).is_none(), "two sections {name}");
        } else if let Some(other) = line.strip_prefix("The keys of `") {
            let (other, _) = other.split_once('`').unwrap();
            included.push((name.clone(), other.to_owned()));
        } else if line.starts_with("| `") {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let ["", path, kind, _unit, meaning, ""] = cells.as_slice() else {
                panic!("not four cells: {line}");
            };
            assert!(meaning.ends_with('.'), "no sentence: {line}");
            let optional = kind.ends_with(", optional");
            let kind = kind.trim_end_matches(", optional").to_owned();
            let key = Key { path: path.trim_matches('`').to_owned(), kind, optional };
            sections.get_mut(&name).unwrap().push(key);
        }
    }
    for (name, other) in included {
        let more = sections[&other].clone();
        sections.get_mut(&name).unwrap().extend(more);
    }
    sections
}

/// Compares documents with a section.
struct Comparison<'a> {
    keys: &'a [Key],
    printed: BTreeSet<String>,
    faults: BTreeSet<String>,
}

impl Comparison<'_> {
    fn key(&self, path: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.path == path)
    }

    /// Whether the page describes what is inside the object or list at `path`.
    fn has_inside(&self, path: &str) -> bool {
        let inside = |rest: &str| rest.starts_with('.') || rest.starts_with("[]");
        self.keys.iter().any(|key| key.path.strip_prefix(path).is_some_and(inside))
    }

    /// The path of a member; the page may have `<name>` for it.
    fn member(&self, path: &str, name: &str) -> String {
        let start = if path.is_empty() { String::new() } else { format!("{path}.") };
        let exact = format!("{start}{name}");
        if self.key(&exact).is_some() || self.has_inside(&exact) {
            return exact;
        }
        let any = self.keys.iter().filter_map(|key| key.path.strip_prefix(&format!("{start}<")));
        let any = any.filter_map(|rest| rest.split_once('>')).next();
        any.map_or(exact, |(name, _)| format!("{start}<{name}>"))
    }

    fn compare(&mut self, value: &Value, path: &str) {
        self.printed.insert(path.to_owned());
        let key = self.key(path).cloned();
        if let Some(key) = &key
            && !(is(value, &key.kind) || (key.optional && value.is_null()))
        {
            self.faults.insert(format!("`{path}` is {value}, not {}", key.kind));
        }
        let inside = path.is_empty() || self.has_inside(path);
        match value {
            Value::Object(members) if inside => self.members(members, path),
            Value::Array(items) if inside => {
                items.iter().for_each(|item| self.compare(item, &format!("{path}[]")));
            }
            _ if key.is_none() => {
                self.faults.insert(format!("`{path}` is printed, but not documented: {value}"));
            }
            _ => {}
        }
    }

    fn members(&mut self, members: &Map<String, Value>, path: &str) {
        for (name, value) in members {
            self.compare(value, &self.member(path, name));
        }
        let start = if path.is_empty() { String::new() } else { format!("{path}.") };
        let mut missing = BTreeSet::new();
        for rest in self.keys.iter().filter_map(|key| key.path.strip_prefix(&start)) {
            let name = rest.split(['.', '[']).next().unwrap_or_default();
            let optional = self.key(&format!("{start}{name}")).is_some_and(|key| key.optional);
            if !(name.is_empty() || name.starts_with('<') || optional || members.contains_key(name))
            {
                missing.insert(format!("`{start}{name}` is absent, but not optional"));
            }
        }
        self.faults.extend(missing);
    }
}

/// Whether `value` is of a type as the page writes it.
fn is(value: &Value, kind: &str) -> bool {
    if let Some(of) = kind.strip_prefix("list of ") {
        let of = of.trim_matches(['(', ')']);
        let of = of.strip_suffix('s').unwrap_or(of);
        return value.as_array().is_some_and(|items| items.iter().all(|item| is(item, of)));
    }
    kind.split(" or ").any(|kind| match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "list" => value.is_array(),
        _ => panic!("no type: {kind}"),
    })
}

fn network(name: &Path) {
    let arch = Arch::custom("tiny", 1, 4, 8);
    let mut net = Builder::new(&arch, 1.0);
    let mut x = net.conv(net.last(), "conv1", 4, 3, 1, true);
    x = net.batch_norm(x, "bn1");
    x = net.relu(x);
    x = net.conv(x, "conv2", 4, 3, 2, false);
    x = net.relu(x);
    x = net.global_avg_pool(x);
    net.linear(x, "fc", 4, true);
    let model = Model::initialised(arch, net.finish(), Seed(1), &Device::Cpu).unwrap();
    io::save_model(name, &model).unwrap();
}

/// The documents of a file: one, or of `.jsonl` one a line.
fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    match path.extension().is_some_and(|extension| extension == "jsonl") {
        true => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        false => vec![serde_json::from_str(&text).unwrap()],
    }
}

#[test]
fn the_page_lists_every_key_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    network(&folder.join("m.safetensors"));
    fs::write(folder.join("tiny.toml"), RECIPE.replace("DATA", DATA)).unwrap();

    let mut found: Vec<(&str, Value)> = Vec::new();
    for (section, line) in COMMANDS {
        let words = line.split_whitespace().map(|word| word.replace("DATA", DATA));
        let mut program = fixture::program(folder);
        let output = program.args(words).args(["--device", "cpu", "--json"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let status = if section == "error" { 2 } else { 0 };
        assert_eq!(output.status.code(), Some(status), "{line}: {error}");
        found.push((section, serde_json::from_slice(&output.stdout).unwrap()));
    }
    for (section, name) in FILES {
        found.extend(documents(&folder.join(name)).into_iter().map(|json| (section, json)));
    }

    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md");
    let sections = sections(&fs::read_to_string(page).unwrap());
    let mut faults = Vec::new();
    for (name, keys) in &sections {
        let none = BTreeSet::new;
        let mut comparison = Comparison { keys, printed: none(), faults: none() };
        let documents = found.iter().filter(|(section, _)| section == name);
        documents.for_each(|(_, json)| comparison.compare(json, ""));
        let tried = !UNTRIED.contains(&name.as_str());
        assert_eq!(tried, !comparison.printed.is_empty(), "no document of {name}");
        let elsewhere = |path: &str| {
            ELSEWHERE.iter().any(|(section, start)| section == name && path.starts_with(start))
        };
        let never = keys
            .iter()
            .map(|key| key.path.as_str())
            .filter(|&path| tried && !elsewhere(path) && !comparison.printed.contains(path));
        let never = never.map(|path| format!("`{path}` is documented, but never printed"));
        let all = comparison.faults.iter().cloned().chain(never);
        faults.extend(all.map(|fault| format!("{name}: {fault}")));
    }
    assert!(faults.is_empty(), "docs/json.md is not what is printed:\n{}", faults.join("\n"));
    let foreign = found.iter().find(|(section, _)| !sections.contains_key(*section));
    assert!(foreign.is_none(), "no section {}", foreign.unwrap().0);

    // Every command has a section.
    let help = fixture::program(folder).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // The commands stand in groups, before the options.
    let commands = help.lines().skip_while(|line| *line != "Train:");
    let commands = commands.take_while(|line| *line != "Options:");
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut count = 0;
    for name in names.filter(|name| !["", "help"].contains(name)) {
        count += 1;
        let own = |section: &String| section.split([' ', ',']).next() == Some(name);
        assert!(sections.keys().any(own), "no section {name}");
    }
    assert!(count > 10, "{help}");
}

#[test]
fn what_differs_is_named() {
    let page = "## s\n| `a` | integer | | A number. |\n| `b[].c` | list of strings, optional | | Names. |\n\
                | `m.<x>` | number | | By name. |\n| `o` | object, optional | | Whole. |\n";
    let sections = sections(page);
    let faults = |json: &str| {
        let none = BTreeSet::new;
        let mut comparison = Comparison { keys: &sections["s"], printed: none(), faults: none() };
        comparison.compare(&serde_json::from_str(json).unwrap(), "");
        comparison.faults.into_iter().collect::<Vec<_>>().join("; ")
    };
    assert_eq!(faults(r#"{"a": 1, "b": [{"c": ["x"]}, {}], "m": {"k": 0.5}, "o": {"p": 1}}"#), "");
    assert_eq!(faults(r#"{"a": 1, "b": [{"c": null}], "m": {}, "o": null}"#), "");
    for (json, fault) in [
        (r#"{"a": 1.5, "b": [], "m": {}}"#, "`a` is 1.5, not integer"),
        (r#"{"a": null, "b": [], "m": {}}"#, "`a` is null, not integer"),
        (r#"{"b": [], "m": {}}"#, "`a` is absent"),
        (r#"{"a": 1, "m": {}}"#, "`b` is absent"),
        (r#"{"a": 1, "b": [{"d": 1}], "m": {}}"#, "`b[].d` is printed, but not documented"),
        (r#"{"a": 1, "b": [{"c": [1]}], "m": {}}"#, "`b[].c` is [1], not list of strings"),
        (r#"{"a": 1, "b": [], "m": {"k": "x"}}"#, "`m.<x>` is \"x\", not number"),
        (r#"{"a": 1, "b": [], "m": {}, "n": 1}"#, "`n` is printed"),
    ] {
        let found = faults(json);
        assert!(found.contains(fault) && !found.contains(';'), "{json}: {found}");
    }
}

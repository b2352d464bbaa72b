//! All that keeps a file from being imported, in few lines.

use super::constant::Refusal;
use super::proto;
use std::collections::BTreeMap;

/// Groups that are listed.
const MOST_GROUPS: usize = 20;

/// What is wrong with a file as a whole, and with its nodes, by operator and reason.
#[derive(Default)]
pub(super) struct Faults {
    groups: Vec<Group>,
}

struct Group {
    /// Operator and reason without their numbers: layers of different widths that share a fault stand in one group.
    key: String,
    /// The operator and the first node's name; nothing for the file as a whole.
    node: Option<(String, String)>,
    /// The first node's.
    why: Refusal,
    count: usize,
}

impl Faults {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Notes what is wrong with the whole file.
    pub(super) fn file(&mut self, why: Refusal) {
        self.groups.push(Group { key: String::new(), node: None, why, count: 1 });
    }

    /// Notes what is wrong with a node.
    pub(super) fn node(&mut self, node: &proto::Node, why: Refusal) {
        let operator = &node.op_type;
        let key: String =
            format!("{operator} {why}").chars().filter(|c| !c.is_ascii_digit()).collect();
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == key) {
            group.count += 1;
            return;
        }
        // A file of hostile names has as many groups as nodes; what is not listed is only counted.
        if self.groups.len() > MOST_GROUPS {
            self.groups[MOST_GROUPS].count += 1;
            return;
        }
        let output = node.output.first().map_or("", String::as_str);
        let name = [node.name.as_str(), output].into_iter().find(|name| !name.is_empty());
        let node = Some((operator.clone(), name.unwrap_or("without a name").to_owned()));
        self.groups.push(Group { key, node, why, count: 1 });
    }

    /// All of it as one message.
    pub(super) fn message(&self) -> String {
        let (mut listed, mut nodes): (Vec<String>, bool) = (Vec::new(), false);
        for Group { node, why, count, .. } in self.groups.iter().take(MOST_GROUPS) {
            nodes |= node.is_some();
            listed.push(match node {
                None => why.clone(),
                Some((operator, name)) if *count == 1 => format!("{operator} `{name}`: {why}"),
                Some((operator, name)) => {
                    format!("{operator}: {count} nodes, first `{name}`: {why}")
                }
            });
        }
        let rest: usize = self.groups.iter().skip(MOST_GROUPS).map(|group| group.count).sum();
        if rest > 0 {
            listed.push(format!("{rest} more nodes for other reasons"));
        }
        let help = if nodes {
            "; `rewire import --help` lists the operators that are supported"
        } else {
            ""
        };
        format!("cannot be imported: {}{help}", listed.join("; "))
    }
}

/// Notes names that stand for more than one value: a reader could take either. A node's result may have the name of an initializer,
/// as PyTorch writes it where a buffer and an operation are both called `mean`: it takes its place from then on.
pub(super) fn check_names(graph: &proto::Graph, faults: &mut Faults) {
    let dense = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
    let initial = dense.chain(sparse.map(|values| values.name.as_str()));
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    let outputs = outputs.filter(|name| !name.is_empty());
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    check_once("initializers", initial, faults);
    check_once("inputs and outputs of nodes", inputs.chain(outputs), faults);
}

fn check_once<'a>(what: &str, names: impl Iterator<Item = &'a str>, faults: &mut Faults) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    let mut repeated = counts.iter().filter(|(_, count)| **count > 1);
    if let Some((name, count)) = repeated.next() {
        let more = match repeated.count() {
            0 => String::new(),
            more => format!(", and {more} more names are repeated"),
        };
        faults.file(format!(
            "{count} {what} have the name `{name}`{more}; every name must stand for one value"
        ));
    }
}

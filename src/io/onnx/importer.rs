//! What an import knows while it goes through a file: its values, and the network written so far.

use super::constant::{Constant, Refusal, external_size};
use super::graph::{Value, Written};
use super::proto;
use std::collections::BTreeMap;
use std::path::Path;

/// Elements that the sparse tensors of a file may stand for: a few bytes can claim any number of zeros.
const MOST_SPARSE: usize = 1 << 27;

/// The values of a file as far as its nodes have been read.
pub(super) struct Importer<'a> {
    /// The number of images, where the file fixes it.
    pub(super) batch: Option<i64>,
    folder: Option<&'a Path>,
    sparse_room: usize,
    stored: BTreeMap<&'a str, &'a proto::Tensor>,
    sparse: BTreeMap<&'a str, &'a proto::SparseTensor>,
    pub(super) values: BTreeMap<&'a str, Value>,
    /// How many nodes read a value.
    pub(super) readers: BTreeMap<&'a str, usize>,
    /// The last matrix product without a bias: its node, and the name of its result.
    pub(super) product: Option<(usize, String)>,
    /// Bytes of other files that no value has been counted for.
    external: BTreeMap<&'a str, u64>,
    pub(super) written: Written,
}

impl<'a> Importer<'a> {
    /// Nothing but the images, the value `pixels` of the file; `image` is `[H, W, C]`.
    pub(super) fn new(
        graph: &'a proto::Graph,
        folder: Option<&'a Path>,
        batch: Option<i64>,
        image: [usize; 3],
        pixels: (&'a str, Value),
    ) -> Self {
        let stored = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor));
        let sparse = graph.sparse_initializer.iter();
        let sparse =
            sparse.filter_map(|tensor| Some((tensor.values.as_ref()?.name.as_str(), tensor)));
        Self {
            batch,
            folder,
            sparse_room: MOST_SPARSE,
            stored: stored.collect(),
            sparse: sparse.collect(),
            values: BTreeMap::from([pixels]),
            readers: BTreeMap::new(),
            product: None,
            external: BTreeMap::new(),
            written: Written::new(image),
        }
    }

    /// A value by its name; constants are read when they are asked for.
    pub(super) fn value(&mut self, name: &'a str) -> Result<Value, Refusal> {
        if let Some(value) = self.values.get(name) {
            return Ok(value.clone());
        }
        let constant = match (self.stored.get(name), self.sparse.get(name)) {
            (Some(stored), _) => {
                let constant = Constant::decode(stored, self.folder)?;
                if self.is_new(stored, constant.len()) {
                    self.written.found(constant.len());
                }
                constant
            }
            (None, Some(stored)) => {
                let constant = Constant::decode_sparse(stored, self.folder, self.sparse_room)?;
                self.sparse_room -= constant.len();
                self.written.found(constant.len());
                constant
            }
            (None, None) => {
                return Err(format!("reads `{name}`, which nothing before it computes"));
            }
        };
        if self.readers.get(name).is_some_and(|&count| count > 1) {
            self.values.insert(name, Value::Constant(constant.clone()));
        }
        Ok(Value::Constant(constant))
    }

    /// Whether the values of `stored` are not yet counted as found: those in another file as often as it can hold them.
    fn is_new(&mut self, stored: &'a proto::Tensor, len: usize) -> bool {
        let Some((location, size)) = external_size(stored, self.folder) else {
            return true;
        };
        let left = self.external.entry(location).or_insert(size);
        // A value takes a byte at least.
        let rest = left.checked_sub(len as u64);
        *left = rest.unwrap_or(0);
        rest.is_some()
    }

    /// A constant that a node holds.
    pub(super) fn decode(&self, stored: &proto::Tensor) -> Result<Constant, Refusal> {
        Constant::decode(stored, self.folder)
    }
}

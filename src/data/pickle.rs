//! The part of Python's pickle format that CIFAR's Python version needs: dictionaries, lists, tuples, strings, integers
//! and NumPy arrays of bytes, in protocols 2 (the official files) to 5 (the same, saved again). It builds plain values
//! and calls nothing; a global name outside the list in [`Machine::global`] is an error.
//!
//! Source: `pickletools.py` of CPython documents the opcodes, NumPy's `ndarray.__reduce__` the state of an array.

use std::borrow::Cow;

/// Values refer to one another by their place in the arena, as Python's do: a list may be filled after it was stored.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: usize,
}

/// An error message without the file's name.
type Result<T> = std::result::Result<T, String>;

enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Bytes(Cow<'a, [u8]>),
    List(Vec<usize>),
    Tuple(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Global(Global),
    /// What calling a global with arguments gave, and the state it was given.
    Object {
        class: Global,
        args: usize,
        state: Option<usize>,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Global {
    /// `_reconstruct(ndarray, (0,), b"b")`, whose state is (1, shape, dtype, is_fortran, data).
    Reconstruct,
    Ndarray,
    /// `dtype("u1", …)`.
    Dtype,
    /// `_frombuffer(data, dtype, shape, "C")`.
    FromBuffer,
    /// `encode(text, "latin1")`: bytes, as Python 3 writes them in protocol 2.
    Encode,
}

/// More values than ten times the largest official file has.
const MAX_VALUES: usize = 4_000_000;

impl<'a> Pickle<'a> {
    /// Reads a whole pickle.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine {
            rest: bytes,
            owned: bytes.len(),
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        while !machine.step()? {}
        let root = machine.pop()?;
        Ok(Self { values: machine.values, root })
    }

    fn get(&self, key: &str) -> Result<&Value<'a>> {
        let Value::Dict(pairs) = &self.values[self.root] else {
            return Err("the pickle must be a dictionary".into());
        };
        let is_key = |&id: &usize| self.is_bytes(id, key.as_bytes());
        let pair = pairs.iter().rev().find(|(id, _)| is_key(id));
        pair.map(|(_, value)| &self.values[*value]).ok_or(format!("the pickle has no key {key:?}"))
    }

    /// The list of integers under `key`.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>> {
        let wrong = || format!("{key:?} must be a list of integers");
        let Value::List(items) = self.get(key)? else { return Err(wrong()) };
        let items = items.iter().map(|&id| match self.values[id] {
            Value::Int(v) => Ok(v),
            _ => Err(wrong()),
        });
        items.collect()
    }

    /// The two-dimensional array of bytes under `key`, in C order: rows, columns, data.
    pub fn matrix(&self, key: &str) -> Result<(usize, usize, &[u8])> {
        let array = self.get(key)?;
        self.read_matrix(array)
            .ok_or_else(|| format!("{key:?} must be a NumPy array [N, D] of u1 in C order"))
    }

    fn read_matrix(&self, array: &Value) -> Option<(usize, usize, &[u8])> {
        let Value::Object { class, args, state } = *array else { return None };
        let (shape, dtype, data) = match (class, state) {
            (Global::Reconstruct, Some(state)) => {
                let [_version, shape, dtype, fortran, data] = *self.tuple(state)? else {
                    return None;
                };
                matches!(self.values[fortran], Value::Bool(false))
                    .then_some((shape, dtype, data))?
            }
            (Global::FromBuffer, None) => {
                let [data, dtype, shape, order] = *self.tuple(args)? else { return None };
                self.is_bytes(order, b"C").then_some((shape, dtype, data))?
            }
            _ => return None,
        };
        let Value::Object { class: Global::Dtype, args, .. } = self.values[dtype] else {
            return None;
        };
        let is_u1 = self.is_bytes(*self.tuple(args)?.first()?, b"u1");
        let [rows, columns] = *self.tuple(shape)? else { return None };
        let side = |id: usize| match self.values[id] {
            Value::Int(n) => usize::try_from(n).ok(),
            _ => None,
        };
        let (rows, columns) = (side(rows)?, side(columns)?);
        let Value::Bytes(data) = &self.values[data] else { return None };
        (is_u1 && rows.checked_mul(columns)? == data.len()).then_some((rows, columns, data))
    }

    fn is_bytes(&self, id: usize, bytes: &[u8]) -> bool {
        matches!(&self.values[id], Value::Bytes(value) if **value == *bytes)
    }

    fn tuple(&self, id: usize) -> Option<&[usize]> {
        match &self.values[id] {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    /// Bytes that may still be copied instead of borrowed: honest files copy each once.
    owned: usize,
    values: Vec<Value<'a>>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: Vec<Option<usize>>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; true at the end.
    fn step(&mut self) -> Result<bool> {
        let op = self.take(1)?[0];
        match op {
            0x80 => match self.take(1)?[0] {
                2..=5 => {}
                n => return Err(format!("is a pickle of protocol {n}; must be 2 to 5")),
            },
            // A frame's length only helps readers that read ahead.
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(true),
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool(op == 0x88))?,
            b'K' | b'M' | b'J' => {
                let v = match op {
                    b'K' => self.take(1)?[0].into(),
                    b'M' => u16::from_le_bytes(self.array()?).into(),
                    _ => i32::from_le_bytes(self.array()?).into(),
                };
                self.push(Value::Int(v))?;
            }
            // Strings of Python 2, bytes, texts (UTF-8) and byte arrays, by the width of their length.
            b'U' | b'C' | 0x8c | b'T' | b'B' | b'X' | 0x8d | 0x8e | 0x96 => {
                let n = match op {
                    b'U' | b'C' | 0x8c => self.take(1)?[0].into(),
                    b'T' | b'B' | b'X' => u32::from_le_bytes(self.array()?).into(),
                    _ => u64::from_le_bytes(self.array()?),
                };
                let v = self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
                self.push(Value::Bytes(Cow::Borrowed(v)))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b'(' => self.marks.push(self.stack.len()),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items))?;
            }
            0x85..=0x87 => {
                let items = self.pop_last(usize::from(op - 0x84))?;
                self.push(Value::Tuple(items))?;
            }
            b'a' | b'e' => self.append(op == b'e')?,
            b's' | b'u' => self.set_items(op == b'u')?,
            b'q' | b'r' | 0x94 => self.store(op)?,
            b'h' | b'j' => {
                let at = self.memo_index(op == b'j')?;
                let id = self.memo.get(at).copied().flatten();
                self.stack.push(id.ok_or("the pickle recalls what it never stored")?);
            }
            b'c' | 0x93 => {
                let global = self.global(op == 0x93)?;
                self.push(Value::Global(global))?;
            }
            b'R' => self.call()?,
            b'b' => {
                let (new, object) = (self.pop()?, self.pop()?);
                match &mut self.values[object] {
                    Value::Object { state, .. } => *state = Some(new),
                    _ => return Err("the pickle gives state to what is no object".into()),
                }
                self.stack.push(object);
            }
            _ => return Err(format!("the pickle has opcode 0x{op:02x}, which no CIFAR file has")),
        }
        Ok(false)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or("the pickle is cut short")?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(*self.take(N)?.first_chunk().expect("take gives N bytes"))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() == MAX_VALUES {
            return Err(format!("the pickle has more than {MAX_VALUES} values"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<usize> {
        Ok(self.pop_last(1)?[0])
    }

    /// The last `n` values, none of them below the last mark.
    fn pop_last(&mut self, n: usize) -> Result<Vec<usize>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let at = self.stack.len().checked_sub(n).filter(|&at| at >= floor);
        Ok(self.stack.split_off(at.ok_or("the pickle takes more than it has")?))
    }

    fn pop_mark(&mut self) -> Result<Vec<usize>> {
        let mark = self.marks.pop().ok_or("the pickle has no mark where it needs one")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, many: bool) -> Result<()> {
        let items = if many { self.pop_mark()? } else { self.pop_last(1)? };
        let list = self.pop()?;
        self.stack.push(list);
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            _ => return Err("the pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, many: bool) -> Result<()> {
        let items = if many { self.pop_mark()? } else { self.pop_last(2)? };
        let dict = self.pop()?;
        self.stack.push(dict);
        let (pairs, odd) = items.as_chunks::<2>();
        match &mut self.values[dict] {
            Value::Dict(dict) if odd.is_empty() => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            _ => return Err("the pickle sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn memo_index(&mut self, long: bool) -> Result<usize> {
        Ok(match long {
            true => u32::from_le_bytes(self.array()?) as usize,
            false => self.take(1)?[0].into(),
        })
    }

    fn store(&mut self, op: u8) -> Result<()> {
        let at = match op {
            0x94 => self.memo.len(),
            _ => self.memo_index(op == b'r')?,
        };
        // Writers count up from 0 or 1, so a place far behind the values is a lie.
        if at > self.values.len() + 1 {
            return Err(format!("the pickle stores at place {at} of its memo"));
        }
        let id = self.pop()?;
        self.stack.push(id);
        if self.memo.len() <= at {
            self.memo.resize(at + 1, None);
        }
        self.memo[at] = Some(id);
        Ok(())
    }

    /// A name from two lines, or from two texts on the stack.
    fn global(&mut self, on_stack: bool) -> Result<Global> {
        let mut names = [Vec::new(), Vec::new()];
        if on_stack {
            let ids = self.pop_last(2)?;
            for (name, id) in names.iter_mut().zip(ids) {
                match &self.values[id] {
                    Value::Bytes(text) if text.len() <= 256 => *name = text.to_vec(),
                    _ => return Err("the pickle names what is no name".into()),
                }
            }
        } else {
            for name in &mut names {
                let end = self.rest.iter().take(256).position(|&b| b == b'\n');
                *name = self.take(end.ok_or("the pickle is cut short")?)?.to_vec();
                self.take(1)?;
            }
        }
        let [module, name] = names.map(|name| String::from_utf8_lossy(&name).into_owned());
        match (module.as_str(), name.as_str()) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Ok(Global::Reconstruct)
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Ok(Global::FromBuffer),
            ("numpy", "ndarray") => Ok(Global::Ndarray),
            ("numpy", "dtype") => Ok(Global::Dtype),
            ("_codecs", "encode") => Ok(Global::Encode),
            _ => Err(format!(
                "the pickle names {:?}, which no CIFAR file does; nothing was run",
                format!("{module}.{name}")
            )),
        }
    }

    fn call(&mut self) -> Result<()> {
        let (args, callee) = (self.pop()?, self.pop()?);
        let value = match self.values[callee] {
            Value::Global(Global::Encode) => {
                let Value::Tuple(items) = &self.values[args] else {
                    return Err("the pickle encodes what is no text".into());
                };
                let text = match items.first().map(|&id| &self.values[id]) {
                    Some(Value::Bytes(text)) => std::str::from_utf8(text).ok(),
                    _ => None,
                };
                let text = text.ok_or("the pickle encodes what is no text")?;
                self.owned =
                    self.owned.checked_sub(text.len()).ok_or("the pickle copies too much")?;
                let bytes: std::result::Result<Vec<u8>, _> =
                    text.chars().map(|c| u8::try_from(u32::from(c))).collect();
                let bytes = bytes.map_err(|_| "the pickle holds a text that is not Latin-1")?;
                Value::Bytes(Cow::Owned(bytes))
            }
            Value::Global(class) if class != Global::Ndarray => {
                Value::Object { class, args, state: None }
            }
            _ => return Err("the pickle calls what is no function".into()),
        };
        self.push(value)
    }
}

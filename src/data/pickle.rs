//! The part of Python's pickle format, protocol 2, that the CIFAR archives use: dictionaries, lists, tuples, strings,
//! integers and NumPy arrays of bytes. It builds plain values and calls nothing; every other global name is an error.
//!
//! Source: `pickletools.py` of CPython documents the opcodes, NumPy's `ndarray.__reduce__` the state of an array.

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
    Bytes(&'a [u8]),
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
    Reconstruct,
    Ndarray,
    Dtype,
}

/// More values than ten times the largest official file has.
const MAX_VALUES: usize = 4_000_000;

impl<'a> Pickle<'a> {
    /// Reads a whole pickle.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine {
            rest: bytes,
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
        let is_key =
            |&id: &usize| matches!(self.values[id], Value::Bytes(name) if name == key.as_bytes());
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
    pub fn matrix(&self, key: &str) -> Result<(usize, usize, &'a [u8])> {
        let array = self.get(key)?;
        let read = || {
            let Value::Object { class: Global::Reconstruct, state: Some(state), .. } = *array
            else {
                return None;
            };
            let [_version, shape, dtype, fortran, data] = *self.tuple(state)? else { return None };
            let [rows, columns] = *self.tuple(shape)? else { return None };
            let (Value::Int(rows), Value::Int(columns)) =
                (&self.values[rows], &self.values[columns])
            else {
                return None;
            };
            let Value::Object { class: Global::Dtype, args, .. } = self.values[dtype] else {
                return None;
            };
            let is_u1 = matches!(self.values[*self.tuple(args)?.first()?], Value::Bytes(b"u1"));
            let (Value::Bool(false), Value::Bytes(data), true) =
                (&self.values[fortran], &self.values[data], is_u1)
            else {
                return None;
            };
            let (rows, columns) = (usize::try_from(*rows).ok()?, usize::try_from(*columns).ok()?);
            (rows.checked_mul(columns)? == data.len()).then_some((rows, columns, *data))
        };
        read().ok_or_else(|| format!("{key:?} must be a NumPy array [N, D] of u1 in C order"))
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
                2 => {}
                n => {
                    return Err(format!(
                        "is a pickle of protocol {n}; must be 2, as in the official archives"
                    ));
                }
            },
            b'.' => return Ok(true),
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool(op == 0x88))?,
            b'K' => {
                let v = self.take(1)?[0];
                self.push(Value::Int(v.into()))?;
            }
            b'M' => {
                let v = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(v.into()))?;
            }
            b'J' => {
                let v = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(v.into()))?;
            }
            b'U' => {
                let n = self.take(1)?[0];
                let v = self.take(n.into())?;
                self.push(Value::Bytes(v))?;
            }
            b'T' => {
                let n = u32::from_le_bytes(self.array()?);
                let v = self.take(n as usize)?;
                self.push(Value::Bytes(v))?;
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
            b'q' | b'r' => self.put(op == b'r')?,
            b'h' | b'j' => {
                let at = self.memo_index(op == b'j')?;
                let id = self
                    .memo
                    .get(at)
                    .copied()
                    .flatten()
                    .ok_or("the pickle recalls what it never stored")?;
                self.stack.push(id);
            }
            b'c' => {
                let global = self.global()?;
                self.push(Value::Global(global))?;
            }
            b'R' => {
                let (args, callee) = (self.pop()?, self.pop()?);
                match self.values[callee] {
                    Value::Global(class @ (Global::Reconstruct | Global::Dtype)) => {
                        self.push(Value::Object { class, args, state: None })?;
                    }
                    _ => return Err("the pickle calls what is no function".into()),
                }
            }
            b'b' => {
                let (new, object) = (self.pop()?, self.pop()?);
                match &mut self.values[object] {
                    Value::Object { state, .. } => *state = Some(new),
                    _ => return Err("the pickle gives state to what is no object".into()),
                }
                self.stack.push(object);
            }
            _ => {
                return Err(format!(
                    "the pickle has opcode 0x{op:02x}, which no official archive has"
                ));
            }
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

    fn put(&mut self, long: bool) -> Result<()> {
        let at = self.memo_index(long)?;
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

    fn global(&mut self) -> Result<Global> {
        let mut line = || {
            let end = self.rest.iter().take(256).position(|&b| b == b'\n');
            let text = self.take(end.ok_or("the pickle is cut short")?)?;
            self.take(1)?;
            Ok::<_, String>(String::from_utf8_lossy(text).into_owned())
        };
        let (module, name) = (line()?, line()?);
        match (module.as_str(), name.as_str()) {
            ("numpy.core.multiarray", "_reconstruct") => Ok(Global::Reconstruct),
            ("numpy", "ndarray") => Ok(Global::Ndarray),
            ("numpy", "dtype") => Ok(Global::Dtype),
            _ => Err(format!(
                "the pickle names {:?}, which no official archive does; nothing was run",
                format!("{module}.{name}")
            )),
        }
    }
}
